"""The embedded homeserver's choices, files and messages, without a homeserver and without sockets."""

import json
import re
import stat
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from aiagentchat.config import Paths, load_settings
from aiagentchat.errors import InvalidRequestError
from aiagentchat.homeserver import _space_alias, embedded, ports
from aiagentchat.homeserver.embedded import (
    EmbeddedConfig,
    embedded_file,
    load_or_create,
    load_remembered,
    parse_embedded,
)
from aiagentchat.homeserver.failures import explain_failure, read_tail
from aiagentchat.homeserver.launch import synapse_environment
from aiagentchat.homeserver.operator import parse_device, registration_mac
from aiagentchat.homeserver.ports import choose_port
from aiagentchat.homeserver.render import (
    render_files,
    render_homeserver_yaml,
    render_log_config,
    render_registration_yaml,
)

CONFIG = EmbeddedConfig("example.org", 8008, 9009, "reg-secret", "macaroon-secret", "form-secret", "as-1", "hs-1")
SERVER_NAMES = st.from_regex(r"(\[[0-9a-fA-F:.]{2,20}\]|[A-Za-z0-9.-]{1,40})(:[0-9]{1,5})?", fullmatch=True)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
KEYS = tuple(asdict(CONFIG))


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(config_dir=tmp_path, data_dir=tmp_path)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The ports of a machine that is not there: put in what is taken."""
    found: set[int] = set()
    fresh = iter(range(40_000, 50_000))
    monkeypatch.setattr(embedded, "is_port_free", lambda port: port not in found)
    monkeypatch.setattr(embedded, "any_free_port", lambda: next(fresh))
    return found


def choose(requested: int | None, remembered: int | None, taken: set[int], *, ours: bool = False) -> tuple[int, str]:
    choice = choose_port(
        requested, remembered, ours=ours, is_free=lambda port: port not in taken, any_free=lambda: 40_000
    )
    return choice.port, choice.notice


# --- ports


def test_the_first_port_is_8008() -> None:
    assert choose(None, None, set()) == (8008, "")


def test_another_port_is_taken_and_said_when_8008_is_taken() -> None:
    port, notice = choose(None, None, {8008})
    assert port == 40_000
    assert "8008" in notice
    assert "40000" in notice


def test_the_remembered_port_stays() -> None:
    assert choose(None, 8123, set()) == (8123, "")


def test_another_port_is_taken_and_said_when_the_remembered_one_is_taken() -> None:
    port, notice = choose(None, 8123, {8123})
    assert port == 40_000
    assert "8123" in notice


def test_a_remembered_port_that_is_taken_does_not_fall_back_to_8008() -> None:
    assert choose(None, 8123, {8123})[0] != 8008


def test_the_port_that_our_own_homeserver_holds_is_not_taken() -> None:
    assert choose(None, 8123, {8123}, ours=True) == (8123, "")
    assert choose(8123, 8123, {8123}, ours=True) == (8123, "")


def test_port_0_keeps_the_remembered_port_while_it_is_free() -> None:
    assert choose(0, 8123, set()) == (8123, "")
    assert choose(0, 8123, {8123}) == (40_000, "")
    assert choose(0, None, set()) == (40_000, "")


def test_a_port_asked_for_by_number_is_that_port() -> None:
    assert choose(9000, 8123, set()) == (9000, "")


def test_a_free_port_is_another_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_PORTS", 10)
    monkeypatch.setattr(ports, "_given", set())
    monkeypatch.setattr(ports, "is_port_free", lambda port: True)
    assert len({ports.any_free_port() for _ in range(5)}) == 5
    assert ports.any_free_port() in range(ports._FIRST_PORT, ports._FIRST_PORT + 10)  # and there is always one


@pytest.mark.parametrize("ours", [True, False])
def test_a_port_asked_for_by_number_that_is_taken_is_refused(ours: bool) -> None:
    with pytest.raises(InvalidRequestError, match="port 9000 is taken"):
        choose(9000, 8123, {9000}, ours=ours)


# --- the kept choices


def test_the_choices_are_made_once_and_kept(paths: Paths, taken: set[int]) -> None:
    first = load_or_create(paths, server_name="example.org").config
    assert load_or_create(paths).config == first == load_remembered(paths)
    assert first.server_name == "example.org"


def test_nothing_is_remembered_before_the_first_run(paths: Paths) -> None:
    assert load_remembered(paths) is None


def test_the_server_name_is_localhost_when_none_is_given(paths: Paths, taken: set[int]) -> None:
    assert load_or_create(paths).config.server_name == "localhost"


def test_every_secret_is_long_and_its_own(paths: Paths, taken: set[int]) -> None:
    secrets = load_or_create(paths).config.secrets
    assert len(set(secrets)) == len(secrets) == 5
    assert all(len(secret) >= 32 for secret in secrets)


def test_the_choices_can_be_read_by_nobody_else(paths: Paths, taken: set[int]) -> None:
    load_or_create(paths)
    assert stat.S_IMODE(embedded_file(paths).stat().st_mode) == 0o600
    assert stat.S_IMODE(paths.homeserver.stat().st_mode) == 0o700


def test_a_directory_that_others_can_enter_is_closed(paths: Paths, taken: set[int]) -> None:
    paths.homeserver.mkdir(mode=0o755)
    load_or_create(paths)
    assert stat.S_IMODE(paths.homeserver.stat().st_mode) == 0o700


def test_another_server_name_is_refused_and_nothing_changes(paths: Paths, taken: set[int]) -> None:
    first = load_or_create(paths, server_name="example.org").config
    with pytest.raises(InvalidRequestError, match=r"example\.org.*other\.org") as caught:
        load_or_create(paths, server_name="other.org", port=9000)
    assert "AIAGENTCHAT_HOME" in caught.value.hint
    assert load_remembered(paths) == first


def test_a_new_port_is_remembered(paths: Paths, taken: set[int]) -> None:
    load_or_create(paths)
    load_or_create(paths, port=9000)
    assert load_or_create(paths).config.port == 9000


def test_a_port_that_is_refused_is_not_remembered(paths: Paths, taken: set[int]) -> None:
    load_or_create(paths)
    taken.add(9000)
    with pytest.raises(InvalidRequestError):
        load_or_create(paths, port=9000)
    assert load_or_create(paths).config.port == 8008


def test_a_taken_application_service_port_is_replaced_and_the_secrets_stay(paths: Paths, taken: set[int]) -> None:
    first = load_or_create(paths).config
    taken.add(first.appservice_port)
    second = load_or_create(paths).config
    assert second == replace(first, appservice_port=second.appservice_port)
    assert second.appservice_port != first.appservice_port


def test_the_two_ports_are_never_the_same(paths: Paths, taken: set[int]) -> None:
    first = load_or_create(paths).config
    second = load_or_create(paths, port=first.appservice_port).config
    assert second.port == first.appservice_port != second.appservice_port


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "[" * 100_000, json.dumps(asdict(CONFIG) | {"port": "8008"})])
def test_choices_that_cannot_be_read_are_named_with_a_remedy(paths: Paths, taken: set[int], text: str) -> None:
    paths.homeserver.mkdir(mode=0o700)
    embedded_file(paths).write_text(text)
    embedded_file(paths).chmod(0o600)
    with pytest.raises(InvalidRequestError, match=r"embedded\.json") as caught:
        load_or_create(paths)
    assert caught.value.hint


@given(st.text() | JSON.map(json.dumps) | st.fixed_dictionaries(dict.fromkeys(KEYS, JSON)).map(json.dumps))
def test_whatever_the_file_holds_it_is_read_or_refused(text: str) -> None:
    try:
        config = parse_embedded(text, Path("embedded.json"))
    except InvalidRequestError:
        return
    assert 0 < config.port < 65536
    assert config.as_token


@given(st.sampled_from(KEYS))
def test_a_choice_that_is_missing_is_named(key: str) -> None:
    data = asdict(CONFIG)
    del data[key]
    with pytest.raises(InvalidRequestError, match=key):
        parse_embedded(json.dumps(data), Path("embedded.json"))


def test_no_secret_is_shown_by_repr() -> None:
    assert not [secret for secret in CONFIG.secrets if secret in repr(CONFIG)]


# --- Synapse's files


def homeserver_yaml(directory: Path = Path("/home/someone/hs")) -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load(render_homeserver_yaml(CONFIG, directory))
    return data


def test_the_homeserver_listens_on_loopback_for_clients_only() -> None:
    (listener,) = homeserver_yaml()["listeners"]
    assert listener["bind_addresses"] == ["127.0.0.1"]
    assert listener["port"] == 8008
    assert listener["resources"] == [{"names": ["client"], "compress": False}]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("server_name", "example.org"),
        ("public_baseurl", "http://127.0.0.1:8008/"),
        ("report_stats", False),
        ("enable_registration", False),
        ("allow_guest_access", False),
        ("allow_public_rooms_without_auth", False),
        ("federation_domain_whitelist", []),
        ("trusted_key_servers", []),
        ("suppress_key_server_warning", True),
        ("serve_server_wellknown", False),
        ("url_preview_enabled", False),
        ("presence", {"enabled": True}),
        ("encryption_enabled_by_default_for_room_type", "off"),
        ("registration_shared_secret", "reg-secret"),
        ("macaroon_secret_key", "macaroon-secret"),
        ("form_secret", "form-secret"),
        ("login_via_existing_session", {"enabled": True, "require_ui_auth": True, "token_timeout": "300s"}),
    ],
)
def test_the_homeserver_is_private_and_closed(key: str, value: object) -> None:
    assert homeserver_yaml()[key] == value


def test_a_public_url_is_what_clients_are_told_and_who_asks_through_the_proxy_counts() -> None:
    data = yaml.safe_load(render_homeserver_yaml(CONFIG, Path("/x"), "https://chat.example.org"))
    assert data["public_baseurl"] == "https://chat.example.org/"
    (listener,), (local,) = data["listeners"], homeserver_yaml()["listeners"]
    assert (listener["x_forwarded"], local["x_forwarded"]) == (True, False)
    assert listener | {"x_forwarded": False} == local


def test_every_path_is_absolute_and_in_the_directory() -> None:
    data = homeserver_yaml()
    found = [data["database"]["args"]["database"], data["media_store_path"], data["signing_key_path"]]
    found += [data["log_config"], *data["app_service_config_files"]]
    assert all(path.startswith("/home/someone/hs/") for path in found)


def test_the_durability_of_the_database_is_left_as_it_is() -> None:
    assert homeserver_yaml()["database"] == {"name": "sqlite3", "args": {"database": "/home/someone/hs/homeserver.db"}}


@pytest.mark.parametrize("directory", ["/tmp/with space: and #hash", "/tmp/quote'\"s", "/tmp/ünï", "/tmp/%(x)s{y}"])
def test_odd_directories_reach_synapse_intact(directory: str) -> None:
    assert homeserver_yaml(Path(directory))["media_store_path"] == f"{directory}/media"
    log = yaml.safe_load(render_log_config(Path(directory) / "homeserver.log"))
    assert log["handlers"]["file"]["filename"] == f"{directory}/homeserver.log"


def test_the_log_is_a_rotated_file_and_other_loggers_stay() -> None:
    log = yaml.safe_load(render_log_config(Path("/x/homeserver.log")))
    assert log["disable_existing_loggers"] is False
    assert log["handlers"]["file"]["class"] == "logging.handlers.RotatingFileHandler"
    assert log["root"]["handlers"] == ["file"]


def test_the_registration_names_our_receiver_and_is_not_limited() -> None:
    data = yaml.safe_load(render_registration_yaml(CONFIG))
    assert data["url"] == "http://127.0.0.1:9009"
    assert data["id"] == data["sender_localpart"] == "aiagentchat"
    assert (data["as_token"], data["hs_token"]) == ("as-1", "hs-1")
    assert data["rate_limited"] is False
    assert data["receive_ephemeral"] is True
    assert data["namespaces"]["rooms"] == []


def namespaces(server_name: str) -> tuple[Callable[[str], bool], Callable[[str], bool]]:
    """Return Synapse's own test (`re.match`) for users and for aliases."""
    data = yaml.safe_load(render_registration_yaml(replace(CONFIG, server_name=server_name)))["namespaces"]
    (users,), (aliases,) = data["users"], data["aliases"]
    assert users["exclusive"] is aliases["exclusive"] is True
    return (
        lambda text: re.match(users["regex"], text) is not None,
        lambda text: re.match(aliases["regex"], text) is not None,
    )


