"""With Ray itself: who has no token runs nothing, a killed worker costs no answer, and the commands."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import msgspec
import numpy as np
import pytest

from nodes.blocks import BlockFiles, BlocksError
from nodes.cluster import machines
from nodes.cluster.errors import ClusterError, ClusterUnavailable, WorkerLost
from nodes.cluster.gallery import ClusterGallery
from nodes.cluster.link import Link
from nodes.cluster.shard import Range
from nodes.cluster.spreading import FULL, Together
from nodes.config.cluster import ClusterConfig
from nodes.config.schema import load_config
from nodes.service.operator_api import HolderAnswer, PrepareRequest
from nodes.service.requester import RequesterNode
from pets.params import N4096
from pets.synthetic import synthetic_templates
from pets.templates import quantise
from protocol.steps import Product
from protocol.terms import SYNTHETIC_MODEL
from protocol.work import perform
from tests.cluster.test_node import enrol, forget
from tests.kit.cluster import cipher, holder, name_cluster
from tests.kit.federation import DIM as FACE_DIM
from tests.kit.federation import ES, FR, found, people, request
from tests.kit.network import Network, TlsNetwork, running
from tests.kit.preloaded import preloaded
from tests.kit.ring import RING

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="the extra [cluster] is not installed"),
]

JOIN = """
import ray
ray.init(address={address!r}, logging_level="ERROR")
@ray.remote
def run(): return "code ran"
print(ray.get(run.remote(), timeout=60))
"""
DIM = 16
PROCESSORS = 4
NO_HIT = HolderAnswer("no hit", (), "0.55")
PATIENCE = {"read_timeout_seconds": 120, "query_timeout_seconds": 600}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A holder's folder whose node.toml names a cluster that runs."""
    root = tmp_path_factory.mktemp("ray")
    folder = holder(root)
    port = next(port for port in range(6300, 9000) if not listening(port))  # above 10,000 Ray has workers
    name_cluster(folder, f"127.0.0.1:{port}", folder / "cluster.token", shards=2, patience_seconds=100)
    start(folder)
    yield folder
    stopped = lineup("cluster", "drain", "--dir", str(folder))
    assert stopped.returncode == 0, stopped.stderr


