"""Which option a reaction or an answer gives. `tests/integration/test_asides.py` has people decide."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiagentchat.agents.asides import Option, OptionKind, by_sign, by_words, with_signs

OPTIONS = with_signs(
    [
        Option("a", "Now", "allow_once"),
        Option("b", "Later", "allow_once"),
        Option("c", "Never", "reject_always"),
        Option("d", "Not now", "reject_once"),
    ]
)


def test_of_two_options_of_one_kind_each_has_its_own_sign() -> None:
    assert [option.sign for option in OPTIONS] == ["✅", "1️⃣", "⛔", "❌"]
    for option in OPTIONS:
        assert by_sign(option.sign, OPTIONS) == option
        assert by_sign(option.sign.replace("\ufe0f", ""), OPTIONS) == option  # as some clients send it


@pytest.mark.parametrize(
    ("body", "option_id"),
    [
        ("NOW", "a"),
        ("b", "b"),
        ("3", "c"),
        ("yes", "a"),
        ("No!", "d"),
        ("> are you sure?\n\nnever", "c"),
        ("✅", "a"),
        ("perhaps", None),
        ("not sure, no", None),
        ("", None),
    ],
)
def test_an_answer_gives_an_option_only_where_it_says_nothing_else(body: str, option_id: str | None) -> None:
    option = by_words(body, OPTIONS)
    assert (None if option is None else option.id) == option_id


@pytest.mark.parametrize(
    ("kinds", "yes", "no"),
    [
        (["allow_always", "allow_once", "reject_always", "reject_once"], 1, 3),
        (["allow_always", "reject_always"], 0, 1),
        (["allow_always", "allow_always", "reject_always", "reject_always"], None, 2),
        (["allow_once"], 0, None),
        (["reject_once"], None, 0),
    ],
)
def test_yes_and_no_are_for_always_only_where_nothing_is_for_once(
    kinds: list[OptionKind], yes: int | None, no: int | None
) -> None:
    options = with_signs([Option(str(number), f"option {number}", kind) for number, kind in enumerate(kinds)])
    for words, index in (("yes", yes), ("no", no)):
        assert by_words(words, options) == (None if index is None else options[index])


@given(
    st.text(),
    st.lists(st.builds(Option, st.text(), st.text(), st.sampled_from(["allow_once", "reject_once"])), max_size=9),
)
def test_whatever_is_said_nothing_is_raised(text: str, options: list[Option]) -> None:
    signed = with_signs(options)
    assert by_words(text, signed) in (*signed, None)
    assert by_sign(text, signed) in (*signed, None)
