"""What the operator of a node does from the command line: set up, serve, enrol, forget, ask, look."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
from rich.console import Console

from nodes.cli.embed import list_photos
from nodes.config.schema import NodeConfig, Role, load_config
from nodes.evidence.keeper import Keeper
from nodes.identity.identity import load_identity
from nodes.identity.tls import client_context, server_name
from nodes.logs.errors import LogInUse
from nodes.operator.progress import progress_bar
from nodes.service.expiry import Expired
from nodes.service.expiry import expire as expire_now
from nodes.service.operator_api import SearchReport, SearchRequest
from nodes.service.server import open_store
from nodes.store import Category, DuplicatePhoto, GalleryStore, Status, Subject
from nodes.store.enrolment import check_allowed
from pets.errors import InputError, LineupError, ModelMismatch, PhotoError
from pets.faces import FaceModel, Provider
from pets.templates import load_templates, quantise, quantise_rows, read_identity, sidecar_path
from protocol.terms import SYNTHETIC_MODEL

RETENTION_DAYS = 3 * 365
SEARCH_SECONDS = 3600.0
HEALTH_SECONDS = 15.0


class NodeNotRunning(LineupError):
    """The node's service does not answer at its address."""


class Enrolled(msgspec.Struct, frozen=True):
    """What `lineup enroll` did. `references`: of the subjects added now; `photos`: of every photo, added or known."""

    added: int
    already_enrolled: int
    failed: dict[str, str]
    references: tuple[str, ...]
    photos: dict[str, str] = {}


@contextmanager
def holder_store(folder: Path) -> Iterator[GalleryStore]:
    """The gallery of a holder's folder. Raises `InputError` for another role."""
    config = load_config(folder)
    if config.role is not Role.HOLDER:
        raise InputError(f"{config.name} is a {config.role.value}; only holders have a gallery")
    with open_store(config) as store:
        yield store


def enroll(
    folder: Path,
    sources: Sequence[Path],
    *,
    category: Category,
    status: Status,
    retain_until: date | None,
    models: Path | None,
    provider: Provider,
    largest: bool,
    console: Console,
) -> Enrolled:
    """Add photos (files, folders) or one .npy file of unit templates. What is enrolled already is passed over.

    So an interrupted enrolment is continued by giving the same command again. Raises `InputError`, `StoreError`,
    `ModelMismatch` for another face model than the gallery's: the node could not serve it then.
    """
    today = datetime.now(timezone.utc).date()
    until = retain_until or today + timedelta(days=RETENTION_DAYS)
    if until < today:
        raise InputError(f"the last day searched, {until}, is over: it must be today ({today}) or later")
    templates = [source for source in sources if source.suffix == ".npy"]
    if templates and len(sources) > 1:
        raise InputError(f"{templates[0]} holds templates: enrol it by a command of its own, without photos")
    with holder_store(folder) as store:
        check_allowed(category, store.categories)
        if templates:
            return _enroll_templates(store, templates[0], category, status, until, console)
        model = FaceModel.load(models, provider)
        _check_model(store, model.identity.digest(), f"the photos are embedded by {model.identity}")
        return _enroll_photos(store, sources, category, status, until, model, largest, console)


def _check_model(store: GalleryStore, model: bytes, whose: str) -> None:
    held = store.models() - {model}
    if held:
        others = ", ".join(f"{digest.hex()[:12]}…" for digest in sorted(held))
        raise ModelMismatch(
            f"{whose}, which is model {model.hex()[:12]}…; the gallery holds templates of {others}, and faces of two "
            "models cannot be compared: nothing was enrolled"
        )


def _enroll_templates(
    store: GalleryStore, path: Path, category: Category, status: Status, until: date, console: Console
) -> Enrolled:
    unit = load_templates(path, what="templates")
    identity = read_identity(path)
    model = identity.digest() if identity is not None else SYNTHETIC_MODEL
    whose = f"{path} says {identity}" if identity is not None else f"no {sidecar_path(path)} names the model of {path}"
    _check_model(store, model, whose)
    templates = np.atleast_2d(quantise_rows(unit, name=str(path)))
    with progress_bar(console, "enrolling", len(templates)) as progress:
        result = store.enrol_many(
            templates,
            category=category,
            status=status,
            retain_until=until,
            model=model,
            source=hashlib.sha256(np.ascontiguousarray(templates).data).digest(),
            progress=progress,
        )
    return Enrolled(len(result.references), result.skipped, {}, result.references)


