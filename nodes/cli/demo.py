"""`lineup demo`: four nodes on loopback, real photos, real encryption; a hit and a no-hit, evidence, who saw what."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from nodes.casework import cases, impact, impact_template
from nodes.casework.contents import Draft
from nodes.casework.desk import CaseDesk
from nodes.casework.persons import Person, new_key_file, sign_with_file
from nodes.cli.demo_photos import demo_photos
from nodes.cli.node import print_report
from nodes.config.schema import Role, load_config
from nodes.config.storage import holder_store
from nodes.evidence.export import export_bundle
from nodes.identity.identity import init_node, load_identity
from nodes.operator.client import NodeNotRunning, status
from nodes.operator.enrolment import enroll
from nodes.operator.probe import prepare_probe
from nodes.operator.progress import progress_bar
from nodes.service.operator_api import SearchReport
from nodes.store import Category, Status
from nodes.verify import decode_bundle, load_trust, verify_bundles
from nodes.verify.page import summary
from pets.errors import LineupError
from pets.faces import FaceModel, Provider
from pets.params import N4096
from pets.synthetic import synthetic_templates
from pets.templates import quantise
from protocol.engine import warm_up

REQUESTER, ROUTER = "FR", "EU"
COUNTRIES = {"FR": "France", "ES": "Spain", "DE": "Germany", "EU": "router"}
ROLES = {"FR": Role.REQUESTER, "ES": Role.HOLDER, "DE": Role.HOLDER, "EU": Role.ROUTER}
HOLDERS = ("ES", "DE")
FILLERS = 20_000  # synthetic people in each gallery besides the real one
THRESHOLD = "0.55"
START_SECONDS = 120.0
STOP_SECONDS = 20.0


class DemoFailed(LineupError):
    """The demo did not find what it must find, or a node did not start."""


def run_demo(provider: Provider, output: Console, errors: Console) -> None:
    """Set up, enrol, serve, search twice, stop. Raises `DemoFailed` if anything ends otherwise than it must."""
    photos = demo_photos()
    model = FaceModel.load(None, provider)
    output.print(f"Face model: {model.spec}, running on {model.provider}", highlight=False, soft_wrap=True)
    with tempfile.TemporaryDirectory(prefix="lineup-demo-") as temporary:
        root = Path(temporary)
        found_nodes(root)
        centre = model.embed(photos.six_faces, largest=True).template  # a face that no search uses
        names: dict[str, str] = {}
        for seed, (state, photo) in enumerate({"ES": photos.obama, "DE": photos.biden}.items()):
            names |= enrol(root / state, photo, seed, centre, model.spec.digest(), provider, errors)
            output.print(
                f"{COUNTRIES[state]} ({state}) enrolled {FILLERS + 1:,} people, {photo.name} among them",
                highlight=False,
            )
        warm_up(N4096)  # on a new machine this compiles, once instead of in four processes at once
        with serving(root, output):
            _search(root, photos.obama2, provider, names, {"obama.jpg"}, output)
            _search(root, photos.tom_hanks, provider, names, set(), output)
            query = _case(root, photos.obama2, provider, output)
        output.print("\nAll nodes stopped.")
        _verify(root, query, output)
    _print_knowledge(output)


def found_nodes(root: Path) -> None:
    """Four nodes' folders on loopback, with an authority for trying out."""
    for name, port in zip(COUNTRIES, free_ports(len(COUNTRIES)), strict=True):
        init_node(
            root / name,
            name=name,
            role=ROLES[name],
            address=f"https://127.0.0.1:{port}",
            authority=root / "authority",
            states=(REQUESTER,),
        )
        _assess(root / name)


def _assess(folder: Path) -> None:
    """Lodge the template itself, which is no assessment: nobody but this machine is affected."""
    document, today = folder / "dpia.md", datetime.now(timezone.utc).date()
    document.write_text(impact_template.template(load_config(folder), "dpia", today))
    impact.lodge(load_identity(folder), folder, document, "the demo, on loopback", today, today)


