"""Preparing, before there is a probe: the machines of requester, router and holder (protocol/DESIGN.md, section 5).

Requester Q and router R hold s2, Q and the holders s1, and the key is s1 + s2: it takes both parts to decrypt, and
everything that Q and R say of theirs is said by two and compared.
"""

from __future__ import annotations

import secrets
from collections.abc import Generator
from typing import Any

import numpy as np

from pets.errors import GalleryError
from pets.keys import KeyShare, expand_secret, reduced_key, sample_key_share
from pets.mask_encryption import draw_mask, encrypt_mask, expand_public
from pets.params import Parameters
from pets.prf import derive_key
from pets.residues import Residues
from pets.sampling import common_polynomial
from pets.scoring import prepare_probe
from protocol.announcing import (
    Plan,
    announce_digest,
    answer,
    commit_seed,
    compare_ids,
    derive_id,
    end_set_up,
    gather,
    parties_of,
    sign_set_up,
)
from protocol.blocks import HolderKeys, Prepared, chunks, holder_prepares, key_owner_prepares
from protocol.compute import Ring, join_ring
from protocol.errors import Disagreement, FalseRefusal, MaskRefused
from protocol.form import UnitRows, holder_checks_form, key_owner_checks_form, same_from_holder
from protocol.gallery import Gallery
from protocol.mask import mask_digest, mask_parts, receive_mask
from protocol.messages import JoinedPreparation, KeySeed, MaskDigest, MaskPart, Prepare, PublicPart
from protocol.party import Context, Party
from protocol.preparation import (
    Chunk,
    HolderPreparation,
    PreparedRing,
    RequesterPreparation,
    RouterPreparation,
    Version,
)
from protocol.roles import Seat
from protocol.session import Session, State
from protocol.steps import Phase, Send, Step, end_phase, receive
from protocol.terms import SYNTHETIC_MODEL
from protocol.wire import residue_array


class PreparingRequester(Party):
    """Asks a router and holders to prepare. When all is `done`, `preparation` has the rings that were finished."""

    def __init__(self, context: Context, plan: Plan) -> None:
        super().__init__(context)
        self.plan = plan
        self.preparation_id = b""  # of the preparation, once everybody has answered
        self.preparation: RequesterPreparation | None = None
        self._seed, self._holder_seed, self._router_seed = (secrets.token_bytes(32) for _ in range(3))
        self._joined: dict[str, JoinedPreparation] = {}
        self._router_part: KeyShare | None = None
        self._unchecked = set(self.parties.holders)  # whose rings still need what follows
        self._public: Residues | None = None
        self._parts: list[MaskPart] = []

    def start(self) -> None:
        """Announce, split the key, encrypt the mask."""
        self.begin(self.whole, self._set_up(), lambda _: self.begin_rings(self._ring, self._keep))

    def _set_up(self) -> Step[None]:
        plan, parties, params = self.plan, self.parties, self.plan.params
        announce = plan.announce(parties, commit_seed(self._seed, self.name), self.context.keyring)
        for other in parties.others(self.name):
            yield Send(other, announce)
        self._joined = yield from gather(announce, self.name, None, JoinedPreparation)
        self.preparation_id = preparation_id = derive_id(announce, self._joined)
        common = common_polynomial(params, preparation_id)
        for name in parties.holders:
            yield Send(name, KeySeed(self._holder_seed))
        yield Send(parties.router, KeySeed(self._router_seed))
        self._router_part = router_part = sample_key_share(params, common, self._router_seed, preparation_id)
        for name in parties.holders:
            yield Send(name, PublicPart(router_part.public.tobytes()))
        holder_part = expand_secret(params, self._holder_seed, preparation_id)
        self._public = expand_public(preparation_id, plan.dim, params, self.threads)
        mask = encrypt_mask(
            draw_mask(self._seed, preparation_id, plan.dim, params),
            self._public,
            (holder_part, router_part.secret),
            self._seed,
            preparation_id,
            params,
            self.threads,
        )
        holder_part.fill(0)
        self._parts = mask_parts(mask)
        yield Send(parties.router, mask_digest(self._holder_seed, self._parts))
        yield from end_set_up(preparation_id, self.name, parties)
        self.preparation = RequesterPreparation(
            **_common(preparation_id, self),
            seed=self._seed,
            holder_seed=self._holder_seed,
            router_seed=self._router_seed,
        )

    def _ring(self, holder: str) -> Step[PreparedRing]:
        assert self.preparation is not None
        assert self._router_part is not None
        assert self._public is not None
        preparation_id, secret = self.preparation.preparation_id, self._router_part.secret
        ring: Ring = yield from join_ring(Seat.REQUESTER, self.parties.ring(holder), preparation_id, self.threads)
        for part in self._parts:
            yield Send(holder, part)
        try:
            checked = yield from key_owner_checks_form(ring, self.plan.params, self._public, secret)
        except MaskRefused as error:
            raise FalseRefusal(holder, self.parties.router, "mask") from error
        self._unchecked.discard(holder)
        if not self._unchecked:
            self._public, self._parts = None, []  # 32 kB a dimension, which nobody needs while rows are scored
        return (yield from _key_owner_ring(ring, self.plan.params, secret, checked, self._joined[holder]))

    def _keep(self, holder: str, ring: PreparedRing) -> None:
        assert self.preparation is not None
        self.preparation.rings[holder] = ring

    def wipe(self, session: Session) -> None:
        """One false refusal stops every ring; the key goes when the last ring is over."""
        super().wipe(session)
        _stop_rings(self, session)
        if self.done and self._router_part is not None:
            self._router_part.erase()
            self._public, self._parts = None, []
        if self.done:  # `preparation` owns them now, or nobody
            self._seed = self._holder_seed = self._router_seed = b""


