"""Between events and messages: whatever a homeserver hands on becomes a message or nothing, never a fault."""

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiagentchat.agents.messages import (
    MOST_HOPS,
    add_answer,
    add_reply,
    check_size,
    command_in,
    mark_late,
    parse_message,
    render_file,
    render_message,
    transaction_id,
)
from aiagentchat.errors import BodyTooLargeError, InvalidRequestError
from aiagentchat.matrix.events import RoomEvent
from aiagentchat.matrix.filters import MESSAGE_TYPES
from aiagentchat.model import (
    BYTES,
    CONTENT_LIMIT_BYTES,
    AgentName,
    Attachment,
    EventId,
    EventRef,
    File,
    Message,
    RoomId,
    UserId,
)
from aiagentchat.space.content import HOPS, IN_REPLY_TO
from aiagentchat.space.directory import Directory
from aiagentchat.space.names import Naming
from tests.unit.test_content import JSON

NAMING = Naming("example.org")
SENDER_OF = Directory(NAMING, ttl_s=300).sender_of
ROOM, BROADCAST = RoomId("!room"), RoomId("!all")
ALICE, CODER = UserId("@alice:example.org"), NAMING.user(AgentName("coder"))
REF = {"room_id": "!other", "event_id": "$asked"}

foreign_text = st.text(st.characters(exclude_categories=()), max_size=12)
relations = st.fixed_dictionaries(
    {},
    optional={
        "rel_type": st.sampled_from(["m.thread", "m.replace", "m.annotation"]) | JSON,
        "event_id": foreign_text | JSON,
        "m.in_reply_to": st.fixed_dictionaries({"event_id": foreign_text}) | JSON,
    },
)
contents = st.fixed_dictionaries(
    {"body": foreign_text | JSON},
    optional={
        "msgtype": st.sampled_from(["m.text", "m.notice", "m.emote", "m.image", "m.file", "m.location", "m.audio"])
        | JSON,
        "geo_uri": foreign_text | JSON,
        "m.mentions": st.fixed_dictionaries({"user_ids": st.lists(foreign_text) | JSON}) | JSON,
        "filename": foreign_text | JSON,
        "url": st.just("mxc://example.org/abc") | foreign_text | JSON,
        "info": st.fixed_dictionaries({"mimetype": st.just("image/png") | JSON, "size": st.integers() | JSON}) | JSON,
        "format": st.just("org.matrix.custom.html") | JSON,
        "formatted_body": foreign_text | JSON,
        "m.relates_to": relations | JSON,
        "m.new_content": st.fixed_dictionaries({}, optional={"body": foreign_text | JSON}) | JSON,
        HOPS: st.integers() | JSON,
        IN_REPLY_TO: st.fixed_dictionaries({"room_id": foreign_text, "event_id": foreign_text}) | JSON,
    },
)


def event(content: dict[str, object], *, sender: UserId = ALICE, kind: str = "m.room.message") -> RoomEvent:
    return RoomEvent(EventId("$event"), ROOM, sender, kind, None, content, 1_000)


def parsed(content: dict[str, object], *, sender: UserId = ALICE, kind: str = "m.room.message") -> Message:
    message = parse_message(event(content, sender=sender, kind=kind), SENDER_OF, BROADCAST)
    assert message is not None
    return message


blocks = st.recursive(
    st.fixed_dictionaries(
        {}, optional={"m.text": st.lists(JSON) | JSON, "org.matrix.msc1767.text": foreign_text | JSON}
    ),
    lambda block: st.fixed_dictionaries({}, optional={"question": block, "answers": st.lists(block | JSON) | JSON}),
)
polls = st.fixed_dictionaries({}, optional={"m.poll": blocks | JSON, "org.matrix.msc3381.poll.start": blocks | JSON})


