"""A mapping to the Universal Message Format (Regulation (EU) 2024/982, Article 34): field by field, and what it lacks.

UMF is an exchange standard of the European Union: XML with business entities such as Person, Offence, Item and Image,
published to authorities by Europol and eu-LISA. Its schemas are not public in a form that could ship here, so this
writes no UMF document that anybody validated: it states which UMF entity and property each of our fields would become,
and gives the same as plain data. Names of properties are to be checked against the schema in use.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocol.follow_up import IDENTIFIED_FIELDS, CoreDataField


@dataclass(frozen=True)
class Mapped:
    """Where one of our fields goes. `loss`: what the text may hold that the property cannot, empty if nothing."""

    ours: str
    entity: str
    property: str
    loss: str = ""


CORE_DATA: tuple[Mapped, ...] = (
    Mapped("first-names", "Person/PersonIdentity", "FirstName", "one text; UMF repeats the element for each name"),
    Mapped("family-names", "Person/PersonIdentity", "FamilyName", "one text; UMF repeats the element for each name"),
    Mapped("aliases", "Person/PersonIdentity", "a further PersonIdentity of type alias", "aliases are one text here"),
    Mapped("date-of-birth", "Person/PersonIdentity", "DateOfBirth", "UMF takes partial dates; here it is a text"),
    Mapped("nationalities", "Person/PersonIdentity", "Nationality", "codes of ISO 3166 there, a text here"),
    Mapped(
        "place-and-country-of-birth", "Person/PersonIdentity", "PlaceOfBirth, CountryOfBirth", "two properties there"
    ),
    Mapped("gender", "Person/PersonIdentity", "Gender", "a code list there, a text here"),
    Mapped("date-and-place-of-acquisition", "Biometrics/Image", "CreationDate, Location", "two properties there"),
    Mapped("offence-of-acquisition", "Offence", "OffenceType", "a code list there, a text here"),
    Mapped("case-number", "Case", "CaseReference"),
    Mapped("competent-authority", "Organisation", "Name"),
)
CANDIDATE: tuple[Mapped, ...] = (
    Mapped("reference", "Biometrics/Image", "Identifier"),
    Mapped("image", "Biometrics/Image", "Content"),
    Mapped("quality", "Biometrics/Image", "Quality", "UMF names no algorithm of ours"),
    Mapped("acquired", "Biometrics/Image", "CreationDate"),
    Mapped("status", "Person", "IdentificationStatus"),
    Mapped("contested", "Biometrics/Image", "Reliability", "UMF has no mark of R 51(3)"),
)


def core_data_as_umf(record: dict[CoreDataField, str]) -> dict[str, dict[str, str]]:
    """A record by UMF entity and property: plain data, not a UMF document. Fields outside the mapping do not exist."""
    by_field = {one.ours: one for one in CORE_DATA}
    out: dict[str, dict[str, str]] = {}
    for field in IDENTIFIED_FIELDS:
        if field in record:
            one = by_field[field]
            out.setdefault(one.entity, {})[one.property] = record[field]
    return out