def start(folder: Path) -> None:
    done = lineup("cluster", "start", "--dir", str(folder), "--processors", str(PROCESSORS), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["role"] == "head"


@pytest.fixture(scope="module")
def link(node: Path) -> Iterator[Link]:
    made = Link(load_config(node).cluster)
    made.connect()
    yield made
    made.close()


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def lineup(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(preloaded().program), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)


def join(config: ClusterConfig, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, "-c", JOIN.format(address=config.address)],
        env=clean | {"RAY_NUM_REDIS_GET_RETRIES": "5"} | environment,  # seconds, else it tries for 20
        capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip


def test_nobody_runs_code_on_a_worker_without_the_token(node: Path) -> None:
    done = join(load_config(node).cluster, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64)
    assert "code ran" not in done.stdout
    assert "InvalidAuthToken" in done.stderr


def test_control_with_the_token_anybody_does(node: Path) -> None:
    config = load_config(node).cluster
    done = join(config, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(config.token_file))
    assert "code ran" in done.stdout, done.stderr


def test_the_machines_are_shown(node: Path) -> None:
    done = lineup("cluster", "status", "--dir", str(node), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["silent"] == 0
    (machine,) = told["machines"]
    assert (machine["alive"], machine["processors"], machine["shards"]) == (True, PROCESSORS, 0)


def test_a_worker_that_is_killed_costs_no_answer(node: Path, link: Link) -> None:
    rows = quantise(synthetic_templates(2 * N4096.n + 100, DIM, seed=5))
    files = BlockFiles.create(node / "rows", cipher(node), dim=DIM, model=bytes(32))
    files.append(rows)
    gallery = ClusterGallery(files, link, load_config(node).cluster, node, unit=N4096.n)
    values = np.random.default_rng(1).integers(0, N4096.t, DIM, np.int32)
    expected = perform([Product(rows, values, N4096, 0, 3)], 1)
    with gallery.snapshot() as lent:
        for turn in range(4):
            if turn % 2:
                kill(link, gallery, turn % 2)
            np.testing.assert_array_equal(perform([Product(lent.rows, values, N4096, 0, 3)], 1), expected)
        np.testing.assert_array_equal(lent.rows[[0, len(rows) - 1]], rows[[0, len(rows) - 1]])
    os.kill(link._process.pid, signal.SIGKILL)  # type: ignore[union-attr, arg-type]
    mended(gallery)  # what talks to Ray is begun again, and the shards are
    with gallery.snapshot() as lent:
        np.testing.assert_array_equal(perform([Product(lent.rows, values, N4096, 0, 3)], 1), expected)
    gallery.close()


def mended(gallery: ClusterGallery) -> None:
    """Wait until the rows were read again, as a running node does."""
    deadline = time.monotonic() + 200
    while True:
        try:
            gallery.refresh()
        except ClusterError:
            assert time.monotonic() < deadline
            time.sleep(0.5)
        else:
            return


def kill(link: Link, gallery: ClusterGallery, shard: int) -> None:
    """A worker of a shard."""
    copy = gallery.shards.parts[shard].copies[0]
    os.kill(link.get(link.ask(copy, "status"), 60)["pid"], signal.SIGKILL)
    time.sleep(0.2)


def test_what_a_shard_refuses_comes_as_it_was(node: Path, link: Link, tmp_path: Path) -> None:
    shard = link.make(str(node), str(tmp_path / "nothing"), 0, Range(0, 8), DIM, 1)
    with pytest.raises(BlocksError, match="nothing"):
        link.get(link.ask(shard, "hold", 1), 60)
    assert link.processors() == PROCESSORS
    link.end((shard,))
    with pytest.raises(WorkerLost):
        link.get(link.ask(shard, "hold", 1), 60)


def test_a_node_that_is_killed_leaves_no_process_with_its_rows(node: Path, tmp_path: Path) -> None:
    BlockFiles.create(tmp_path / "rows", cipher(node), dim=DIM, model=bytes(32))
    program = f"from tests.cluster.test_ray import hold_for_ever as hold; hold({str(node)!r}, {str(tmp_path)!r})"
    killed = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert killed.stdout is not None
    agent, worker = map(int, killed.stdout.readline().split())
    os.kill(worker, 0)  # the control: both are there
    os.kill(agent, 0)
    killed.kill()
    killed.wait()
    killed.stdout.close()
    deadline = time.monotonic() + 100
    while Path(f"/proc/{agent}").exists() or Path(f"/proc/{worker}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def hold_for_ever(node: str, folder: str) -> None:
    link = Link(load_config(Path(node)).cluster)
    link.connect()
    shard = link.make(node, f"{folder}/rows", 0, Range(0, 8), DIM, 1)
    assert link._process is not None
    print(link._process.pid, link.get(link.ask(shard, "status"), 100)["pid"], flush=True)
    time.sleep(600)


def test_what_talks_to_ray_outlives_signals_that_mean_the_node(link: Link) -> None:
    """A node that drains needs it; a service manager tells the whole group."""
    turn, process = link.connect(), link._process
    assert process is not None
    assert process.pid is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(process.pid, number)
    time.sleep(1)
    assert link.processors() == PROCESSORS
    assert link.connect() == turn


def test_a_node_that_stops_does_not_wait_for_a_copy_that_waits_for_room(node: Path) -> None:
    link = Link(msgspec.structs.replace(load_config(node).cluster, threads=PROCESSORS + 1))  # no machine has so many
    link.connect()
    shard, raised = link.make(str(node), "nothing", 0, Range(0, 8), DIM, 1), list[type[Exception]]()

    def wait() -> None:
        try:
            link.get(link.ask(shard, "hold", 1), 300)
        except WorkerLost as error:
            raised.append(type(error))

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(2)
    assert waiting.is_alive(), "the control"
    link.close()
    waiting.join(20)
    assert (waiting.is_alive(), raised) == (False, [WorkerLost])


def test_this_process_loads_no_ray(link: Link) -> None:
    assert link.connect() >= 1
    assert "ray" not in sys.modules


def test_three_nodes_search_while_people_come_and_go_and_a_worker_is_killed(node: Path, tmp_path: Path) -> None:
    federation, config = found(tmp_path / "nodes", people(rows=9000), **PATIENCE), load_config(node).cluster
    token = config.token_file
    assert token is not None
    name_cluster(federation.folder(ES), config.address, token, shards=2, patience_seconds=60)
    someone, wanted = request(federation.people.nobody, (ES,)), request(federation.people.hit, (ES,))

    async def body() -> None:
        async with running(TlsNetwork(federation)) as network:
            cluster = network.nodes[ES].galleries.cluster
            assert cluster is not None
            assert cluster._gallery is not None
            assert [part.held for part in cluster._gallery.shards.parts] == [8192, 808]
            assert (await network.search(wanted)).answers == federation.expected(wanted)
            await prepared(network)
            reference = await asyncio.to_thread(enrol, federation, federation.people.nobody)
            assert (await network.search(someone)).answers == {ES: NO_HIT}, "prepared before"
            assert (await network.search(someone)).answers[ES].references == (reference,)
            await prepared(network)
            await asyncio.to_thread(forget, federation, reference)
            await asyncio.to_thread(kill, cluster._link, cluster._gallery, 1)
            assert (await network.search(someone)).answers == {ES: NO_HIT}, "forgotten"
            searching = asyncio.create_task(network.search(wanted))
            await asyncio.sleep(0.5)
            await asyncio.to_thread(kill, cluster._link, cluster._gallery, 0)
            report = await searching
            assert report.answers == federation.expected(wanted)
            assert report.answers[ES].references, "the control: somebody is found"
            told = await asyncio.to_thread(cluster.told)
            assert (told.shards, told.rows, told.machines, told.together, told.fault) == (2, 9001, 1, 0, None)
            await asyncio.to_thread(network.nodes[ES].inspect)
            assert not network.nodes[ES].failing()

    asyncio.run(body())


async def prepared(network: Network) -> None:
    """One preparation waits at FR."""
    asking = network.nodes[FR]
    assert isinstance(asking, RequesterNode)
    report = await asking.supply.prepare(PrepareRequest((ES,), 1, FACE_DIM, SYNTHETIC_MODEL, RING.preset))
    assert (report.made, report.refused) == (1, {})
    await network.settle(60)


def test_two_copies_lie_on_two_machines_and_again_once_a_lost_one_is_back(
    node: Path, link: Link, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of Ray's nodes on this machine: to Ray, and to what is tested here, they are two machines."""
    rows, config = quantise(synthetic_templates(100, DIM, seed=5)), load_config(node).cluster
    files = BlockFiles.create(tmp_path / "rows", cipher(node), dim=DIM, model=bytes(32))
    files.append(rows)
    config = msgspec.structs.replace(config, copies=2, shards=1)
    values = np.random.default_rng(1).integers(0, N4096.t, DIM, np.int32)
    second = "127.0.0.2"
    join_as(node, second)
    gallery = ClusterGallery(files, link, config, node)
    try:
        with gallery.snapshot() as lent:
            work = [Product(lent.rows, values, N4096, 0, 1)]
            expected = perform([Product(rows, values, N4096, 0, 1)], 1)
            first, other = lie(link, gallery)
            assert first != other
            assert shards_shown(node) == [1, 1]
            lose(config, second)
            np.testing.assert_array_equal(perform(work, 1), expected, "by the other copy; Ray does not know yet")
            assert len(set(lie(link, gallery))) == 1
            gallery.spread()
            assert gallery.together == Together(1, FULL), "no other machine is there"
            join_as(node, second)
            assert len(set(lie(link, gallery))) == 1, "the control: Ray leaves them where they are"
        where = link.where

        def and_forget(shards: tuple[int, ...], seconds: float) -> tuple[str, ...]:
            if len(shards) == 1 and not gallery.overwritten:  # the third copy, which has its rows and is not asked yet
                files.forget([5])
                gallery.refresh()
                assert gallery.overwritten == 1
                with gallery.snapshot() as lent:
                    assert lent.rows[:].any(axis=1).sum() == 99
            return where(shards, seconds)

        monkeypatch.setattr(link, "where", and_forget)
        gallery.spread()
        assert gallery.together == Together()
        assert len(set(lie(link, gallery))) == 2
        with gallery.snapshot() as lent:
            found = perform([Product(lent.rows, values, N4096, 0, 1)], 1)
        np.testing.assert_array_equal(found.ravel()[6:], expected.ravel()[6:])
        for copy in gallery.shards.parts[0].copies:
            _, there = link.get(link.ask(copy, "take", len(rows), np.arange(len(rows))), 60)
            assert np.flatnonzero(~there.any(axis=1)).tolist() == [5], "forgotten while a copy moved"
    finally:
        gallery.close()
        lose(config, second)


def test_room_that_others_have_taken_is_not_waited_for_but_by_a_copy_that_would_lie_beside_its_twin(
    node: Path, link: Link, tmp_path: Path
) -> None:
    """Another node has processes on the machine that this one takes for the emptiest."""
    config, given, second = load_config(node).cluster, (str(node), str(tmp_path), 0, Range(0, 8), DIM, 1), "127.0.0.2"
    join_as(node, second)
    other = Link(msgspec.structs.replace(config, threads=8))
    try:
        other.connect()
        (full,) = other.where((other.make(*given),), 60)
        first = link.make(*given)
        (machine,) = link.where((first,), 60)
        assert machine
        assert machine != full
        copy = link.make(*given, beside=first, there_only=True)
        assert link.where((copy,), 10) == ("",)
        assert shards_shown(node, silent=1) == [1, 1]
        link.end((copy,))
        assert shards_shown(node) == [1, 1]
        copy = link.make(*given, beside=first, there_only=True)
        other.close()
        assert link.where((copy,), 60) == (full,), "the control: there is room again"
        link.end((first, copy))
    finally:
        other.close()
        lose(config, second)


def join_as(node: Path, host: str) -> None:
    done = lineup("cluster", "start", "--dir", str(node), "--host", host, "--processors", "8", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["role"] == "worker"


def lie(link: Link, gallery: ClusterGallery) -> tuple[str, ...]:
    """The machines of its two copies, once both are there."""
    (part,) = gallery.shards.parts
    deadline = time.monotonic() + 60
    while not all(machines := link.where(part.copies, 60)):  # Ray takes some fifteen seconds to begin one anew
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return machines


def lose(config: ClusterConfig, host: str) -> None:
    """A machine goes, with everything on it. Other people's clusters on this computer stay."""
    port = config.address.rsplit(":", 1)[1]
    for raylet in [int(one.parent.name) for one in Path("/proc").glob("[0-9]*/cmdline") if is_raylet(one, host, port)]:
        workers = Path(f"/proc/{raylet}/task/{raylet}/children").read_text().split()
        for process in (raylet, *map(int, workers)):
            os.kill(process, signal.SIGKILL)


def is_raylet(command: Path, host: str, port: str) -> bool:
    try:
        program, *arguments = command.read_bytes().decode(errors="replace").split("\0")
    except OSError:  # it has ended
        return False
    head = any(one.startswith("--gcs-address=") and one.endswith(f":{port}") for one in arguments)
    return program.endswith("/raylet") and f"--node_ip_address={host}" in arguments and head


def shards_shown(node: Path, silent: int = 0) -> list[int]:
    """What `lineup cluster status` shows of the machines that are alive."""
    done = lineup("cluster", "status", "--dir", str(node), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["silent"] == silent
    return [one["shards"] for one in told["machines"] if one["alive"]]


def test_a_cluster_that_stops_is_named_and_used_again_when_it_is_back(
    node: Path, link: Link, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodes.cluster.gallery.READ_SECONDS", 60)
    rows, config = quantise(synthetic_templates(100, DIM, seed=5)), load_config(node).cluster
    files = BlockFiles.create(tmp_path / "rows", cipher(node), dim=DIM, model=bytes(32))
    files.append(rows)
    gallery = ClusterGallery(files, link, config, node)
    impatient = msgspec.structs.replace(config, patience_seconds=5)  # where nobody will answer
    values = np.random.default_rng(1).integers(0, N4096.t, DIM, np.int32)
    with gallery.snapshot() as lent:
        work = [Product(lent.rows, values, N4096, 0, 1)]
        expected = perform(work, 1)
        assert lineup("cluster", "drain", "--dir", str(node)).returncode == 0
        with monkeypatch.context() as patch:
            patch.setattr(gallery.shards, "_config", impatient)
            with pytest.raises(ClusterUnavailable):
                perform(work, 1)
        with pytest.raises(ClusterError, match=f"no cluster at {config.address}"):
            gallery.refresh()
        start(node)
        mended(gallery)
        np.testing.assert_array_equal(perform(work, 1), expected)
    gallery.close()


def test_a_node_whose_cluster_is_not_there_ends_and_names_the_address(tmp_path: Path) -> None:
    federation = found(tmp_path / "nodes", people(rows=130))
    token = tmp_path / "token"
    machines.make_token(token)
    name_cluster(federation.folder(ES), "127.0.0.1:1", token)
    done = lineup("node", "serve", "--dir", str(federation.folder(ES)))
    assert done.returncode == 1
    assert "no cluster at 127.0.0.1:1 (Connection refused): `lineup cluster start` there begins it" in done.stderr