@given(content=contents, kind=st.sampled_from(MESSAGE_TYPES), poll=polls)
def test_whatever_stands_in_an_event_it_is_a_message_that_can_be_passed_on_or_none(
    content: dict[str, object], kind: str, poll: dict[str, object]
) -> None:
    message = parse_message(event(content | poll, kind=kind), SENDER_OF, BROADCAST)
    if kind == "m.room.message" and isinstance(content["body"], str) and "m.new_content" not in content:
        assert message is not None
    if message is not None:
        assert 0 <= message.hops <= MOST_HOPS
        reference = message.in_reply_to
        texts = [message.body, message.thread or "", *((reference.room_id, reference.event_id) if reference else ())]
        file = message.file
        if file is not None:
            assert re.fullmatch(r"[^\s/]+/[^\s/]+", file.mimetype)
            assert len(file.name) <= 255
            assert file.size is None or file.size >= 0
            texts += [file.name]
        json.dumps(texts, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("content", "kind", "body"),
    [
        ({"msgtype": "m.text", "body": "hi"}, "m.room.message", "hi"),
        ({"msgtype": "m.notice", "body": "hi"}, "m.room.message", "hi"),
        ({"msgtype": "m.emote", "body": "deletes it"}, "m.room.message", "* alice deletes it"),
        ({"msgtype": "m.image", "body": "cat.png"}, "m.room.message", "[image] cat.png"),
        ({"msgtype": "org.example.x", "body": "y"}, "m.room.message", "[org.example.x] y"),
        ({"body": "no type"}, "m.room.message", "[attachment] no type"),
        ({"body": "a wink"}, "m.sticker", "[sticker] a wink"),
        ({"msgtype": "m.audio", "body": "a.ogg"}, "m.room.message", "[audio] a.ogg"),
        ({"msgtype": "m.audio", "body": "a.ogg", "org.matrix.msc3245.voice": {}}, "m.room.message", "[voice] a.ogg"),
        (
            {"msgtype": "m.location", "body": "here", "geo_uri": "geo:1,2"},
            "m.room.message",
            "[location] here (geo:1,2)",
        ),
        (
            {"msgtype": "m.location", "body": "at geo:1,2", "geo_uri": "geo:1,2"},
            "m.room.message",
            "[location] at geo:1,2",
        ),
        (
            {
                "m.text": [{"body": "fallback"}],
                "m.poll": {
                    "question": {"m.text": [{"body": "Lunch?"}]},
                    "answers": [
                        {"m.id": "a", "m.text": [{"body": "Soup"}]},
                        {"m.id": "b", "m.text": [{"body": "Cake"}]},
                    ],
                },
            },
            "m.poll.start",
            "[poll] Lunch?\n1. Soup\n2. Cake",
        ),
        (
            {
                "org.matrix.msc1767.text": "fallback",
                "org.matrix.msc3381.poll.start": {
                    "question": {"org.matrix.msc1767.text": "Lunch?"},
                    "answers": [{"id": "a", "org.matrix.msc1767.text": "Soup"}, {"id": "b"}],
                },
            },
            "org.matrix.msc3381.poll.start",
            "[poll] Lunch?\n1. Soup\n2. ?",
        ),
        ({"m.text": [{"body": "Lunch? 1. Soup"}]}, "m.poll.start", "[poll] Lunch? 1. Soup"),
        ({"m.text": [{"body": "Soup won"}]}, "m.poll.end", "[poll ended] Soup won"),
        (
            {"org.matrix.msc1767.text": "Soup won", "org.matrix.msc3381.poll.end": {}},
            "org.matrix.msc3381.poll.end",
            "[poll ended] Soup won",
        ),
    ],
)
def test_what_is_no_plain_text_says_so_in_front(content: dict[str, object], kind: str, body: str) -> None:
    assert parsed(content, kind=kind).body == body


EDIT: dict[str, object] = {
    "msgtype": "m.text",
    "body": "* new",
    "m.new_content": {"msgtype": "m.text", "body": "new"},
    "m.relates_to": {"rel_type": "m.replace", "event_id": "$old"},
}


