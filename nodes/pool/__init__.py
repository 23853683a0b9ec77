"""The preparations that wait at a node until a search uses them, each once (protocol/DESIGN.md, section 7).

`Pool` keeps them in memory or sealed on disk, within the bounds of `[preparations]`. What marks one as used is a claim
in the node's store, written before it is used: a crash between costs a preparation and never allows a second use.
"""

from nodes.pool.entry import Waiting
from nodes.pool.errors import UnknownPreparation
from nodes.pool.files import reseal
from nodes.pool.pool import FOLDER, Counts, Pool

__all__ = ["FOLDER", "Counts", "Pool", "UnknownPreparation", "Waiting", "reseal"]
