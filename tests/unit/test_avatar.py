"""An agent's picture, read with a decoder of its own: a PNG of its initials, on a colour of its own or on grey."""

import struct
import zlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiagentchat.model import AgentName
from aiagentchat.space.avatar import _GLYPHS, SIDE, Colour, colour_of, initials, render_avatar

DEV = AgentName("claude-dev")
AGENTS = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True).map(AgentName)


def decode(png: bytes) -> list[list[Colour]]:
    """Return the pixels of a PNG with a palette, every check sum compared."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    chunks: dict[bytes, bytes] = {}
    rest = png[8:]
    while rest:
        (length,), kind = struct.unpack(">I", rest[:4]), rest[4:8]
        chunks[kind] = rest[8 : 8 + length]
        assert struct.unpack(">I", rest[8 + length : 12 + length])[0] == zlib.crc32(kind + chunks[kind])
        rest = rest[12 + length :]
    assert list(chunks) == [b"IHDR", b"PLTE", b"IDAT", b"IEND"]
    width, height, depth, colours, *others = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert (width, height, depth, colours, others) == (SIDE, SIDE, 8, 3, [0, 0, 0])
    palette = [tuple(chunks[b"PLTE"][at : at + 3]) for at in range(0, len(chunks[b"PLTE"]), 3)]
    lines = zlib.decompress(chunks[b"IDAT"])
    assert len(lines) == height * (width + 1)
    rows = [lines[at : at + width + 1] for at in range(0, len(lines), width + 1)]
    assert {row[0] for row in rows} == {0}
    return [[palette[pixel] for pixel in row[1:]] for row in rows]  # type: ignore[misc]  # three bytes each


def luminance(colour: Colour) -> float:
    """https://www.w3.org/TR/WCAG21/#dfn-relative-luminance"""
    parts = [part / 255 for part in colour]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@given(AGENTS)
def test_every_name_has_a_picture_that_is_small_and_always_the_same(agent: AgentName) -> None:
    png = render_avatar(agent)
    colours = Counter(pixel for row in decode(png) for pixel in row)
    assert set(colours) == {colour_of(agent), (255, 255, 255)}
    assert colours.most_common(1)[0][0] == colour_of(agent)
    assert len(png) < 1_000
    assert png == render_avatar(agent)


@given(AGENTS)
def test_the_initials_can_be_read_on_the_colour_of_any_name(agent: AgentName) -> None:
    assert 1.05 / (luminance(colour_of(agent)) + 0.05) >= 4.5  # https://www.w3.org/TR/WCAG21/#contrast-minimum


def test_who_is_offline_has_the_same_initials_on_grey() -> None:
    online, offline = decode(render_avatar(DEV)), decode(render_avatar(DEV, grey=True))
    ground = offline[0][0]
    assert len(set(ground)) == 1
    assert [[pixel == ground for pixel in row] for row in offline] == [
        [pixel == colour_of(DEV) for pixel in row] for row in online
    ]


@pytest.mark.parametrize(
    ("agent", "expected"),
    [
        ("claude-dev", "CD"),
        ("echo", "EC"),
        ("session-a3f2b1", "SA"),
        ("a", "A"),
        ("7", "7"),
        ("a..b", "AB"),
        ("x-", "X"),
    ],
)
def test_initials_are_of_the_first_two_words_or_of_the_only_one(agent: str, expected: str) -> None:
    assert initials(AgentName(agent)) == expected


def test_a_picture_shows_the_letters_that_it_is_of() -> None:
    pixels = decode(render_avatar(AgentName("p-7")))
    rows = range((SIDE - 63) // 2 + 4, SIDE - 32, 9)
    columns = range((SIDE - 99) // 2 + 4, SIDE - 14, 9)
    shown = ["".join("#" if pixels[y][x] == (255, 255, 255) else "." for x in columns) for y in rows]
    assert shown == [
        "####..#####",
        "#...#.....#",
        "#...#....#.",
        "####....#..",
        "#......#...",
        "#......#...",
        "#......#...",
    ]


def test_no_two_letters_look_alike() -> None:
    assert len(set(_GLYPHS.values())) == len(_GLYPHS) == 36


def test_names_have_colours_of_their_own() -> None:
    assert len({colour_of(AgentName(f"agent-{number}")) for number in range(50)}) > 40
