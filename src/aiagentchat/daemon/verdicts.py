"""What each answer of a homeserver says of its fitness for a daemon: pure. `daemon.doctor` asks, and calls these."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aiagentchat.matrix.probe import Reply
from aiagentchat.registration import Registration

State = Literal["ok", "warning", "failed", "skipped"]

_OLDEST_ROOM_VERSION = 10
_READABLE_BY_ALL = 0o004
_SEE_LOG = "see the homeserver's log and run 'cchat doctor' again"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that has to hold, what was found, and what to do. A warning is no failure."""

    name: str
    state: State
    detail: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a daemon would run with: its registration, the file it is in, and the settings it has to agree with.

    `events_host`: the address on which it would listen for events.
    """

    registration: Registration
    path: Path
    server_name: str
    events_host: str = "127.0.0.1"

    @property
    def same_file(self) -> str:
        """The remedy for all that comes from the homeserver having another registration than the daemon."""
        return (
            f"the homeserver must have read this file, {self.path}, or a copy of it: name it in "
            "app_service_config_files of homeserver.yaml, and restart Synapse"
        )


def judge_file(registration: Registration, path: Path, mode: int) -> Check:
    """Say of a registration file that could be read whether its secrets are kept."""
    if mode & _READABLE_BY_ALL:
        detail = f"every user of this machine can read {path}, and so act as every agent"
        return Check("registration", "warning", detail, f"chmod o= {path}")
    return Check("registration", "ok", f"{path}: {registration.id}, events go to {registration.url}")


def judge_homeserver(url: str, versions: Reply, told: Reply | None) -> Check:
    """`versions`: GET /versions. `told`: the server's name and version by the federation API, which it may not have."""
    if not versions.ok or not isinstance(versions.body.get("versions"), list):
        detail = f"{url} answers, and not as a Matrix homeserver: {versions}"
        return Check("homeserver", "failed", detail, "set AIAGENTCHAT_HOMESERVER_URL to where clients reach it")
    server = told.body.get("server") if told is not None and told.ok else None
    words = [server.get(key) for key in ("name", "version")] if isinstance(server, dict) else []
    name = " ".join(word.split(" ")[0][:40] for word in words if isinstance(word, str)) or "a Matrix homeserver"
    return Check("homeserver", "ok", f"{url} is {name}")


def judge_token(whoami: Reply, setup: Setup) -> Check:
    """`whoami`: asked with the `as_token`."""
    user_id, localpart = whoami.text("user_id"), setup.registration.sender_localpart
    if whoami.status == 401:
        return Check("as_token", "failed", "the homeserver does not know the as_token", setup.same_file)
    if whoami.status >= 500:
        return Check("as_token", "failed", f"the homeserver answered {whoami}", _SEE_LOG)
    if not whoami.ok or not user_id:
        return Check("as_token", "failed", f"the homeserver answered {whoami}", setup.same_file)
    if not user_id.startswith(f"@{localpart}:"):
        detail = f"the homeserver takes the as_token for {user_id}, and not for @{localpart}"
        return Check("as_token", "failed", detail, setup.same_file)
    return Check("as_token", "ok", f"the homeserver takes it for {user_id}")


def judge_server_name(server: str, setup: Setup) -> Check:
    """`server`: what the homeserver calls itself, in the application service's own user."""
    if server == setup.server_name:
        return Check("server name", "ok", server)
    detail = f"the homeserver is {server}, and SERVER_NAME is {setup.server_name}"
    return Check("server name", "failed", detail, f"set SERVER_NAME={server}")


def judge_ping(reply: Reply, setup: Setup, *, listener: str) -> Check:
    """`reply`: of the homeserver that was asked to ping. `listener`: who should have heard it."""
    url = setup.registration.url
    if reply.ok:
        return Check("ping", "ok", f"the homeserver reached {listener} at {url}")
    detail, remedy = f"the homeserver answered {reply}", setup.same_file
    if reply.errcode == "M_BAD_STATUS" and reply.body.get("status") in (401, 403):
        detail = f"the homeserver reached {listener} with another hs_token than the file's"
    elif reply.errcode == "M_BAD_STATUS":
        detail = f"what the homeserver reached is not {listener}: it answered HTTP {reply.body.get('status')}"
        remedy = f"see that {url}, as the homeserver sees it, leads to the port of the daemon, and that it has this url"
    elif reply.errcode in ("M_CONNECTION_FAILED", "M_CONNECTION_TIMEOUT") or reply.status == 504:
        detail = f"the homeserver does not reach {listener}: {reply.text('error') or reply.errcode}"
        remedy = (
            f"the registration says {url}: the homeserver must have that url too, and reach it from where it runs. The "
            f"daemon listens on {setup.events_host}; from another machine forward the port, from a container set "
            "AIAGENTCHAT_EVENTS_HOST"
        )
    elif reply.errcode == "M_URL_NOT_SET":
        detail = "the homeserver's registration has no url: it sends no events"
    elif reply.status == 403:
        detail = f"the homeserver has the as_token under another id than {setup.registration.id}"
    elif reply.status == 404:
        detail, remedy = "the homeserver cannot be asked to ping (MSC2659)", "use a newer Synapse"
    return Check("ping", "failed", detail, remedy)


def judge_room_version(capabilities: Reply) -> Check:
    """`capabilities`: GET /capabilities."""
    default: object = capabilities.body
    for key in ("capabilities", "m.room_versions", "default"):
        default = default.get(key) if isinstance(default, dict) else None
    if not isinstance(default, str):
        detail = f"the homeserver does not say: {capabilities}"
        return Check(
            "room version", "warning", detail, "see that default_room_version in homeserver.yaml is 10 or later"
        )
    if default.isascii() and default.isdigit() and int(default) < _OLDEST_ROOM_VERSION:
        remedy = 'set default_room_version: "10", or a later one, in homeserver.yaml'
        return Check("room version", "failed", f"rooms are made in version {default}, which is too old", remedy)
    return Check("room version", "ok", f"rooms are made in version {default}")


