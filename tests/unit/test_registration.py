"""The registration file: read as the person wrote it, refused with a reason, and never quoted."""

from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from aiagentchat.errors import InvalidRequestError
from aiagentchat.matrix.appservice import Registration, read_registration

SECRET = "s3cret-token"
WHOLE = {
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
    return caught.value


def test_a_whole_registration_is_read_and_what_is_not_ours_is_passed_over(file: Path) -> None:
    file.write_text(yaml.safe_dump(WHOLE))
    assert read_registration(file) == Registration(**{key: str(WHOLE[key]) for key in KEYS})


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