def test_an_edit_is_the_new_text_and_names_what_it_replaces() -> None:
    message = parsed(EDIT)
    assert (message.body, message.edits) == ("new", "$old")
    new = {"msgtype": "m.text", "body": f"{CODER}: go", "m.mentions": {"user_ids": [CODER]}, "m.relates_to": 1}
    html = {"format": "org.matrix.custom.html", "formatted_body": "<b>old</b>"}
    message = parsed(EDIT | html | {"m.new_content": new})
    assert (message.body, message.format, message.edits) == ("@coder: go", "plain", "$old")
    for broken in ({"m.new_content": 1}, {"m.relates_to": {"rel_type": "m.replace"}}):
        message = parsed(EDIT | broken)
        assert (message.body, message.edits) == ("* new", None)
    poll = {"m.new_content": {"m.poll": {"question": {"m.text": "Tea?"}}}}
    assert parsed(EDIT | poll, kind="m.poll.start").body == "[poll] Tea?"


@pytest.mark.parametrize(
    ("body", "read"),
    [
        ("> <@bob:x> one\n> two\n\nyes", "yes"),
        ("> * <@bob:x> waves\n\nyes\n> and this", "yes\n> and this"),
        ("> quoted by hand\n\nyes", "> quoted by hand\n\nyes"),
        ("yes", "yes"),
        ("> <@bob:x> nothing else", "> <@bob:x> nothing else"),
    ],
)
def test_what_an_older_client_puts_before_a_reply_is_left_out(body: str, read: str) -> None:
    reply: dict[str, object] = {"msgtype": "m.text", "body": body}
    assert parsed(reply | {"m.relates_to": {"m.in_reply_to": {"event_id": "$1"}}}).body == read
    assert parsed(reply).body == body, "which answers nothing, and so is theirs"


@pytest.mark.parametrize(
    ("body", "read"),
    [
        ("[coder](https://matrix.to/#/@aiagentchat-coder:example.org): go", "coder: go"),
        (
            "[Bob B.](<https://matrix.to/#/%40bob%3Aexample.org>) and [#a:b](https://matrix.to/#/%23a:b)",
            "Bob B. and #a:b",
        ),
        (f"{CODER}: go", "@coder: go"),
        (f"ask {ALICE}", f"ask {ALICE}"),
        ("see [this](https://example.org/#/@x)", "see [this](https://example.org/#/@x)"),
        ("[a](https://matrix.to/#/nothing)", "[a](https://matrix.to/#/nothing)"),
    ],
)
def test_whom_a_message_mentions_can_be_read(body: str, read: str) -> None:
    content: dict[str, object] = {"msgtype": "m.text", "body": body, "m.mentions": {"user_ids": [CODER, ALICE, 7]}}
    assert parsed(content).body == read
    assert parsed({"msgtype": "m.text", "body": f"{CODER}: go"}).body == f"{CODER}: go", "which mentions nobody"


PICTURE: dict[str, object] = {
    "msgtype": "m.image",
    "body": "what is this?",
    "filename": "cat.png",
    "url": "mxc://example.org/abc",
    "info": {"mimetype": "image/png", "size": 123},
}


def test_a_file_is_described_as_its_sender_does() -> None:
    message = parsed(PICTURE)
    assert (message.body, message.file) == ("[image] what is this?", File("cat.png", "image/png", 123))
    assert parsed(PICTURE | {"filename": None, "body": "cat.png"}).file == File("cat.png", "image/png", 123)
    assert parsed(PICTURE | {"msgtype": None}, kind="m.sticker").file is not None
    for info in ({}, {"mimetype": "a\nb/c", "size": -1}, {"mimetype": 3, "size": True}, None):
        assert parsed(PICTURE | {"info": info}).file == File("cat.png", BYTES, None)


@pytest.mark.parametrize(
    "change",
    [
        {"msgtype": "m.text"},
        {"msgtype": ["m.image"]},
        {"url": None, "file": {"url": "mxc://example.org/abc", "key": {}}},  # encrypted
        {"url": "https://example.org/abc"},
        {"url": "mxc://example.org"},
        {"url": "mxc://example.org/../../admin"},
        {"url": "mxc://example.org/a?b"},
        {"url": "mxc://example.org/.."},
        {"url": "mxc://../config"},
        {"url": "mxc:///abc"},
        {"url": 7},
    ],
)
def test_what_the_homeserver_has_no_file_for_comes_without_one(change: dict[str, object]) -> None:
    assert parsed(PICTURE | change).file is None


