"""One request, and what came back, as it is: for who looks for what is wrong (`daemon.doctor`).

`MatrixClient` is for work: it waits, repeats, and sorts answers. Here a 429 or a 502 is the finding.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
from yarl import URL

from aiagentchat.errors import HomeserverUnavailableError


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. `body` is empty where it was no JSON object."""

    status: int
    body: Mapping[str, Any]

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    @property
    def errcode(self) -> str:
        return self.text("errcode")

    def text(self, key: str) -> str:
        """Return a text of the body, "" where there is none."""
        value = self.body.get(key)
        return value if isinstance(value, str) else ""

    def __str__(self) -> str:
        return " ".join(filter(None, (f"HTTP {self.status}", self.errcode, self.text("error"))))


class Probe:
    """Asks a homeserver, as an application service or as nobody.

    Args:
        base_url: the homeserver. session: connections; the caller closes it. token: "": as nobody. timeout_s: of each
            request.
    """

    def __init__(self, base_url: str, session: aiohttp.ClientSession, token: str = "", *, timeout_s: float) -> None:
        self._base_url = base_url.rstrip("/")
        self._session = session
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)

    async def ask(
        self,
        method: str,
        path: tuple[str, ...],
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Reply:
        """Do one request; `path` below `/_matrix`, its segments unquoted.

        Raises:
            HomeserverUnavailableError: there was no answer; the message is the reason alone.
        """
        encoded = "/".join(quote(segment, safe="") for segment in path)
        parameters = f"?{urlencode(query)}" if query else ""
        try:
            url = URL(f"{self._base_url}/_matrix/{encoded}{parameters}", encoded=True)
            async with self._session.request(
                method, url, json=body, headers=self._headers, timeout=self._timeout, allow_redirects=False
            ) as response:
                status, raw = response.status, await response.read()
        except TimeoutError:
            raise HomeserverUnavailableError(f"no answer within {self._timeout.total:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise HomeserverUnavailableError(f"{type(error).__name__}: {error}".rstrip(": ")) from None
        try:
            answer = json.loads(raw)
        except (ValueError, RecursionError):
            answer = None
        return Reply(status, answer if isinstance(answer, dict) else {})
