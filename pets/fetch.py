"""Fetching one pinned file from the package index with pip, without running anything that is in it.

pip is asked rather than a URL, so that an operator's mirror, proxy and certificates apply.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from pets.errors import InputError

TIMEOUT_S = 600

# pip reads the metadata of a source distribution by running its setup.py. This stand-in for setuptools answers instead,
# so that the archive is only downloaded and hash-checked.
_INERT_BACKEND = '''
import pathlib


class __legacy__:
    """Answers pip with a name and a version, and runs nothing of the archive."""

    @staticmethod
    def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
        folder = pathlib.Path(metadata_directory, "{module}-{version}.dist-info")
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
        return folder.name
'''


class FetchError(InputError):
    """The package index could not be reached, or did not have the pinned file."""


def fetch_wheel(name: str, version: str, sha256: str, folder: Path) -> Path:
    """Download a wheel, without its dependencies, into `folder`; return its path.

    `sha256`: 64 hex digits of the whole wheel, checked by pip. Raises `FetchError`.
    """
    return _download(name, version, sha256, folder, ["--only-binary=:all:"], dict(os.environ))


def fetch_sdist(name: str, version: str, sha256: str, folder: Path) -> Path:
    """Download a source distribution into `folder` without running its setup.py; return the archive's path.

    `sha256`: 64 hex digits of the archive, checked by pip. Raises `FetchError`.
    """
    with tempfile.TemporaryDirectory() as temporary:
        package = Path(temporary) / "setuptools"
        package.mkdir()
        (package / "__init__.py").touch()
        backend = _INERT_BACKEND.format(name=name, module=name.replace("-", "_"), version=version)
        (package / "build_meta.py").write_text(backend)
        options = ["--no-binary=:all:", "--use-pep517", "--no-build-isolation"]
        return _download(name, version, sha256, folder, options, {**os.environ, "PYTHONPATH": temporary})


def _download(
    name: str, version: str, sha256: str, folder: Path, options: list[str], environment: dict[str, str]
) -> Path:
    with tempfile.TemporaryDirectory() as temporary:
        pinned = Path(temporary) / "requirements.txt"
        pinned.write_text(f"{name}=={version} --hash=sha256:{sha256}\n")
        target = Path(temporary) / "target"
        command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input", "--quiet"]
        command += ["--no-deps", "--require-hashes", "--retries=2", "--timeout=20", *options]
        command += ["--dest", str(target), "--requirement", str(pinned)]
        try:
            done = subprocess.run(  # noqa: S603  (a fixed command without a shell)
                command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise FetchError(f"pip took more than {TIMEOUT_S} s to download {name}=={version}") from error
        files = list(target.iterdir()) if target.is_dir() else []
        if done.returncode or len(files) != 1:
            reason = _last_error(done.stderr or done.stdout) or f"exit status {done.returncode}, {len(files)} files"
            raise FetchError(f"pip could not download {name}=={version} from the package index: {reason}")
        return Path(shutil.move(files[0], folder / files[0].name))


def _last_error(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:]
    return errors[0] if errors else ""
