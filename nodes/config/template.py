"""The commented `node.toml` that `lineup node init` writes. Its figures are the defaults of `nodes.config.schema`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from enum import Enum
from pathlib import Path

from nodes.config.casework import CaseworkConfig
from nodes.config.cluster import ClusterConfig
from nodes.config.console import ConsoleConfig
from nodes.config.preparations import MAX_AGE_HOURS, MAX_BYTES, MAX_PER_DAY, MAX_READY, MIN_BYTES, Preparations
from nodes.config.schema import (
    FILE,
    LAW_MINIMUM_THRESHOLD,
    MAX_CANDIDATES,
    MAX_RELEASES,
    MAX_RUNGS,
    MAX_SEALED_DAYS,
    MAX_SKEW_SECONDS,
    MAX_WARRANT_SECONDS,
    MAX_WINDOW_DAYS,
    Limits,
    PolicyConfig,
    Purpose,
    Retention,
    Role,
    check_node,
    split_address,
)
from nodes.private_files import write_public
from nodes.store.subjects import Category
from pets.params import PRESETS


def write_default(
    folder: Path,
    *,
    name: str,
    role: Role,
    address: str,
    crl: Path | None,
    peers: Path,
    states: Sequence[str] = (),
) -> Path:
    """Write FOLDER/node.toml, which must not exist. Raises `ConfigError`, FileExistsError."""
    check_node(name, role)
    policy = PolicyConfig(states=tuple(states))
    # others let more wait for a requester than it keeps ready: a search that finds none ready prepares one beside them
    preparations = Preparations(ready=Preparations().ready // 4) if role is Role.REQUESTER else Preparations()
    content = _head(name, role, address, crl, peers) + _limits(Limits()) + _retention(Retention())
    content += _preparations(preparations, role)
    content += _casework(CaseworkConfig()) + _console(ConsoleConfig()) + _cluster(ClusterConfig()) + _policy(policy)
    path = folder / FILE
    write_public(path, content.encode(), overwrite=False)
    return path


def _head(name: str, role: Role, address: str, crl: Path | None, peers: Path) -> str:
    host, port = split_address(address)
    return f"""\
# Configuration of a Blind Lineup node. Relative paths start at this folder. Unknown keys are refused.

name = {_toml(name)}
role = {_toml(role)}  # {_choice(Role)}
address = {_toml(address)}  # as the other nodes reach it

[listen]
host = {_toml(host)}  # 0.0.0.0 or :: for every interface
port = {port}

[paths]
signing_key = "signing.key"  # keys must have mode 0600
sealing_key = "sealing.key"
tls_key = "tls.key"
tls_certificate = "tls.pem"
tls_ca = "ca.pem"  # the only authority trusted
{"" if crl else "# "}tls_crl = {_toml(str(crl or "crl.pem"))}  # its revocation list
operator_key = "operator.key"  # what the command line presents to this node
operator_certificate = "operator.pem"
peers = {_toml(str(peers))}  # public identities, NAME.json
logs = "logs"

[storage]
file = "store.db"  # SQLite; or: url = "postgresql://lineup@db.example/lineup"
# rows = "store.db.rows"  # the folder of the templates, sealed; 0.6 GB for a million
key_file = "storage.key"  # or: key_env = "LINEUP_STORAGE_KEY"

# Accept only peers with these keys: name = fingerprint, 64 hexadecimal digits, compared over another channel.
[peer_fingerprints]

"""


def _limits(limits: Limits) -> str:
    return f"""\
[limits]
# threads = 4  # 1 to 256; without it, the processors this process may use
connect_timeout_seconds = {limits.connect_timeout_seconds}  # 1 to 120
read_timeout_seconds = {limits.read_timeout_seconds}  # 1 to 600: longest silence on a connection
query_timeout_seconds = {limits.query_timeout_seconds}  # 10 to 3600: a whole query
shutdown_timeout_seconds = {limits.shutdown_timeout_seconds}  # 1 to 600: for running queries to end
concurrent_queries = {limits.concurrent_queries}  # 1 to 256; a quarter is kept for peers that have none under way

"""


def _retention(retention: Retention) -> str:
    return f"""\
# A running node deletes daily what is past its time: subjects after their retention date, logs and evidence after three
# years, and after these days what was sealed for audits on site: at a requester the probe, at a holder its block.
[retention]
sealed_days = {retention.sealed_days}  # 1 to {MAX_SEALED_DAYS}

"""


def _preparations(preparations: Preparations, role: Role) -> str:
    ready = f"0 to {MAX_READY}: kept ready for this node's searches"
    if role is not Role.REQUESTER:
        ready = f"1 to {MAX_READY}: the most that wait for one requester"
    return f"""\
# What is made before there is a probe, at low priority, so that a search only has to use it. Each serves one search.
[preparations]
ready = {preparations.ready}  # {ready}
max_age_hours = {preparations.max_age_hours}  # 1 to {MAX_AGE_HOURS}: what is older is erased unused
max_bytes = {preparations.max_bytes}  # {MIN_BYTES} to {MAX_BYTES}: of all that waits for one requester
per_day = {preparations.per_day}  # 1 to {MAX_PER_DAY}: the most that a holder or router makes with one state in a day
on_disk = {_toml(preparations.on_disk)}  # true: sealed to files under the storage key, so that they outlive a restart
cpu_share = {preparations.cpu_share}  # above 0, at most 1: of limits.threads, what making them may use

