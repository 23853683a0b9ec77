"""Explores `lineup.maude`: the intact model must hold, and each broken variant must fail in exactly its property.

python threat_model/model/check.py                     everything, one table; exit code 0 only if all is as expected
python threat_model/model/check.py --show two-mouths   one variant's counterexample, step by step
python threat_model/model/check.py --long              also a wider intruder (a minute or two more)
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

MODEL = Path(__file__).with_name("lineup.maude")
TIME_LIMIT_S = 900

PROPERTIES = {
    "secrecy": "1 secrecy of the probe",
    "agreement": "2 agreement on announcement, preparation, both ids",
    "confirmed-only": "3 no release without confirmation",
    "one-use": "4 one mask, one search",
    "same-to-both": "5 the same to both",
    "no-second-answer": "6 no second answer, no replayed query",
}
PARTIES = {"Q": "requester", "R": "router", "H": "holder"}
ANY_ONE = ("", "Q", "R", "H")  # nobody but the network, or one party; the intruder is always the network as well


class ModelError(Exception):
    """Maude is missing, too slow, or did not accept the model."""


@dataclass(frozen=True)
class Variant:
    """A version of the model. `without`: defences taken away; `powers`: `with` flags.

    `corrupt`: the corrupt sets to explore, each a string of letters of parties. `fails`: the properties that must fail,
    for at least one of these sets; all others must hold for every one.
    """

    name: str
    what: str
    fails: frozenset[str] = frozenset()
    without: tuple[str, ...] = ()
    powers: tuple[str, ...] = ()
    corrupt: tuple[str, ...] = ANY_ONE

    def start(self, corrupt: str) -> str:
        """The initial state as a Maude term."""
        soup = [f"without({flag})" for flag in self.without]
        soup += [f"with({flag})" for flag in self.powers]
        soup += [f"corrupt({party})" for party in corrupt]
        return f"start({' '.join(soup) or 'none'})"


@dataclass(frozen=True)
class Search:
    """One exhausted search. `found`: property → number of the state in which it is violated."""

    corrupt: str
    states: int
    found: dict[str, int]


@dataclass(frozen=True)
class Outcome:
    """All searches of one variant."""

    variant: Variant
    searches: tuple[Search, ...]

    @property
    def failed(self) -> frozenset[str]:
        """Properties violated for some corrupt set."""
        return frozenset(prop for each in self.searches for prop in each.found)

    @property
    def states(self) -> int:
        """States explored."""
        return sum(each.states for each in self.searches)

    @property
    def as_expected(self) -> bool:
        """Exactly the named properties fail."""
        return self.failed == self.variant.fails


def _fails(*properties: str) -> frozenset[str]:
    return frozenset(properties)


TWO = ("ready", "two-searches")  # two preparations are made; two searches at once
AGAIN = ("ready", "again")  # one preparation is made; everybody is ready to search with it twice
REPLAYED = ("ready", "replayed")  # the same; router and holder are ready to serve one search twice
INTACT = (
    Variant("intact", "one preparation, one search, everything in place"),
    Variant("two-searches", "two searches at once, with two preparations", powers=TWO),
    Variant("two-preparations", "two preparations at once", powers=("two-preparations",)),
    Variant("again", "two searches with one preparation, or one replayed", powers=(*AGAIN, "replayed")),
    Variant("prepared-again", "router and holder forget a preparation, serve it again", powers=("prepared-again",)),
    Variant("two-rings", "a second holder", powers=("two-rings",)),
    Variant("two-nonces", "a party may answer two others with two nonces", powers=("two-nonces", "copied-nonces")),
)
LONG = (
    Variant("all-twice", "two preparations, then two searches", powers=("two-preparations", "two-searches")),
    Variant("nonces-twice", "two searches, two or repeated nonces", powers=(*TWO, "two-nonces", "copied-nonces")),
    Variant(
        "again-nonces",
        "one preparation twice, two nonces",
        powers=(*AGAIN, "replayed", "two-nonces", "copied-nonces"),
    ),
    Variant("named-twice", "as preparation-named, two searches", _fails("agreement"), ("preparation-named",), TWO),
)
BROKEN = (
    Variant("masks", "the probe itself goes to the holder, not a difference", _fails("secrecy"), ("masks",)),
    Variant("key-split", "the holder's part is the whole key", _fails("secrecy"), ("key-split",)),
    Variant("sealed-seeds", "both parts of the key travel in the open", _fails("secrecy"), ("sealed-seeds",)),
    Variant("sealed-pairs", "pair secrets travel in the open", _fails("secrecy"), ("sealed-pairs",)),
    Variant("sealed-frames", "router reads what requester and holder exchange", _fails("secrecy"), ("sealed-frames",)),
    Variant(
        "announcement",
        "announcement not compared, not in the ids",
        _fails("agreement"),
        ("announcement-compared", "announcement-in-id"),
    ),
    Variant("parties-checked", "announcement may name other parties", _fails("agreement"), ("parties-checked",)),
    Variant(
        "preparation-named",
        "another preparation than the announcement names",
        _fails("agreement"),
        ("preparation-named",),
        ("ready", "another-ready"),
    ),
    Variant("confirmation", "holder releases what the sketch opened", _fails("confirmed-only"), ("confirmation",)),
    Variant(
        "factors",
        "no secret factors, and answers not compared",
        _fails("confirmed-only"),
        ("factors", "answers-compared"),
    ),
    Variant("admission", "holder does not wait for admission", _fails("confirmed-only"), ("admission-check",)),
    Variant("form", "form of the mask not checked", _fails("confirmed-only"), ("form-check",)),
    Variant(
        "requester-router-forget",
        "requester and router forget which masks they used",
        _fails("one-use"),
        ("requester-remembers", "router-remembers"),
        AGAIN,
    ),
    Variant(
        "requester-holder-forget",
        "requester and holder forget it",
        _fails("one-use"),
        ("requester-remembers", "holder-remembers"),
        AGAIN,
    ),
    Variant(
        "router-holder-forget",
        "router and holder forget it",
        _fails("one-use"),
        ("router-remembers", "holder-remembers"),
        AGAIN,
    ),
    Variant("two-mouths", "holder takes the requester's word for b2", _fails("same-to-both"), ("two-mouths",)),
    Variant("blocks-compared", "prepared blocks not compared", _fails("same-to-both"), ("blocks-compared",)),
    Variant("scores-compared", "masked scores not compared", _fails("same-to-both"), ("scores-compared",)),
    Variant(
        "confirmation-compared", "confirmation block not compared", _fails("same-to-both"), ("confirmation-compared",)
    ),
    Variant(
        "masks-compared",
        "mask not compared over all rings",
        _fails("same-to-both"),
        ("masks-compared",),
        ("two-rings",),
    ),
    Variant(
        "differences-compared",
        "difference not compared over all rings",
        _fails("same-to-both"),
        ("differences-compared",),
        ("two-rings",),
    ),
    Variant("nonces-in-id", "ids without nonces", _fails("no-second-answer"), ("nonces-in-id",), ("two-preparations",)),
    Variant("envelope", "query in the envelope not checked", _fails("no-second-answer"), ("query-in-envelope",), TWO),
    Variant(
        "id-with-difference",
        "holder does not compare the requester's query id",
        _fails("no-second-answer"),
        ("id-with-difference",),
        ("two-nonces",),
    ),
    Variant(
        "id-with-echo",
        "what is compared is not bound to an id",
        _fails("no-second-answer"),
        ("id-with-echo",),
        ("two-nonces",),
    ),
    Variant("one-answer", "confirmation answered as often as asked", _fails("no-second-answer"), ("one-answer",)),
    Variant(
        "no-comparison",
        "announcement in the ids, but neither compared",
        _fails("no-second-answer"),
        ("announcement-compared", "ids-compared"),
    ),
    Variant(
        "once-per-query",
        "router forgets a search and serves it again, ids not compared",
        _fails("no-second-answer"),
        ("router-remembers", "ids-compared"),
        REPLAYED,
    ),
)
# Where two defences stand behind each other: one of them is enough, or one brings down more than its own property.
LAYERS = (
    Variant("not-in-id", "announcement compared, but not in the ids", without=("announcement-in-id",)),
    Variant("ids-alone", "announcement not compared, but in the ids", without=("announcement-compared",)),
    Variant("no-factors", "no secret factors, but answers compared", without=("factors",)),
    Variant("one-answer-heard", "answers not compared, but secret factors", without=("answers-compared",)),
    Variant("open-mask", "all read the encrypted mask", powers=("open-mask",)),
    Variant("open-difference", "all read the difference", powers=("open-difference",)),
    Variant("open-both", "all read both, but not the parts of the key", powers=("open-mask", "open-difference")),
    Variant(
        "requester-forgets",
        "requester forgets which mask it used",
        without=("requester-remembers",),
        powers=(*AGAIN, "replayed"),
    ),
    Variant("router-forgets", "router forgets; another search", without=("router-remembers",), powers=AGAIN),
    Variant("holder-forgets", "holder forgets; another search", without=("holder-remembers",), powers=AGAIN),
    Variant(
        "holder-replays",
        "holder forgets; the same search again, ids not compared",
        _fails("one-use", "no-second-answer"),
        ("holder-remembers", "ids-compared"),
        REPLAYED,
    ),
    Variant("router-compares", "router forgets; the same search again", without=("router-remembers",), powers=REPLAYED),
    Variant("holder-compares", "holder forgets; the same search again", without=("holder-remembers",), powers=REPLAYED),
    Variant("ids-not-compared", "ids not compared, but all remember", without=("ids-compared",), powers=REPLAYED),
)
# What the protocol does not promise (design 2.9): these attacks exist, and the model must show them.
LIMITS = (
    Variant(
        "one-part", "an outsider or the router has both parts of the key", powers=("other-part",), corrupt=("", "R")
    ),
    Variant(
        "two-parts", "the holder has both parts of the key", _fails("secrecy"), powers=("other-part",), corrupt=("H",)
    ),
    Variant("holder-and-router", "holder and router collude", _fails("secrecy"), corrupt=("RH",)),
    Variant("both-key-owners", "requester and router collude: still no false release", corrupt=("QR",)),
    Variant("owners-no-factors", "the same without factors", _fails("confirmed-only"), ("factors",), corrupt=("QR",)),
    Variant(
        "admission-lie",
        "requester sends a scaled probe and lies in admission",
        _fails("confirmed-only"),
        ("honest-admission",),
    ),
    Variant(
        "form-lie", "requester's mask is crooked and it lies in the form", _fails("confirmed-only"), ("honest-form",)
    ),
)
GROUPS = {
    "intact": INTACT,
    "one defence taken away": BROKEN,
    "two defences, one behind the other": LAYERS,
    "limits that the protocol states": LIMITS,
}
# What must be reached, else every property would hold for nothing: with all honest, and with each party corrupt.
COMPLETES = (
    "search [1] start(none) =>* { msg(H, Q, q1, release(hit)) S:Soup } .",
    "search [1] start(with(ready) with(two-searches)) =>* "
    "{ msg(H, Q, q1, release(hit)) msg(H, Q, q2, release(hit)) S:Soup } .",
    "search [1] start(corrupt(Q)) =>* { msg(H, Q, q1, release(hit)) S:Soup } .",
    "search [1] start(corrupt(R)) =>* { msg(H, Q, q1, release(hit)) S:Soup } .",
    "search [1] start(corrupt(H)) =>* { answered(Q, I:Term, C:Term) answered(R, I:Term, C:Term) S:Soup } .",
)


def run_maude(commands: Sequence[str]) -> str:
    """Load the model, run commands, return what Maude prints. Raises `ModelError`."""
    maude = shutil.which("maude")
    if maude is None:
        raise ModelError("maude is not installed; on Debian or Ubuntu: apt-get install maude")
    text = "\n".join([*commands, "quit", ""])
    command = [maude, "-no-banner", "-no-wrap", "-no-ansi-color", str(MODEL)]
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise ModelError(f"maude did not finish within {TIME_LIMIT_S} s") from None
    if done.returncode or "Warning" in done.stderr + done.stdout:
        raise ModelError(f"maude did not accept the model:\n{done.stderr or done.stdout}")
    return done.stdout


def search(variant: Variant) -> Outcome:
    """Exhaust the states of a variant with each of its corrupt sets, in one process, since loading takes a while."""
    output = run_maude([f"search {variant.start(corrupt)} =>* violated(Z:Property) ." for corrupt in variant.corrupt])
    _, *searches = re.split(r"^search in LINEUP : ", output, flags=re.M)
    return Outcome(
        variant, tuple(_read(variant, corrupt, text) for corrupt, text in zip(variant.corrupt, searches, strict=True))
    )


def _read(variant: Variant, corrupt: str, output: str) -> Search:
    if "No solution." not in output and "No more solutions." not in output:
        raise ModelError(f"the search of {variant.name} was not exhausted:\n{output}")
    states = int(re.findall(r"^states: (\d+)", output, re.M)[-1])
    solutions = re.findall(r"^Solution \d+ \(state (\d+)\)\n.*\nZ --> (\S+)$", output, re.M)
    return Search(corrupt, states, {prop: int(state) for state, prop in solutions})


def explore(variants: Sequence[Variant]) -> list[Outcome]:
    """Exhaust variants, as many at a time as there are processors."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(search, variants))


