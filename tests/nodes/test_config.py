"""node.toml: what is written is read back, and what is wrong is named with field, value and limit."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from nodes.config.schema import (
    LAW_MINIMUM_THRESHOLD,
    ConfigError,
    Limits,
    PolicyConfig,
    Preparations,
    Purpose,
    Role,
    load_config,
    split_address,
)
from nodes.config.template import write_default
from nodes.store import Category
from pets.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the default configuration of a holder."""
    write_default(
        tmp_path,
        name="ES",
        role=Role.HOLDER,
        address="https://es.example:8443",
        crl=Path("/authority/crl.pem"),
        peers=Path("peers"),
        states=["FR", "DE"],
    )
    return tmp_path


def change(folder: Path, old: str, new: str) -> int:
    """Replace what stands in node.toml exactly once; give the line of it."""
    path = folder / "node.toml"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    return text[: text.index(old)].count("\n") + 1


def test_the_default_file_gives_the_defaults(folder: Path) -> None:
    config = load_config(folder)
    assert (config.name, config.role, config.state, config.address) == (
        "ES",
        Role.HOLDER,
        "ES",
        "https://es.example:8443",
    )
    assert (config.listen.host, config.listen.port) == ("es.example", 8443)
    assert config.policy == PolicyConfig(states=("FR", "DE"))
    assert config.limits == Limits()
    assert config.preparations == Preparations()
    assert str(config.policy.minimum_threshold) == "0.30"
    assert config.paths.signing_key == folder / "signing.key"
    assert config.paths.tls_crl == Path("/authority/crl.pem")
    assert config.storage.database_url == f"sqlite:///{folder}/store.db"
    assert config.tls.key == folder / "tls.key"
    assert config.operator_tls.certificate == folder / "operator.pem"


def test_a_database_is_never_made_in_another_place_than_named(tmp_path: Path) -> None:
    """SQLite's URL would end at the question mark: the database, and its backups, would lie outside the folder."""
    odd = tmp_path / "es?old"
    odd.mkdir()
    write_default(
        odd, name="ES", role=Role.HOLDER, address="https://es.example:8443", crl=None, peers=Path("peers"), states=()
    )
    with pytest.raises(ConfigError, match="must not contain a question mark"):
        load_config(odd)


