"""What the daemon asked of the homeserver for one agent, asked again by a bare client for others.

So what a cold start is compared with is what the daemon does now, whatever that is. Pure, but for `Replayer`.
"""

import asyncio
import contextlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote, urlencode

import aiohttp
from yarl import URL

from bench.between import Exchange

_LEARNT = ("room_id", "content_uri", "event_id")
"""What an answer says that later requests name."""
_WRITTEN_TO = re.compile(r"/(?:rooms|join)/([^/?]+)")
_KINDS = {"!": "{room}", "@": "{user}", "#": "{alias}", "$": "{event}"}


def text_of(exchange: Exchange) -> str:
    """Return the address and the body of a request, to look for names in."""
    is_text = exchange.content_type == "application/json"
    return unquote(exchange.path) + (exchange.body.decode() if is_text else "")


def learnt_from(answer: bytes) -> dict[str, str]:
    """Return the ids that an answer tells, by their keys."""
    try:
        told = json.loads(answer)
    except ValueError:
        return {}
    return {key: told[key] for key in _LEARNT if key in told} if isinstance(told, dict) else {}


def writes_of(exchanges: Sequence[Exchange]) -> list[Exchange]:
    """Return the writes, and those reads without which a write cannot be made: it names what was read."""
    writes = [exchange for exchange in exchanges if exchange.method != "GET"]
    kept = []
    for number, exchange in enumerate(exchanges):
        later = "".join(text_of(other) for other in exchanges[number + 1 :] if other.method != "GET")
        if exchange in writes or any(told in later for told in learnt_from(exchange.answer).values()):
            kept.append(exchange)
    return kept


def label_of(exchange: Exchange, known: Mapping[str, str]) -> str:
    """Return what a request is, the same for each agent.

    `known`: what to call ids, and whose tokens are whose. An id stands in braces in an address, and not elsewhere.
    """
    path, _, query = exchange.path.partition("?")
    acting = dict(parse_qsl(query)).get("user_id", exchange.token)
    segments = [unquote(segment) for segment in path.split("/")[4:]]
    shown = [known.get(each, _KINDS.get(each[:1], each)) for each in segments]
    who = known.get(acting, "somebody").strip("{}")
    invited = json.loads(exchange.body).get("user_id") if path.endswith("/invite") else None
    whom = "" if invited is None else f" of {known.get(invited, 'somebody').strip('{}')}"
    return f"{who}: {exchange.method} /{'/'.join(shown)}{whom}"


def renamed(text: str, names: Mapping[str, str]) -> str:
    """Return a text with each of the names replaced by what it is now; of two that begin alike, the longer counts."""
    longest_first = sorted(filter(None, names), key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest_first)))
    return pattern.sub(lambda found: names[found[0]], text) if longest_first else text


def renamed_path(path: str, names: Mapping[str, str], acting_as: str) -> str:
    """Return an address with names replaced. `acting_as`: who acts where it names nobody; "": whose token it is."""
    path, _, query = path.partition("?")
    segments = [quote(renamed(unquote(segment), names), safe="") for segment in path.split("/")]
    parameters = {key: renamed(value, names) for key, value in parse_qsl(query)}
    if acting_as:
        parameters.setdefault("user_id", acting_as)
    return "/".join(segments) + (f"?{urlencode(parameters)}" if parameters else "")


@dataclass(frozen=True, slots=True)
class Replayer:
    """Asks again. Like the daemon it writes to one room one after the other: at once they would fork it.

    Args:
        names_of: returns what is called otherwise for an agent of a name: it, its user and alias, and all others.
        tokens: whose requests they are now, by whose they were, each with the user who acts where none is named.
    """

    base_url: str
    http: aiohttp.ClientSession
    names_of: Callable[[str], dict[str, str]]
    tokens: Mapping[str, tuple[str, str]]
    _turns: defaultdict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))

    async def replay(self, exchanges: Sequence[Exchange], name: str) -> None:
        """Ask for an agent of a name what was asked, one after the other. Raises where an answer differs."""
        names = self.names_of(name)
        for exchange in exchanges:
            told = learnt_from(await self._ask(exchange, names))
            names |= {old: told[key] for key, old in learnt_from(exchange.answer).items() if key in told}

    async def _ask(self, exchange: Exchange, names: Mapping[str, str]) -> bytes:
        token, acting_as = self.tokens[exchange.token]
        path = renamed_path(exchange.path, names, acting_as)
        is_text = exchange.content_type == "application/json"
        body = renamed(exchange.body.decode(), names).encode() if is_text else exchange.body
        headers = {"Authorization": f"Bearer {token}", "Content-Type": exchange.content_type}
        url, method = URL(self.base_url + path, encoded=True), exchange.method
        async with self._turn(method, path), self.http.request(method, url, data=body, headers=headers) as answer:
            content = await answer.read()
        if answer.status != exchange.status:
            raise RuntimeError(f"{method} {path} was answered {answer.status}, not {exchange.status}: {content!r}")
        return content

    def _turn(self, method: str, path: str) -> contextlib.AbstractAsyncContextManager[None]:
        room = None if method == "GET" else _WRITTEN_TO.search(path)
        return contextlib.nullcontext() if room is None else self._turns[room[1]]