class PreparingRouter(Party):
    """Third party of every ring of a preparation."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.plan: Plan | None = None
        self.preparation_id = b""  # of the preparation, once everybody has answered
        self.preparation: RouterPreparation | None = None
        self._joined: dict[str, JoinedPreparation] = {}
        self._stated: MaskDigest | None = None
        self._part: KeyShare | None = None
        self._unchecked = set(self.parties.holders)  # whose rings still need what follows
        self._public: Residues | None = None

    def start(self) -> None:
        """Wait for the announcement."""
        self.begin(self.whole, self._set_up(), lambda _: self.begin_rings(self._ring, self._keep))

    def _set_up(self) -> Step[None]:
        announce: Prepare = yield from receive(self.parties.requester, Prepare)
        self.plan = plan = _agreed(self, announce)
        own = JoinedPreparation(announce_digest(announce), secrets.token_bytes(32))
        yield from answer(announce, self.name, own)
        self._joined = yield from gather(announce, self.name, own, JoinedPreparation)
        self.preparation_id = preparation_id = derive_id(announce, self._joined)
        seed = (yield from receive(self.parties.requester, KeySeed)).seed
        self._part = sample_key_share(plan.params, common_polynomial(plan.params, preparation_id), seed, preparation_id)
        for holder in self.parties.holders:
            yield Send(holder, PublicPart(self._part.public.tobytes()))
        yield from sign_set_up(self.name, self.parties)
        self._stated = yield from receive(self.parties.requester, MaskDigest)
        self._public = expand_public(preparation_id, plan.dim, plan.params, self.threads)
        yield from end_set_up(preparation_id, self.name, self.parties)
        self.preparation = RouterPreparation(**_common(preparation_id, self), router_seed=seed)

    def _ring(self, holder: str) -> Step[PreparedRing]:
        assert self.preparation is not None
        assert self.plan is not None
        assert self._part is not None
        assert self._public is not None
        names = self.parties.ring(holder)
        yield from compare_ids(self.preparation_id, holder)
        ring: Ring = yield from join_ring(Seat.ROUTER, names, self.preparation.preparation_id, self.threads)
        received = yield from receive(holder, MaskDigest)
        if received != self._stated:
            raise Disagreement(f"{holder} got another mask or another part of the key than {names[1]} stated")
        checked = yield from key_owner_checks_form(ring, self.plan.params, self._public, self._part.secret)
        self._unchecked.discard(holder)
        if not self._unchecked:
            self._public = None
        joined = self._joined[holder]
        return (yield from _key_owner_ring(ring, self.plan.params, self._part.secret, checked, joined))

    def _keep(self, holder: str, ring: PreparedRing) -> None:
        assert self.preparation is not None
        self.preparation.rings[holder] = ring

    def wipe(self, session: Session) -> None:
        """The key goes when the last ring is over."""
        super().wipe(session)
        if self.done and self._part is not None:
            self._part.erase()
            self._public = None


class PreparingHolder(Party):
    """Scores an encrypted mask over its gallery."""

    def __init__(self, context: Context, gallery: Gallery) -> None:
        super().__init__(context)
        self.gallery = gallery
        self.plan: Plan | None = None
        self.preparation_id = b""  # of the preparation, once everybody has answered
        self.preparation: HolderPreparation | None = None
        self._seed = secrets.token_bytes(32)
        self._received: tuple[bytes, bytes, Residues] | None = None  # preparation_id, seed of s1, b2

    def start(self) -> None:
        """Wait for the announcement."""
        self.begin(self.whole, self._set_up(), lambda _: self.begin_rings(self._ring, self._keep))

    def _set_up(self) -> Step[None]:
        requester, gallery = self.parties.requester, self.gallery
        announce: Prepare = yield from receive(requester, Prepare)
        self.plan = plan = _agreed(self, announce)
        check_gallery(self.name, gallery, plan.params, plan.dim, plan.model)
        own = JoinedPreparation(
            announce_digest(announce),
            secrets.token_bytes(32),
            gallery.blocks,
            gallery.root,
            commit_seed(self._seed, self.name),
        )
        yield from answer(announce, self.name, own)
        yield from sign_set_up(self.name, self.parties)
        joined = yield from gather(announce, self.name, own, JoinedPreparation)
        self.preparation_id = preparation_id = derive_id(announce, joined)
        seed = (yield from receive(requester, KeySeed)).seed
        stated = []
        for name in (requester, self.parties.router):
            message = yield from receive(name, PublicPart)
            stated.append(residue_array(message.data, (), plan.params, f"public part of {name}"))
        check_same_part(stated[0], stated[1])
        yield from end_set_up(preparation_id, self.name, self.parties)
        self._received = preparation_id, seed, stated[0]

    def _ring(self, holder: str) -> Step[HolderPreparation]:
        assert self.plan is not None
        assert self._received is not None
        preparation_id, seed, public = self._received
        plan, params, parties = self.plan, self.plan.params, self.parties
        yield from compare_ids(preparation_id, parties.router)
        ring: Ring = yield from join_ring(Seat.HOLDER, parties.ring(holder), preparation_id, self.threads)
        mask = yield from receive_mask(parties.requester, parties.router, seed, plan.dim, params)
        keys = holder_keys(params, preparation_id, seed, public, self._seed)
        try:
            second = expand_public(preparation_id, plan.dim, params, self.threads)
            form_seed = derive_key(self._seed, "form", preparation_id)
            checked = yield from holder_checks_form(ring, params, mask, second, keys.secret, form_seed)
            probe = prepare_probe(np.stack([mask, second], axis=1), params, self.threads)
            del second
            chunk_list, versions = [], []
            for first, count in chunks(self.gallery.blocks, params):
                work = holder_prepares(ring, keys, self.gallery.templates, probe, first, count, 0)
                chunk, listed = yield from work
                chunk_list.append(chunk)
                versions += listed
        finally:
            keys.secret.fill(0)
        yield from end_phase("prepared", (parties.requester, parties.router))
        prepared = _prepared(ring, self.gallery.blocks, self.gallery.root, checked, chunk_list, versions)
        common = _common(preparation_id, self)
        common["rings"] = {holder: prepared}
        made = HolderPreparation(**common, seed=self._seed, holder_seed=seed, public=public.copy(), mask=mask)
        made.__dict__["_probe"] = probe
        return made

    def _keep(self, _: str, preparation: HolderPreparation) -> None:
        self.preparation = preparation

    def wipe(self, session: Session) -> None:
        """The seeds are the preparation's from here on, or nobody's."""
        super().wipe(session)
        if self.done:
            self._seed, self._received = b"", None


def check_same_part(first: Residues, second: Residues) -> None:
    """Raise `Disagreement` unless requester and router report the same b2: two mouths, of which one may lie."""
    if not np.array_equal(first, second):
        raise Disagreement("requester and router report different public parts of the key")


def check_gallery(name: str, gallery: Gallery, params: Parameters, dim: int, model: bytes) -> None:
    """Raise `Disagreement` or `GalleryError` unless a gallery has this dimension, ring and model."""
    if gallery.templates.dtype != np.int8:
        raise GalleryError(f"the gallery of {name} holds {gallery.templates.dtype}, not int8 rows")
    if dim != gallery.templates.shape[1] or params != gallery.params:
        raise Disagreement(
            f"d = {dim} and {params.preset} are asked for; the gallery of {name} has "
            f"d = {gallery.templates.shape[1]} and {gallery.params.preset}"
        )
    if SYNTHETIC_MODEL not in (model, gallery.model) and model != gallery.model:
        raise Disagreement(f"the probe's model {model.hex()[:16]}… is not the gallery's {gallery.model.hex()[:16]}…")


def holder_keys(
    params: Parameters, preparation_id: bytes, holder_seed: bytes, public: Residues, seed: bytes
) -> HolderKeys:
    """A holder's keys, from the seed of s1, b2 (uint32 (2, n)) and its own seed."""
    secret = expand_secret(params, holder_seed, preparation_id)
    return HolderKeys(secret, reduced_key(params, preparation_id, public, secret), seed)


