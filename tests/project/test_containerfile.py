"""The container file is read, not built: there is no container engine where these tests run."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.kit.commands import COMMANDS

ROOT = Path(__file__).parents[2]
VOLUME = "/var/lib/lineup"


def instructions() -> list[tuple[str, str]]:
    """Instruction and its arguments, in order."""
    text = (ROOT / "nodes" / "Containerfile").read_text()
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines)]


def argument(name: str) -> str:
    (found,) = [rest for instruction, rest in instructions() if instruction == name]
    return found


def test_only_known_instructions_are_used_and_the_first_is_from() -> None:
    names = [name for name, _ in instructions()]
    assert names[0] == "FROM"
    assert set(names) <= {
        "FROM", "RUN", "COPY", "USER", "ENV", "VOLUME", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "CMD",
    }  # fmt: skip


def test_the_base_is_a_slim_python_that_the_project_supports() -> None:
    version = re.fullmatch(r"docker\.io/library/python:3\.(\d+)-slim", argument("FROM"))
    assert version
    assert 10 <= int(version[1]) <= 13


def test_what_is_copied_exists_and_is_all_that_the_build_needs() -> None:
    copied = [source for name, rest in instructions() if name == "COPY" for source in shlex.split(rest)[:-1]]
    for source in copied:
        assert (ROOT / source).exists(), source
    assert {
        "nodes/requirements.lock", "pyproject.toml", "README.md", "LICENSE", "pets", "protocol", "nodes",
    } == set(copied)  # fmt: skip


def test_everything_it_installs_is_pinned_by_hash_or_is_this_project() -> None:
    installs = [rest for name, rest in instructions() if name == "RUN" and "pip install" in rest]
    assert len(installs) == 2
    assert all("--require-hashes" in rest or "--no-deps --no-build-isolation /src" in rest for rest in installs)


def test_it_runs_as_somebody_who_is_not_root_and_owns_the_volume() -> None:
    names = [name for name, _ in instructions()]
    user = argument("USER")
    assert user not in ("root", "0")
    assert max(index for index, name in enumerate(names) if name in ("RUN", "COPY")) < names.index("USER")
    made = " ".join(rest for name, rest in instructions() if name == "RUN")
    assert re.search(rf"useradd .*\b{user}\b", made)
    assert re.search(rf"install .*--owner {user} .*{VOLUME}", made)
    assert argument("VOLUME") == VOLUME


@pytest.mark.parametrize(("name", "command"), [("CMD", "lineup node serve"), ("HEALTHCHECK", "lineup node health")])
def test_its_commands_exist_and_work_in_the_volume(name: str, command: str) -> None:
    words = json.loads(argument(name)[argument(name).index("[") :])
    assert " ".join(words[:3]) == command
    options = {option for parameter in COMMANDS[command].params for option in parameter.opts}
    assert words[3] in options
    assert words[4].startswith(VOLUME + "/")
    assert len(words) == 5


def test_no_secret_is_in_the_image() -> None:
    assert not re.search(r"(?i)(\.key|\.pem|password|token)", " ".join(rest for _, rest in instructions()))
