"""`Commands`: what people ask of the system in an agent's room, `!help`, `!status` and `!stop`, answered by the daemon.

Whoever runs the agent. Answers are notices of the agent's user; its adapters see to `!stop`, where there are any.
"""

import asyncio
import logging

from aiagentchat.agents.host import AgentHost
from aiagentchat.agents.messages import add_reply, render_message, transaction_id
from aiagentchat.agents.room_inbox import UNREAD_WINDOW
from aiagentchat.errors import AiAgentChatError
from aiagentchat.model import AgentName, Command, Message, Reach, one_line, render_time

log = logging.getLogger(__name__)

_REACHED: dict[Reach, str] = {
    "push": "what you write reaches it at once",
    "hook": "it is told of what you write at its next pause",
    "poll": "it reads what you write when it looks",
    "none": "how messages reach it is not known",
}


class Commands:
    """Answers, a task for each."""

    def __init__(self, host: AgentHost) -> None:
        self._host = host
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, agent: AgentName, command: Command, message: Message) -> None:
        """Answer what a person asks in the room of an agent of this daemon, if there is something to say."""
        task = asyncio.create_task(self._answer(agent, command, message), name=f"{command} {agent}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, agent: AgentName, command: Command, message: Message) -> None:
        try:
            match command:
                case "help":
                    body = self._help(agent)
                case "status":
                    body = await self._status(agent)
                case "stop":
                    body = self._cannot_stop(agent)
            if body:
                await self._post(agent, body, message)
        except AiAgentChatError as error:
            log.warning("%s of %s was not answered: %s", command, agent, error.message, extra={"agent": agent})

    async def _post(self, agent: AgentName, body: str, message: Message) -> None:
        """Send a notice that rings nobody's bell, once for a message, however often that comes."""
        self._host.require_clear(message.room_id)
        content = add_reply(render_message(body, "plain"), message) | {"msgtype": "m.notice", "m.mentions": {}}
        txn_id = transaction_id(self._host.names.user(agent), f"command {message.event_id}")
        await self._host.manager.client_of(agent).send(message.room_id, "m.room.message", content, txn_id)

    def _is_online(self, agent: AgentName) -> bool:
        return agent in self._host.sessions.online()

    def _help(self, agent: AgentName) -> str:
        can_stop = self._host.hosted(agent).stoppable > 0 or not self._is_online(agent)
        stop = "ends what it works at, in a thread what it works at there"
        if not can_stop:
            stop = "it is told so; nothing ends it from here"
        return (
            f"What you write here is for {agent}. It answers with a reply, in your thread if you write in one; a mark "
            "shows how far it has read. What you edit or remove before it has read it, it gets as it is then.\n"
            f"!status: whether {agent} is online, how messages reach it, what it does, and how many it has not read\n"
            f"!stop: {stop}\n"
            "!help: this\n"
            "What it asks approval for is answered with a click on a sign below it, or with a reply."
        )

    async def _status(self, agent: AgentName) -> str:
        entries = (await self._host.who()).entries
        entry = next((each for each in entries if each.name == agent), None)
        if self._is_online(agent):
            lines = [f"{agent} is online: {_REACHED['none' if entry is None else entry.reach]}."]
        else:
            seen = None if entry is None else entry.last_seen_ts
            since = f" since {render_time(seen)}" if seen is not None else ""
            lines = [f"{agent} is offline{since}: what you write waits for it."]
        if entry is not None and entry.status_line:
            lines.append(f"It says: {one_line(entry.status_line)}")
        unread = len(await (await self._host.inbox(agent)).unread())
        lines.append(f"Unread: {unread}{' or more' if unread >= UNREAD_WINDOW else ''}")
        return "\n".join(lines)

    def _cannot_stop(self, agent: AgentName) -> str:
        """Return why nothing can be stopped; "": its adapter sees to it, and says so."""
        if self._host.hosted(agent).stoppable:
            return ""
        if not self._is_online(agent):
            return f"{agent} is offline: nothing runs here that could be stopped."
        return f"{agent} cannot be stopped from here. It gets your !stop as a message, and may heed it."
