"""`lineup demo`: real photos, two countries, real encryption; a hit and a no-hit; then who saw what."""

from __future__ import annotations

import secrets
import time
from decimal import Decimal
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from nodes.photos import demo_photos
from nodes.progress import progress_bar
from pets.errors import LineupError
from pets.faces import FaceModel, Provider
from pets.params import N4096
from pets.synthetic import synthetic_templates
from pets.templates import quantise
from protocol.engine import LocalQuery
from protocol.gallery import Gallery
from protocol.memory import MemoryNetwork
from protocol.terms import Terms

FRANCE, ROUTER = "FR", "EU-LISA"
COUNTRIES = {"ES": "Spain", "DE": "Germany"}
FILLERS = 20_000  # synthetic people in each gallery besides the real one
THRESHOLD = Decimal("0.55")


class DemoFailed(LineupError):
    """The demo did not find what it must find."""


def run_demo(threads: int, provider: Provider, output: Console, errors: Console) -> None:
    """Enrol, search twice, print what each party received. Raises `DemoFailed` if a search ends otherwise."""
    photos = demo_photos()
    model = FaceModel.load(None, provider)
    output.print(f"Face model: {model.identity}, running on {model.provider}", highlight=False)
    registers: dict[str, dict[str, str]] = {}
    galleries: dict[str, Gallery] = {}
    centre = model.embed(photos.six_faces, largest=True).template  # a face that no search uses
    for seed, (state, photo) in enumerate({"ES": photos.obama, "DE": photos.biden}.items()):
        galleries[state], registers[state] = _enrol(state, photo, seed, centre, model, threads, errors)
        rows = len(galleries[state].templates)
        output.print(f"{COUNTRIES[state]} ({state}) enrolled {rows:,} people, {photo.name} among them", highlight=False)
    terms = Terms(THRESHOLD, galleries["ES"].encoded.dim, N4096, model=model.identity.digest())
    found = _search(photos.obama2, model, galleries, registers, terms, threads, output)
    if found != {"obama.jpg"}:
        raise DemoFailed(f"searching with obama2.jpg released {sorted(found)}, expected obama.jpg")
    found = _search(photos.tom_hanks, model, galleries, registers, terms, threads, output)
    if found:
        raise DemoFailed(f"searching with a face in neither gallery released {sorted(found)}")
    _print_knowledge(output)


def _enrol(
    state: str, photo: Path, seed: int, centre: npt.NDArray[np.float32], model: FaceModel, threads: int, errors: Console
) -> tuple[Gallery, dict[str, str]]:
    """One real photo at a random place among synthetic people. The register maps reference numbers to file names."""
    real = model.embed(photo).template
    fillers = synthetic_templates(FILLERS, len(real), seed, centre)
    place = secrets.randbelow(FILLERS + 1)
    templates = quantise(np.insert(fillers, place, real, axis=0), name=f"gallery of {state}")
    references = tuple(f"{state}-{secrets.token_hex(8)}" for _ in templates)
    with progress_bar(errors, f"enrolling {state}", len(templates)) as progress:
        gallery = Gallery.enrol(templates, N4096, references, model.identity.digest(), threads, progress)
    return gallery, {references[place]: photo.name}


def _search(
    photo: Path,
    model: FaceModel,
    galleries: dict[str, Gallery],
    registers: dict[str, dict[str, str]],
    terms: Terms,
    threads: int,
    output: Console,
) -> set[str]:
    """One joint query with one encryption of the probe. Returns the file names behind the released references."""
    probe = quantise(model.embed(photo).template, name=photo.name)
    query = LocalQuery.start(FRANCE, ROUTER, galleries, terms, threads)
    network = MemoryNetwork(query.machines, threads)
    network.run_or_raise()
    started = time.perf_counter()
    query.requester.submit(probe)
    network.run_or_raise()
    seconds = time.perf_counter() - started
    output.print(f"\nFrance (FR) searches with {photo.name}, threshold {terms.threshold}:", highlight=False)
    found = set()
    for state, answer in query.requester.answers.items():
        for reference in answer.references:
            # In reality the holder's register stays with the holder; here it shows that the right person was found.
            name = registers[state].get(reference, "a synthetic person")
            found.add(name)
            output.print(
                f"HIT     {COUNTRIES[state]} ({state}): candidate {name}, reference {reference}", highlight=False
            )
        if answer.status == "too_many_candidates":
            output.print(f"TOO MANY candidates in {COUNTRIES[state]} ({state})", highlight=False)
    if not found:
        output.print(f"NO HIT  in {' and '.join(COUNTRIES[state] for state in galleries)}", highlight=False)
    rows = sum(len(gallery.templates) for gallery in galleries.values())
    output.print(f"        {rows:,} encrypted comparisons in {seconds:.2f} s online", highlight=False)
    _print_traffic(network, output)
    return found


def _print_traffic(network: MemoryNetwork, output: Console) -> None:
    table = Table(title="What each party received", show_edge=False)
    table.add_column("party")
    table.add_column("received from")
    table.add_column("MB", justify="right")
    for (sender, receiver), size in sorted(network.traffic.items(), key=lambda item: (item[0][1], item[0][0])):
        table.add_row(receiver, sender, f"{size / 1e6:.2f}")
    output.print(table)


def _print_knowledge(output: Console) -> None:
    table = Table(title="\nWho could see what (candidates, not identified)", show_lines=True)
    for column in ("party", "received", "could see", "could not see"):
        table.add_column(column)
    table.add_row(
        "France (requester)",
        "one half of each block's ciphertext, masked bits, padded release slots",
        "reference numbers of confirmed hits; the size of each gallery",
        "scores, counts, positions, any row that was not released",
    )
    table.add_row(
        "Spain, Germany (holders)",
        "the probe as ciphertexts, masked bits, sketch sums",
        "which of their own rows hit, at most the cap, and those rows' scores",
        "the probe, beyond what its own hits imply",
    )
    table.add_row(
        "EU-LISA (router)",
        "one half of each block's ciphertext, masked bits",
        "who asked whom and when, block counts, whether a rung was climbed or the probe refused",
        "any template, score, image, identity, hit, position or count",
    )
    output.print(table)
    output.print("This holds as long as no two of the three parties of a ring collude: see README.md.", highlight=False)
