"""The door: both factors, one answer to every failure, lock-out, sessions that end. Attacks with controls."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest

from nodes.casework.persons import new_key_file, sign_with_file
from nodes.cli.demo import free_ports
from nodes.config.names import Role
from nodes.console import contracts
from nodes.console.accounts import PasswordRefused
from nodes.console.errors import SignedOut, SignInRefused, TooMany
from nodes.console.limits import RateLimits
from nodes.console.server import accounts_lost, close_site, open_site
from nodes.console.web import Site
from nodes.identity.identity import init_node
from pets.faces import FaceModel
from tests.kit.console import PASSWORD, House, no_limits, served

ONE_ANSWER = "Sign-in failed, or the account is locked"


def test_both_factors_open_the_door(house: House) -> None:
    browser = house.visitor()
    assert browser.get("/").headers["location"] == "/sign-in?next=/"
    assert browser.sign_in("olga").headers["location"] == "/"
    page = browser.get("/")
    assert page.status_code == 200
    assert "Olga Planted" in page.text
    assert "Candidate, not identified" in page.text


def test_the_password_alone_opens_nothing(house: House) -> None:
    browser = house.visitor()
    assert browser.post("/sign-in", {"handle": "olga", "password": PASSWORD}).status_code == 303
    assert browser.get("/queries").status_code == 303  # back to the door, and the half session's cookie goes
    browser.post("/sign-in", {"handle": "olga", "password": PASSWORD})
    page = browser.get("/sign-in/key").text
    challenge = re.search(r'data-key-file="([0-9a-f]{64})"', page)
    assert challenge
    # another person's key, over the right challenge
    assert browser.give_key("anton", challenge[1], page).status_code == 401
    # control: the same answer by the person's own key
    control = house.visitor()
    assert control.sign_in("olga").status_code == 303
    assert control.get("/queries").status_code == 200


def test_a_signature_signs_in_once(house: House) -> None:
    browser = house.visitor()
    browser.post("/sign-in", {"handle": "rita", "password": PASSWORD})
    page = browser.get("/sign-in/key").text
    challenge = re.search(r'data-key-file="([0-9a-f]{64})"', page)
    assert challenge
    half = dict(browser.http.cookies)
    assert browser.give_key("rita", challenge[1], page).status_code == 303
    replay = house.visitor()
    replay.http.cookies.update(half)
    assert replay.give_key("rita", challenge[1], page).status_code == 303
    assert replay.get("/").status_code == 303  # sent back to the door
    assert browser.get("/").status_code == 200  # control: the first one holds


def test_every_failure_gives_one_answer(house: House) -> None:
    answers = {
        house.visitor().post("/sign-in", {"handle": handle, "password": password}).text
        for handle, password in (("olga", "wrong-Password-1"), ("nobody", "wrong-Password-1"), ("", ""))
    }
    told = {re.sub(r"[0-9a-f]{64}", "", answer) for answer in answers}
    assert len(told) == 1
    assert ONE_ANSWER in told.pop()


def test_guessing_shuts_the_account_for_a_while(house: House) -> None:
    for _ in range(house.site.operations.config.console.lock_after):
        assert house.visitor().sign_in("remo", "guess-guess-12345").status_code == 401
    assert house.visitor().sign_in("remo").status_code == 401  # the right password, too late
    assert ("remo", "locked") in [(who, what) for _, who, what in house.site.accounts.door()]
    house.clock.ahead += timedelta(minutes=house.site.operations.config.console.lock_minutes, seconds=1)
    assert house.visitor().sign_in("remo").status_code == 303  # control: later it opens


def test_a_wrong_key_counts_like_a_wrong_password(house: House) -> None:
    accounts = house.site.accounts
    for _ in range(house.site.operations.config.console.lock_after):
        accounts.failed_key(accounts.sign_in("dora", PASSWORD))
    with pytest.raises(SignInRefused):
        accounts.sign_in("dora", PASSWORD)
    house.clock.ahead += timedelta(hours=1)
    assert accounts.sign_in("dora", PASSWORD).stage == "password"


def test_guessing_is_slowed_down_per_address_and_per_handle(house: House) -> None:
    now = [0.0]
    limits = RateLimits(lambda: now[0])
    for _ in range(10):
        limits.take("sign-in", "a")
    with pytest.raises(TooMany) as refused:
        limits.take("sign-in", "a")
    assert 0 < refused.value.seconds <= 7
    limits.take("sign-in", "b")  # control: another address
    now[0] += refused.value.seconds
    limits.take("sign-in", "a")


def test_memory_of_the_limits_is_bounded() -> None:
    limits = RateLimits(lambda: 0.0)
    for number in range(11_000):
        limits.take("page", str(number))
    assert len(limits._buckets) == 10_000


def test_a_session_ends_without_a_click_and_in_any_case(house: House) -> None:
    browser = house.signed_in("olga")
    house.clock.ahead += timedelta(minutes=19)
    assert browser.get("/").status_code == 200  # control: a click keeps it
    house.clock.ahead += timedelta(minutes=21)
    assert browser.get("/").status_code == 303
    browser = house.signed_in("olga")
    for _ in range(45):
        house.clock.ahead += timedelta(minutes=14)
        browser.get("/")
    assert browser.get("/").status_code == 303  # ten hours are over


def test_signing_out_ends_the_session_on_the_server(house: House) -> None:
    browser = house.signed_in("olga")
    cookies = dict(browser.http.cookies)
    assert browser.post("/sign-out", form="/").status_code == 303
    thief = house.visitor()
    thief.http.cookies.update(cookies)
    assert thief.get("/").status_code == 303
    control = house.signed_in("olga")
    thief = house.visitor()
    thief.http.cookies.update(dict(control.http.cookies))
    assert thief.get("/").status_code == 200  # control: before it ends, the cookie is all that is needed


def test_a_planted_session_is_worth_nothing(house: House) -> None:
    """Session fixation: the attacker begins, the victim goes on with the attacker's cookie."""
    attacker = house.visitor()
    attacker.get("/sign-in")
    planted = dict(attacker.http.cookies)
    victim = house.visitor()
    victim.http.cookies.update(planted)
    victim.sign_in("olga")
    assert attacker.get("/").status_code == 303
    session = house.site.forms.session_cookie
    assert victim.http.cookies[session] not in planted.values()