def enrol(
    folder: Path,
    photo: Path,
    seed: int,
    centre: npt.NDArray[np.float32],
    model: bytes,
    provider: Provider,
    errors: Console,
    people: int = FILLERS,
) -> dict[str, str]:
    """Synthetic people and one real photo. Returns the real one's reference -> file name, for the printed lines."""
    fillers = quantise(synthetic_templates(people, len(centre), seed, centre))
    until = (datetime.now(timezone.utc) + timedelta(days=1)).date()
    with holder_store(folder) as store, progress_bar(errors, f"enrolling {folder.name}", people) as progress:
        store.enrol_many(
            fillers,
            category=Category.SUSPECT,
            status=Status.IDENTIFIED,
            retain_until=until,
            model=model,
            progress=progress,
        )
    enrolled = enroll(
        folder,
        [photo],
        category=Category.SUSPECT,
        status=Status.IDENTIFIED,
        retain_until=until,
        models=None,
        provider=provider,
        largest=False,
    )
    return dict.fromkeys(enrolled.references, photo.name)


@contextlib.contextmanager
def serving(root: Path, output: Console) -> Iterator[None]:
    """All nodes as processes of their own; stopped whatever happens."""
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name in COUNTRIES:
            with (root / f"{name}.log").open("wb") as log:
                command = lineup("node", "serve", "--dir", root / name)
                processes[name] = subprocess.Popen(command, stderr=log)  # noqa: S603, our own command line
        for name, process in processes.items():
            _wait_until_ready(root, name, process)
            address = load_config(root / name).address
            output.print(f"{COUNTRIES[name]} ({name}), {ROLES[name].value}: serving {address}", highlight=False)
        yield
    finally:
        stop(processes.values())


