"""Explores `lineup.maude`: the intact model must hold, and each broken variant must fail in exactly its property.

python threat_model/model/check.py                     everything, one table; exit code 0 only if all is as expected
python threat_model/model/check.py --show commit-first one variant's counterexample, step by step
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
    "agreement": "2 agreement on warrant, threshold, parties",
    "confirmed-only": "3 no release without confirmation",
    "no-second-answer": "4 no second answer, no replayed query",
    "no-rogue-key": "5 no rogue key",
}
PARTIES = {"Q": "requester", "R": "router", "H": "holder"}
ANY_ONE = ("", "Q", "R", "H")  # nobody but the network, or one party; the intruder is always the network as well
NOT_REQUESTER = ("", "R", "H")  # where a corrupt requester takes a minute, `--long` explores it


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


TWO = ("two-queries",)
INTACT = (
    Variant("intact", "two queries at once, everything in place", powers=TWO),
    Variant("copied-nonces", "one query; a corrupt party may repeat other parties' nonces", powers=("copied-nonces",)),
)
LONG = (
    Variant("nonces-twice", "two queries and repeated nonces", powers=("two-queries", "copied-nonces")),
    Variant(
        "forgets-requester",
        "node forgets a query, corrupt requester",
        _fails("no-second-answer"),
        ("once-per-query",),
        corrupt=("Q",),
    ),
    Variant(
        "id-requester",
        "the same, but every message carries the query id",
        without=("once-per-query",),
        powers=("id-in-every-message",),
        corrupt=("Q",),
    ),
)
BROKEN = (
    Variant("key-split", "the router makes the whole key", _fails("secrecy"), ("key-split",)),
    Variant("sealed-secrets", "pair secrets travel in the open", _fails("secrecy"), ("sealed-secrets",)),
    Variant("sealed-inputs", "router reads what requester and holder exchange", _fails("secrecy"), ("sealed-inputs",)),
    Variant(
        "announcement",
        "announcement not compared, not in the query id",
        _fails("agreement"),
        ("announcement-compared", "announcement-in-id"),
    ),
    Variant("parties-checked", "announcement may name other parties", _fails("agreement"), ("parties-checked",)),
    Variant("confirmation", "holder releases what the sketch opened", _fails("confirmed-only"), ("confirmation",)),
    Variant("factors", "confirmation block without secret factors", _fails("confirmed-only"), ("factors",)),
    Variant("admission", "holder does not wait for admission", _fails("confirmed-only"), ("admission-check",)),
    Variant("nonces-in-id", "query id without nonces", _fails("no-second-answer"), ("nonces-in-id",), TWO),
    Variant("envelope", "query in the envelope not checked", _fails("no-second-answer"), ("query-in-envelope",), TWO),
    Variant(
        "once-per-query",
        "node forgets a query and serves it again",
        _fails("no-second-answer"),
        ("once-per-query",),
        corrupt=NOT_REQUESTER,
    ),
    Variant("one-answer", "confirmation answered as often as asked", _fails("no-second-answer"), ("one-answer",)),
    Variant("blocks-compared", "block not compared before answering", _fails("no-second-answer"), ("blocks-compared",)),
    Variant(
        "commit-first",
        "router shows b_R after b_Q, no commitment",
        _fails("no-rogue-key"),
        ("commit-first",),
        ("sealed-probe",),
    ),
    Variant("same-pair", "holder takes the requester's word for the pair", _fails("no-rogue-key"), ("same-pair",)),
)
# Where two defences stand behind each other: one of them is enough, or one brings down more than its own property.
LAYERS = (
    Variant("no-comparison", "announcement not compared, but in the query id", without=("announcement-compared",)),
    Variant("not-in-id", "announcement compared, but not in the query id", without=("announcement-in-id",)),
    Variant(
        "open-inputs",
        "router reads inputs, but not the ciphertext",
        without=("sealed-inputs",),
        powers=("sealed-probe",),
    ),
    Variant(
        "rogue-and-open",
        "no commitment, and the ciphertext can be read",
        _fails("no-rogue-key", "secrecy"),
        ("commit-first",),
    ),
    Variant(
        "id-in-messages",
        "node forgets, but every message carries the query id",
        without=("once-per-query",),
        powers=("id-in-every-message",),
        corrupt=NOT_REQUESTER,
    ),
)
# What the protocol does not promise (design 2.9): these attacks exist, and the model must show them.
LIMITS = (
    Variant("one-share", "an outsider has the requester's key share", powers=("requesters-share",), corrupt=("",)),
    Variant(
        "two-shares",
        "both key shares and the ciphertext",
        _fails("secrecy"),
        powers=("requesters-share",),
        corrupt=("R",),
    ),
    Variant("holder-and-router", "holder and router collude", _fails("secrecy"), corrupt=("RH",)),
    Variant("both-key-owners", "requester and router collude: still no false release", corrupt=("QR",)),
    Variant(
        "admission-lie",
        "requester encrypts a scaled probe and lies in admission",
        _fails("confirmed-only"),
        ("honest-admission",),
    ),
)
GROUPS = {
    "intact": INTACT,
    "one defence taken away": BROKEN,
    "two defences, one behind the other": LAYERS,
    "limits that the protocol states": LIMITS,
}
COMPLETES = (
    "search [1] start(with(two-queries)) =>* "
    "{ msg(H, Q, q1, I:Term, release(hit)) msg(H, Q, q2, J:Term, release(hit)) S:Soup } ."
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


def search(variant: Variant, corrupt: str) -> Search:
    """Exhaust the states of a variant with one corrupt set."""
    output = run_maude([f"search {variant.start(corrupt)} =>* violated(Z:Property) ."])
    if "No solution." not in output and "No more solutions." not in output:
        raise ModelError(f"the search of {variant.name} was not exhausted:\n{output}")
    states = int(re.findall(r"^states: (\d+)", output, re.M)[-1])
    solutions = re.findall(r"^Solution \d+ \(state (\d+)\)\n.*\nZ --> (\S+)$", output, re.M)
    return Search(corrupt, states, {prop: int(state) for state, prop in solutions})


def explore(variants: Sequence[Variant]) -> list[Outcome]:
    """Exhaust variants, as many searches at a time as there are processors."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        futures = [[pool.submit(search, variant, corrupt) for corrupt in variant.corrupt] for variant in variants]
        return [
            Outcome(variant, tuple(future.result() for future in started))
            for variant, started in zip(variants, futures, strict=True)
        ]


def completes() -> bool:
    """Without an intruder's help, do both queries reach their release? Else every property would hold for nothing."""
    return "Solution 1" in run_maude([COMPLETES])


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
    for head, short in (("announcement(", "A"), ("query-id(", "ID")):
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
    return f"  {outcome.variant.name:17} {outcome.variant.what:57} {marks}  {outcome.states:7}  {verdict}; by: {by}"


def check(long: bool) -> int:
    """Explore everything, print the table. 0 if all is as expected, else 1."""
    started = time.perf_counter()
    groups = dict(GROUPS, **({"a wider intruder": LONG} if long else {}))
    outcomes = explore([variant for group in groups.values() for variant in group])
    finished = completes()
    print("properties: " + "; ".join(PROPERTIES.values()))
    print(f"\n  {'':17} {'':57} {'  '.join(f'{number:5}' for number in range(1, 6))}   states")
    rest = iter(outcomes)
    for name, group in groups.items():
        print(name)
        for _ in group:
            print(row(next(rest)))
    good = sum(outcome.as_expected for outcome in outcomes)
    states = sum(outcome.states for outcome in outcomes)
    print(f"\nboth queries of the intact model can end in a release: {'yes' if finished else 'NO'}")
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