@given(SERVER_NAMES, SERVER_NAMES)
def test_the_namespaces_hold_our_names_on_our_server_only(server: str, other: str) -> None:
    users, aliases = namespaces(server)
    assert users(f"@aiagentchat-claude-dev:{server}")
    assert aliases(f"#aiagentchat:{server}")
    assert aliases(f"#aiagentchat-_broadcast:{server}")
    for name in ("@aiagentchat", "@aiagentchatfoo", "@alice", "@aiagentchat.two-x"):
        assert not users(f"{name}:{server}")
    for name in ("#aiagentchatfoo", "#team", "#aiagentchat.two-x"):
        assert not aliases(f"{name}:{server}")
    assert not users(f"@aiagentchat-x:{server}.evil")
    assert not aliases(f"#aiagentchat:{server}.evil")
    if other != server:
        assert not users(f"@aiagentchat-x:{other}")
        assert not aliases(f"#aiagentchat:{other}")


@pytest.mark.parametrize("inside", ["#aiagentchat:example.org", "#aiagentchat-_team:example.org"])
def test_an_alias_of_the_space_among_our_names_widens_nothing(inside: str) -> None:
    config = replace(CONFIG, server_name="example.org")
    assert render_registration_yaml(config, inside) == render_registration_yaml(config)


