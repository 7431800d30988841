"""Agents' Markdown as the HTML that Matrix clients show: what the specification permits, and nothing else. Pure.

https://spec.matrix.org/latest/client-server-api/#mroommessage-msgtypes
"""

import re
from collections.abc import Sequence
from html import escape
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict

_LINK = re.compile(r"(https?|ftp)://|(mailto|magnet):", re.IGNORECASE)
"""How an address begins that a link may lead to; a relative one would lead into the client."""
_LANGUAGE = re.compile(r"[A-Za-z0-9+#._-]{1,40}")
_MOST_NESTED = 20
"""Deeper, the library leaves out text, and clients need not follow (the specification's limit is 100)."""
_ATTRIBUTES = {"a": ("href",), "ol": ("start",)}


def render_html(markdown: str) -> str:
    """Return Markdown as HTML. HTML in it, and links to elsewhere than the net, stay text; an image is a link."""
    env: dict[str, Any] = {}
    tokens = _parser.parse(markdown, env)
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
        is_in_link = sum(each.type == "link_open" for each in tokens[:idx]) > sum(
            each.type == "link_close" for each in tokens[:idx]
        )
        return text if is_in_link else f'<a href="{escape(source)}">{text}</a>'


class _Parser(MarkdownIt):
    """Takes for a link what leads to the net."""

    def validateLink(self, url: str) -> bool:
        return _LINK.match(url) is not None


_options = {"html": False, "breaks": True, "maxNesting": _MOST_NESTED}
_parser = _Parser("commonmark", _options, renderer_cls=_Renderer).enable(["table", "strikethrough"])
