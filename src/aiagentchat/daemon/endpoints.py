"""Which of the endpoints that the daemon needs a homeserver has: asked once at the start, without doing anything there.

A method that no endpoint takes is answered with 405 where there is one, and with 404 where there is none, both
`M_UNRECOGNIZED` (https://spec.matrix.org/latest/client-server-api/#common-error-codes). `docs/compatibility.md` lists
all that are used.
"""

from aiagentchat.errors import HomeserverUnavailableError
from aiagentchat.matrix.probe import Probe

_METHOD = "PATCH"
_KNOWN = "v3/account/whoami"
_ROOM, _USER, _EVENT = "!none", "@none:none", "$none"

NEEDED = (
    _KNOWN,
    "v3/capabilities",
    "v3/createRoom",
    "v3/directory/room/#none:none",
    f"v3/join/{_ROOM}",
    f"v3/rooms/{_ROOM}/invite",
    f"v3/rooms/{_ROOM}/leave",
    f"v3/rooms/{_ROOM}/send/m.room.message/none",
    f"v3/rooms/{_ROOM}/state",
    f"v3/rooms/{_ROOM}/state/m.room.name/",
    f"v3/rooms/{_ROOM}/messages",
    f"v3/rooms/{_ROOM}/context/{_EVENT}",
    f"v3/rooms/{_ROOM}/event/{_EVENT}",
    f"v3/user/{_USER}/rooms/{_ROOM}/account_data/none",
)
OF_APPSERVICE = ("v3/register",)
OF_ACCOUNTS = ("v3/login", "v3/sync")


async def missing_endpoints(probe: Probe, *, is_appservice: bool) -> tuple[str, ...]:
    """Return the endpoints that are needed and not there, as paths below `/_matrix/client`.

    None is named where the homeserver does not tell: one that answers otherwise to what it surely has.

    Raises:
        HomeserverUnavailableError: it does not answer.
    """
    if not await _has(probe, _KNOWN):
        return ()
    wanted = NEEDED[1:] + (OF_APPSERVICE if is_appservice else OF_ACCOUNTS)
    return tuple([path for path in wanted if not await _has(probe, path)])


async def _has(probe: Probe, path: str) -> bool:
    reply = await probe.ask(_METHOD, ("client", *path.split("/")))
    if reply.status in (429, 502, 503, 504):
        raise HomeserverUnavailableError(f"the homeserver cannot say whether it has {path}: {reply}")
    return not (reply.status == 404 and reply.errcode == "M_UNRECOGNIZED")