def judge_tokens(whoami: Mapping[str, Reply]) -> Check:
    """`whoami`: GET /account/whoami with the token of each account, by whose it is."""
    refused = {name: reply for name, reply in whoami.items() if not reply.ok}
    lasting = [name for name, reply in refused.items() if reply.body.get("soft_logout") is not True]
    if lasting:
        detail = "; ".join(f"the homeserver does not take the token of {name}: {refused[name]}" for name in lasting)
        return Check("tokens", "failed", detail, "log them in again: cchat login NAME, cchat login --operator")
    ended = f" ({', '.join(refused)}: ended, and is renewed when it is used)" if refused else ""
    return Check("tokens", "ok", f"the homeserver takes the tokens of {', '.join(whoami)}{ended}")


def judge_endpoints(missing: tuple[str, ...]) -> Check:
    """`missing`: what `endpoints.missing_endpoints` found."""
    if missing:
        remedy = "docs/compatibility.md says what each is needed for; try a newer release of it"
        return Check("endpoints", "failed", f"the homeserver has no {', '.join(missing)}", remedy)
    return Check("endpoints", "ok", "the homeserver has what is needed")


def judge_space_alias(alias: str, resolved: Reply | None, registration: Registration) -> Check:
    """`resolved`: the alias in the homeserver's directory; None: the registration claims it."""
    if resolved is None:
        return Check("space alias", "ok", f"{alias} is in the registration: the daemon can make the Space")
    if resolved.ok:
        return Check("space alias", "ok", f"{alias} exists: the daemon's user has to be invited there")
    if "." in registration.sender_localpart:
        remedy = "start the daemon whose registration has no id: it makes the Space"
    else:
        remedy = "make a Space under it and invite the daemon's user, or write a new registration with this SPACE_ALIAS"
    return Check("space alias", "failed", f"{alias} does not exist, and the registration does not claim it", remedy)


@dataclass(frozen=True, slots=True)
class NameReplies:
    """What the homeserver says to the names of an agent, and to one that is none.

    made: the account `user_id` was made. acted: a request as it. freed: `alias`, which no room has, was freed.
    foreign_freed: likewise one that is not to be ours.
    """

    user_id: str
    alias: str
    made: Reply
    acted: Reply
    freed: Reply
    foreign_freed: Reply


def judge_names(replies: NameReplies, setup: Setup) -> Check:
    """Say whether the names of agents are the daemon's, and no others."""
    who, alias, made, freed = replies.user_id, replies.alias, replies.made, replies.freed
    for is_good, what, reply in (
        (made.ok or made.errcode == "M_USER_IN_USE", f"refuses the user {who}", made),
        (replies.acted.ok, f"refuses a request as {who}", replies.acted),
        (freed.ok or freed.status == 404, f"refuses the alias {alias}", freed),
    ):
        if not is_good:
            remedy = f"{setup.same_file}. Its patterns end with the server's name, and no other service may claim them"
            return Check("namespace", "failed", f"the homeserver {what}: {reply}", remedy)
    if replies.foreign_freed.errcode != "M_EXCLUSIVE" or claims_too_much(setup.registration, who.partition(":")[2]):
        detail = "the registration claims more than the names of agents: others' messages are pushed to the daemon"
        return Check("namespace", "warning", detail, "'cchat registration --output FILE' writes one that is no wider")
    return Check("namespace", "ok", f"{who} and {alias} are the daemon's, and what is not an agent's is not")


def claims_too_much(registration: Registration, server_name: str) -> bool:
    """Return whether the patterns match what is no agent's: names of another daemon, of people, of other servers."""
    prefix = registration.sender_localpart
    names = (f"{prefix}.other-a:{server_name}", f"{prefix}other:{server_name}", f"{prefix}-a:{server_name}.example")
    return any(registration.claims_user(f"@{name}") or registration.claims_alias(f"#{name}") for name in names)


def judge_presence(put: Reply, got: Reply) -> Check:
    """`put`: an agent's presence was set to online. `got`: it was read after that."""
    remedy = "set presence: {enabled: true} in homeserver.yaml, and restart Synapse: by it others know who is online"
    if not put.ok or not got.ok:
        return Check("presence", "failed", f"the homeserver answered {put if not put.ok else got}", remedy)
    if got.text("presence") != "online":
        detail = f"the homeserver takes a presence and does not keep it: it is {got.text('presence') or 'missing'}"
        return Check("presence", "failed", detail, remedy)
    return Check("presence", "ok", "it is kept")


def judge_rate_limits(replies: list[Reply], setup: Setup) -> Check:
    """`replies`: to one and the same harmless request of an agent, in a row."""
    remedy = f"set rate_limited: false in {setup.path} and in what the homeserver has of it, and restart Synapse"
    if any(reply.status == 429 for reply in replies):
        return Check("rate limits", "failed", "the homeserver limits the rate of agents", remedy)
    if setup.registration.rate_limited:
        return Check("rate limits", "failed", "the registration does not say rate_limited: false", remedy)
    if wrong := [reply for reply in replies if not reply.ok]:
        return Check("rate limits", "failed", f"the homeserver answered {wrong[0]}", _SEE_LOG)
    return Check("rate limits", "ok", f"{len(replies)} requests of an agent in a row were not limited")