@pytest.mark.parametrize(
    ("mimetype", "kind"),
    [("image/png", "m.image"), ("audio/ogg", "m.audio"), ("video/mp4", "m.video"), ("text/x", "m.file")],
)
def test_a_file_is_read_as_it_was_rendered(mimetype: str, kind: str) -> None:
    content = render_file("*look*", "markdown", Attachment("a b.x", mimetype, b"123"))
    assert (content["msgtype"], content["formatted_body"]) == (kind, "<p><em>look</em></p>")
    message = parsed(content | {"url": "mxc://example.org/abc"})
    assert (message.body, message.file) == (f"[{kind[2:]}] *look*", File("a b.x", mimetype, 3))
    bare = render_file(" ", "plain", Attachment("a b.x", mimetype, b"123"))
    assert (bare["body"], bare["filename"]) == ("a b.x", "a b.x")


@pytest.mark.parametrize("name", ["", " ", "a\nb", "a\x1bb"])
def test_a_file_without_a_name_that_can_be_shown_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequestError):
        render_file("", "plain", Attachment(name, "text/plain", b"1"))


@pytest.mark.parametrize(
    ("sender", "name", "kind"),
    [
        (ALICE, "alice", "person"),
        (CODER, "coder", "agent"),
        (NAMING.daemon, NAMING.daemon[1:].split(":")[0], "daemon"),
        (UserId("@aiagentchat-coder:elsewhere.org"), "aiagentchat-coder", "person"),
        (UserId("@aiagentchat-coder:example.org:8448"), "aiagentchat-coder", "person"),
        (UserId("@bob:localhost:8448"), "bob", "person"),
        (UserId("@bob:[2001:db8::1]:8448"), "bob", "person"),
    ],
)
def test_the_sender_is_who_the_homeserver_says(sender: UserId, name: str, kind: str) -> None:
    found = parsed({"msgtype": "m.text", "body": "x"}, sender=sender).sender
    assert (found.user_id, found.name, found.kind) == (sender, name, kind)


def test_what_is_answered_is_named_by_our_field_before_that_of_matrix() -> None:
    relation = {"m.in_reply_to": {"event_id": "$here"}}
    assert parsed({"body": "x", "m.relates_to": relation}).in_reply_to == EventRef(ROOM, EventId("$here"))
    both = parsed({"body": "x", "m.relates_to": relation, IN_REPLY_TO: REF})
    assert both.in_reply_to == EventRef(RoomId("!other"), EventId("$asked"))
    broken = parsed({"body": "x", "m.relates_to": relation, IN_REPLY_TO: {"room_id": 7}})
    assert broken.in_reply_to == EventRef(ROOM, EventId("$here"))


@pytest.mark.parametrize(("hops", "counted"), [(3, 3), (-1, 0), (True, 0), ("3", 0), (MOST_HOPS + 1, 0)])
def test_hops_that_are_no_count_are_none(hops: object, counted: int) -> None:
    assert parsed({"body": "x", HOPS: hops}).hops == counted


@pytest.mark.parametrize("body", ["", " \n\t", "\x00", "a\x1b[2J", "\ud800"])
def test_what_is_empty_or_no_text_is_refused(body: str) -> None:
    with pytest.raises(InvalidRequestError, match="nothing was sent"):
        render_message(body, "plain")


def test_markdown_is_rendered_and_its_html_is_not_let_through() -> None:
    content = render_message("**a** <script>x</script>\nb", "markdown")
    assert content["body"] == "**a** <script>x</script>\nb"
    assert content["formatted_body"] == "<p><strong>a</strong> &lt;script&gt;x&lt;/script&gt;<br />\nb</p>"
    assert "formatted_body" not in render_message("**a**", "plain")


def test_a_reply_stands_in_the_thread_and_notifies_who_asked() -> None:
    asked = parsed({"body": "?", "m.relates_to": {"rel_type": "m.thread", "event_id": "$root"}})
    content = add_reply(render_message("!", "plain"), asked)
    assert content["m.relates_to"] == {
        "m.in_reply_to": {"event_id": "$event"},
        "rel_type": "m.thread",
        "event_id": "$root",
        "is_falling_back": False,
    }
    assert content["m.mentions"] == {"user_ids": [ALICE]}
    assert "rel_type" not in add_reply(render_message("!", "plain"), parsed({"body": "?"}))["m.relates_to"]


