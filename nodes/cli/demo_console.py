"""`lineup console demo`: the demo's four nodes with their consoles, sample people and cases. Loopback only."""

from __future__ import annotations

import secrets
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from rich.console import Console

from nodes.casework.contents import Draft
from nodes.casework.desk import CaseDesk, utc
from nodes.casework.persons import new_key_file, sign_with_file
from nodes.cli.demo import (
    COUNTRIES,
    HOLDERS,
    ROLES,
    START_SECONDS,
    DemoFailed,
    enrol,
    found_nodes,
    free_ports,
    lineup,
    serving,
    stop,
)
from nodes.cli.demo_photos import DemoPhotos, demo_photos
from nodes.config.console import FILE, ConsoleConfig
from nodes.config.schema import Role, load_config
from nodes.console.accounts import Accounts
from nodes.console.intake import Intakes
from pets.faces import FaceModel, Provider
from pets.params import N4096
from protocol.approval import PersonRole
from protocol.engine import warm_up

PEOPLE = 2000  # synthetic people in each gallery besides the real one
SAMPLE_SECONDS = 120.0
STAFF: dict[Role, dict[str, tuple[str, tuple[PersonRole, ...]]]] = {
    Role.REQUESTER: {
        "olivia": ("Olivia Officer", ("officer",)),
        "arthur": ("Arthur Approver", ("approver",)),
        "agnes": ("Agnes Approver", ("approver",)),
        "rosa": ("Rosa Reviewer", ("reviewer",)),
        "remi": ("Remi Reviewer", ("reviewer",)),
        "dana": ("Dana Data-Protection", ("data-protection",)),
        "sven": ("Sven Supervisor", ("supervisor",)),
        "alma": ("Alma Administrator", ("admin",)),
    },
    Role.HOLDER: {
        "lena": ("Lena Releaser", ("releaser",)),
        "dario": ("Dario Data-Protection", ("data-protection",)),
        "selma": ("Selma Supervisor", ("supervisor",)),
        "adam": ("Adam Administrator", ("admin",)),
    },
    Role.ROUTER: {
        "sofia": ("Sofia Supervisor", ("supervisor",)),
        "axel": ("Axel Administrator", ("admin",)),
    },
}


@dataclass
class Staged:
    """What was set up. `ports`: of the consoles; `keys`: folder of people's key files; `password`: everybody's."""

    root: Path
    photos: DemoPhotos
    password: str = field(repr=False)
    ports: dict[str, int] = field(default_factory=dict)
    references: dict[str, str] = field(default_factory=dict)

    @property
    def keys(self) -> Path:
        """Where NAME.key lies for everybody."""
        return self.root / "keys"

    def address(self, node: str) -> str:
        """Of a node's console."""
        return load_config(self.root / node).console.url


def stage(root: Path, provider: Provider, errors: Console, people: int = PEOPLE) -> Staged:
    """Four nodes with galleries, a console's port and staff with passwords and key files at each; nothing runs yet."""
    staged = Staged(root, demo_photos(), f"demo-{secrets.token_urlsafe(9)}")
    model = FaceModel.load(None, provider)
    found_nodes(root)
    staged.keys.mkdir(mode=0o700)
    for name, port in zip(COUNTRIES, free_ports(len(COUNTRIES)), strict=True):
        staged.ports[name] = port
        with (root / name / "node.toml").open("a") as file:
            file.write(f"\n[console]\nport = {port}\n")
    centre = model.embed(staged.photos.six_faces, largest=True).template  # a face that no sample searches for
    for seed, (state, photo) in enumerate({"ES": staged.photos.obama, "DE": staged.photos.biden}.items()):
        found = enrol(root / state, photo, seed, centre, model.spec.digest(), provider, errors, people)
        staged.references |= {state: next(iter(found))}
    for name in COUNTRIES:
        _hire(staged, name)
    warm_up(N4096)
    return staged


