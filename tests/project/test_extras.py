"""Who only verifies installs little; a command whose libraries are not installed names the extra that brings them."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nodes.cli.extras import EXTRA_OF, LIBRARIES, install_hint
from tests.conformance.generate import TRUST, unpack

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# What pip says when there is no network; anything else it says is a failure.
NO_NETWORK = re.compile("NewConnectionError|NameResolutionError|ConnectTimeout|ProxyError|Network is unreachable")
HEAVY = {"cv2", "insightface", "numba", "onnxruntime", "psycopg", "scipy", "sqlalchemy", "starlette"}


def distribution(requirement: str) -> str:
    """The normalised name that a requirement begins with."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement, maxsplit=1)[0]).lower()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This project's wheel, built from a copy, so that the working tree stays as it is."""
    source, place = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    for name in ("pets", "protocol", "nodes"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        place,
        source,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (made,) = place.glob("*.whl")
    return made


@pytest.mark.slow
def test_the_extra_verify_is_enough_to_verify_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    place = tmp_path / "empty"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    install = [sys.executable, "-m", "pip", "--python", place / "bin" / "python", "install", "--quiet", "--no-compile"]
    done = subprocess.run([*install, f"{wheel}[verify]"], capture_output=True, text=True, check=False)
    if done.returncode != 0 and NO_NETWORK.search(done.stderr):
        pytest.skip("the package index cannot be reached")
    assert done.returncode == 0, done.stderr
    (packages,) = place.glob("lib/python*/site-packages")
    assert not HEAVY & {path.name for path in packages.iterdir()}
    assert all((packages / name / "py.typed").exists() for name in ("pets", "protocol", "nodes"))

    unpack(tmp_path)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def lineup(*words: str) -> subprocess.CompletedProcess[str]:
        command = [str(place / "bin" / "lineup"), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)

    honest = [f"all-bundles/{name}.bundle" for name in ("FR", "EU", "ES")]
    verified = lineup("verify", *honest, "--trust", TRUST, "--html", "report.html")
    assert verified.returncode == 0, verified.stderr + verified.stdout
    lie = [str(path) for path in (tmp_path / "low-threshold").iterdir()]
    assert lineup("verify", *lie, "--trust", TRUST).returncode == 1
    assert lineup("evidence", "key", "-o", "supervisor").returncode == 0
    refused = lineup("node", "status", "--dir", ".")
    assert refused.returncode == 1
    assert 'pip install "blind-lineup[node]"' in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("extra", LIBRARIES)
def test_every_library_of_an_extra_is_known_to_belong_to_it(extra: str) -> None:
    """By the names under which it is imported, for those that are installed here."""
    wanted = {distribution(requirement) for requirement in PROJECT["optional-dependencies"][extra]}
    for library, brought_by in importlib.metadata.packages_distributions().items():
        names = {distribution(name) for name in brought_by}
        if names & wanted and not library.startswith("_") and not names & {"insightface"}:
            assert EXTRA_OF.get(library) == extra, library


def test_a_library_of_no_extra_gives_no_hint() -> None:
    assert install_hint(ModuleNotFoundError("no", name="numba.core")) == (
        'this command needs numba, which is not installed: pip install "blind-lineup[node]"'
    )
    assert install_hint(ModuleNotFoundError("no", name="pets.absent")) is None
    assert install_hint(ModuleNotFoundError("no")) is None


@pytest.mark.parametrize(
    ("lock", "extras"),
    [("requirements.lock", ("verify", "faces", "node", "console", "exchange", "cluster", "openfhe", "dev")),
     ("nodes/requirements.lock", ("node", "faces")),
     ("tests/openfhe.lock", ("node", "openfhe"))],
)  # fmt: skip
def test_the_lock_names_all_that_is_asked_for_with_hashes_and_no_place(lock: str, extras: tuple[str, ...]) -> None:
    """After a change of pyproject.toml: make lock."""
    text = (ROOT / lock).read_text()
    pinned = {distribution(line) for line in text.splitlines() if re.match(r"[a-z].*==", line)}
    asked = [*PROJECT["dependencies"], *(item for extra in extras for item in PROJECT["optional-dependencies"][extra])]
    assert {distribution(item) for item in asked} - {"blind-lineup"} <= pinned
    assert {"setuptools", "pytest"} & pinned, "what this package is built with; or it is not built, but tested"
    assert not re.search(r"file:|https?://|--(extra-)?(default-)?index|--find-links| @ ", text)
    for block in re.split(r"(?m)^(?=[a-z])", text)[1:]:
        assert "--hash=sha256:" in block, block


@pytest.mark.parametrize("lock", ["nodes/requirements.lock", "tests/openfhe.lock"])
def test_a_smaller_lock_takes_its_versions_from_the_large_one(lock: str) -> None:
    def versions(name: str) -> set[str]:
        return set(re.findall(r"(?m)^[a-z][\w.-]*==\S+", (ROOT / name).read_text()))

    assert versions(lock) < versions("requirements.lock")