def test_relative_folders_are_made_absolute(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert load_config(Path(folder.name)).paths.peers == folder / "peers"


def test_every_role_has_a_default_file_without_a_revocation_list(tmp_path: Path) -> None:
    for name, role, state in (("FR", Role.REQUESTER, "FR"), ("ES-2", Role.HOLDER, "ES"), ("ROUTER", Role.ROUTER, None)):
        (tmp_path / name).mkdir()
        write_default(
            tmp_path / name, name=name, role=role, address="https://[::1]:1", crl=None, peers=Path('/a "b"\\c\x7f')
        )
        config = load_config(tmp_path / name)
        assert (config.name, config.role, config.state) == (name, role, state)
        assert config.paths.tls_crl is None
        assert config.paths.peers == Path('/a "b"\\c\x7f')
        assert config.policy.states == ()
        assert config.preparations.ready == (4 if role is Role.REQUESTER else 16)


def test_a_requester_may_keep_none_ready(folder: Path) -> None:
    """It prepares when an officer asks. A holder at which none may wait would answer nobody."""
    change(folder, 'role = "holder"', 'role = "requester"')
    change(folder, "\nready = 16", "\nready = 0")
    assert load_config(folder).preparations.ready == 0


def test_an_existing_file_is_not_overwritten(folder: Path) -> None:
    with pytest.raises(FileExistsError):
        write_default(folder, name="ES", role=Role.HOLDER, address="https://es:1", crl=None, peers=Path("peers"))


@pytest.mark.parametrize(
    ("old", "new", "field", "message"),
    [
        ('name = "ES"', 'name = "Spain"', "name", "'Spain': must be 1 to 16 capital letters"),
        ('name = "ES"', 'name = "ES-OPERATOR"', "name", "must not end in -OPERATOR"),
        ('name = "ES"', 'name = "POLICIA"', "name", "a holder's name must begin with its state's code"),
        ('name = "ES"', "name = 7", "name", "7: Expected `str`, got `int`"),
        ('role = "holder"', 'role = "boss"', "role", "Invalid enum value 'boss'; allowed: requester, holder, router"),
        ('role = "holder"', "# none", "role", "None: must be given"),
        ("https://es.example:8443", "http://es.example:8443", "address", "must be https://host:port"),
        ("port = 8443", "port = 0", "listen.port", "0: must be from 1 to 65535"),
        ("port = 8443", "port = 8443.0", "listen.port", "8443.0: Expected `int`"),
        ('logs = "logs"', "logs = 3", "paths.logs", "3: must be a path"),
        ('logs = "logs"', 'log = "logs"', "paths.log", "'logs': unknown key; allowed here: signing_key, sealing_key,"),
        ('key_file = "storage.key"', "", "storage.key_file", "either storage.key_file or storage.key_env"),
        ('key_file = "storage.key"', 'key_env = "not a name"', "storage.key_env", "must be the name of an environment"),
        ('file = "store.db"', 'url = "mysql://x"', "storage.url", "must begin with postgresql://"),
        ("# threads = 4", "threads = 257", "limits.threads", "257: must be from 1 to 256"),
        ("concurrent_queries = 8", "concurrent_queries = 257", "limits.concurrent_queries", "must be from 1 to 256"),
        ("concurrent_queries = 8", "concurrent_query = 8", "limits.concurrent_query", "unknown key; allowed here: "),
        ("query_timeout_seconds = 300", "query_timeout_seconds = 9", "limits.query_timeout_seconds", "from 10 to 3600"),
        ("query_timeout_seconds = 300", "query_timeout_seconds = true", "limits.query_timeout_seconds", "got `bool`"),
        ('["FR", "DE"]', '["FR", "Germany"]', "policy.states", "'Germany': each must be a state's code"),
        ('["FR", "DE"]', '["FR", "FR"]', "policy.states", "['FR', 'FR']: each value may be given only once"),
        ('"DETECTION", "INV', '"PROFILING", "INV', "policy.purposes", "'PROFILING'; allowed: PREVENTION, DETECTION"),
        ("minimum_threshold = 0.30", "minimum_threshold = 0.29", "policy.minimum_threshold", "must be at least 0.30"),
        ("minimum_threshold = 0.30", "minimum_threshold = 1", "policy.minimum_threshold", "1: must be at least 0.30"),
        ("minimum_threshold = 0.30", "minimum_threshold = nan", "policy.minimum_threshold", "must be at least 0.30"),
        ("max_candidates = 10", "max_candidates = 100", "policy.max_candidates", "100: must be from 1 to 99"),
        ("max_rungs = 9", "max_rungs = 0", "policy.max_rungs", "0: must be from 1 to 9"),
        ("ladder_step = 0.02", "ladder_step = 0", "policy.minimum_ladder_step", "0: must be from 0.001 to below 1"),
        ("sealed_days = 180", "sealed_days = 1096", "retention.sealed_days", "1096: must be from 1 to 1095"),
        ("ready = 16", "ready = 0", "preparations.ready", "0: must be at least 1 at a holder"),
        ("ready = 16", "ready = 1001", "preparations.ready", "1001: must be from 0 to 1000"),
        ("max_age_hours = 24", "max_age_hours = 169", "preparations.max_age_hours", "169: must be from 1 to 168"),
        ("max_bytes = 1073741824", "max_bytes = 1024", "preparations.max_bytes", "1024: must be from 16777216 to"),
        ("per_day = 500", "per_day = 0", "preparations.per_day", "0: must be from 1 to 1000000"),
        ("on_disk = false", 'on_disk = "no"', "preparations.on_disk", "'no': Expected `bool`"),
        ("cpu_share = 0.5", "cpu_share = 0", "preparations.cpu_share", "0: must be above 0 and at most 1"),
        ("cpu_share = 0.5", "cpu_share = 1.01", "preparations.cpu_share", "1.01: must be above 0 and at most 1"),
        ("cpu_share = 0.5", "cpu_share = nan", "preparations.cpu_share", "must be above 0 and at most 1"),
        ("presets = [", 'presets = ["n1024", ', "policy.presets", "'n1024': each must be one of n4096_q60_t20"),
        ("unidentified_per_day = 25", "unidentified_per_day = -1", "policy.quota_unidentified_per_day", "-1: must"),
        ("reference = 10", "reference = 0", "policy.releases_per_reference", "0: must be from 1 to 1000"),
        ("window_days = 90", "window_days = 367", "policy.release_window_days", "367: must be from 1 to 366"),
        ("age_seconds = 86400", "age_seconds = 86401", "policy.max_warrant_age_seconds", "must be from 60 to 86400"),
        ("skew_seconds = 120", "skew_seconds = 601", "policy.clock_skew_seconds", "601: must be from 0 to 600"),
        ('categories = ["convicted"', 'categories = ["victim"', "policy.categories", "in [policy.national_law]"),
        ('categories = ["convicted"', 'categories = ["witness"', "policy.categories", "allowed: suspect, convicted,"),
        ('# victim = ""', 'witness = "x"', "policy.national_law.witness", "unknown key; allowed here: victim, missing"),
        ("[peer_fingerprints]", '[peer_fingerprints]\nFR = "ab"', "peer_fingerprints.FR", "'ab': must be 64 lower"),
        ("[limits]", "[limit]", "limit", "unknown key; allowed here: name, role, address, listen, paths"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_with_file_line_field_and_limit(
    folder: Path, old: str, new: str, field: str, message: str
) -> None:
    line = change(folder, old, new)
    with pytest.raises(ConfigError) as caught:
        load_config(folder)
    error = caught.value
    assert error.field == field
    assert f"{field} = " in str(error)
    assert message in str(error)
    assert str(error).startswith(str(folder / "node.toml"))
    if "must be given" not in message and field != "storage.key_file":  # what is absent has no line
        assert f"line {line + new.count(chr(10))}: " in str(error)


@pytest.mark.parametrize(
    "url", ["postgresql://lineup:s3cret@db/x", "postgresql://db/x?password=s3cret", "mysql://a:s3cret@b"]
)
def test_a_password_in_the_storage_url_is_refused_and_not_repeated(folder: Path, url: str) -> None:
    change(folder, 'file = "store.db"', f'url = "{url}"')
    with pytest.raises(ConfigError) as caught:
        load_config(folder)
    assert "s3cret" not in str(caught.value)


def test_gallery_and_casework_do_not_share_a_database(folder: Path) -> None:
    """Both number their versions: the one would be taken for an early state of the other."""
    change(folder, 'file = "store.db"', 'url = "postgresql://lineup@db.example/lineup"')
    change(folder, "[casework]", '[casework]\nurl = "postgresql://lineup@db.example/cases"')
    load_config(folder)
    change(folder, 'lineup@db.example/cases"\nrequire', 'lineup@db.example/lineup"\nrequire')
    with pytest.raises(ConfigError, match=r"casework.url.*another database than storage.url"):
        load_config(folder)


def test_a_database_server_and_a_key_from_the_environment_are_accepted(folder: Path) -> None:
    change(folder, 'file = "store.db"', 'url = "postgresql://lineup@db.example/lineup"')
    change(folder, 'key_file = "storage.key"', 'key_env = "LINEUP_STORAGE_KEY"')
    storage = load_config(folder).storage
    assert storage.database_url == "postgresql://lineup@db.example/lineup"
    assert (storage.key_file, storage.key_env) == (None, "LINEUP_STORAGE_KEY")


@pytest.mark.parametrize(("purpose", "category"), [("MISSING-PERSON", "missing"), ("REMAINS", "remains")])
def test_missing_persons_and_remains_only_with_national_law(folder: Path, purpose: str, category: str) -> None:
    change(folder, '"DETECTION", "INV', f'"{purpose}", "INV')
    with pytest.raises(
        ConfigError, match=f"{purpose} needs a citation of national law: policy.national_law.{category}"
    ):
        load_config(folder)
    change(folder, f'# {category} = ""', f'{category} = "Ley 11/2026, art. 4"')
    with pytest.raises(ConfigError, match=f"{purpose}, one of policy.purposes, searches none of these"):
        load_config(folder)
    change(folder, "\ncategories = [", f'\ncategories = ["{category}", ')
    policy = load_config(folder).policy
    assert Purpose(purpose) in policy.purposes
    assert policy.national_law.citations == {Category(category): "Ley 11/2026, art. 4"}


def test_a_holder_of_missing_persons_alone_serves_no_investigation(folder: Path) -> None:
    change(folder, '# missing = ""', 'missing = "Ley 11/2026, art. 4"')
    change(folder, '["convicted", "suspect", "unidentified"]', '["missing"]')
    with pytest.raises(
        ConfigError, match=r"categories = \['missing'\]: PREVENTION, one of policy.purposes, searches none"
    ):
        load_config(folder)
    change(folder, '"PREVENTION", "DETECTION", "INVESTIGATION"', '"MISSING-PERSON"')
    load_config(folder)


def test_stricter_than_the_default_is_accepted(folder: Path) -> None:
    change(folder, "minimum_threshold = 0.30", "minimum_threshold = 0.55")
    change(folder, "max_candidates = 10", "max_candidates = 1")
    change(folder, '"PREVENTION", "DETECTION", "INVESTIGATION"]', '"INVESTIGATION"]')
    policy = load_config(folder).policy
    assert policy.minimum_threshold == Decimal("0.55")
    assert policy.max_candidates == 1
    assert policy.purposes == (Purpose.INVESTIGATION,)


def test_a_policy_made_in_code_meets_the_same_floors() -> None:
    with pytest.raises(ConfigError, match=r"policy\.minimum_threshold = 0\.2999: must be at least 0\.30"):
        PolicyConfig(minimum_threshold=LAW_MINIMUM_THRESHOLD - Decimal("0.0001"))
    with pytest.raises(ConfigError, match=r"policy\.max_candidates = 100: must be from 1 to 99"):
        PolicyConfig(max_candidates=100)


def test_a_file_that_is_no_toml_is_refused_with_its_line(folder: Path) -> None:
    line = change(folder, "[limits]", "[limits")
    with pytest.raises(InputError, match=rf"node.toml is not TOML: .*line {line}"):
        load_config(folder)
    (folder / "node.toml").write_bytes(b"\xff")
    with pytest.raises(InputError, match=r"node\.toml is not TOML"):
        load_config(folder)
    (folder / "node.toml").unlink()
    with pytest.raises(InputError, match=r"node\.toml cannot be read"):
        load_config(folder)


@pytest.mark.parametrize(
    "address",
    [
        "", "es", "es:8443", "http://es:8443", "https://es", "https://es:0", "https://es:65536", "https://es:x",
        "https://es:8443/", "https://es:8443/path", "https://es:8443?a", "https://user@es:8443", "https://:8443",
        "https://-es:8443", "https://e_s:8443", "https://es..x:8443", "https://[::1:8443", "https://es:08443",
        "https://es:8443\n", " https://es:8443", "https://[fe80::1%25eth0]:1", "https://" + "a" * 64 + ":1",
    ],
)  # fmt: skip
def test_an_address_that_is_not_https_host_port_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="address = "):
        split_address(address)


def test_addresses_are_split() -> None:
    assert split_address("https://es.example:8443") == ("es.example", 8443)
    assert split_address("https://10.0.0.1:1") == ("10.0.0.1", 1)
    assert split_address("https://[::1]:65535") == ("::1", 65535)


def complaint(folder: Path) -> str:
    """What `load_config` refuses, empty if nothing. Any other error passes."""
    try:
        load_config(folder)
    except InputError as error:
        return str(error)
    return ""


def test_no_value_of_any_type_escapes_as_another_error(folder: Path) -> None:
    path = folder / "node.toml"
    lines = path.read_text().splitlines()
    refused = 0
    for number, line in enumerate(lines):
        key, found, _ = line.lstrip("# ").partition(" = ")
        for value in ("3", '""', "[]", "{a = 1}", "[[1]]", "true", "-1.5e300", "inf", "1979-05-27", str(10**30)):
            if found:
                path.write_text("\n".join([*lines[:number], f"{key} = {value}", *lines[number + 1 :]]))
                message = complaint(folder)
                assert not message or f"{key} = " in message or "is not TOML" in message
                refused += bool(message)
    assert refused > 300