def _hire(staged: Staged, name: str) -> None:
    """Everybody gets a key file and a password, as if invitations had been taken up."""
    folder = staged.root / name
    settings = ConsoleConfig(port=staged.ports[name])
    with CaseDesk.open(folder) as desk, ExitStack() as stack:
        accounts = Accounts(f"sqlite:///{folder / FILE}", settings, utc)
        stack.callback(accounts.close)
        for handle, (full_name, roles) in STAFF[ROLES[name]].items():
            file = staged.keys / f"{name}-{handle}.key"
            desk.add_person(None, handle, full_name, roles, new_key_file(file))
            half = accounts.accept(accounts.invite(handle), staged.password)
            accounts.sign_out(accounts.key_enrolled(half, b"", 0).token)


def sample(staged: Staged, provider: Provider) -> None:
    """Two queries at the requester, while the nodes run: one that waits for approval, one with candidates."""
    intakes = Intakes(lambda: FaceModel.load(None, provider))
    with CaseDesk.open(staged.root / "FR") as desk:
        officer, approver = desk.person("olivia"), desk.person("arthur")
        for number, approve in (("2026/0417", True), ("2026/0418", False)):
            intake = intakes.add("olivia", staged.photos.obama2.read_bytes())
            face = intake.faces[0]
            query = desk.open_query(
                officer,
                Draft(
                    template=face.template,
                    model=intake.model,
                    holders=HOLDERS,
                    case=number,
                    offence="armed robbery",
                    maximum_penalty_years=10,
                    threshold=intake.threshold or "",
                    photo=intake.picture,
                    quality=face.quality,
                    authorisation="TJ Paris 26-331",
                ),
            )
            if approve:
                digest = desk.to_sign(approver, "launch", query)
                desk.approve_launch(approver, query, sign_with_file(staged.keys / "FR-arthur.key", digest))
                first = query
        deadline = time.monotonic() + SAMPLE_SECONDS
        while not desk.query(officer, first).candidates and time.monotonic() < deadline:
            time.sleep(0.5)


@contextmanager
def consoles(staged: Staged) -> Iterator[None]:
    """A console beside every node, as processes of their own; stopped whatever happens."""
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name in COUNTRIES:
            with (staged.root / f"{name}.console.log").open("wb") as log:
                command = lineup("console", "--dir", staged.root / name)
                processes[name] = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: S603, our own command line
        for name, process in processes.items():
            _wait_until_ready(staged, name, process)
        yield
    finally:
        stop(processes.values())


def _wait_until_ready(staged: Staged, name: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    with httpx.Client(trust_env=False) as client:  # one: each reads all authorities first
        while process.poll() is None and time.monotonic() < deadline:
            try:
                if client.get(f"{staged.address(name)}/health").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.2)
    last = (staged.root / f"{name}.console.log").read_text(errors="replace").splitlines()[-1:]
    raise DemoFailed(f"console of {name} did not start: {' '.join(last) or 'it said nothing'}")


def run_demo_console(provider: Provider, output: Console, errors: Console) -> None:
    """Set up, serve, print addresses and log-ins, and wait for Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was started is stopped
    with tempfile.TemporaryDirectory(prefix="lineup-demo-") as temporary:
        staged = stage(Path(temporary), provider, errors)
        with serving(staged.root, output), consoles(staged):
            sample(staged, provider)
            output.print("\n".join(_told(staged)), highlight=False, soft_wrap=True)
            try:
                while True:
                    time.sleep(3600)
            except KeyboardInterrupt:
                output.print("stopping")


def _told(staged: Staged) -> Iterator[str]:
    """Addresses and log-ins."""
    for name in COUNTRIES:
        yield f"console of {COUNTRIES[name]} ({ROLES[name].value}): {staged.address(name)}"
        for handle, (full_name, roles) in STAFF[ROLES[name]].items():
            yield f"    {handle:<8} {', '.join(roles):<16} {full_name}; {staged.keys}/{name}-{handle}.key"
    yield f"\nEverybody's password: {staged.password}"
    yield f"Second step: choose the person's key file. A photo to search with: {staged.photos.obama2}"
    yield "Ctrl-C ends the demo and deletes everything."