def completes() -> bool:
    """Does what is intact get to its end? Else every property would hold for nothing."""
    return run_maude(COMPLETES).count("Solution 1") == len(COMPLETES)


def split_soup(state: str) -> list[str]:
    """The elements of a printed state `{a b(c d) e}`."""
    elements, depth, current = [], 0, ""
    for character in state.strip().removeprefix("{").removesuffix("}") + " ":
        depth += (character == "(") - (character == ")")
        if character == " " and depth == 0:
            elements += [current] if current else []
            current = ""
        else:
            current += character
    return elements


def abbreviate(text: str, names: dict[str, str]) -> str:
    """Replace announcements and query ids by short names, which `names` collects."""
    for head, short in (("announcement(", "A"), ("id(", "ID")):
        while (begin := text.find(head)) >= 0:
            depth, end = 1, begin + len(head)
            while depth:
                depth += (text[end] == "(") - (text[end] == ")")
                end += 1
            term = text[begin:end]
            known = sum(name.startswith(short) for name in names.values())
            text = text.replace(term, names.setdefault(term, f"{short}{known + 1}"))
    return text


def counterexample(variant: Variant, found: Search, prop: str) -> str:
    """The shortest way to a violation: each rule that fired and what it added to the state."""
    start = f"search {variant.start(found.corrupt)} =>* violated(Z:Property) ."
    output = run_maude([start, f"show path {found.found[prop]} ."])
    steps = re.findall(r"^state \d+, State: (.*)$", output, re.M)
    labels = re.findall(r"\[label ([\w-]+)\] \. \]===>$", output, re.M)
    names: dict[str, str] = {}
    lines, before = [], split_soup(steps[0])
    for label, step in zip(labels, steps[1:], strict=True):
        after = split_soup(step)
        lines.append(label)
        lines += [f"    + {abbreviate(element, names)}" for element in sorted(set(after) - set(before))]
        before = after
    lines += [f"{name} = {term}" for term, name in names.items()]
    return "\n".join(lines)