@pytest.mark.parametrize(
    ("body", "command"),
    [
        ("!stop", "stop"),
        (" !Status\n", "status"),
        ("> <@a:b> what?\n\n!help", "help"),
        ("!stop it", None),
        ("stop", None),
        ("!", None),
        ("", None),
    ],
)
def test_what_a_person_asks_of_the_system_stands_alone(body: str, command: str | None) -> None:
    content: dict[str, object] = {"msgtype": "m.text", "body": body}
    asked = event(content)
    assert command_in(asked, parsed(content)) == command
    assert command_in(asked, replace(parsed(content), broadcast=True)) is None
    assert command_in(event(content, sender=CODER), parsed(content, sender=CODER)) is None, "an agent asks nothing"
    notice = content | {"msgtype": "m.notice"}
    assert command_in(event(notice), parsed(notice)) is None, "so that programs do not answer each other"


def test_who_answers_an_edit_answers_what_it_replaces() -> None:
    edit = parsed(EDIT)
    assert add_reply(render_message("!", "plain"), edit)["m.relates_to"]["m.in_reply_to"] == {"event_id": "$old"}
    assert add_answer(render_message("!", "plain"), edit)[IN_REPLY_TO] == {"room_id": ROOM, "event_id": "$old"}


def test_an_answer_elsewhere_names_and_quotes_the_question_as_text() -> None:
    asked = parsed({"msgtype": "m.text", "body": "<b>\n" + "x" * 400}, sender=CODER)
    content = add_answer(render_message("1 < 2", "plain"), asked)
    assert content[IN_REPLY_TO] == {"room_id": ROOM, "event_id": "$event"}
    quote = "&lt;b&gt;<br>" + "x" * (300 - 4) + "…"
    assert content["formatted_body"] == f"<blockquote>{quote}</blockquote>1 &lt; 2"
    assert content["body"] == "1 < 2"


def test_hops_count_from_agent_to_agent_and_a_person_starts_anew() -> None:
    for sender, hops, following in ((CODER, 4, 5), (CODER, MOST_HOPS, MOST_HOPS), (ALICE, 4, 1)):
        asked = parsed({"body": "?", HOPS: hops}, sender=sender)
        assert add_reply(render_message("!", "plain"), asked)[HOPS] == following


def test_the_size_limit_counts_bytes_as_they_are_sent() -> None:
    fixed = len(json.dumps(render_message("x", "plain"), separators=(",", ":"))) - 1
    check_size(render_message("x" * (CONTENT_LIMIT_BYTES - fixed), "plain"))
    with pytest.raises(BodyTooLargeError, match=f"{CONTENT_LIMIT_BYTES + 1} bytes"):
        check_size(render_message("x" * (CONTENT_LIMIT_BYTES - fixed + 1), "plain"))
    with pytest.raises(BodyTooLargeError):
        check_size(render_message("ü" * (CONTENT_LIMIT_BYTES // 2), "plain"))


def test_what_is_too_large_anyway_is_not_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiagentchat.agents.messages.render_html", lambda _: pytest.fail("it is"))
    body, file = "![](http://a)" * (CONTENT_LIMIT_BYTES // 13), Attachment("a", "a/b", b"1")
    with pytest.raises(BodyTooLargeError, match=f"the limit is {CONTENT_LIMIT_BYTES}"):
        render_message(body, "markdown")
    with pytest.raises(BodyTooLargeError):
        render_file(body, "markdown", file)


def test_a_transaction_id_is_of_one_sender_and_one_key() -> None:
    ids = {transaction_id(user, key) for user in (ALICE, CODER) for key in ("a", "b")}
    assert len(ids) == 4
    assert transaction_id(ALICE, "a") in ids


def test_late_is_what_was_stored_before_the_session() -> None:
    message = parsed({"body": "x"})
    assert [mark_late(message, began).late for began in (None, 1_001, 1_000)] == [True, True, False]
