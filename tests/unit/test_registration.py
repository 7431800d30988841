"""The registration file: read as the person wrote it, refused with a reason, never quoted; and what it claims."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from aiagentchat.config import load_settings
from aiagentchat.errors import InvalidRequestError
from aiagentchat.model import AgentName
from aiagentchat.registration import (
    Registration,
    new_registration,
    parse_daemon_id,
    parse_receiver_url,
    read_registration,
    registration_file,
    render_registration,
)
from aiagentchat.space.names import Naming, broadcast_alias

SECRET = "s3cret-token"
WHOLE: dict[str, Any] = {
    "id": "aiagentchat",
    "url": "http://127.0.0.1:29300",
    "sender_localpart": "aiagentchat",
    "as_token": f"as-{SECRET}",
    "hs_token": f"hs-{SECRET}",
    "rate_limited": False,
    "namespaces": {"users": [{"exclusive": True, "regex": "@aiagentchat-.*"}]},
}
KEYS = ["id", "url", "sender_localpart", "as_token", "hs_token"]
# Pieces of YAML that its constructors stumble over.
PIECES = ["!!timestamp", "!!int", "!!float", "!!bool", "!!binary", "2020-13-45", "0x", "&a", "*a", "[", "{", ": ", "- "]
IDS = st.from_regex(r"[a-z0-9][a-z0-9_]{0,31}", fullmatch=True)
AGENTS = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True).map(AgentName)
SERVERS = st.sampled_from(("example.org", "localhost", "chat.example.org:8448", "[2001:db8::1]:8448", "exampleXorg"))
YAML_LIKE = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=6).map(" ".join)


def registration(url: str) -> Registration:
    return Registration(id="x", url=url, sender_localpart="x", as_token=f"as-{SECRET}", hs_token=f"hs-{SECRET}")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "registration.yaml"


def refusal(path: Path) -> InvalidRequestError:
    """Return the error that reading `path` ends with."""
    with pytest.raises(InvalidRequestError) as caught:
        read_registration(path)
    assert str(path) in caught.value.message
    assert SECRET not in caught.value.message + caught.value.hint
    assert caught.value.hint  # the remedy of `cchat doctor`
    return caught.value


def test_a_whole_registration_is_read_and_what_is_not_ours_is_passed_over(file: Path) -> None:
    file.write_text(yaml.safe_dump(WHOLE))
    texts = {key: WHOLE[key] for key in KEYS}
    assert read_registration(file) == Registration(**texts, rate_limited=False, users=("@aiagentchat-.*",))


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", [None, "", 7, ["x"], "gone"], ids=repr)
def test_a_registration_that_lacks_a_text_is_refused_and_told_which_it_needs(
    file: Path, key: str, value: object
) -> None:
    kept = {name: text for name, text in WHOLE.items() if name != key}
    file.write_text(yaml.safe_dump(kept if value == "gone" else kept | {key: value}))
    assert key in refusal(file).message


def test_a_registration_that_is_not_there_is_refused_with_what_to_do(file: Path) -> None:
    assert "AIAGENTCHAT_REGISTRATION" in refusal(file).hint


def test_a_directory_in_its_place_is_refused(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path).message


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # each example writes the file anew
@given(YAML_LIKE.map(str.encode) | st.binary())
@example(b"")
@example(b"\xff\xfe\xff")
@example(b"id: [")
@example(b"2020-13-45")
@example(b"!!timestamp x")
@example(b"!!float")
@example(b"!!bool x")
@example(b"{" * 5000)
def test_whatever_else_the_file_holds_is_refused(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    refusal(file)


def test_the_text_of_a_broken_registration_with_its_tokens_is_not_quoted(file: Path) -> None:
    file.write_text(yaml.safe_dump(WHOLE) + f"\nbroken: [{SECRET}")
    refusal(file)


def test_the_tokens_are_in_no_repr() -> None:
    assert SECRET not in repr(registration("http://127.0.0.1:1"))


@pytest.mark.parametrize(("url", "port"), [("http://127.0.0.1:29300", 29300), ("http://[::1]:8000/path", 8000)])
def test_the_receiver_listens_at_the_port_of_the_url(url: str, port: int) -> None:
    assert registration(url).port == port


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1", "http://host:port", "http://host:65536", "http://host:0", "http://[::1", "nonsense"]
)
def test_a_url_without_a_port_to_listen_at_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequestError, match="names no port"):
        _ = registration(url).port


# --- what is claimed


def made(server: str = "example.org", daemon_id: str = "", **more: str) -> Registration:
    return new_registration(server, as_token="as-1", hs_token="hs-1", daemon_id=daemon_id, **more)


@given(SERVERS, st.just("") | IDS, AGENTS)
@example("example.org", "", AgentName("a"))
@example("example.org", "a" * 32, AgentName("a" * 63))
def test_a_daemon_claims_the_names_of_all_its_agents(server: str, daemon_id: str, agent: AgentName) -> None:
    registration = made(server, daemon_id)
    naming = Naming(server, registration.sender_localpart)
    assert registration.claims_user(naming.user(agent))
    assert registration.claims_alias(naming.alias(agent))


@given(st.just("") | IDS, st.just("") | IDS, AGENTS, SERVERS, SERVERS)
@example("", "a", AgentName("a"), "example.org", "example.org")
@example("a", "", AgentName("a"), "example.org", "example.org")
@example("a", "aa", AgentName("a-a.a"), "example.org", "example.org")
@example("aa", "a", AgentName("a"), "example.org", "example.org")
@example("", "", AgentName("a"), "example.org", "exampleXorg")
def test_no_daemon_claims_a_name_of_another(one: str, two: str, agent: AgentName, server: str, other: str) -> None:
    assume((one, server) != (two, other))
    registration = made(server, one)
    naming = Naming(other, made(other, two).sender_localpart)
    assert not registration.claims_user(naming.user(agent))
    assert not registration.claims_alias(naming.alias(agent))
    assert not registration.claims_user(naming.daemon)


def test_the_space_and_the_broadcast_room_are_the_first_daemons_alone() -> None:
    first, further = made(), made(daemon_id="lab", space_alias="#team:example.org")
    for alias in ("#aiagentchat:example.org", broadcast_alias("#aiagentchat:example.org")):
        assert first.claims_alias(alias)
        assert not further.claims_alias(alias)
    assert not further.claims_alias("#team:example.org")
    assert made(space_alias="#team:example.org").claims_alias("#team:example.org")


@pytest.mark.parametrize("daemon_id", ["", "lab"])
def test_nothing_is_claimed_of_other_people_and_servers(daemon_id: str) -> None:
    registration = made(daemon_id=daemon_id)
    prefix = registration.sender_localpart
    for name in ("alice", prefix, f"{prefix}x", f"{prefix}.x-a", f"{prefix}_a", "aiagentchatXlab-a"):
        assert not registration.claims_user(f"@{name}:example.org")
        assert not registration.claims_alias(f"#{name}:example.org") or name == "aiagentchat"
    assert not registration.claims_user(f"@{prefix}-a:example.org.evil")
    assert not registration.claims_alias(f"#{prefix}-a:example.org.evil")


@pytest.mark.parametrize("daemon_id", ["", "lab"])
def test_what_was_rendered_is_read_back_and_takes_all_names_for_itself(file: Path, daemon_id: str) -> None:
    registration = made(daemon_id=daemon_id, url="http://daemon.test:9", space_alias="#team:example.org")
    file.write_text(render_registration(registration))
    assert read_registration(file) == registration
    data = yaml.safe_load(file.read_text())
    assert data["id"] == data["sender_localpart"] == ("aiagentchat.lab" if daemon_id else "aiagentchat")
    assert all(entry["exclusive"] for entries in data["namespaces"].values() for entry in entries)
    assert (data["rate_limited"], data["receive_ephemeral"], data["io.element.msc4190"]) == (False, True, True)
    assert data["url"] == "http://daemon.test:9"


def test_two_daemons_are_not_given_the_same_port() -> None:
    assert made().port != made(daemon_id="lab").port


@pytest.mark.parametrize("daemon_id", ["", "_a", "a.b", "a-b", "A", "ä", "a\n", "a" * 33])
def test_what_could_be_taken_for_another_daemons_name_is_no_id(daemon_id: str) -> None:
    with pytest.raises(InvalidRequestError, match="no id of a daemon"):
        parse_daemon_id(daemon_id)


@pytest.mark.parametrize("daemon_id", ["a", "0", "lab_2", "a" * 32])
def test_an_id_is_taken_as_it_is(daemon_id: str) -> None:
    assert parse_daemon_id(daemon_id) == daemon_id


@pytest.mark.parametrize("url", ["http://127.0.0.1:29328", "https://chat.test:8443/", "http://[::1]:9/path"])
def test_an_address_of_a_daemon_has_a_port(url: str) -> None:
    assert parse_receiver_url(url) == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:29328", "http://host", "http://:9", "ftp://host:9", "http://h:0", "http://h:x", "http://[::1"],
)
def test_what_is_no_address_of_a_daemon_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequestError, match="no address of a daemon"):
        parse_receiver_url(url)


@pytest.mark.parametrize("url", ["http://me@h:9", "http://h:9/?a=b", "http://h:9/#a", "http://h:9/a b"])
def test_an_address_of_a_daemon_has_nothing_that_a_homeserver_would_not_call(url: str) -> None:
    with pytest.raises(InvalidRequestError, match="no address of a daemon"):
        parse_receiver_url(url)


@pytest.mark.parametrize("namespaces", [None, [], {"users": None}, {"users": [None, {"regex": 7}, {"regex": "("}]}])
def test_patterns_that_are_none_claim_nothing(file: Path, namespaces: object) -> None:
    file.write_text(yaml.safe_dump(WHOLE | {"namespaces": namespaces}))
    registration = read_registration(file)
    assert not registration.claims_user("@aiagentchat-a:example.org")
    assert not registration.claims_alias("#aiagentchat-a:example.org")


def test_a_registration_that_does_not_speak_of_limits_is_limited(file: Path) -> None:
    file.write_text(yaml.safe_dump({key: value for key, value in WHOLE.items() if key != "rate_limited"}))
    assert read_registration(file).rate_limited


# --- where it is


def test_the_file_that_is_set_comes_before_this_homes_and_that_before_the_embedded_homeservers(tmp_path: Path) -> None:
    home = {"AIAGENTCHAT_HOME": str(tmp_path)}
    own, embedded = tmp_path / "registration.yaml", tmp_path / "homeserver" / "registration.yaml"
    assert registration_file(load_settings(home)) == own  # where it is to be written
    embedded.parent.mkdir()
    embedded.touch()
    assert registration_file(load_settings(home)) == embedded
    own.touch()
    assert registration_file(load_settings(home)) == own
    assert registration_file(load_settings(home | {"AIAGENTCHAT_REGISTRATION": "/else/where"})) == Path("/else/where")
