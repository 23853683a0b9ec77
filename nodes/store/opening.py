"""The start on a store: the database is checked, and beside that the templates are read, each on a core of its own."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from nodes.store.content import Content
from nodes.store.resident import Resident
from nodes.store.subjects import Category


def verify_and_read(resident: Resident, categories: Iterable[Category]) -> Content:
    """As `GalleryStore.verify`, and what is at hand then: the rows, and who of them is held. `categories`: of these.

    Raises as `verify`, and then the rows are read no further. What keeps them from being read is raised where they are
    asked for: of a database that is not sound, its own error says more.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="lineup-rows") as beside:
        reading = beside.submit(resident.rows, frozenset(categories))
        try:
            content = resident.store.verify(seen=resident.see)
            reading.exception()
        except BaseException:
            resident.stop()
            raise
    return content
