"""The salted hashes of a gallery's blocks (`protocol.gallery.block_hashes`), as a holder seals them for audits.

Who has them can check a block by itself, when another was changed since.
"""

from __future__ import annotations

from pets.gallery_commitment import gallery_root as root_of
from pets.threads import default_threads
from protocol import gallery as galleries
from protocol.gallery import Gallery


def block_hashes(gallery: Gallery) -> tuple[bytes, ...]:
    """One a block, 32 bytes each; none where they do not give the gallery's root.

    That is so once a row was forgotten, whose template goes at once. Reads every row the first time, and keeps them
    with the gallery: asked for at each preparation, they are there when a search needs them.
    """
    kept: tuple[bytes, ...] | None = gallery.__dict__.get("_block_hashes")
    if kept is None:
        found = galleries.block_hashes(gallery.templates, gallery.salt_seed, gallery.params.n, default_threads())
        kept = tuple(found) if root_of(found) == gallery.root else ()
        gallery.__dict__["_block_hashes"] = kept
    return kept
