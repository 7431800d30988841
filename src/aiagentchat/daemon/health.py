"""How the daemon is: named conditions with a remedy each. `daemon.metrics` has the figures.

Conditions are computed when asked for, from what the parts know; nothing is kept here but what nobody else owns.
"""

import os
import time
from dataclasses import dataclass
from typing import Literal

from aiagentchat.agents.heartbeat import Heartbeat
from aiagentchat.agents.host import AgentHost
from aiagentchat.config import Settings
from aiagentchat.daemon.metrics import Metrics
from aiagentchat.daemon.transports import Transport
from aiagentchat.daemon.watch import Watch
from aiagentchat.errors import AiAgentChatError, MatrixUnauthorizedError
from aiagentchat.gateway.schemas import Condition, HealthAnswer
from aiagentchat.matrix.client import MatrixClient
from aiagentchat.matrix.wire import ClientStats
from aiagentchat.model import render_time
from aiagentchat.space.others import LEASE_EVENT_S

_PROBE_CACHED_S = 1.0
_LEASE_LAPSES_S = 75.0
_LIMIT_SAID_S = 300.0


@dataclass(frozen=True, slots=True)
class SystemInfo:
    """What does not change while the daemon runs."""

    homeserver_url: str
    server_name: str
    operator: str
    mode: str
    element_url: str


