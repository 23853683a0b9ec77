"""A holder's gallery whose rows lie in a cluster, in the place of `nodes.blocks.ResidentGallery`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import cast

import msgspec
import numpy as np
import numpy.typing as npt

from nodes.blocks import BlockFiles, HeldGallery
from nodes.blocks.held import Rows
from nodes.cluster.errors import ClusterError, WorkerLost
from nodes.cluster.link import Calls, Link
from nodes.cluster.rows import ClusterRows
from nodes.cluster.shards import SPARE_ROWS, UNIT, Shards
from nodes.cluster.spreading import Together, spread
from nodes.config.cluster import ClusterConfig
from pets.errors import LineupError

READ_SECONDS = 2.0  # that somebody waits for rows that are being read


class ClusterGallery(HeldGallery):
    """The rows of `files` in shards; manifest, numbering and liveness stay in this process.

    `node`: its folder, which every machine must find at the same place. Rows that came since are read beside searches,
    which go on in the version that is held. `together`: what was last found of copies that lie on one machine.
    Raises `BlocksError`, `ClusterError`.
    """

    def __init__(
        self,
        files: BlockFiles,
        calls: Calls,
        config: ClusterConfig,
        node: Path,
        *,
        unit: int = UNIT,
        spare: int = SPARE_ROWS,
    ) -> None:
        super().__init__(files)
        self._calls, self._config, self._node, self._unit, self._spare = calls, config, node, unit, spare
        self._reading: threading.Thread | None = None
        self.together = Together()
        self._told = -1  # the generation up to which who is forgotten was let go of
        self.shards = self._opened()
        try:
            self.shards.reach(self._manifest.current.rows)
            self._settle()
        except BaseException:
            self.shards.close()
            raise

    def refresh(self) -> bool:
        """As `HeldGallery.refresh`; also has rows read that came since, and shards brought back where they were lost.

        Raises `ClusterError` where they were lost, as long as they are not back: to read all rows takes too long for
        who asks for them.
        """
        changed = super().refresh()
        if self.shards.well and not self._behind:
            return changed
        self._read()
        if not self.shards.well:
            raise ClusterError(self.shards.fault or f"no connection to the cluster at {self._config.address}")
        changed = super().refresh() or changed
        if self._behind and not self._loaded:
            raise ClusterError("the rows are being read")
        return changed

    @property
    def _behind(self) -> bool:
        return not self._moved and self._loaded < self._manifest.current.rows

    def _read(self) -> None:
        """Have rows read, without the lock. Who begins it waits a moment for them, and who cannot do without them."""
        with self._lock:
            reading = self._reading
            begins = reading is None or not reading.is_alive()
            if reading is None or begins:
                rows = self._loaded if self._moved else self._manifest.current.rows
                reading = self._reading = threading.Thread(target=_reach, args=(self.shards, rows), daemon=True)
                reading.start()
        if begins or not self.shards.well or not self._loaded:
            reading.join(READ_SECONDS)

    def spread(self) -> None:
        """Bring copies of a shard apart that lie on one machine, where another has room (`nodes.cluster.spreading`)."""
        self.together = spread(self.shards)

    def further(self, rows: int) -> list[Rows]:
        """As `HeldGallery.further`."""
        return [self._array(rows, copy) for copy in range(1, self._config.copies)]

    def _opened(self) -> Shards:
        folder, dim = self.files.folder.resolve(), self._manifest.dim
        given = self._calls, self._config, self._node.resolve(), folder, self._epoch, dim
        return Shards(*given, self._unit, self._spare)

    def _view(self, rows: int) -> Rows:
        return self._array(rows)

    def _array(self, rows: int, copy: int | None = None) -> Rows:
        return cast(Rows, ClusterRows(self.shards, rows, self._tell, copy))  # used like an array

    def _load(self, progress: Callable[[int], object] | None) -> None:
        """Take over what was read."""
        self._loaded = max(self._loaded, min(self.shards.reached, self._manifest.current.rows))
        if progress is not None:
            progress(self._loaded)

    def _move(self) -> None:
        """Who still reads the old epoch without a snapshot, a preparation, is told so."""
        self.shards.close()
        self._epoch, self._loaded = self._manifest.current.epoch, 0
        self.shards = self._opened()

    def _overwrite(self, slots: npt.NDArray[np.int64]) -> bool:
        return self.shards.forget(slots)

    def _end(self) -> None:
        self.shards.close()

    def _tell(self, generation: int) -> None:
        """Let go of who was forgotten up to this generation, before rows are used that were read under it.

        A shard that is started anew reads who was forgotten meanwhile as zeros.
        """
        if generation <= self._told:
            return
        with self._lock:
            self._look()
            seen = self._manifest.generation
        if seen < generation:
            raise ClusterError(f"a machine read change {generation} of the gallery, this one finds only {seen}")
        if self._watcher is not None:
            self._watcher()
        self._told = max(self._told, seen)


def _reach(shards: Shards, rows: int) -> None:
    with suppress(LineupError):  # it is kept as the fault
        shards.reach(rows)


class Told(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `lineup node status` shows. `processes`: of all shards. `together`: shards whose copies lie on one machine.

    `fault`: why it cannot be used; None if it can.
    """

    address: str
    shards: int
    processes: int
    rows: int
    machines: int | None
    together: int
    fault: str | None


