"""`[casework]` of node.toml: who must agree, how long what was received is kept, which images are good enough."""

from __future__ import annotations

import re

from nodes.config.values import ConfigError, Section, within

MIN_CITATION = 8
MAX_ALTERNATIVE = 500
CORE_DATA_SECONDS = 48 * 3600  # R 47(1)
RECALL_SECONDS = 48 * 3600  # R 64(1)(m)
AUTHORISATION_SECONDS = 48 * 3600  # AIA 26(10)


class CaseworkConfig(Section, frozen=True):
    """What casework at this node follows; it may be stricter than the defaults.

    `require_approval`: refuse searches that no second person signed; they are refused anyway once staff is enrolled.
    `single_review_law`: the law that lets one reviewer do (AIA 14(5)); `accept_single_review`: let others' do.
    `require_authorisation`: a search without judicial authorisation is stopped and purged after 48 hours (AIA 26(10)).
    `send_images`: show others the photos of candidates. `minimum_quality`: of every component, 0 to 100 (R 38).
    `candidate_days`: what was received and is not decided goes then; `core_data_days`: core data; `query_days`: probes.
    `refuse_without_receipts`: a state that took a recall in and sent no receipt within 48 hours is given nothing more.
    `alternative`: what officers do while a country or this node does not answer, as agreed between the states (R 41);
    the console shows it then.
    `url`: a PostgreSQL database of its own; None: casework.db in the node's folder.
    """

    require_approval: bool = False
    single_review_law: str = ""
    accept_single_review: bool = False
    require_authorisation: bool = False
    send_images: bool = True
    minimum_quality: int = 20
    candidate_days: int = 30
    core_data_days: int = 365
    query_days: int = 180
    refuse_without_receipts: bool = True
    alternative: str = ""
    url: str | None = None

    def __post_init__(self) -> None:
        if self.single_review_law and len(self.single_review_law.strip()) < MIN_CITATION:
            raise ConfigError("casework.single_review_law", self.single_review_law, "must cite the law")
        if len(self.alternative) > MAX_ALTERNATIVE:
            limit = f"must have at most {MAX_ALTERNATIVE} characters, got {len(self.alternative)}"
            raise ConfigError("casework.alternative", self.alternative[:40], limit)
        if self.url is not None and not re.match(r"postgresql(\+psycopg)?://", self.url):
            raise ConfigError(
                "casework.url", "…", "must begin with postgresql://; without it: casework.db in the folder"
            )
        if self.url is not None and re.search("//[^/@]*:[^/]*@|password=", self.url):
            raise ConfigError("casework.url", "…", "must not contain a password: use PGPASSFILE or PGPASSWORD")
        within("casework.minimum_quality", self.minimum_quality, 0, 100)
        within("casework.candidate_days", self.candidate_days, 1, 365)
        within("casework.core_data_days", self.core_data_days, 1, 3 * 366)
        within("casework.query_days", self.query_days, 1, 3 * 366)

    @property
    def reviewers(self) -> int:
        """How many must find, each alone, that a candidate is the person."""
        return 1 if self.single_review_law else 2
