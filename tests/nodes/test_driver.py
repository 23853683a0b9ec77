"""A driver ends whatever moment it is stopped at: whoever waits for it hears of it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from nodes.query.driver import QueryDriver


def test_a_driver_that_is_closed_before_its_first_step_is_over_all_the_same() -> None:
    """Its task is cancelled before it runs, and with it what it would do at its end."""

    async def body() -> None:
        ended: list[QueryDriver] = []

        async def end(driver: QueryDriver) -> None:
            ended.append(driver)

        machine: Any = SimpleNamespace(sessions={})
        nothing: Any = None
        driver = QueryDriver(machine, nothing, nothing, nothing, nothing, 1, 1, end)
        waiting = asyncio.create_task(driver.until_finished())
        await driver.close()
        await asyncio.wait_for(waiting, 5)
        assert ended == [driver]

    asyncio.run(body())
