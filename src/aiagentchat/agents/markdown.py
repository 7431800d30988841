"""Agents' Markdown as the HTML that Matrix clients show: what the specification permits, and nothing else. Pure.

https://spec.matrix.org/latest/client-server-api/#mroommessage-msgtypes
"""

import re
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_core import StateCore
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict

from aiagentchat.errors import BodyTooLargeError
from aiagentchat.model import CONTENT_LIMIT_BYTES

_LINK = re.compile(r"(https?|ftp)://|(mailto|magnet):", re.IGNORECASE)
"""How an address begins that a link may lead to; a relative one would lead into the client."""
_LANGUAGE = re.compile(r"[A-Za-z0-9+#._-]{1,40}")
_MOST_NESTED = 20
"""Deeper, the library leaves out text, and clients need not follow (the specification's limit is 100)."""
_IN_LINK = "in_link"
_ATTRIBUTES = {"a": ("href",), "ol": ("start",)}


def render_html(markdown: str) -> str:
    """Return Markdown as HTML. HTML in it, and links to elsewhere than the net, stay text; an image is a link.

    Raises:
        BodyTooLargeError: its tags alone would be more than an event may hold. HTML that is too large for another
            reason is returned.
    """
    env: dict[str, Any] = {}
    tokens = _parser.parse(markdown, env)
    for image in _images_in_links(tokens):
        image.meta[_IN_LINK] = True
    if _depth(tokens) >= _MOST_NESTED:
        return escape(markdown, quote=False).replace("\n", "<br />\n")
    return str(_parser.renderer.render(tokens, _parser.options, env)).strip()


def _depth(tokens: Sequence[Token]) -> int:
    """Return how deep tags stand in each other."""
    depth = deepest = 0
    for token in tokens:
        depth += token.nesting
        deepest = max(deepest, depth + _depth(token.children or ()))
    return deepest


def _images_in_links(tokens: Sequence[Token]) -> Iterator[Token]:
    """Yield the images that stand in links."""
    for block in tokens:
        depth = 0
        for token in block.children or ():
            depth += {"link_open": 1, "link_close": -1}.get(token.type, 0)
            if token.type == "image" and depth:
                yield token


class _Blocks(list[Token]):
    """Blocks as they are found, until their tags alone are more than an event may hold.

    A table of 33 kB can have 65,536 empty cells, and what is refused anyway is to hold nobody up.
    """

    def __init__(self) -> None:
        super().__init__()
        self._size = 0

    def append(self, token: Token) -> None:
        if token.tag != "p":  # of which not all are rendered
            self._size += len(token.tag) + len("<>")
        if self._size > CONTENT_LIMIT_BYTES:
            raise BodyTooLargeError(
                f"the message makes an event of more than {CONTENT_LIMIT_BYTES} bytes, which is the limit. "
                "Nothing was sent",
                hint="send it in parts, or as a file: --file PATH",
            )
        super().append(token)


def _find_blocks(state: StateCore) -> None:
    state.tokens = _Blocks()
    state.md.block.parse(state.src, state.md, state.env, state.tokens)


class _Renderer(RendererHTML):
    """Renders no tag or attribute beside those that are permitted."""

    @staticmethod
    def renderAttrs(token: Token) -> str:
        permitted = _ATTRIBUTES.get(token.tag, ())
        return "".join(f' {key}="{escape(str(token.attrs[key]))}"' for key in permitted if key in token.attrs)

    def fence(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        language = tokens[idx].info.strip().partition(" ")[0]
        kind = f' class="language-{language}"' if _LANGUAGE.fullmatch(language) else ""
        return f"<pre><code{kind}>{escape(tokens[idx].content, quote=False)}</code></pre>\n"

    def image(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        """An image is a link to it; within a link only what it shows, since links do not nest."""
        token = tokens[idx]
        source = str(token.attrs["src"])
        text = escape(self.renderInlineAsText(token.children, options, env) or source, quote=False)
        return text if token.meta.get(_IN_LINK) else f'<a href="{escape(source)}">{text}</a>'


class _Parser(MarkdownIt):
    """Takes for a link what leads to the net."""

    def validateLink(self, url: str) -> bool:
        return _LINK.match(url) is not None


_options = {"html": False, "breaks": True, "maxNesting": _MOST_NESTED}
_parser = _Parser("commonmark", _options, renderer_cls=_Renderer).enable(["table", "strikethrough"])
_parser.core.ruler.at("block", _find_blocks)