def _enroll_photos(
    store: GalleryStore,
    sources: Sequence[Path],
    category: Category,
    status: Status,
    until: date,
    model: FaceModel,
    largest: bool,
    console: Console,
) -> Enrolled:
    paths = list_photos(sources)
    digest = model.identity.digest()
    failed: dict[str, str] = {}
    references: list[str] = []
    photos: dict[str, str] = {}
    known = 0
    with progress_bar(console, "enrolling", len(paths)) as progress:
        for done, path in enumerate(paths, start=1):
            try:
                content = path.read_bytes()
                if (reference := store.find_photo(content)) is not None:
                    known += 1
                else:
                    template = quantise(model.embed(path, largest=largest).template, name=str(path))
                    reference = store.enrol(
                        content, template, category=category, status=status, retain_until=until, model=digest
                    )
                    references.append(reference)
                photos[str(path)] = reference
            except DuplicatePhoto as error:
                known += 1
                photos[str(path)] = error.reference
            except (PhotoError, OSError) as error:
                failed[str(path)] = str(error)
            progress(done)
    return Enrolled(len(references), known, failed, tuple(references), photos)


def check_asks(folder: Path) -> None:
    """Raise `InputError` unless this is a requester's folder."""
    config = load_config(folder)
    if config.role is not Role.REQUESTER:
        raise InputError(f"{config.name} is a {config.role.value}; only a requester can ask")


def probe_template(photo: Path, models: Path | None, provider: Provider, largest: bool) -> tuple[bytes, bytes]:
    """A photo, or a .npy file with one unit template, as (int8 template bytes, model digest)."""
    if photo.suffix == ".npy":
        unit = load_templates(photo, what="probe")
        if unit.ndim == 2 and len(unit) != 1:
            raise InputError(f"{photo} holds {len(unit)} templates; a query has one probe")
        identity = read_identity(photo)
        return quantise(unit.reshape(-1)).tobytes(), identity.digest() if identity is not None else SYNTHETIC_MODEL
    model = FaceModel.load(models, provider)
    return quantise(model.embed(photo, largest=largest).template).tobytes(), model.identity.digest()


def search(folder: Path, request: SearchRequest) -> SearchReport:
    """Have the running requester node search. Raises `NodeNotRunning`, `InputError` with the node's reason."""
    response = _call(load_config(folder), "POST", "/operator/v1/search", msgspec.json.encode(request))
    return msgspec.json.decode(response.content, type=SearchReport)


def status(folder: Path) -> dict[str, Any]:
    """What the running node says of itself. Raises `NodeNotRunning`."""
    report: dict[str, Any] = _call(load_config(folder), "GET", "/operator/v1/status").json()
    return report


def health(folder: Path) -> dict[str, Any]:
    """Whether the running node can work. Raises `NodeNotRunning`."""
    report: dict[str, Any] = _ask(load_config(folder), "GET", "/health", seconds=HEALTH_SECONDS).json()
    return report


def hold(folder: Path, order: Path) -> dict[str, Any]:
    """Lodge a supervisor's order at the running node. Raises `NodeNotRunning`, `InputError` with the node's reason."""
    try:
        data = order.read_bytes()
    except OSError as error:
        raise InputError(f"{order} cannot be read: {error.strerror}") from None
    report: dict[str, Any] = _call(load_config(folder), "POST", "/operator/v1/hold", data).json()
    return report


def expire(folder: Path) -> Expired:
    """Delete what is past its time, at a node that is stopped. Raises `InputError` for one that runs."""
    identity = load_identity(folder)
    with open_store(identity.config) as store:
        try:
            keeper = Keeper(identity, folder)
        except LogInUse:
            raise InputError(f"{identity.config.name} is running: it does this itself, daily") from None
        try:
            return expire_now(store, keeper, identity.config, datetime.now(timezone.utc))
        finally:
            keeper.close()


def contest(folder: Path, reference: str, authority: str | None) -> Subject:
    """Mark a subject's accuracy as contested, or clear the mark on a decision. Raises `StoreError`, `InputError`."""
    now = datetime.now(timezone.utc)
    with holder_store(folder) as store:
        if authority is None:
            store.flag_contested(reference, now)
        else:
            store.clear_contested(reference, authority, now)
        return store.subject(reference)


def _call(config: NodeConfig, method: str, path: str, content: bytes | None = None) -> httpx.Response:
    response = _ask(config, method, path, content)
    if response.status_code != 200:
        try:
            body = response.json()
        except ValueError:
            body = {}
        raise InputError(body.get("message") or f"{config.name} refused: {body.get('code', response.status_code)}")
    return response


def _ask(
    config: NodeConfig, method: str, path: str, content: bytes | None = None, seconds: float = SEARCH_SECONDS
) -> httpx.Response:
    timeout = httpx.Timeout(seconds, connect=config.limits.connect_timeout_seconds)
    with httpx.Client(verify=client_context(config.operator_tls), timeout=timeout, trust_env=False) as client:
        try:
            return client.request(
                method, config.address + path, content=content, extensions={"sni_hostname": server_name(config.name)}
            )
        except httpx.TransportError as error:
            # a refused certificate explains itself
            hint = "" if "SSL" in str(error) else "; is `lineup node serve` running, and past its line `ready`?"
            raise NodeNotRunning(f"{config.name} does not answer at {config.address}: {error}{hint}") from error