class Cluster:
    """The cluster of a node, for its one gallery."""

    def __init__(self, config: ClusterConfig, node: Path) -> None:
        self._config, self._node = config, node
        self._link = Link(config)
        self._gallery: ClusterGallery | None = None
        self._refused, self._machines = "", 0

    def connect(self) -> None:
        """Be connected. Raises `ClusterError`, which names the address."""
        self._link.connect()

    def hold(self, files: BlockFiles) -> HeldGallery:
        """A gallery in shards. Raises `BlocksError`, `ClusterError`."""
        self._gallery = None
        try:
            self._gallery = ClusterGallery(files, self._link, self._config, self._node)
        except ClusterError as error:
            self._refused = str(error)
            raise
        self._refused = ""
        return self._gallery

    @property
    def fault(self) -> str:
        """Why the gallery cannot be used; empty if nothing is known. Asks nobody."""
        if self._gallery is None:
            return self._refused
        if not self._link.connected():
            return self._gallery.shards.fault or f"the connection to the cluster at {self._config.address} is lost"
        return self._gallery.shards.fault

    @property
    def alarms(self) -> list[str]:
        """What the operator should look at. Asks nobody."""
        gallery, found = self._gallery, [self.fault] if self.fault else []
        if gallery is not None and gallery.shards.late:
            found.append(f"rows that were enrolled since cannot be read and are not searched: {gallery.shards.late}")
        if gallery is not None and (stay := gallery.together).ranges and self._machines > 1:
            found.append(f"shards of which both copies lie on one machine: {stay.ranges}; {stay.why}")
        return [f"cluster: {one}" for one in found]

    def spread(self) -> None:
        """Bring copies apart that lie on one machine; returns when their rows are read."""
        if (gallery := self._gallery) is not None:
            gallery.spread()
            with suppress(WorkerLost):
                self._machines = self._link.machines()

    def told(self) -> Told:
        """How things stand."""
        parts = [] if self._gallery is None else self._gallery.shards.parts
        try:
            machines = self._link.machines() if self._link.connected() else None
        except WorkerLost:
            machines = None
        rows, processes = sum(part.held for part in parts), sum(len(part.copies) for part in parts)
        together = 0 if self._gallery is None else self._gallery.together.ranges
        return Told(self._config.address, len(parts), processes, rows, machines, together, self.fault or None)

    def close(self) -> None:
        """Leave the cluster; what the node made there ends."""
        self._link.close()
