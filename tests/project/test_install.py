"""What set-up and container install is checked by hash, and so is what would build it: nothing is built."""

from __future__ import annotations

import hashlib
import io
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OPTION = "--only-binary :all:"

# A builder that no lock names. It makes whatever it likes of the source, whose hash is right.
BUILDER = """
import zipfile
def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "wanted-1-py3-none-any.whl"
    with zipfile.ZipFile(folder + "/" + name, "w") as wheel:
        wheel.writestr("wanted.py", "HARM = True")
        wheel.writestr("wanted-1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: wanted\\nVersion: 1\\n")
        wheel.writestr("wanted-1.dist-info/WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-any\\n")
        wheel.writestr("wanted-1.dist-info/RECORD", "")
    return name
"""


def installs() -> list[str]:
    """The lines of Makefile and container file that install what a lock names."""
    text = "".join((ROOT / file).read_text().replace("\\\n", " ") for file in ("Makefile", "nodes/Containerfile"))
    return re.findall(r"pip install [^|;\n]*--require-hashes[^|;\n]*", text)


def test_whatever_a_lock_names_is_installed_from_wheels_only() -> None:
    assert len(installs()) == 4  # uv itself, by uv, by pip where uv fails, in the container
    for line in installs():
        assert OPTION in line, line


@pytest.mark.slow
@pytest.mark.parametrize("option", [OPTION, ""], ids=["defended", "control"])
def test_a_builder_that_no_lock_names_is_not_run(option: str, tmp_path: Path) -> None:
    """For a platform without a wheel, the source would be built, with tools that the index names and nothing pins."""
    index, target = tmp_path / "index", tmp_path / "target"
    index.mkdir()
    with zipfile.ZipFile(index / "builder-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("builder.py", BUILDER)
        wheel.writestr("builder-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: builder\nVersion: 1\n")
        wheel.writestr("builder-1.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("builder-1.dist-info/RECORD", "")
    with tarfile.open(index / "wanted-1.tar.gz", "w:gz") as source:
        build = b'[build-system]\nrequires = ["builder"]\nbuild-backend = "builder"\n'
        for name, content in (("pyproject.toml", build), ("PKG-INFO", b"Name: wanted\nVersion: 1\n")):
            entry = tarfile.TarInfo(f"wanted-1/{name}")
            entry.size = len(content)
            source.addfile(entry, io.BytesIO(content))
    digest = hashlib.sha256((index / "wanted-1.tar.gz").read_bytes()).hexdigest()
    lock = tmp_path / "lock"
    lock.write_text(f"wanted==1 --hash=sha256:{digest}\n")
    words = ["--no-index", "--find-links", str(index), "--target", str(target), "--no-deps", "--require-hashes"]
    command = [sys.executable, "-m", "pip", "install", *words, *option.split(), "--requirement", str(lock)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == (not option), done.stderr
    assert (target / "wanted.py").exists() == (not option)