def test_the_token_changes_with_the_second_factor(house: House) -> None:
    accounts = house.site.accounts
    half = accounts.sign_in("sven", PASSWORD)
    full = accounts.key_shown(half, 0)
    assert half.token != full.token
    with pytest.raises(SignedOut):
        accounts.session(half.token)


def test_an_invitation_opens_once_and_ends_what_was_before(house: House) -> None:
    site: Site = house.site
    site.operations.desk.add_person(None, "nina", "Nina Planted", ["officer"])
    token = site.accounts.invite("nina")
    browser = house.visitor()
    assert browser.post("/join", {"token": token, "password": "short"}).status_code == 422
    assert browser.post("/join", {"token": token, "password": PASSWORD}).headers["location"] == "/join/key"
    page = browser.get("/join/key").text
    challenge, csrf = (re.search(pattern, page) for pattern in
                       (r'data-key-file="([0-9a-f]{64})"', r'name="csrf" value="([0-9a-f]{64})"'))  # fmt: skip
    assert challenge
    assert csrf
    path = house.keys["olga"].with_name("nina.key")
    public, signature = new_key_file(path), sign_with_file(path, bytes.fromhex(challenge[1])).signature.hex()
    given = {"csrf": csrf[1], "assertion": signature, "public": public.public.hex()}
    assert browser.http.post("/join/key", data=given).headers["location"] == "/"
    assert browser.get("/").status_code == 200
    assert house.visitor().post("/join", {"token": token, "password": PASSWORD}).status_code == 401
    again = site.accounts.invite("nina")
    assert browser.get("/").status_code == 303  # a new invitation ends the session, and the password
    assert house.visitor().sign_in("nina").status_code == 401
    house.clock.ahead += timedelta(hours=25)
    assert house.visitor().post("/join", {"token": again, "password": PASSWORD}).status_code == 401


