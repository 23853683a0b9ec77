"""A search and the preparation it used, as one party's bundle shows them: what an audit recomputes with."""

from __future__ import annotations

from dataclasses import dataclass

from nodes.audit.errors import AuditRefused
from nodes.verify.case import Item, View
from nodes.verify.format import content_digest
from nodes.verify.report import Broken, Held
from pets.errors import ParameterError
from pets.params import Parameters
from pets.threads import default_threads
from protocol.announcing import derive_id
from protocol.messages import AnyMessage, Joined, JoinedPreparation, Prepare, Search
from protocol.terms import Terms


@dataclass(frozen=True, eq=False)
class Query:
    """`preparation_id`: the preparation's id, `query_id`: the search's, both as they follow from what was announced."""

    search: View
    preparation: View
    announce: Search
    prepare: Prepare
    terms: Terms
    preparation_id: bytes
    query_id: bytes
    threads: int

    @classmethod
    def shown(cls, search: View, preparation: View) -> Query:
        """Read off a bundle. Raises `AuditRefused` where announcements or answers are missing, or do not fit."""
        if preparation.bundle.owner != search.bundle.owner:
            raise AuditRefused(f"the {search.name} shows a preparation of {preparation.owner}'s with it, not its own")
        announced = [message for _, message in search.messages(Search)]
        prepared = [message for _, message in preparation.messages(Prepare)]
        if not announced or not prepared:
            raise AuditRefused(f"the {search.name} shows no search with its preparation: nothing else is sealed")
        announce, prepare = announced[0], prepared[0]
        joined = {search.ends(item.record)[0]: message for item, message in search.messages(Joined)}
        answers = {
            preparation.ends(item.record)[0]: message for item, message in preparation.messages(JoinedPreparation)
        }
        asked = ({announce.router, *announce.holders}, {prepare.router, *prepare.holders})
        if (set(joined), set(answers)) != asked:
            raise AuditRefused(f"the {search.name} does not show every party's answer to both announcements")
        preparation_id = derive_id(prepare, answers)
        if announce.preparation != preparation_id:
            raise AuditRefused(f"the search in the {search.name} names another preparation than the one shown with it")
        try:
            terms = Terms.announced(announce)
        except ParameterError as error:
            raise AuditRefused(f"the {search.name}: {error}") from None
        if (terms.params.preset, terms.dim) != (prepare.preset, prepare.dim):
            raise AuditRefused(f"the {search.name} shows a preparation of another ring or dimension than the search")
        query_id = derive_id(announce, joined)
        return cls(search, preparation, announce, prepare, terms, preparation_id, query_id, default_threads())

    @property
    def params(self) -> Parameters:
        """Lattice parameters."""
        return self.terms.params

    @property
    def dim(self) -> int:
        """Entries of a template."""
        return self.terms.dim

    @property
    def owner(self) -> str:
        """Whose bundle it is."""
        return self.search.owner


def same(view: View, item: Item, message: AnyMessage, otherwise: str) -> Held | Broken:
    """Whether a record is of this very message; `otherwise` says what it means if not."""
    if content_digest(message) == item.record.content:
        return Held()
    return Broken(view.place(item.record), otherwise)