def test_another_alias_of_the_space_is_claimed_by_itself() -> None:
    data = yaml.safe_load(render_registration_yaml(replace(CONFIG, server_name="example.org"), "#a.team:example.org"))
    regex = data["namespaces"]["aliases"][1]["regex"]
    assert re.match(regex, "#a.team:example.org")
    for other in ("#a.team:example.org.evil", "#aXteam:example.org", "#a.teams:example.org"):
        assert not re.match(regex, other)


@pytest.mark.parametrize("server", ["example.org", "localhost:8448", "[2001:db8::1]:8448"])
def test_a_chosen_alias_of_the_space_is_of_the_homeserver_or_refused(tmp_path: Path, server: str) -> None:
    settings = load_settings({"AIAGENTCHAT_HOME": str(tmp_path), "SPACE_ALIAS": f"#team:{server}"})
    assert _space_alias(settings, replace(CONFIG, server_name=server)) == f"#team:{server}"
    for other in ("localhost", "elsewhere.org", f"{server}0"):
        with pytest.raises(InvalidRequestError, match="of another server"):
            _space_alias(settings, replace(CONFIG, server_name=other))


def test_a_dot_in_the_server_name_matches_a_dot_only() -> None:
    users, aliases = namespaces("example.org")
    assert not users("@aiagentchat-x:exampleXorg")
    assert not aliases("#aiagentchat:exampleXorg")


