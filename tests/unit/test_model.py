"""Names and foreign text: what an agent may be called, and what may reach a terminal."""

import re
import string
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aiagentchat.errors import InvalidNameError, InvalidRequestError
from aiagentchat.model import new_session_name, parse_agent_name, parse_text, visible

FIRST = string.ascii_lowercase + string.digits
REST = FIRST + "._-"
NAMES = st.builds(str.__add__, st.sampled_from(FIRST), st.text(REST, max_size=62))
# Every character, the halves of surrogate pairs included: JSON from a homeserver can hold them.
FOREIGN = st.text(st.characters(exclude_categories=()))
# Text that is one step from a name, which random text never is.
NEARLY = st.builds(lambda name, bad, at: name[: at % 9] + bad + name[at % 9 :], NAMES, FOREIGN, st.integers(0, 8))


def is_name(text: str) -> bool:
    """The grammar of the design once more, without a regular expression."""
    return 1 <= len(text) <= 63 and text[0] in FIRST and all(letter in REST for letter in text)


def moves_or_reorders(letter: str) -> bool:
    """What a terminal acts on instead of showing it: controls, line breaks, direction marks, broken surrogates."""
    if letter in "\n\t":
        return False
    direction = unicodedata.bidirectional(letter) in {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    return direction or letter in "\u200e\u200f" or unicodedata.category(letter) in {"Cc", "Cs", "Zl", "Zp"}


@given(NAMES)
@example("a")
@example("0")
@example("a" * 63)
@example("claude-dev")
@example("session-a3f2b1")
def test_a_name_within_the_grammar_is_taken_as_it_is(name: str) -> None:
    assert parse_agent_name(name) == name


@given(FOREIGN | NEARLY)
@example("")
@example("a" * 64)
@example("_broadcast")
@example("-a")
@example(".a")
@example("Claude")
@example("a b")
@example("a:example.org")
@example("a\n")
@example("\u0430gent")  # a Cyrillic a
@example("a\u0660")  # a digit to `str.isdigit`, not to us
@example("../../etc")
def test_a_text_is_a_name_exactly_when_the_grammar_says_so(text: str) -> None:
    if is_name(text):
        assert parse_agent_name(text) == text
    else:
        with pytest.raises(InvalidNameError):
            parse_agent_name(text)


@given(FOREIGN.filter(lambda text: not is_name(text)))
@example("x" * 10_000)
def test_the_error_for_a_bad_name_can_be_printed(text: str) -> None:
    with pytest.raises(InvalidNameError) as caught:
        parse_agent_name(text)
    assert not any(map(moves_or_reorders, caught.value.message + caught.value.hint))
    assert len(caught.value.message) < 1000, "however long the text was"
    caught.value.message.encode()


def test_the_error_for_a_bad_name_says_what_a_name_may_be() -> None:
    with pytest.raises(InvalidNameError, match="'Claude' is not an agent's name") as caught:
        parse_agent_name("Claude")
    assert "1 to 63" in caught.value.hint


def test_session_names_are_names_and_not_repeated() -> None:
    names = {new_session_name() for _ in range(50)}
    assert all(re.fullmatch(r"session-[0-9a-f]{6}", name) and parse_agent_name(name) for name in names)
    assert len(names) > 45


@given(FOREIGN)
@example("\x1b[31mred\x1b[0m")
@example("\x1b]0;title\x07")
@example("\x9b2J")
@example("over\rwritten")
@example("back\x08space")
@example("\u202egnp.exe")
@example("\u2066isolate\u2069")
@example("line\u2028break")
@example("\ud800")
def test_nothing_that_moves_a_cursor_or_reorders_a_line_stays(text: str) -> None:
    assert not any(map(moves_or_reorders, visible(text)))


@given(FOREIGN)
def test_what_is_made_visible_can_be_written_to_a_utf_8_terminal(text: str) -> None:
    visible(text).encode()


@given(FOREIGN)
def test_ordinary_text_is_left_alone(text: str) -> None:
    ordinary = "".join(letter for letter in text if not moves_or_reorders(letter))
    assert visible(ordinary) == ordinary


@given(FOREIGN)
def test_making_visible_twice_changes_nothing_more(text: str) -> None:
    assert visible(visible(text)) == visible(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31m", r"\x1b[31m"),
        ("\x00", r"\x00"),
        ("\r", r"\r"),
        ("\u202e", r"\u202e"),
        ("\ud800", r"\ud800"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("Grüße, 世界 👩‍🚀", "Grüße, 世界 👩‍🚀"),
        (r"a \x1b that was typed", r"a \x1b that was typed"),
    ],
)
def test_what_was_there_can_be_read(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.parametrize("text", ["Grüße\n\tan alle", "\u202e\u2066 \U0001f600 ﷽", "a\r\nb", ""])
def test_text_of_any_script_is_text_and_its_lines_end_in_newlines(text: str) -> None:
    assert parse_text(text, "it") == text.replace("\r", "")


@pytest.mark.parametrize("sign", ["\x00", "\x07", "\r", "\x1b", "\x7f", "\x9b", "\ud800"])
def test_control_characters_and_half_surrogates_are_no_text(sign: str) -> None:
    with pytest.raises(InvalidRequestError, match=rf"the note holds U\+{ord(sign):04X} at character 3") as caught:
        parse_text(f"ab{sign}c", "the note")
    assert sign not in caught.value.message