def stop(processes: Collection[subprocess.Popen[bytes]]) -> None:
    """End processes that were started here; who does not end in time is killed."""
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(root: Path, name: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            status(root / name)
            return
        except NodeNotRunning:
            time.sleep(0.1)
    last = (root / f"{name}.log").read_text(errors="replace").splitlines()[-1:]
    raise DemoFailed(f"node {name} did not start: {' '.join(last) or 'it said nothing'}")


def lineup(*arguments: object) -> list[str]:
    """A command line of this software, in this interpreter."""
    return [sys.executable, "-m", "nodes.cli", *map(str, arguments)]


def _search(
    root: Path, photo: Path, provider: Provider, names: dict[str, str], expected: set[str], output: Console
) -> None:
    """One joint query by `lineup query`. The file names behind the hits must be `expected`."""
    asked = ["query", "--dir", root / REQUESTER, photo, "--holders", ",".join(HOLDERS), "--threshold", THRESHOLD]
    asked += ["--case", "DEMO-1", "--offence", "robbery", "--max-penalty-years", 5, "--provider", provider]
    asked += ["--officer", "officer of the demo", "--approver", "approver of the demo", "--json"]
    shown = f"lineup query --dir {REQUESTER} {photo.name} --holders {','.join(HOLDERS)} --threshold {THRESHOLD} …"
    output.print(f"\n$ {shown}", highlight=False, soft_wrap=True)
    done = subprocess.run(lineup(*asked), stdout=subprocess.PIPE, check=False)  # noqa: S603, our own command line
    if done.returncode:
        raise DemoFailed(f"lineup query ended with status {done.returncode}")
    report = msgspec.json.decode(done.stdout, type=SearchReport)
    found = _print_answers(report, names, output)
    output.print(
        f"        {len(HOLDERS) * (FILLERS + 1):,} encrypted comparisons, {report.seconds_online:.2f} s online",
        highlight=False,
    )
    if found != expected or any(answer.status not in ("candidates", "no hit") for answer in report.answers.values()):
        print_report(report, photo.name, output)
        raise DemoFailed(f"searching with {photo.name} found {sorted(found)}, expected {sorted(expected)}")


def _case(root: Path, photo: Path, provider: Provider, output: Console) -> str:
    """The same search once France has staff: one person asks, a second one signs the launch. Gives its ID."""
    keys = {name: root / f"{name}.key" for name in ("officer", "approver")}
    probe = prepare_probe((photo,), None, provider, largest=False)
    draft = Draft(
        template=probe.template, model=probe.model, holders=HOLDERS, case="DEMO-2", offence="robbery",
        maximum_penalty_years=5.0, threshold=THRESHOLD, photo=probe.photo, quality=probe.quality,
    )  # fmt: skip
    output.print(f"\n$ lineup case open {photo.name} --key officer.key …", highlight=False)
    output.print("$ lineup case approve QUERY --key approver.key      # then the node searches", highlight=False)
    with CaseDesk.open(root / REQUESTER) as desk:
        officer = desk.add_person(None, "officer", "Officer of the demo", ["officer"], new_key_file(keys["officer"]))
        approver = desk.add_person(
            None, "approver", "Approver of the demo", ["approver"], new_key_file(keys["approver"])
        )
        query = desk.open_query(officer, draft)
        digest = desk.to_sign(approver, "launch", query)
        desk.approve_launch(approver, query, sign_with_file(keys["approver"], digest))
        view = _when_over(desk, officer, query)
    if view.state != "review" or view.candidates != 1:
        raise DemoFailed(f"the approved search ended as {view.state} with {view.candidates} candidates, expected 1")
    output.print("1 candidate, which two reviewers would now compare, each alone", highlight=False)
    return view.attempts[-1]


def _when_over(desk: CaseDesk, officer: Person, query: str) -> cases.QueryView:
    """The search once it is over and nothing of it is under way: read last, for candidates come after its state."""
    deadline = time.monotonic() + START_SECONDS
    while (state := desk.query(officer, query).state) not in ("review", "done", "failed") or not desk.settled():
        if time.monotonic() > deadline:
            raise DemoFailed(f"the approved search is {state} after {START_SECONDS:.0f} s")
        time.sleep(0.1)
    return desk.query(officer, query)


def _verify(root: Path, query: str, output: Console) -> None:
    """Everybody's evidence of a query, checked as a supervisor would: offline, without keys."""
    bundles = {name: root / f"{name}.bundle" for name in COUNTRIES}
    for name, path in bundles.items():
        path.write_bytes(export_bundle(root / name, query))
    names = " ".join(path.name for path in bundles.values())
    output.print(f"\n$ lineup verify {names} --trust peers", highlight=False)
    trust = load_trust(load_config(root / REQUESTER).paths.peers)
    verdict = verify_bundles([decode_bundle(path.read_bytes()) for path in bundles.values()], trust)
    output.print(summary(verdict), highlight=False, soft_wrap=True)
    if not verdict.holds or verdict.count("not-checkable"):
        raise DemoFailed("the evidence of the demo's own query does not hold, or not all of it could be checked")


def _print_answers(report: SearchReport, names: dict[str, str], output: Console) -> set[str]:
    found = set()
    for state, answer in report.answers.items():
        for reference in answer.references:
            # In reality the register stays with the holder; here it shows that the right person was found.
            name = names.get(reference, "a synthetic person")
            found.add(name)
            line = f"HIT     {COUNTRIES[state]} ({state}): candidate {name}, reference {reference}"
            output.print(line, highlight=False, soft_wrap=True)
    if not found and all(answer.status == "no hit" for answer in report.answers.values()):
        output.print(f"NO HIT  in {' and '.join(COUNTRIES[state] for state in report.answers)}", highlight=False)
    return found


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        return [int(free.getsockname()[1]) for free in sockets]


def _print_knowledge(output: Console) -> None:
    table = Table(title="\nWho could see what (candidates, not identified)", show_lines=True)
    for column in ("party", "received", "could see", "could not see"):
        table.add_column(column)
    table.add_row(
        "France (requester)",
        "one half of each score of its mask, masked scores and bits, padded release slots",
        "reference numbers of confirmed hits; the size of each gallery",
        "scores, counts, positions, any row that was not released",
    )
    table.add_row(
        "Spain, Germany (holders)",
        "an encrypted mask, the probe less the mask, masked bits, sketch sums",
        "which of their own rows hit, at most the cap, and those rows' scores",
        "the probe, beyond what its own hits imply",
    )
    table.add_row(
        "router (EU)",
        "one half of each score of the mask, masked scores and bits",
        "who asked whom and when, block counts, whether a rung was climbed or the probe refused",
        "any template, score, image, identity, hit, position or count",
    )
    output.print(table)
    output.print("This holds as long as no two of the three parties of a ring collude: see README.md.", highlight=False)