def test_the_files_are_the_same_each_time_so_that_a_running_homeserver_can_be_recognised() -> None:
    assert render_files(CONFIG, Path("/x")) == render_files(replace(CONFIG), Path("/x"))
    assert render_files(CONFIG, Path("/x")) != render_files(replace(CONFIG, appservice_port=9010), Path("/x"))


# --- what the process inherits


def test_synapse_gets_no_proxy_no_notify_socket_and_no_setting_of_ours() -> None:
    env = {
        "PATH": "/bin",
        "HTTP_PROXY": "x",
        "https_proxy": "x",
        "ALL_PROXY": "x",
        "no_proxy": "x",
        "NOTIFY_SOCKET": "x",
        "AIAGENTCHAT_TOKEN": "x",
    }
    assert synapse_environment(env) == {"PATH": "/bin"}


# --- failed starts


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("ModuleNotFoundError: No module named 'synapse'", "aiagentchat[server]"),
        ("Cannot use this database as it is too new for the server to understand", "newer Synapse"),
        ("twisted.internet.error.CannotListenError: Couldn't listen on 127.0.0.1:8008", "--port 0"),
        ("Found users in database not native to other.org", "server name"),
        ("sqlite3.DatabaseError: database disk image is malformed", "backup"),
        ("something new", "homeserver.log"),
    ],
)
def test_a_failed_start_shows_its_log_and_a_remedy(said: str, hint: str) -> None:
    error = explain_failure("it ended", printed="", logged=f"before\n{said}", log_file=Path("homeserver.log"))
    assert error.message.endswith(said)
    assert hint in error.hint


def test_what_was_printed_is_shown_before_what_was_logged_and_both_are_understood() -> None:
    error = explain_failure("it ended", printed="P", logged="database is too new for the server", log_file=Path("l"))
    assert error.message.endswith("P")
    assert "newer Synapse" in error.hint


def test_the_tail_of_a_log_is_short_and_shows_no_secret_and_no_escape(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"line {number}\n" for number in range(1000)) + "x" * 395 + "s3cret-s3cret\n\x1b[2J\n")
    tail = read_tail(log, hide=["s3cret-s3cret"])
    assert len(tail.splitlines()) == 20
    assert "s3c" not in tail  # not even the part before the line was cut
    assert "\x1b" not in tail
    assert "line 999" in tail


def test_the_tail_starts_where_this_start_began_unless_the_log_was_rotated(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("old\nnew\n")
    assert read_tail(log, start=4) == "new"
    assert read_tail(log, start=4000) == "old\nnew"
    assert read_tail(tmp_path / "none") == ""


# --- the operator's account


def test_the_proof_for_a_new_account_is_the_documented_hmac() -> None:
    assert registration_mac("shared", "nonce", "alice", "pass") == "90e9e00b0c3763434be6c213fdbc260256c9313d"


@given(
    st.text() | JSON.map(json.dumps) | st.fixed_dictionaries({"user_id": JSON, "access_token": JSON}).map(json.dumps)
)
def test_a_device_file_that_holds_no_device_is_none(text: str) -> None:
    assert parse_device(text) is None


def test_a_device_file_is_read_as_written_and_hides_its_token() -> None:
    account = parse_device('{"user_id": "@a:b", "device_id": "D", "access_token": "tok"}')
    assert account is not None
    assert (account.user_id, account.device_id, account.access_token) == ("@a:b", "D", "tok")
    assert "tok" not in repr(account)
