"""`lineup console key` and `sign`: what a browser without a script gets pasted."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from nodes.cli.app import app
from nodes.console.passkeys import KeyRefused, assertion, key_file

DIGEST = "ab" * 32


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["console", *map(str, arguments)])
    return result.exit_code, result.output


def test_a_key_file_is_made_and_signs_what_the_console_shows(tmp_path: Path) -> None:
    path = tmp_path / "olga.key"
    status, told = run("key", "-o", path)
    assert status == 0
    assert path.stat().st_mode & 0o077 == 0
    public = told.split()[-1]
    status, told = run("sign", "--key", path, DIGEST)
    assert status == 0
    assert public in told
    signature = told.split()[-1]
    assert key_file(public, signature, bytes.fromhex(DIGEST)).public.hex() == public
    with pytest.raises(KeyRefused):
        key_file(public, signature, bytes(32))  # another digest


@pytest.mark.parametrize("digest", ["", "ab", "zz" * 32, "ab" * 33])
def test_what_is_no_digest_is_refused(tmp_path: Path, digest: str) -> None:
    run("key", "-o", tmp_path / "k")
    status, told = run("sign", "--key", tmp_path / "k", digest)
    assert status == 2
    assert "64 hexadecimal digits" in told


def test_the_folder_must_be_given() -> None:
    status, told = run()
    assert status == 2
    assert "--dir" in told


@pytest.mark.parametrize("junk", ["", "{", "[]", "{}", '{"response": {}}', "zz", '{"rawId": "a", "response": []}'])
def test_junk_is_no_signature(junk: str) -> None:
    if junk:
        with pytest.raises(KeyRefused):
            assertion(junk)
    else:
        assert assertion("").signature == b""