"""


def _console(console: ConsoleConfig) -> str:
    return f"""\
# Where people reach the console (nodes/console/README.md), and how long they stay signed in.
# [console]
# enabled = {_toml(console.enabled)}  # true: `lineup node serve` starts it beside the node; else `lineup console`
# host = {_toml(console.host)}  # loopback, unless certificate and key are given
# port = {console.port}
# origin = "https://console.example"  # as browsers show it; passkeys are bound to its host
# certificate = "console.pem"
# key = "console.key"
# behind_proxy = {_toml(console.behind_proxy)}  # the proxy on this machine says in X-Forwarded-For who asks
# session_minutes = {console.session_minutes}  # 1 to 120, without a click
# session_hours = {console.session_hours}  # 1 to 24, in all
# lock_after = {console.lock_after}  # 3 to 20 failed log-ins in a row shut an account
# lock_minutes = {console.lock_minutes}  # 1 to 1440

"""


def _cluster(cluster: ClusterConfig) -> str:
    return f"""\
# Machines that hold the gallery together, where one is not enough (README: A cluster). Needs the extra [cluster].
# [cluster]
# address = "10.0.0.1:6379"  # of the first machine, in a network of the holder's own: Ray's ports run code
# token_file = "cluster.token"  # written by the first `lineup cluster start`; every machine needs it
# shards = {cluster.shards}  # ranges of rows, 1 to 4096
# copies = {cluster.copies}  # of each range, 1 or 2, on different machines where there are two
# threads = {cluster.threads}  # of each range, 1 to 256
# patience_seconds = {cluster.patience_seconds}  # 1 to 3600, for one piece of work, over all tries

"""


def _casework(casework: CaseworkConfig) -> str:
    return f"""\
# What persons decide (nodes/casework/README.md). Once staff is enrolled, a second person approves every search.
[casework]
require_approval = {_toml(casework.require_approval)}  # true: also where no staff is enrolled
single_review_law = {_toml(casework.single_review_law)}  # citation of the law that lets one reviewer do; else two
accept_single_review = {_toml(casework.accept_single_review)}  # whether other states' one reviewer is enough here
require_authorisation = {_toml(casework.require_authorisation)}  # stop and purge searches without one after 48 hours
send_images = {_toml(casework.send_images)}  # show others the photos of candidates
minimum_quality = {casework.minimum_quality}  # 0 to 100, of every component of a probe
refuse_without_receipts = {_toml(casework.refuse_without_receipts)}  # give nothing to who left a recall unanswered
candidate_days = {casework.candidate_days}  # 1 to 365: what was received and is not confirmed
core_data_days = {casework.core_data_days}  # 1 to 1098
query_days = {casework.query_days}  # 1 to 1098: probes
alternative = {_toml(casework.alternative)}  # what officers are told to do while a country or this node does not answer
# url = "postgresql://lineup@db.example/cases"  # without it: casework.db in this folder

"""


def _policy(policy: PolicyConfig) -> str:
    return f"""\
# May be stricter than the defaults; looser than the floors is refused.
[policy]
states = {_toml(policy.states)}  # codes of the states that may ask; none: nobody
# {_choice(Purpose)};
# the last two need a citation in [policy.national_law]
purposes = {_toml(policy.purposes)}
# {LAW_MINIMUM_THRESHOLD} (the floor) to below 1, cosine; `lineup calibrate` measures which to set
minimum_threshold = {policy.minimum_threshold}
max_candidates = {policy.max_candidates}  # 1 to {MAX_CANDIDATES}
minimum_ladder_step = {policy.minimum_ladder_step}  # 0.001 to below 1; a ladder of 0 (no climbing) is always accepted
max_rungs = {policy.max_rungs}  # 1 to {MAX_RUNGS}: thresholds a query may visit
presets = {_toml(policy.presets)}  # {", ".join(PRESETS)}
quota_identified_per_day = {policy.quota_identified_per_day}  # queries per state and UTC day
quota_unidentified_per_day = {policy.quota_unidentified_per_day}
# How often one reference is released to one state; on top of that the state's queries are refused, until releases are
# older than the window. Raising the figure opens the node to the state again
releases_per_reference = {policy.releases_per_reference}  # 1 to {MAX_RELEASES}
release_window_days = {policy.release_window_days}  # 1 to {MAX_WINDOW_DAYS}, UTC days
max_warrant_age_seconds = {policy.max_warrant_age_seconds}  # 60 to {MAX_WARRANT_SECONDS}
clock_skew_seconds = {policy.clock_skew_seconds}  # 0 to {MAX_SKEW_SECONDS}
# {_choice(Category)}; those of [policy.national_law] only with it.
# MISSING-PERSON searches missing, REMAINS remains and missing; other purposes search neither
categories = {_toml(policy.categories)}

[policy.national_law]  # citations of the law that permits to hold and search them
# victim = ""
# missing = ""
# remains = ""
"""


def _choice(kind: type[Enum]) -> str:
    return ", ".join(item.value for item in kind)


def _toml(value: object) -> str:
    if isinstance(value, Enum):
        return _toml(value.value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, Decimal)):
        return str(value)
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(item) for item in value)}]"
    return json.dumps(str(value), ensure_ascii=False).replace(
        "\x7f", "\\u007f"
    )  # JSON's strings are TOML's but for DEL
