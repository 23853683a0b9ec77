"""Opening a node's database as its configuration says, whether the node runs or not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nodes.config.schema import NodeConfig, Role, load_config
from nodes.config.storage_key import storage_key
from nodes.store import StorageKey, StoreCorrupted, StoreUnavailable
from nodes.store.handling import Handler
from nodes.store.rows import rows_beside
from nodes.store.store import GalleryStore
from pets.errors import InputError


def rows_folder(config: NodeConfig) -> Path:
    """The folder of the node's templates."""
    storage = config.storage
    if storage.rows is not None:
        return storage.rows
    assert storage.file is not None  # else it was given, or set when the configuration was read
    return rows_beside(storage.file)


def open_store(
    config: NodeConfig,
    *,
    url: str = "",
    key: StorageKey | None = None,
    retired: Sequence[StorageKey] = (),
    handler: Handler | None = None,
    ahead: bool = False,
    look: bool = True,
    anew: bool = False,
) -> GalleryStore:
    """The node's database. The router's holds no subjects, only claims and quotas.

    `url`, `key`: others than those configured, to maintain the database (`nodes.operator.database`). `handler`: on
    whose behalf it is opened. `ahead`, `look`: as in `GalleryStore`. The templates are always in the place configured.
    `anew`: a database is begun even where the templates of one lie that is gone.
    Raises as `GalleryStore`, `StoreCorrupted` if there are templates and no database; `StoreUnavailable` names the
    database.
    """
    if not (url or anew):
        _check_there(config)
    where = url or config.storage.database_url
    try:
        return GalleryStore(
            where,
            key or storage_key(config),
            state=config.state or "EU",
            rows=rows_folder(config),
            ahead=ahead,
            look=look,
            categories=config.policy.categories,
            national_law=config.policy.national_law.citations,
            retired=retired,
            handler=handler,
        )
    except StoreUnavailable as error:  # a configured URL holds no password
        raise StoreUnavailable(f"{where} cannot be opened, look at [storage] in node.toml: {error}") from None


def _check_there(config: NodeConfig) -> None:
    """A database that is gone is not begun anew by whoever looks into it: it would hold nobody, and not say why."""
    file, rows = config.storage.file, rows_folder(config)
    if file is None or (file.exists() and file.stat().st_size):
        return
    if list(rows.glob("*/manifest")):  # to its end: a generator would leave the folder open
        how = "empty" if file.exists() else "gone"
        raise StoreCorrupted(
            f"{file} is {how}, and its templates lie in {rows}: put a backup in its place with `lineup store restore`"
        )


@contextmanager
def holder_store(folder: Path, handler: Handler | None = None) -> Iterator[GalleryStore]:
    """The gallery of a holder's folder, opened on somebody's behalf. Raises `InputError` for another role."""
    config = load_config(folder)
    if config.role is not Role.HOLDER:
        raise InputError(f"{config.name} is a {config.role.value}; only holders have a gallery")
    with open_store(config, handler=handler) as store:
        yield store
