"""Nodes as processes: killed or frozen in the middle of a query, stopped gracefully, started again on the same folder.

A sample of what `python -m benchmarks.kills` sweeps.
"""

from __future__ import annotations

import signal

import pytest

from nodes.operator.client import health, search
from nodes.service.operator_api import HolderAnswer
from tests.kit.federation import DE, ES, EU, FR, ROLES, Federation, request
from tests.kit.leaks import leaks, secrets_of
from tests.kit.processes import Searching, processes
from tests.kit.transports import over_asgi

pytestmark = pytest.mark.slow

FEDERATION = {"read_timeout_seconds": 3}


def test_killed_frozen_stopped_and_started_again(federation: Federation) -> None:
    wanted = request(federation.people.hit)
    expected = federation.expected(wanted)
    with processes(federation) as group:
        assert search(federation.folder(FR), wanted).answers == expected
        for name in ROLES:
            assert health(federation.folder(name)) == {"status": "ok", "contradicting_logs": 0, "alarms": []}
            assert "expired: 0 subjects, 0 log entries" in group.log(name)

        for number in (signal.SIGKILL, signal.SIGSTOP):
            searching = Searching(federation)
            group.until_busy(ES)
            if number == signal.SIGKILL:
                group.stop(ES, number)
            else:  # its kernel goes on taking what is sent, and nothing ever comes back
                group.running[ES].send_signal(number)
            answers = searching.answers()
            assert answers is not None
            # Its part may have been over before the signal came.
            assert answers[ES] in (expected[ES], HolderAnswer("unreachable", reason="timeout", by=ES))
            assert answers[DE] == expected[DE]
            if number == signal.SIGKILL:
                group.start(ES)
            else:
                group.running[ES].send_signal(signal.SIGCONT)
            group.until_clear()
            assert search(federation.folder(FR), wanted).answers == expected

        # Asked to stop in the middle of a query, all four let it end; the query is whole, and the status is 0.
        searching = Searching(federation)
        group.until_busy(EU)
        for process in group.running.values():
            process.send_signal(signal.SIGTERM)
        assert searching.answers() == expected
        for name in list(group.running):
            assert group.running.pop(name).wait(30) == 0, group.log(name)
            assert '"stopped"' in group.log(name).splitlines()[-1]
        logs = "".join(group.log(name) for name in ROLES)
        assert "Traceback" not in logs
        assert "internal error" not in logs

    assert over_asgi(federation)(wanted) == expected
    assert leaks(federation, secrets_of(federation, federation.people.hit)) == []
