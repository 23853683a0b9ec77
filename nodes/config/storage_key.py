"""The key under which a node stores, as its configuration says. A process that opens no database loads none for it."""

from __future__ import annotations

from nodes.config.schema import NodeConfig
from nodes.store.keys import StorageKey


def storage_key(config: NodeConfig) -> StorageKey:
    """The node's key for what it stores, from its file or environment variable."""
    storage = config.storage
    if storage.key_file is not None:
        return StorageKey.from_file(storage.key_file)
    return StorageKey.from_environment(storage.key_env or "")
