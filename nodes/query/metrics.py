"""Counts for Prometheus. Nothing here names a person, a reference, a score, a request or a query."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from nodes.pool import Pool
from nodes.query.latency import QUANTILES, REMEMBERED, Latencies, Latency

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """One registry a node, so that several nodes can live in one process."""

    def __init__(self, name: str, role: str) -> None:
        self._registry = CollectorRegistry()
        labels = {"node": name, "role": role}
        names = tuple(labels)
        self._running = Gauge("lineup_queries_running", "Queries under way.", names, registry=self._registry).labels(
            **labels
        )
        self._sessions = Counter(
            "lineup_sessions", "Sessions with one holder that ended.", (*names, "state"), registry=self._registry
        )
        self._refusals = Counter(
            "lineup_refusals", "Queries refused before any work.", (*names, "code"), registry=self._registry
        )
        self._withheld = Counter(
            "lineup_releases_withheld", "Releases withheld from a state at its limit.", names, registry=self._registry
        ).labels(**labels)
        self._received = Counter(
            "lineup_received_bytes", "Bytes taken from peers.", names, registry=self._registry
        ).labels(**labels)
        self._accused = Gauge(
            "lineup_contradicting_logs",
            "Logs of nodes that showed two histories.",
            names,
            registry=self._registry,
        ).labels(**labels)
        self._ending = Gauge(
            "lineup_running_out", "Certificates and lists that end within a week.", names, registry=self._registry
        ).labels(**labels)
        self._refused_peers = Gauge(
            "lineup_refused_peers", "Public identities of peers that do not hold.", names, registry=self._registry
        ).labels(**labels)
        self._clocks = Gauge(
            "lineup_clocks_differ", "Peers whose clock differs by more than the policy allows.", names,
            registry=self._registry,
        ).labels(**labels)  # fmt: skip
        self._false_refusals = Counter(
            "lineup_false_refusals",
            "Queries in which a checked probe was refused: the holder or the router lied.",
            names,
            registry=self._registry,
        ).labels(**labels)
        self._seconds = Histogram(
            "lineup_search_seconds",
            "Time of a search that was answered: at the requester from the probe on, elsewhere as long as it took.",
            names,
            registry=self._registry,
            buckets=(0.25, 0.5, 1, 2, 4, 8, 16, 32, 64),
        ).labels(**labels)
        self._preparing = Histogram(
            "lineup_preparation_seconds",
            "Time of a preparation, from its announcement until it waits.",
            names,
            registry=self._registry,
            buckets=(0.5, 1, 2, 4, 8, 16, 32, 64, 128),
        ).labels(**labels)
        self._labels = labels
        self._last_searches, self._last_preparations = Latency(), Latency()
        self._registry.register(_Quantiles(lambda: self.latencies, labels))

    @property
    def latencies(self) -> Latencies:
        """Of the last searches that were answered, and the last preparations that were made."""
        return Latencies(self._last_searches.percentiles, self._last_preparations.percentiles)

    def watch(self, pool: Pool) -> None:
        """Tell what waits in the node's pool, and what became of it, whenever somebody asks."""
        self._registry.register(_Preparations(pool, self._labels))

    def prepared(self, seconds: float) -> None:
        """A preparation took so long."""
        self._preparing.observe(seconds)
        self._last_preparations.observe(seconds)

    def started(self) -> None:
        """A query began."""
        self._running.inc()

    def finished(self) -> None:
        """A query is over."""
        self._running.dec()

    def ended(self, state: str) -> None:
        """A session ended in a state."""
        self._sessions.labels(**self._labels, state=state).inc()

    def refused(self, code: str) -> None:
        """A query was refused."""
        self._refusals.labels(**self._labels, code=code).inc()

    def withheld(self) -> None:
        """A release was withheld, because a state was given a reference too often or is shut out for that."""
        self._withheld.inc()

    def received(self, size: int) -> None:
        """Bytes came from a peer."""
        self._received.inc(size)

    def accused(self, logs: int) -> None:
        """So many logs have shown two histories."""
        self._accused.set(logs)

    def running_out(self, files: int) -> None:
        """So many certificates and revocation lists end within a week."""
        self._ending.set(files)

    def refused_peers(self, files: int) -> None:
        """So many public identities were refused when they were read again."""
        self._refused_peers.set(files)

    def clocks_differ(self, peers: int) -> None:
        """So many peers' clocks differ by too much."""
        self._clocks.set(peers)

    def refused_falsely(self) -> None:
        """A probe that was checked here was refused in admission."""
        self._false_refusals.inc()

    def searched(self, seconds: float) -> None:
        """A search was answered, and took so long: online, at the requester."""
        self._seconds.observe(seconds)
        self._last_searches.observe(seconds)

    def render(self) -> bytes:
        """The exposition format."""
        return generate_latest(self._registry)


class _Quantiles(Collector):
    """Tells percentiles of the last ones when the metrics are asked for."""

    def __init__(self, latencies: Callable[[], Latencies], labels: Mapping[str, str]) -> None:
        self._latencies, self._names, self._values = latencies, tuple(labels), tuple(labels.values())

    def collect(self) -> Iterator[Metric]:
        """The families; no values of what there was none of."""
        told = self._latencies()
        for name, seen in (("search", told.searches), ("preparation", told.preparations)):
            gauge = GaugeMetricFamily(
                f"lineup_{name}_quantile_seconds",
                f"Of the last {REMEMBERED:,} in lineup_{name}_seconds: a share took no longer.",
                labels=(*self._names, "quantile"),
            )
            for quantile, seconds in zip(QUANTILES, (seen.p50, seen.p95, seen.p99) if seen else (), strict=False):
                gauge.add_metric((*self._values, str(quantile)), seconds)
            yield gauge


class _Preparations(Collector):
    """Reads a pool when the metrics are asked for."""

    def __init__(self, pool: Pool, labels: Mapping[str, str]) -> None:
        self._pool = pool
        self._names, self._values = tuple(labels), tuple(labels.values())

    def collect(self) -> Iterator[Metric]:
        """The families."""
        waiting, counts = self._pool.standing(), self._pool.counts
        oldest = min((one.made for one in waiting), default=0.0)
        for name, text, value in (
            ("waiting", "Preparations that wait for a search.", len(waiting)),
            ("waiting_bytes", "What they take, in memory or on disk.", sum(one.bytes for one in waiting)),
            ("oldest_timestamp_seconds", "When the oldest of them was made; 0: none waits.", oldest),
        ):
            gauge = GaugeMetricFamily(f"lineup_preparations_{name}", text, labels=self._names)
            gauge.add_metric(self._values, value)
            yield gauge
        for name, text, value in (
            ("made", "Preparations that were made.", counts.made),
            ("spent", "Preparations that a search used.", counts.spent),
            ("expired", "Preparations that grew too old.", counts.expired),
            ("dropped", "Preparations that were erased unused, for another reason.", counts.dropped),
            ("refused", "Preparations refused because as many wait as may.", counts.refused),
        ):
            counter = CounterMetricFamily(f"lineup_preparations_{name}", text, labels=self._names)
            counter.add_metric(self._values, value)
            yield counter
