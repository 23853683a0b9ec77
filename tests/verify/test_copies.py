"""The verifier's own copies of tables and formulas, and how little it imports."""

from __future__ import annotations

import random
import subprocess
import sys
from decimal import Decimal

import pytest

from nodes.config.preparations import MAX_AGE_HOURS
from nodes.verify import table as own_table
from nodes.verify.format import WHOLE, WIRE_VERSION
from pets import params
from protocol import session, wire
from protocol.terms import SYNTHETIC_MODEL, Terms
from tests.kit.evidence import World, failures
from tests.kit.ring import RING
from tests.kit.stories import Files, Story, verified


def test_the_security_table_is_the_same_twice() -> None:
    assert set(own_table.PRESETS) == set(params.PRESETS)
    for name, preset in own_table.PRESETS.items():
        theirs = params.PRESETS[name]
        assert (preset.n, preset.primes, preset.t) == (theirs.n, theirs.primes, theirs.t)
        assert own_table.SECURITY_TABLE[preset.n] == params.SECURITY_TABLE[preset.n]
        assert own_table.weakness(preset) is None
    assert own_table.weakness(own_table.Preset(1024, (1073692673, 1073668097), 1048573)) is not None
    assert own_table.weakness(own_table.Preset(512, (1073692673, 1073668097), 1048573)) is not None
    assert (own_table.CHUNK_ROWS, own_table.MASK_PART) == (wire.CHUNK_ROWS, wire.MASK_PART)
    assert own_table.PREPARATION_SECONDS == MAX_AGE_HOURS * 3600
    assert own_table.NO_MODEL == SYNTHETIC_MODEL
    assert (WHOLE, WIRE_VERSION) == (session.WHOLE, wire.VERSION)


def test_theta_rungs_and_norms_are_the_same_twice() -> None:
    rng = random.Random(3)
    for _ in range(300):
        threshold = Decimal(rng.randint(3000, 9999)) / 10_000
        step = Decimal(rng.choice([0, 1, 20, 100, 999])) / 1000
        dim = 8 * rng.randint(1, 64)
        terms = Terms(threshold, dim, params.N4096, 10, step)
        assert own_table.rungs(threshold, step) == terms.rungs
        assert own_table.theta(threshold, dim) == terms.theta(0)
        assert own_table.norm_bound(dim) == params.norm_bound(dim)
        assert own_table.scale(dim) == params.scale(dim)


def test_the_verifier_imports_little(files: Files) -> None:
    code = "import sys, nodes.verify, nodes.verify.page; print(*sorted(sys.modules))"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    ours = {name for name in loaded if name.split(".")[0] in ("pets", "protocol", "nodes")}
    assert {name for name in ours if not name.startswith("nodes.verify")} == {
        "nodes", "nodes.logs", "nodes.logs.checkpoints", "nodes.logs.entries", "nodes.logs.errors",
        "pets", "pets.errors", "pets.merkle", "pets.prf", "pets.signatures",
        "protocol", "protocol.approval", "protocol.follow_up", "protocol.messages", "protocol.roles", "protocol.shown",
    }  # fmt: skip
    assert not {"socket", "ssl", "httpx", "numba", "sqlalchemy"} & loaded - _always_loaded()


def _always_loaded() -> set[str]:
    others = "numpy, msgspec, rich.console, rich.table, cryptography.hazmat.primitives.ciphers.aead"
    code = f"import sys, {others}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_a_threshold_that_would_wrap_is_refused(world: World, story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    """No preset allows one; with a plaintext modulus half as large, it would."""
    preset = own_table.PRESETS[RING.preset]
    small = own_table.Preset(preset.n, preset.primes, 200_003)
    monkeypatch.setitem(own_table.PRESETS, RING.preset, small)
    assert "wraps into a hit" in failures(verified(world, story.tell()))["threshold"]