def spell(corrupt: str) -> str:
    """A corrupt set in words."""
    return " + ".join(PARTIES[letter] for letter in corrupt) or "network only"


def show(name: str) -> int:
    """Print a variant's counterexamples, of each property the one with a corrupt party if there is one."""
    variants = {variant.name: variant for group in (*GROUPS.values(), LONG) for variant in group}
    if name not in variants:
        raise ModelError(f"no variant {name!r}; there are {', '.join(variants)}")
    outcome = explore([variants[name]])[0]
    for prop in sorted(outcome.failed):
        found = [each for each in outcome.searches if prop in each.found][-1]
        print(f"{PROPERTIES[prop]}: violated, corrupt: {spell(found.corrupt)}\n")
        print(counterexample(outcome.variant, found, prop), end="\n\n")
    if not outcome.failed:
        print(f"{outcome.variant.what}: all properties hold in {outcome.states} states")
    return 0


def row(outcome: Outcome) -> str:
    """One line of the table."""
    marks = "  ".join("FAILS" if prop in outcome.failed else "holds" for prop in PROPERTIES)
    by = ", ".join(dict.fromkeys(spell(each.corrupt) for each in outcome.searches if each.found)) or "-"
    verdict = "as expected" if outcome.as_expected else f"NOT AS EXPECTED: {sorted(outcome.variant.fails)} should fail"
    return f"  {outcome.variant.name:23} {outcome.variant.what:57} {marks}  {outcome.states:7}  {verdict}; by: {by}"