def test_somebody_elses_key_cannot_be_enrolled(house: House) -> None:
    site = house.site
    site.operations.desk.add_person(None, "ivan", "Ivan Planted", ["officer"])
    half = site.accounts.accept(site.accounts.invite("ivan"), PASSWORD)
    browser = house.visitor()
    browser.http.cookies.set(site.forms.session_cookie, half.token)
    page = browser.get("/join/key").text
    challenge = re.search(r'data-key-file="([0-9a-f]{64})"', page)
    assert challenge
    person = site.operations.desk.person("olga")
    assert person.key is not None
    token = site.forms.token(half.token)
    data = {"csrf": token, "public": person.key.public.hex(), "assertion": "00" * 64}
    assert browser.http.post("/join/key", data=data).status_code == 422  # not signed by that key
    browser.get("/join/key")
    stolen = sign_with_file(house.keys["olga"], site.accounts.challenge(site.accounts.session(half.token)))
    data["assertion"] = stolen.signature.hex()
    assert browser.http.post("/join/key", data=data).status_code == 422  # one key is one person


def test_a_copied_passkey_is_noticed_by_its_counter(house: House) -> None:
    accounts = house.site.accounts
    accounts.key_enrolled(accounts.accept(accounts.invite("dora"), PASSWORD), b"credential", 5)
    accounts.key_shown(accounts.sign_in("dora", PASSWORD), 6)  # control: it runs on
    for count in (6, 3, 0):
        with pytest.raises(SignInRefused):
            accounts.key_shown(accounts.sign_in("dora", PASSWORD), count)
    assert ("dora", "key copied") in [(who, what) for _, who, what in accounts.door()]


def test_passwords_that_are_guessed_are_refused(house: House) -> None:
    token = house.site.accounts.invite("sven")
    for password in ("elevenchars", "sven-sven-sven-1", "aaaaaaaaaaaaaaaa"):
        with pytest.raises(PasswordRefused):
            house.site.accounts.accept(token, password)
    half = house.site.accounts.accept(token, PASSWORD)
    house.site.accounts.key_enrolled(half, b"", 0)


def test_the_first_administrator_needs_the_token_of_the_terminal(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("first")
    init_node(root / "EU", name="EU", role=Role.ROUTER, address="https://127.0.0.1:9643", authority=root / "authority")
    with (root / "EU" / "node.toml").open("a") as file:
        file.write(f"\n[console]\nport = {free_ports(1)[0]}\n")
    site = open_site(root / "EU", FaceModel.load)
    site.limits = no_limits()
    try:
        with served(site):
            house = House(site, {})
            browser = house.visitor()
            assert browser.get("/sign-in").headers["location"] == "/first"
            given = {"token": "guess", "handle": "alma", "name": "Alma", "password": PASSWORD}
            assert browser.post("/first", given).status_code == 401
            assert site.door.first_token is not None
            token = site.door.first_token
            assert browser.post("/first", given | {"token": token}).headers["location"] == "/join/key"
            assert site.operations.desk.person("alma").roles == {"admin"}
            assert browser.get("/first").headers["location"] == "/sign-in"  # once
            house.close()
    finally:
        close_site(site)


def test_where_the_accounts_of_a_staff_are_gone_the_terminal_says_so(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whoever reads the token there becomes an administrator of that staff."""
    root = tmp_path_factory.mktemp("lost")
    init_node(root / "EU", name="EU", role=Role.ROUTER, address="https://127.0.0.1:9643", authority=root / "authority")
    site = open_site(root / "EU", FaceModel.load)
    assert accounts_lost(site) == "", "the control: a new node has no staff"
    token = site.door.first_token
    assert token is not None
    site.door.first(contracts.First(token, "alma", "Alma", PASSWORD))
    close_site(site)
    site = open_site(root / "EU", FaceModel.load)
    assert accounts_lost(site) == "", "and somebody can sign in"
    close_site(site)
    for path in (root / "EU").glob("console.db*"):
        path.unlink()
    site = open_site(root / "EU", FaceModel.load)
    assert "console.db knows nobody, and this node has staff" in accounts_lost(site)
    close_site(site)
