"""What each answer of a homeserver says to `cchat doctor`: what holds, what does not, and what to do about it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiagentchat.daemon.verdicts import (
    Check,
    NameReplies,
    Setup,
    claims_too_much,
    judge_file,
    judge_homeserver,
    judge_names,
    judge_ping,
    judge_presence,
    judge_rate_limits,
    judge_room_version,
    judge_server_name,
    judge_space_alias,
    judge_token,
    judge_tokens,
)
from aiagentchat.matrix.probe import Reply
from aiagentchat.registration import Registration, new_registration

AS_TOKEN, HS_TOKEN = "s3cret-as", "s3cret-hs"
REGISTRATION = new_registration("example.org", as_token=AS_TOKEN, hs_token=HS_TOKEN)
FURTHER = new_registration("example.org", as_token=AS_TOKEN, hs_token=HS_TOKEN, daemon_id="lab")
SETUP = Setup(REGISTRATION, Path("registration.yaml"), "example.org")
DONE = Reply(200, {})
KEYS = st.sampled_from(
    [
        "errcode",
        "user_id",
        "versions",
        "server",
        "name",
        "status",
        "capabilities",
        "m.room_versions",
        "default",
        "presence",
    ]
)
ERRCODES = st.sampled_from(["M_BAD_STATUS", "M_CONNECTION_FAILED", "M_URL_NOT_SET", "M_EXCLUSIVE", "M_USER_IN_USE"])
MISSING = Reply(404, {"errcode": "M_NOT_FOUND"})
EXCLUSIVE = Reply(400, {"errcode": "M_EXCLUSIVE", "error": "not reserved"})
NAMES = NameReplies("@aiagentchat-_doctor:example.org", "#aiagentchat-_doctor:example.org", DONE, DONE, DONE, EXCLUSIVE)


def error(http_status: int, errcode: str = "M_UNKNOWN", **more: Any) -> Reply:
    return Reply(http_status, {"errcode": errcode, "error": "its own words"} | more)


def failing(check: Check) -> str:
    """Return what a check that must have failed says."""
    assert check.state == "failed"
    assert check.remedy
    text = f"{check.detail}\n{check.remedy}"
    assert AS_TOKEN not in text
    assert HS_TOKEN not in text
    return text


@pytest.mark.parametrize("mode", [0o100600, 0o100640, 0o100400])
def test_a_file_that_only_a_few_can_read_is_well(mode: int) -> None:
    assert judge_file(REGISTRATION, SETUP.path, mode).state == "ok"


@pytest.mark.parametrize("mode", [0o100644, 0o100604])
def test_a_file_that_everybody_can_read_is_warned_of(mode: int) -> None:
    check = judge_file(REGISTRATION, SETUP.path, mode)
    assert check.state == "warning"
    assert "chmod" in check.remedy


def test_a_homeserver_is_named_where_it_says_what_it_is() -> None:
    versions = Reply(200, {"versions": ["v1.12"]})
    told = Reply(200, {"server": {"name": "Synapse", "version": "1.163.2 (b=main)"}})
    assert judge_homeserver("http://h", versions, told).detail == "http://h is Synapse 1.163.2"
    for nothing in (None, MISSING, DONE, Reply(200, {"server": ["x"]}), Reply(200, {"server": {"name": 7}})):
        assert judge_homeserver("http://h", versions, nothing) == Check(
            "homeserver", "ok", "http://h is a Matrix homeserver"
        )


@pytest.mark.parametrize(
    "versions",
    [MISSING, DONE, Reply(301, {}), Reply(200, {"versions": "v1"}), Reply(500, {"versions": ["v1.12"]})],
)
def test_what_does_not_tell_its_versions_is_no_homeserver(versions: Reply) -> None:
    assert "AIAGENTCHAT_HOMESERVER_URL" in failing(judge_homeserver("http://h", versions, None))


def test_a_token_has_to_be_known_and_to_be_of_the_sender() -> None:
    assert judge_token(Reply(200, {"user_id": "@aiagentchat:example.org"}), SETUP).state == "ok"
    of_another = Reply(200, {"user_id": "@aiagentchatx:example.org"})
    for reply in (error(401, "M_UNKNOWN_TOKEN"), error(403), DONE, of_another):
        said = failing(judge_token(reply, SETUP))
        assert "app_service_config_files" in said
        assert "restart Synapse" in said


def test_a_server_that_calls_itself_otherwise_says_what_to_set() -> None:
    assert judge_server_name("example.org", SETUP).state == "ok"
    assert "set SERVER_NAME=example.com" in failing(judge_server_name("example.com", SETUP))


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (error(502, "M_BAD_STATUS", status=403), "another hs_token"),
        (error(502, "M_BAD_STATUS", status=401), "another hs_token"),
        (error(502, "M_BAD_STATUS", status=404), "is not the daemon: it answered HTTP 404"),
        (error(502, "M_CONNECTION_FAILED"), "does not reach the daemon: its own words"),
        (error(504, "M_CONNECTION_TIMEOUT"), "does not reach the daemon: its own words"),
        (Reply(504, {}), "does not reach the daemon"),
        (error(400, "M_URL_NOT_SET"), "has no url"),
        (error(403, "M_FORBIDDEN"), "under another id than aiagentchat"),
        (error(404, "M_UNRECOGNIZED"), "use a newer Synapse"),
        (error(502, "M_UNKNOWN"), "HTTP 502 M_UNKNOWN its own words"),
        (error(500, "M_UNKNOWN"), "HTTP 500 M_UNKNOWN its own words"),
    ],
)
def test_a_ping_that_does_not_arrive_says_why(reply: Reply, said: str) -> None:
    assert said in failing(judge_ping(reply, SETUP, listener="the daemon"))


def test_a_ping_that_arrives_says_who_heard_it() -> None:
    check = judge_ping(DONE, SETUP, listener="the daemon")
    assert (check.state, "the daemon at http://127.0.0.1:29328" in check.detail) == ("ok", True)


def capabilities(default: object) -> Reply:
    return Reply(200, {"capabilities": {"m.room_versions": {"default": default}}})


def test_rooms_of_an_old_version_will_not_do() -> None:
    for good in ("10", "12", "org.matrix.msc9999", "²"):
        assert judge_room_version(capabilities(good)).state == "ok"
    for old in ("1", "9"):
        assert "default_room_version" in failing(judge_room_version(capabilities(old)))
    for unsaid in (capabilities(None), DONE, MISSING, Reply(200, {"capabilities": []})):
        assert judge_room_version(unsaid).state == "warning"


def test_the_space_is_there_or_can_be_made() -> None:
    found = Reply(200, {"room_id": "!space"})
    assert judge_space_alias("#aiagentchat:example.org", None, REGISTRATION).state == "ok"
    assert judge_space_alias("#team:example.org", found, REGISTRATION).state == "ok"
    assert judge_space_alias("#aiagentchat:example.org", found, FURTHER).state == "ok"
    assert "SPACE_ALIAS" in failing(judge_space_alias("#team:example.org", MISSING, REGISTRATION))
    assert "has no id" in failing(judge_space_alias("#aiagentchat:example.org", MISSING, FURTHER))


def test_names_are_well_when_ours_are_taken_and_others_are_not() -> None:
    assert judge_names(NAMES, SETUP).state == "ok"
    assert judge_names(replace(NAMES, made=error(400, "M_USER_IN_USE"), freed=MISSING), SETUP).state == "ok"


@pytest.mark.parametrize(
    ("replies", "said"),
    [
        (replace(NAMES, made=EXCLUSIVE), f"refuses the user @aiagentchat-_doctor:example.org: {EXCLUSIVE}"),
        (replace(NAMES, acted=EXCLUSIVE), f"refuses a request as @aiagentchat-_doctor:example.org: {EXCLUSIVE}"),
        (replace(NAMES, freed=EXCLUSIVE), f"refuses the alias #aiagentchat-_doctor:example.org: {EXCLUSIVE}"),
    ],
)
def test_a_name_of_ours_that_is_refused_is_told_with_the_homeservers_words(replies: NameReplies, said: str) -> None:
    assert said in failing(judge_names(replies, SETUP))


def test_a_registration_that_claims_more_than_our_names_is_warned_of() -> None:
    assert judge_names(replace(NAMES, foreign_freed=DONE), SETUP).state == "warning"
    wide = replace(SETUP, registration=replace(REGISTRATION, users=("@aiagentchat-.*",)))
    assert judge_names(NAMES, wide).state == "warning"


@pytest.mark.parametrize(
    "wide",
    [
        replace(REGISTRATION, users=("@aiagentchat-[^:]*:example\\.org",)),  # other servers' names that begin so
        replace(REGISTRATION, users=("@aiagentchat.*:example\\.org$",)),
        replace(REGISTRATION, users=("@.*:example\\.org$",)),
        replace(REGISTRATION, aliases=("#aiagentchat(-.*)?",)),
    ],
)
def test_a_pattern_that_is_too_wide_is_found(wide: Registration) -> None:
    assert claims_too_much(wide, "example.org")


def test_what_we_render_is_not_too_wide() -> None:
    assert not claims_too_much(REGISTRATION, "example.org")
    assert not claims_too_much(FURTHER, "example.org")
    with_space = new_registration("example.org", as_token="a", hs_token="h", space_alias="#team:example.org")
    assert not claims_too_much(with_space, "example.org")


def test_presence_is_well_when_it_is_kept() -> None:
    assert judge_presence(DONE, Reply(200, {"presence": "online"})).state == "ok"
    for put, got in (
        (DONE, Reply(200, {"presence": "offline"})),
        (DONE, DONE),
        (DONE, error(403)),
        (error(404), Reply(200, {"presence": "online"})),
    ):
        assert "presence: {enabled: true}" in failing(judge_presence(put, got))


def test_agents_are_not_to_be_limited_by_the_homeserver_nor_by_the_file() -> None:
    assert judge_rate_limits([DONE, DONE], SETUP).detail.startswith("2 requests")
    assert "limits the rate of agents" in failing(judge_rate_limits([DONE, error(429, "M_LIMIT_EXCEEDED")], SETUP))
    assert "its own words" in failing(judge_rate_limits([DONE, error(500)], SETUP))
    limited = replace(SETUP, registration=replace(REGISTRATION, rate_limited=True))
    assert "rate_limited: false" in failing(judge_rate_limits([DONE], limited))


def test_a_homeserver_that_fails_is_to_be_looked_at_and_not_the_registration() -> None:
    for check in (judge_token(error(502), SETUP), judge_rate_limits([error(500)], SETUP)):
        assert "homeserver's log" in failing(check)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(), inner, max_size=3),
    max_leaves=8,
)
ANSWERS = st.builds(
    Reply,
    st.sampled_from([200, 301, 400, 401, 403, 404, 429, 500, 502, 504]),
    st.dictionaries(KEYS | st.text(), ERRCODES | JSON),
)


@given(ANSWERS, ANSWERS)
def test_whatever_a_homeserver_answers_is_judged_and_what_does_not_hold_has_a_remedy(one: Reply, other: Reply) -> None:
    checks = [
        judge_homeserver("http://h", one, other),
        judge_token(one, SETUP),
        judge_ping(one, SETUP, listener="the daemon"),
        judge_room_version(one),
        judge_space_alias("#team:example.org", one, REGISTRATION),
        judge_names(replace(NAMES, made=one, acted=other), SETUP),
        judge_names(replace(NAMES, freed=one, foreign_freed=other), SETUP),
        judge_presence(one, other),
        judge_rate_limits([one, other], SETUP),
        judge_tokens({"the operator": one, "claude-dev": other}),
    ]
    assert [check.name for check in checks if (check.state == "ok") != (check.remedy == "")] == []
