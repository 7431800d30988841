"""The error tree and its one table: every error has a code, and every code an HTTP status and an exit code."""

import ast
import inspect
import re
from collections.abc import Iterator

import pytest

from aiagentchat import errors
from aiagentchat.errors import OUTCOMES, AiAgentChatError, MatrixError, RateLimitedError

DESIGNED_EXIT_CODES = {
    1: "unexpected",
    2: "usage or bad input",
    3: "daemon not running",
    4: "not found",
    5: "refused",
    6: "homeserver unavailable or deadline passed",
    7: "waited in vain",
}


def subclasses(parent: type[AiAgentChatError]) -> Iterator[type[AiAgentChatError]]:
    for child in parent.__subclasses__():
        yield child
        yield from subclasses(child)


# Of this module alone: what another part derives for itself is that part's to test.
TREE: list[type[AiAgentChatError]] = [
    AiAgentChatError,
    *(error for error in subclasses(AiAgentChatError) if error.__module__ == errors.__name__),
]
NAMES = [error.__name__ for error in TREE]


@pytest.mark.parametrize("error", TREE, ids=NAMES)
def test_every_error_has_a_code_with_an_outcome(error: type[AiAgentChatError]) -> None:
    assert error.code in OUTCOMES


@pytest.mark.parametrize("error", TREE, ids=NAMES)
def test_every_error_says_what_it_means(error: type[AiAgentChatError]) -> None:
    assert "__doc__" in vars(error)
    assert inspect.cleandoc(error.__doc__ or "")


@pytest.mark.parametrize(("status", "retryable"), [(200, True), (400, False), (404, False), (499, False), (500, True)])
def test_a_fault_of_the_homeserver_may_be_tried_again_and_a_refusal_not(status: int, retryable: bool) -> None:
    assert MatrixError(status, "M_UNKNOWN", "").retryable is retryable


@pytest.mark.parametrize("code", OUTCOMES)
def test_every_code_is_some_error_of_the_tree(code: str) -> None:
    assert code in {error.code for error in TREE}


def test_a_code_is_written_once_so_that_it_means_one_thing() -> None:
    own = [error.code for error in TREE if "code" in vars(error)]
    assert sorted(own) == sorted(set(own))


def test_the_table_names_no_code_twice() -> None:
    tree = ast.parse(inspect.getsource(errors))
    (table,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "OUTCOMES"
    )
    assert isinstance(table, ast.Dict)
    assert len(table.keys) == len(OUTCOMES)


def test_codes_are_stable_words() -> None:
    assert [code for code in OUTCOMES if not re.fullmatch(r"[a-z]+(_[a-z]+)*", code)] == []


def test_every_designed_exit_code_is_used_and_no_other() -> None:
    assert {outcome.exit_code for outcome in OUTCOMES.values()} == set(DESIGNED_EXIT_CODES)


def test_no_error_leaves_as_a_success() -> None:
    assert {code: outcome for code, outcome in OUTCOMES.items() if not 400 <= outcome.http_status <= 599} == {}


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("internal", 1),
        ("bad_request", 2),
        ("bad_name", 2),
        ("body_too_large", 2),
        ("daemon_not_running", 3),
        ("not_found", 4),
        ("agent_not_found", 4),
        ("forbidden", 5),
        ("unauthenticated", 5),
        ("homeserver_unavailable", 6),
        ("rate_limited", 6),
        ("deadline_exceeded", 6),
        ("waited_in_vain", 7),
    ],
)
def test_a_code_leaves_with_the_exit_code_that_the_design_gives_it(code: str, exit_code: int) -> None:
    assert OUTCOMES[code].exit_code == exit_code


def test_the_module_docstring_draws_the_whole_tree() -> None:
    drawn = re.findall(r"\b\w+Error\b", inspect.getdoc(errors) or "")
    assert sorted(drawn) == sorted(NAMES)


def test_the_drawing_indents_an_error_below_its_parent() -> None:
    lines = re.findall(r"^(.*?)(\w+Error)\b", inspect.getdoc(errors) or "", re.MULTILINE)
    parents: list[tuple[int, str]] = []
    drawn: dict[str, str] = {}
    for indent, name in lines:
        while parents and parents[-1][0] >= len(indent):
            parents.pop()
        if parents:
            drawn[name] = parents[-1][1]
        parents.append((len(indent), name))
    assert drawn == {error.__name__: error.__base__.__name__ for error in TREE[1:] if error.__base__}


def test_an_error_carries_its_message_its_hint_and_its_outcome() -> None:
    error = RateLimitedError("asked to wait 90 s", hint="try later")
    assert str(error) == error.message == "asked to wait 90 s"
    assert error.hint == "try later"
    assert error.outcome == OUTCOMES["rate_limited"]
    assert error.retryable, "inherited from HomeserverUnavailableError"


def test_a_matrix_error_keeps_what_the_homeserver_said() -> None:
    error = MatrixError(418, "M_TEAPOT", "short and stout", request="PUT /brew")
    assert (error.status, error.errcode, error.error) == (418, "M_TEAPOT", "short and stout")
    assert str(error) == "the homeserver answered 418 M_TEAPOT to PUT /brew: short and stout"
    assert "to" not in str(MatrixError(500, "M_UNKNOWN", "x")).split("M_UNKNOWN")[1]
