"""numba's cache on disk notices a change only in the file of the kernel itself."""

from __future__ import annotations

import importlib
import pkgutil
import types
from pathlib import Path

import pytest
from numba.core.dispatcher import Dispatcher
from numba.extending import intrinsic

import pets

Intrinsic = type(intrinsic(lambda typing: None))


def home_of(compiled: object) -> str | None:
    """The module in which something compiled was written, None for anything else."""
    if isinstance(compiled, Dispatcher):
        return str(compiled.py_func.__module__)
    return str(compiled._defn.__module__) if isinstance(compiled, Intrinsic) else None


def foreign_calls(module: types.ModuleType) -> set[str]:
    """Compiled functions of other files that kernels of this one call."""
    found = set()
    for kernel in vars(module).values():
        if isinstance(kernel, Dispatcher) and home_of(kernel) == module.__name__:
            for name in kernel.py_func.__code__.co_names:
                if home_of(vars(module).get(name)) not in (None, module.__name__):
                    found.add(f"{kernel.py_func.__name__} calls {name}")
    return found


@pytest.mark.parametrize("name", [info.name for info in pkgutil.iter_modules(pets.__path__)])
def test_kernels_call_only_what_stands_in_their_own_file(name: str) -> None:
    try:
        module = importlib.import_module(f"pets.{name}")
    except ImportError as error:
        pytest.skip(str(error))
    assert not foreign_calls(module)


def test_a_kernel_of_another_file_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["from pets.jit import kernel", "from pets.ntt_kernel import forward_rows", "", "@kernel"]
    lines += ["def borrowed(a, b, c, d):", "    forward_rows(a, b, c, d)", ""]
    (tmp_path / "borrower.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    assert foreign_calls(importlib.import_module("borrower")) == {"borrowed calls forward_rows"}
