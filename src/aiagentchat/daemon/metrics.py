"""The daemon in figures, for Prometheus: read from those who count, when they are asked for."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

from aiagentchat.agents.host import AgentHost
from aiagentchat.agents.intake import Intake
from aiagentchat.daemon.transports import Transport
from aiagentchat.daemon.usage import read_usage
from aiagentchat.figures import Family, Histogram, Samples, Value, render
from aiagentchat.gateway.schemas import Condition
from aiagentchat.matrix.wire import ClientStats

METRICS: Final = {
    "aiagentchat_condition": Family("gauge", "Whether a condition of /health holds: 1 or 0.", "name"),
    "aiagentchat_messages_stored_total": Family("counter", "Messages that arrived, by who wrote them.", "sender"),
    "aiagentchat_messages_handed_out_total": Family("counter", "Messages given to agents that read; again counts."),
    "aiagentchat_messages_acknowledged_total": Family("counter", "Messages that agents acknowledged."),
    "aiagentchat_messages_answering_total": Family("counter", "Messages that answer another one.", "sender"),
    "aiagentchat_send_seconds": Family("histogram", "From the request to send until the homeserver has it."),
    "aiagentchat_gateway_request_seconds": Family("histogram", "Requests that do not wait on purpose.", "route"),
    "aiagentchat_inbox_unread": Family("gauge", "Unread messages, as far as inboxes were asked for and read."),
    "aiagentchat_homeserver_requests_total": Family("counter", "Requests to the homeserver, retries included."),
    "aiagentchat_homeserver_retries_total": Family("counter", "Requests that were repeated."),
    "aiagentchat_homeserver_breaks_total": Family("counter", "Requests that found no homeserver."),
    "aiagentchat_homeserver_limits_total": Family("counter", "Answers that asked to wait."),
    "aiagentchat_homeserver_writes_waiting": Family("gauge", "Writes that wait for others to the same room."),
    "aiagentchat_transactions_total": Family("counter", "Transactions, or syncs with news, taken in."),
    "aiagentchat_transactions_waiting": Family("gauge", "Transactions, or syncs with news, not taken in yet."),
    "aiagentchat_transactions_idle_seconds": Family("gauge", "Seconds since something was taken in last."),
    "aiagentchat_events_skipped_total": Family("counter", "Entries that were no events."),
    "aiagentchat_agents_online": Family("gauge", "Agents that have a session."),
    "aiagentchat_agents_pending": Family("gauge", "Agents not listed in the Space yet."),
    "aiagentchat_uptime_seconds": Family("gauge", "Seconds since the daemon started."),
    "aiagentchat_tasks": Family("gauge", "Tasks of the daemon's event loop."),
    "process_resident_memory_bytes": Family("gauge", "Resident memory size in bytes."),
    "process_open_fds": Family("gauge", "Number of open file descriptors."),
    "process_threads": Family("gauge", "Number of threads."),
}


class Metrics:
    """Renders them. `stats`: of all requests to the homeserver. `timings`: of the gateway's, by route."""

    def __init__(self, host: AgentHost, intake: Intake, transport: Transport, stats: ClientStats) -> None:
        self._host = host
        self._intake = intake
        self._transport = transport
        self._stats = stats
        self._started_at = time.monotonic()
        self.timings: defaultdict[str, Histogram] = defaultdict(Histogram)

    def render(self, conditions: Iterable[Condition]) -> str:
        """Return the figures in Prometheus' text format. Those that this system does not tell are left out."""
        host, stats, usage, now = self._host, self._stats, read_usage(), time.monotonic()
        tally = host.tally
        single: dict[str, Value | None] = {
            "aiagentchat_messages_handed_out_total": tally.handed_out,
            "aiagentchat_messages_acknowledged_total": tally.acknowledged,
            "aiagentchat_send_seconds": tally.sending,
            "aiagentchat_inbox_unread": sum(inbox.unread_known()[0] or 0 for inbox in host.inboxes().values()),
            "aiagentchat_homeserver_requests_total": stats.requests,
            "aiagentchat_homeserver_retries_total": stats.retries,
            "aiagentchat_homeserver_breaks_total": stats.breaks,
            "aiagentchat_homeserver_limits_total": stats.limits,
            "aiagentchat_homeserver_writes_waiting": stats.writes_waiting,
            "aiagentchat_transactions_total": self._transport.batches_taken,
            "aiagentchat_transactions_waiting": self._transport.batches_waiting,
            "aiagentchat_transactions_idle_seconds": now - (self._intake.taken_at or self._started_at),
            "aiagentchat_events_skipped_total": self._intake.skipped_events,
            "aiagentchat_agents_online": len(host.sessions.online()),
            "aiagentchat_agents_pending": len(host.pending),
            "aiagentchat_uptime_seconds": now - self._started_at,
            "aiagentchat_tasks": len(asyncio.all_tasks()),
            "process_resident_memory_bytes": usage.resident_bytes,
            "process_open_fds": usage.open_files,
            "process_threads": usage.threads,
        }
        samples: dict[str, Samples] = {name: {"": value} for name, value in single.items() if value is not None}
        kinds: Mapping[str, float] = dict.fromkeys(("agent", "person", "daemon"), 0)
        samples |= {
            "aiagentchat_condition": {condition.name: float(condition.ok) for condition in conditions},
            "aiagentchat_messages_stored_total": {**kinds, **tally.stored},
            "aiagentchat_messages_answering_total": {**kinds, **tally.answers},
            "aiagentchat_gateway_request_seconds": self.timings,
        }
        return render(METRICS, samples)
