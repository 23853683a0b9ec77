"""However many searches one state has under way, another's is computed in its turn."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest

from nodes.query import turns
from nodes.query.turns import Turns

MANY = 40


class Clock:
    """Seconds that pass only when somebody computes."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(turns, "time", made)
    return made


async def order(
    turn: Callable[[str], AbstractAsyncContextManager[None]], wanted: list[str], clock: Clock, seconds: dict[str, float]
) -> list[str]:
    """Who computed, one after the other, where all that is wanted waits from the beginning."""
    ran: list[str] = []

    async def compute(state: str) -> None:
        async with turn(state):
            await asyncio.sleep(0)
            clock.now += seconds[state]
            ran.append(state)

    await asyncio.gather(*(compute(state) for state in wanted))
    return ran


def one_by_one(kept: Turns, clock: Clock, seconds: dict[str, float], wanted: list[str]) -> list[str]:
    return asyncio.run(order(kept.of, wanted, clock, seconds))


def test_one_search_does_not_wait_for_the_many_of_another_state(clock: Clock) -> None:
    ran = one_by_one(Turns(1), clock, {"FR": 1.0, "DE": 1.0}, ["FR"] * MANY + ["DE"])
    assert ran.index("DE") <= 1


def test_control_in_the_order_of_arrival_it_waits_for_all(clock: Clock) -> None:
    async def body() -> list[str]:
        first_come = asyncio.Semaphore(1)
        return await order(lambda _: first_come, ["FR"] * MANY + ["DE"], clock, {"FR": 1.0, "DE": 1.0})

    assert asyncio.run(body()).index("DE") == MANY


def test_states_get_the_same_time_and_not_the_same_number_of_turns(clock: Clock) -> None:
    """FR's steps take three times as long."""
    ran = one_by_one(Turns(1), clock, {"FR": 3.0, "DE": 1.0}, ["FR"] * MANY + ["DE"] * MANY)
    half = ran[:MANY]
    assert abs(3 * half.count("FR") - half.count("DE")) <= 4


