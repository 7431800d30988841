"""Agents' Markdown as Matrix HTML: what the specification permits, well formed, and nothing else."""

import re
import sys
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiagentchat.agents.markdown import render_html
from aiagentchat.errors import BodyTooLargeError

# https://spec.matrix.org/latest/client-server-api/#mroommessage-msgtypes
PERMITTED = {
    *("del", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "p", "a", "ul", "ol", "sup", "sub", "li", "b", "i", "u"),
    *("strong", "em", "s", "code", "hr", "br", "div", "table", "thead", "tbody", "tr", "th", "td", "caption", "pre"),
    *("span", "img", "details", "summary"),
}
ATTRIBUTES = {("a", "href"), ("ol", "start"), ("code", "class")}
VOID = frozenset({"hr", "br"})
MOST_NESTED = 100


class Checker(HTMLParser):
    """Fails where HTML holds anything that is not permitted, or is not well formed."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=False)
        self.open: list[str] = []
        self.shown = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in PERMITTED
        assert len({name for name, _ in attrs}) == len(attrs)
        for name, value in attrs:
            assert (tag, name) in ATTRIBUTES
            assert value is not None
            if name == "href":
                assert re.match(r"(https?|ftp|mailto|magnet):", value, re.IGNORECASE), value
                assert "a" not in self.open
            elif name == "class":
                assert re.fullmatch(r"language-\S+", value), value
            else:
                assert value.isdigit()
        if tag not in VOID:
            self.open.append(tag)
        assert len(self.open) <= MOST_NESTED

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        assert "<" not in data
        self.shown += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    def handle_decl(self, decl: str) -> None:
        raise AssertionError(decl)

    def handle_pi(self, data: str) -> None:
        raise AssertionError(data)

    def unknown_decl(self, data: str) -> None:
        raise AssertionError(data)


ADDRESSES = st.sampled_from(
    [
        *(
            "javascript:x",
            "JaVaScRiPt:x",
            "java&Tab;script:x",
            "data:text/html,x",
            "vbscript:x",
            "file:///etc",
            "//a.b",
        ),
        *("https://a.b/?c=1&d", "HTTP://a.b", "mailto:a@b.c", "mxc://a/b", "docs/a", '"onmouseover="z', "<b>", "%22"),
    ]
)
LINKS = st.sampled_from(["[a]({})", "![a]({})", '[a]({} "b")', "<{}>", "[c]: {}\n[c]", "[![a](https://a.b)]({})"])
MARKS = st.sampled_from(
    [
        *"*_`~[]()!<>&\"'#|\\:-+=\n \t0a.\u00a0\u2028",
        *("\n\n", "\n> ", "\n- ", "\n3. ", "```", "~~~", "**", "| a | b |\n|:-:|--|\n| c | d |\n", "![", "](", "    "),
        *("<script>", "</p>", "<!--", "<a onclick=x>", "<img src=x onerror=y>", "&lt;", "&#60;", "- [ ] ", '```a"b\n'),
    ]
)
markdown = st.lists(MARKS | st.builds(str.format, LINKS, ADDRESSES), max_size=20).map("".join) | st.text(max_size=80)


@given(text=markdown)
def test_whatever_is_written_only_permitted_html_comes_of_it_and_it_is_well_formed(text: str) -> None:
    Checker(render_html(text))


@pytest.mark.parametrize("text", ["*" * 999 + "a" + "*" * 999, "> " * 500 + "a", "- " * 500 + "a", "![" * 300 + "a"])
def test_nothing_is_nested_deeper_than_clients_take(text: str) -> None:
    assert "a" in Checker(render_html(text)).shown


def one_line(html: str) -> str:
    return html.replace("\n", "")


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("**a** _b_ ~~c~~ `d<`", "<p><strong>a</strong> <em>b</em> <s>c</s> <code>d&lt;</code></p>"),
        ("one\ntwo", "<p>one<br />two</p>"),
        ("```python\nx < 1\n```", '<pre><code class="language-python">x &lt; 1</code></pre>'),
        ('```x"y\nz\n```', "<pre><code>z</code></pre>"),
        ("3. a\n4. b", '<ol start="3"><li>a</li><li>b</li></ol>'),
        (
            "| a | b |\n|:-:|---|\n| 1 | 2 |",
            "<table><thead><tr><th>a</th><th>b</th></tr></thead><tbody><tr><td>1</td><td>2</td></tr></tbody></table>",
        ),
        ('[a](https://b.c/?d=1&e "title")', '<p><a href="https://b.c/?d=1&amp;e">a</a></p>'),
        ("<b onclick=x>a</b>", "<p>&lt;b onclick=x&gt;a&lt;/b&gt;</p>"),
    ],
)
def test_it_is_what_a_person_is_to_see(text: str, html: str) -> None:
    assert one_line(render_html(text)) == html


@pytest.mark.parametrize(
    "address", ["javascript:alert(1)", "JAVASCRIPT:x", "data:text/html,x", "file:///etc", "docs/a.md", "//a.b", "#a"]
)
def test_a_link_leads_to_the_net_or_stays_text(address: str) -> None:
    assert one_line(render_html(f"[a]({address}) ![b]({address})")) == f"<p>[a]({address}) ![b]({address})</p>"


def test_an_image_is_a_link_to_it_but_not_within_one() -> None:
    assert render_html("![plot](https://a.b/c.png)") == '<p><a href="https://a.b/c.png">plot</a></p>'
    assert render_html("[![plot](https://a.b/c.png)](https://d.e)") == '<p><a href="https://d.e">plot</a></p>'


def steps(text: str) -> int:
    """Return how many calls it takes to render a text, or to refuse it."""
    count = 0

    def note(_frame: object, event: str, _arg: object) -> None:
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        render_html(text)
    except BodyTooLargeError:
        pass
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.parametrize(
    ("begin", "repeated"),
    [
        ("", "![](http://a)"),
        ("[b]: http://c\n\n", "![b]"),
        ("[b]: http://c\n\n", "[![b]](http://a) "),
        ("", "!["),
        ("", "[a]("),
        ("", "*_"),
        ("", "a\n\n"),
    ],
)
def test_twice_as_much_takes_no_more_than_twice_as_long(begin: str, repeated: str) -> None:
    half, whole = (steps(begin + repeated * (size // len(repeated))) for size in (6_000, 12_000))
    assert whole < 2.3 * half


@pytest.mark.parametrize(
    "text",
    [
        "|" + "a|" * 100 + "\n|" + "-|" * 100 + "\n" + "a\n" * 16_000,  # rows are filled up to 65,536 cells
        "a|b\n-|-\n" + "|\n" * 30_000,
        "- a\n" * 15_000,
    ],
)
def test_html_that_no_event_can_hold_is_refused_before_all_of_it_is_made(text: str) -> None:
    assert steps(text) < 1_000_000
    with pytest.raises(BodyTooLargeError, match="the limit"):
        render_html(text)


def test_html_that_an_event_can_hold_is_made() -> None:
    assert render_html("- a\n" * 4_000).count("<li>") == 4_000
