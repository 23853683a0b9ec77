"""The ring that the protocol's tests run on. `make test` runs them twice, once for each preset."""

from __future__ import annotations

import os

from pets.params import N4096, N8192, preset

RING = preset(os.environ.get("LINEUP_TEST_PRESET", N4096.preset))
OTHER = N8192 if RING is N4096 else N4096
