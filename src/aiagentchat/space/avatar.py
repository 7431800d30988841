"""An agent's picture: its initials on a colour of its own, or on grey. Pure: bytes of a PNG, without any library.

Who asks for one is `space.appearance`, and `agents.sidebar` for the grey one.
"""

import colorsys
import hashlib
import re
import struct
import zlib

from aiagentchat.model import AgentName

MIMETYPE = "image/png"
SIDE = 128
"""Width and height in pixels."""

Colour = tuple[int, int, int]

_ROWS, _COLUMNS = 7, 5
_SCALE = 9
"""Pixels a dot: two letters and the gap between them then fit into the circle that clients cut out."""
_GREY: Colour = (150, 150, 150)
_WHITE: Colour = (255, 255, 255)

_GLYPHS = {
    "A": "0e11111f111111",
    "B": "1e11111e11111e",
    "C": "0e11101010110e",
    "D": "1e11111111111e",
    "E": "1f10101e10101f",
    "F": "1f10101e101010",
    "G": "0e11101711110e",
    "H": "1111111f111111",
    "I": "0e04040404040e",
    "J": "0702020202120c",
    "K": "11121418141211",
    "L": "1010101010101f",
    "M": "111b1515111111",
    "N": "11111915131111",
    "O": "0e11111111110e",
    "P": "1e11111e101010",
    "Q": "0e11111115120d",
    "R": "1e11111e141211",
    "S": "0f10100e01011e",
    "T": "1f040404040404",
    "U": "1111111111110e",
    "V": "11111111110a04",
    "W": "11111115151b11",
    "X": "11110a040a1111",
    "Y": "1111110a040404",
    "Z": "1f01020408101f",
    "0": "0e11131519110e",
    "1": "040c040404040e",
    "2": "0e11010204081f",
    "3": "1f02040201110e",
    "4": "02060a121f0202",
    "5": "1f101e0101110e",
    "6": "0608101e11110e",
    "7": "1f010204080808",
    "8": "0e11110e11110e",
    "9": "0e11110f01020c",
}
"""A letter is seven rows of five dots: two hexadecimal digits a row."""


def initials(agent: AgentName) -> str:
    """Return the two letters or digits that stand for a name: of its first two words, or of its only one."""
    words = [word for word in re.split(r"[._-]", agent) if word]
    return (words[0][0] + words[1][0] if len(words) > 1 else words[0][:2]).upper()


def colour_of(agent: AgentName) -> Colour:
    """Return the colour of a name, the same at all times, and dark enough for white letters."""
    hue = int.from_bytes(hashlib.sha256(agent.encode()).digest()[:2]) / 0x10000
    red, green, blue = colorsys.hls_to_rgb(hue, 0.30, 0.55)
    return round(red * 255), round(green * 255), round(blue * 255)


def render_avatar(agent: AgentName, *, grey: bool = False) -> bytes:
    """Return an agent's picture; `grey`: as it is while the agent is offline."""
    letters = [_dots(_GLYPHS[letter]) for letter in initials(agent)]
    lines = [[dot for letter in letters for dot in (0, *letter[row])][1:] for row in range(_ROWS)]
    left, top = (SIDE - len(lines[0]) * _SCALE) // 2, (SIDE - _ROWS * _SCALE) // 2
    pixels = [bytearray(SIDE) for _ in range(SIDE)]
    for y in range(_ROWS * _SCALE):
        line = bytes(dot for dot in lines[y // _SCALE] for _ in range(_SCALE))
        pixels[top + y][left : left + len(line)] = line
    return _png(pixels, (_GREY if grey else colour_of(agent), _WHITE))


def _dots(glyph: str) -> list[list[int]]:
    return [[row >> column & 1 for column in reversed(range(_COLUMNS))] for row in bytes.fromhex(glyph)]


def _png(rows: list[bytearray], palette: tuple[Colour, ...]) -> bytes:
    """Return rows of pixels, numbers of a palette, as a PNG (https://www.w3.org/TR/png/)."""
    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, 3, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows), 9)
    chunks = ((b"IHDR", header), (b"PLTE", bytes(sum(palette, ()))), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