class Health:
    """Answers `/health` and `/metrics`.

    Args:
        probe: a client with a short deadline, to ask the homeserver whether it is there. operator_probe: the same of
            the operator's device; None: there is none. stats: of all requests.
    """

    def __init__(
        self,
        settings: Settings,
        info: SystemInfo,
        host: AgentHost,
        heartbeat: Heartbeat,
        transport: Transport,
        watch: Watch,
        probe: MatrixClient,
        operator_probe: MatrixClient | None,
        stats: ClientStats,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._info = info
        self._host = host
        self._heartbeat = heartbeat
        self._transport = transport
        self._watch = watch
        self._probe = probe
        self._operator_probe = operator_probe
        self._stats = stats
        self.metrics = metrics
        self._probed: tuple[float, str, str] | None = None
        self._started_at = time.monotonic()
        self.boot_failures: dict[str, str] = {}
        self.missing_endpoints: tuple[str, ...] = ()
        self.listening = ""

    async def report(self) -> HealthAnswer:
        """Return all conditions, and what `cchat status` shows."""
        homeserver, operator = await self._failures()
        conditions = [
            self._homeserver(homeserver),
            self._space(),
            self._events(),
            self._lease(),
            self._operator(operator),
            self._pending(),
            self._encrypted(),
            self._cursors(),
            self._gaps(),
            self._history(),
            self._memberships(),
            self._limits(),
            self._endpoints(),
        ]
        status: Literal["ok", "degraded"] = "ok" if all(condition.ok for condition in conditions) else "degraded"
        return HealthAnswer(status=status, conditions=conditions, system=self._system(status))

    def _system(self, status: str) -> dict[str, object]:
        manager, paths = self._host.manager, self._settings.paths
        password = paths.operator_password
        return {
            "homeserver_url": self._info.homeserver_url,
            "element_url": self._info.element_url,
            "server_name": self._info.server_name,
            "space_alias": self._settings.space_alias,
            "space_id": manager.space_id,
            "broadcast_id": manager.broadcast_id,
            "operator": self._info.operator,
            "password_file": str(password) if password.exists() else None,
            "mode": self._info.mode,
            "agents": sorted(self._host.sessions.online()),
            "health": status,
            "daemon_pid": os.getpid(),
            "listening": self.listening,
        }

    async def _failures(self) -> tuple[str, str]:
        """Return what is wrong with the homeserver, and with the operator's device."""
        if self._probed is None or time.monotonic() - self._probed[0] > _PROBE_CACHED_S:
            homeserver = operator = ""
            try:
                await self._probe.versions()
                if self._operator_probe is not None:
                    await self._operator_probe.whoami()
            except MatrixUnauthorizedError as error:
                operator = error.message
            except AiAgentChatError as error:
                homeserver = error.message
            self._probed = (time.monotonic(), homeserver, operator)
        return self._probed[1:]

    def _homeserver(self, failure: str) -> Condition:
        remedy = (
            "" if not failure else "start it ('cchat up' for the embedded one) or mend its network; the daemon waits"
        )
        return Condition(name="homeserver", ok=not failure, detail=failure or self._info.homeserver_url, remedy=remedy)

    def _space(self) -> Condition:
        manager = self._host.manager
        ok = manager.space_id is not None and not manager.unavailable
        remedy = "nothing to do where 'homeserver' holds: it is tried again; agents work in their own rooms meanwhile"
        if not manager.is_passing:
            remedy = (
                f"invite {manager.names.daemon} to the Space, and give it power level 100 if a person made it; or see "
                "that SPACE_ALIAS lies in the registration's namespace. Agents work in their own rooms meanwhile"
            )
        detail = str(manager.space_id) if ok else manager.unavailable
        return Condition(name="space", ok=ok, detail=detail, remedy="" if ok else remedy)

    def _events(self) -> Condition:
        failure, remedy = self._transport.failure()
        detail = failure or f"{self._transport.batches_taken} {self._transport.unit} taken"
        return Condition(name="transport", ok=not failure, detail=detail, remedy=remedy if failure else "")

    def _lease(self) -> Condition:
        refreshed_at = self._heartbeat.lease_refreshed_at or self._started_at
        age_s = time.monotonic() - refreshed_at
        lapses_s = _LEASE_LAPSES_S if self._heartbeat.has_presence is not False else 2 * LEASE_EVENT_S
        of_syncs = not self._host.names.has_own_daemon  # which the transport tells
        ok = of_syncs or age_s < lapses_s
        detail = "each agent's sync is its lease" if of_syncs else f"refreshed {age_s:.0f} s ago"
        remedy = (
            ""
            if ok
            else "start the homeserver, or mend its network; until then other daemons see its agents as offline"
        )
        return Condition(name="lease", ok=ok, detail=detail, remedy=remedy)

    def _operator(self, failure: str) -> Condition:
        is_embedded = self._settings.paths.homeserver.exists()
        login = "'cchat down', then 'cchat up'," if is_embedded else "'cchat login --operator'"
        remedy = "" if not failure else f"{login} logs the operator's device in again"
        return Condition(name="operator", ok=not failure, detail=failure or self._info.operator, remedy=remedy)

    def _pending(self) -> Condition:
        missing = [f"{name} is not up: {why}" for name, why in sorted(self.boot_failures.items())[:20]]
        for name, pending in sorted(self._host.pending.items())[:20]:
            missing.append(f"{name} is not listed in the Space yet: {pending.reason}")
        detail = "; ".join(missing) or "all agents are listed"
        remedy = ""
        if any(pending.is_final for pending in self._host.pending.values()):
            remedy = "mend what it says, then join that agent again; what else is missing is tried again by itself"
        elif missing:
            remedy = "nothing to do: it is tried again until it holds"
        return Condition(name="registration", ok=not missing, detail=detail, remedy=remedy)

    def _encrypted(self) -> Condition:
        rooms = self._host.encrypted_rooms()
        detail = f"encrypted: {', '.join(rooms[:20])}" if rooms else "no room is encrypted"
        remedy = ""
        if rooms:
            remedy = (
                "encryption cannot be switched off in a room, and nothing is sent in clear into one that has it: "
                "remove the room's alias in Element, switch encryption by default off on the homeserver, and restart; "
                "the daemon makes a new room under the alias"
            )
        return Condition(name="encryption", ok=not rooms, detail=detail, remedy=remedy)

    def _cursors(self) -> Condition:
        names = [name for name, inbox in self._host.inboxes().items() if inbox.anchor_lost]
        detail = f"the history that held the cursor was purged: {', '.join(names)}" if names else "every cursor holds"
        remedy = "" if not names else "nothing to do: what is left of the room is handed out"
        return Condition(name="cursors", ok=not names, detail=detail, remedy=remedy)

    def _gaps(self) -> Condition:
        names = [name for name, inbox in self._host.inboxes().items() if inbox.has_gap]
        detail, remedy = "what other homeservers left out has come", ""
        if names:
            detail = f"another homeserver has not sent what it left out, perhaps messages to {', '.join(names)}"
            remedy = "it is asked again at the next message from there; ask its people what they have sent meanwhile"
        return Condition(name="gaps", ok=not names, detail=detail, remedy=remedy)

    def _history(self) -> Condition:
        lost, detail, remedy = self._watch.lost, "the homeserver has all that it had", ""
        if lost is not None:
            detail = (
                f"the homeserver was restored from an older copy: it no longer has {lost.event_id}, written at "
                f"{render_time(lost.ts)} in {lost.room_id}"
            )
            remedy = (
                "what was sent since the copy was made is gone and has to be sent again ('cchat sent' shows what is "
                "left), and what was read since then comes again; restarting the daemon ends this notice"
            )
        return Condition(name="history", ok=lost is None, detail=detail, remedy=remedy)

    def _memberships(self) -> Condition:
        expelled = self._host.expelled()
        detail = "; ".join(expelled.values()) or "every agent is in its room and in the Space"
        remedy = "" if not expelled else "invite the agent there again to have it back; nothing is taken back by itself"
        return Condition(name="memberships", ok=not expelled, detail=detail, remedy=remedy)

    def _limits(self) -> Condition:
        stats = self._stats
        ago_s = float("inf") if stats.last_limit_at is None else time.monotonic() - stats.last_limit_at
        ok = ago_s > _LIMIT_SAID_S
        detail, remedy = "the homeserver has asked for no wait lately", ""
        if not ok:
            detail = f"the homeserver limits the rate: it asked for {stats.limits} waits, the last {ago_s:.0f} s ago"
            remedy = (
                "slower, and nothing is lost: what cannot be sent in time fails and says so. An administrator can "
                "raise the limits of these accounts, or let the daemon be an application service"
            )
        return Condition(name="limits", ok=ok, detail=detail, remedy=remedy)

    def _endpoints(self) -> Condition:
        missing = self.missing_endpoints
        detail = f"the homeserver has no {', '.join(missing)}" if missing else "none that is needed is missing"
        remedy = "" if not missing else "docs/compatibility.md says what each is needed for; try a newer release of it"
        return Condition(name="endpoints", ok=not missing, detail=detail, remedy=remedy)

    async def render_metrics(self) -> str:
        """Return the same in figures, and others; see `Metrics`."""
        return self.metrics.render((await self.report()).conditions)