def _agreed(machine: Party, announce: Prepare) -> Plan:
    machine.check_parties(parties_of(announce))
    machine.check_admitted(announce)
    return Plan.announced(announce)


def _common(preparation_id: bytes, machine: PreparingRequester | PreparingRouter | PreparingHolder) -> dict[str, Any]:
    plan, parties = machine.plan, machine.parties
    assert plan is not None
    return {
        "preparation_id": preparation_id,
        "requester": parties.requester,
        "router": parties.router,
        "holders": parties.holders,
        "preset": plan.params.preset,
        "dim": plan.dim,
        "model": plan.model,
        "rings": {},
    }


def _key_owner_ring(
    ring: Ring, params: Parameters, secret: Residues, checked: UnitRows, joined: JoinedPreparation
) -> Generator[Any, Any, PreparedRing]:
    """What requester and router do with the gallery itself. They end with the same list of what they got."""
    assert joined.blocks is not None
    assert joined.gallery is not None
    chunk_list: list[Chunk] = []
    versions: list[Version] = []
    for first, count in chunks(joined.blocks, params):
        prepared: Prepared = yield from key_owner_prepares(ring, params, secret, first, count, 0)
        chunk_list.append(prepared[0])
        versions += prepared[1]
    kept = _prepared(ring, joined.blocks, joined.gallery, checked, chunk_list, versions)
    yield from same_from_holder(ring, kept.agreed())
    yield Phase("offline")
    yield from end_phase("prepared", tuple(name for index, name in enumerate(ring.names) if index != ring.seat))
    return kept


def _prepared(
    ring: Ring, blocks: int, root: bytes, checked: UnitRows, chunk_list: list[Chunk], versions: list[Version]
) -> PreparedRing:
    return PreparedRing(
        seat=ring.seat,
        holder=ring.names[Seat.HOLDER],
        own=ring.own_secret,
        following=ring.following_secret,
        blocks=blocks,
        root=root,
        versions=tuple(versions),
        admission=checked.z,
        known=checked.known,
        chunks=chunk_list,
    )


def _stop_rings(machine: PreparingRequester, session: Session) -> None:
    if isinstance(session.failure, FalseRefusal) and session.state is State.ABORTED:
        machine.stop_all(session.failure)
