"""`.ci/find-python` among interpreters that only say which version they are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "find-python"
# The version is told as a question of `find-python` asks for it; of glibc is said whatever `GLIBC` says.
INTERPRETER = """#!/bin/sh
case "$2" in
*libc_ver*) [ "$GLIBC" = new ] ;;
*"(3, {minor})"*) true ;;
*) false ;;
esac
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a shell is needed")


def place(path: Path, minor: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(INTERPRETER.format(minor=minor))
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("system", "pyenv", "glibc", "chosen", "of_openfhe"),
    [
        ((10, 11), (), "old", "system 10", "system 10"),
        ((11,), (10, 12), "old", "system 11", "pyenv 10"),
        ((11, 12), (), "old", "system 12", None),
        ((11, 12), (10,), "new", "system 12", "system 12"),
        ((11, 13), (), "new", "system 11", None),
        ((), (10, 11, 12, 13), "old", "pyenv 10", "pyenv 10"),
        ((), (11, 12), "new", "pyenv 12", "pyenv 12"),
        ((), (9, 14), "new", None, None),
    ],
)
def test_an_optimised_interpreter_is_chosen_before_one_that_openfhe_imports_on(
    system: tuple[int, ...],
    pyenv: tuple[int, ...],
    glibc: str,
    chosen: str | None,
    of_openfhe: str | None,
    tmp_path: Path,
) -> None:
    root, folder = tmp_path / "pyenv", tmp_path / "bin"
    made = {f"system {minor}": place(folder / f"python3.{minor}", minor) for minor in system}
    made |= {f"pyenv {minor}": place(root / "versions" / f"3.{minor}.1" / "bin" / "python", minor) for minor in pyenv}
    for minor in pyenv:  # as pyenv has them: one in front for each version
        place(root / "shims" / f"python3.{minor}", minor)
    for tool in ("tr", "grep", "paste", "ls", "head", "sh"):
        (folder / tool).parent.mkdir(exist_ok=True)
        (folder / tool).symlink_to(next(p for p in (Path("/usr/bin") / tool, Path("/bin") / tool) if p.exists()))
    environment = {"PATH": f"{root}/shims{os.pathsep}{folder}", "PYENV_ROOT": str(root), "GLIBC": glibc}
    for words, expected in ((), chosen), (("openfhe",), of_openfhe):
        done = subprocess.run(["/bin/sh", SCRIPT, *words], env=environment, capture_output=True, text=True, check=False)
        assert done.stdout.strip() == (str(made[expected]) if expected else "")
        assert done.returncode == (0 if expected else 1)
        assert ("no CPython from 3.10 to 3.13" in done.stderr) == (not expected and not words)
