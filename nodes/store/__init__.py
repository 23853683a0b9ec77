"""What a holder keeps: its gallery, encrypted at rest, daily quotas, and the queries it has answered.

What opens a database is imported on its own, because it loads SQLAlchemy: `GalleryStore` from `nodes.store.store`.
So is `nodes.store.derived` (the NTT form), which loads the kernels.
"""

from nodes.store.errors import (
    CategoryNotAllowed,
    DuplicatePhoto,
    EmptyStore,
    EnrolmentConflict,
    QueryReplayed,
    QuotaExceeded,
    StorageKeyError,
    StoreCorrupted,
    StoreError,
    StoreFull,
    StoreLocked,
    StoreLost,
    StoreRefusal,
    StoreUnavailable,
    StoreVersionError,
    UnknownReference,
    WrongStorageKey,
)
from nodes.store.keys import ENVIRONMENT, StorageKey
from nodes.store.subjects import (
    DEFAULT_CATEGORIES,
    NATIONAL_LAW_CATEGORIES,
    BulkEnrolment,
    Category,
    ContestedEvent,
    DeletionReceipt,
    Snapshot,
    Status,
    Subject,
)

__all__ = [
    "DEFAULT_CATEGORIES",
    "ENVIRONMENT",
    "NATIONAL_LAW_CATEGORIES",
    "BulkEnrolment",
    "Category",
    "CategoryNotAllowed",
    "ContestedEvent",
    "DeletionReceipt",
    "DuplicatePhoto",
    "EmptyStore",
    "EnrolmentConflict",
    "QueryReplayed",
    "QuotaExceeded",
    "Snapshot",
    "Status",
    "StorageKey",
    "StorageKeyError",
    "StoreCorrupted",
    "StoreError",
    "StoreFull",
    "StoreLocked",
    "StoreLost",
    "StoreRefusal",
    "StoreUnavailable",
    "StoreVersionError",
    "Subject",
    "UnknownReference",
    "WrongStorageKey",
]