@pytest.mark.parametrize(
    ("conversations", "seconds"),
    [
        ({"FR": 4, "DE": 1, "ES": 1}, {"FR": 1.0, "DE": 1.0, "ES": 1.0}),
        ({"FR": 5, "DE": 1}, {"FR": 1.0, "DE": 10.0}),
    ],
    ids=["many and single ones", "short and long steps"],
)
@pytest.mark.parametrize("forgets", [False, True], ids=["", "control"])
def test_a_state_that_pauses_between_its_steps_takes_no_more_than_its_share(
    forgets: bool,
    conversations: dict[str, int],
    seconds: dict[str, float],
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A conversation has one step at a time, so a state with a single one has nothing to do after each. The control:
    an account that is wiped then."""

    def wipe(kept: Turns) -> None:
        for idle in [each for each in kept._seconds if not kept._running[each] and not kept._waiting.get(each)]:
            del kept._seconds[idle], kept._running[idle]

    async def body() -> Counter[str]:
        kept, spent = Turns(1), Counter[str]()

        async def converse(state: str) -> None:
            while clock.now < 600:
                async with kept.of(state):
                    await asyncio.sleep(0)
                    clock.now += seconds[state]
                    spent[state] += int(seconds[state])
                    await asyncio.sleep(0)
                await asyncio.sleep(0)

        await asyncio.gather(*(converse(state) for state, many in conversations.items() for _ in range(many)))
        return spent

    if forgets:
        monkeypatch.setattr(Turns, "_forget", wipe)
    spent = asyncio.run(body())
    fair = 600 / len(conversations)
    assert (min(spent[state] for state in conversations) > 0.9 * fair) is not forgets, spent


def test_a_single_search_of_short_steps_waits_for_one_long_step_of_the_others_at_each_of_its_own(clock: Clock) -> None:
    """Not for more; nor for less, as none is interrupted: it gets less than its share of the time."""

    async def body() -> list[str]:
        kept, ran = Turns(1), []

        async def converse(state: str, seconds: float) -> None:
            while clock.now < 600:
                async with kept.of(state):
                    await asyncio.sleep(0)
                    clock.now += seconds
                    ran.append(state)
                await asyncio.sleep(0)

        await asyncio.gather(*(converse("FR", 30.0) for _ in range(5)), converse("DE", 0.1))
        return ran

    between = [len(run) for run in "".join("." if state == "FR" else " " for state in asyncio.run(body())).split()]
    assert max(between[1:-1]) == 1
    assert len(between) > 10


def test_who_comes_late_is_owed_nothing(clock: Clock) -> None:
    """Else a state that was silent for a day would have the node for itself."""

    async def body() -> list[str]:
        kept, ran = Turns(1), []

        async def compute(state: str, times: int) -> None:
            for _ in range(times):
                async with kept.of(state):
                    await asyncio.sleep(0)
                    clock.now += 1.0
                    ran.append(state)

        early = [asyncio.create_task(compute("FR", MANY)) for _ in range(2)]
        while len(ran) < MANY:
            await asyncio.sleep(0)
        await asyncio.gather(compute("DE", MANY), compute("DE", MANY), *early)
        return ran[MANY : MANY + 20]

    soon = asyncio.run(body())
    assert 8 <= soon.count("DE") <= 12


@pytest.mark.parametrize("forgets", [False, True], ids=["", "control"])
def test_beside_a_long_step_nobody_begins_with_less_than_the_others(
    forgets: bool, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is under way all the time has cost that much already. The control: it counts when it is over, and who
    comes meanwhile has the node for itself for as long as the others computed."""

    async def body() -> list[str]:
        kept, ran = Turns(2), []

        async def compute(state: str, times: int) -> None:
            for _ in range(times):
                async with kept.of(state):
                    await asyncio.sleep(0)
                    clock.now += 1.0
                    ran.append(state)

        async with kept.of("ES"):
            early = [asyncio.create_task(compute("FR", MANY)) for _ in range(2)]
            while len(ran) < MANY:
                await asyncio.sleep(0)
            await asyncio.gather(compute("DE", MANY), compute("DE", MANY), *early)
        return ran[MANY : MANY + 20]

    if forgets:
        monkeypatch.setattr(Turns, "_spent", lambda self, state: self._seconds[state])
    soon = asyncio.run(body())
    assert (8 <= soon.count("DE") <= 12) is not forgets, soon


def test_no_more_compute_at_once_than_may_and_nothing_is_kept_of_who_is_done(clock: Clock) -> None:
    async def body() -> None:
        kept, computing, most = Turns(2), 0, 0

        async def compute(state: str) -> None:
            nonlocal computing, most
            async with kept.of(state):
                computing += 1
                most = max(most, computing)
                await asyncio.sleep(0.001)
                computing -= 1

        await asyncio.gather(*(compute(f"S{number % 7}") for number in range(MANY)))
        assert most == 2
        assert (kept._free, kept._seconds, dict(kept._waiting), dict(kept._running)) == (2, {}, {}, {})

    asyncio.run(body())


@pytest.mark.parametrize("given", [False, True], ids=["while it waits", "as it is given"])
def test_a_turn_of_who_is_cancelled_goes_to_the_next(given: bool, clock: Clock) -> None:
    async def body() -> None:
        kept, ran = Turns(1), []

        async def compute(state: str) -> None:
            async with kept.of(state):
                ran.append(state)

        holding = kept.of("FR")
        await holding.__aenter__()
        cancelled, other = asyncio.create_task(compute("DE")), asyncio.create_task(compute("ES"))
        await asyncio.sleep(0)
        if given:
            await holding.__aexit__(None, None, None)
            cancelled.cancel()
        else:
            cancelled.cancel()
            await asyncio.sleep(0)
            await holding.__aexit__(None, None, None)
        await asyncio.wait_for(other, 5)
        assert ran == ["ES"]
        assert cancelled.cancelled()
        assert kept._free == 1

    asyncio.run(body())