def check(long: bool) -> int:
    """Explore everything, print the table. 0 if all is as expected, else 1."""
    started = time.perf_counter()
    groups = dict(GROUPS, **({"a wider intruder": LONG} if long else {}))
    outcomes = explore([variant for group in groups.values() for variant in group])
    finished = completes()
    print("properties: " + "; ".join(PROPERTIES.values()))
    print(f"\n  {'':23} {'':57} {'  '.join(f'{number:5}' for number in range(1, len(PROPERTIES) + 1))}   states")
    rest = iter(outcomes)
    for name, group in groups.items():
        print(name)
        for _ in group:
            print(row(next(rest)))
    good = sum(outcome.as_expected for outcome in outcomes)
    states = sum(outcome.states for outcome in outcomes)
    print(f"\nwhat is intact gets to its end: {'yes' if finished else 'NO'}")
    print(f"{good} of {len(outcomes)} as expected, {states} states, {time.perf_counter() - started:.1f} s")
    return 0 if finished and good == len(outcomes) else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Exit code 2: the model could not be run."""
    parser = argparse.ArgumentParser(description="Explore the model of the message flow.")
    parser.add_argument("--show", metavar="VARIANT", help="print the counterexample of one variant")
    parser.add_argument("--long", action="store_true", help="also explore a wider intruder")
    options = parser.parse_args(arguments)
    try:
        return show(options.show) if options.show else check(options.long)
    except ModelError as error:
        print(f"model: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
