"""What commands have in common that answer for an agent as long as they run: `cchat run` and `cchat acp`."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from aiagentchat.adapters.run import Handled
from aiagentchat.cli.invocation import Invocation, interrupt_on_signals
from aiagentchat.cli.output import render_agent
from aiagentchat.client import GatewayClient, Json, connect
from aiagentchat.errors import AiAgentChatError, InvalidRequestError
from aiagentchat.model import AgentName, parse_agent_name


class Answering:
    """The agent, and what is said of it to who has called the command."""

    def __init__(self, call: Invocation, name: AgentName, client: GatewayClient) -> None:
        self.name = name
        self.client = client
        self._call = call
        self._is_new = True
        self._attached = self.attach()

    def attach(self) -> dict[str, Json]:
        """Have the agent be there; return the gateway's answer."""
        args = self._call.args
        kind = "ephemeral" if args.ephemeral else None
        return self.client.attach(self.name, session="none", kind=kind, description=args.description)

    def tell(self, error: AiAgentChatError | None) -> None:
        """Say what is wrong, or (None) that the agent is online."""
        out = self._call.out
        if error is not None:
            out.error(error)
            return
        if not self._is_new:
            out.note(f"{self.name}: online again")
        elif not out.as_json:
            out.line(render_agent(self._attached | {"status": "online"}))
            out.flush()
        self._is_new = False

    def show(self, handled: Handled) -> None:
        """Say what was answered; of a failure all that the program said."""
        out, message, ending = self._call.out, handled.message, handled.ending
        if ending is None:
            return
        said = "\n".join(part for part in (ending.answer, ending.errors) if part) if ending.failure else ""
        if out.as_json:
            out.data(
                {
                    "event_id": message["event_id"],
                    "sender": message["sender"],
                    "seconds": round(ending.seconds, 3),
                    "failure": ending.failure,
                    "errors": said,
                }
            )
        else:
            out.messages([message])
            came = f"no answer: {ending.failure}" if ending.failure else "answered"
            out.line(f"  {came}, after {ending.seconds:.1f} s")
        out.flush()
        if said and not out.as_json:
            out.note(said)


@contextmanager
def answering(call: Invocation) -> Iterator[Answering]:
    """Give the agent, until it is made to leave or the command is interrupted; an ephemeral one is taken off then."""
    name = parse_agent_name(call.args.name)
    if call.acting_as not in ("", name):
        raise InvalidRequestError(f"--as {call.acting_as} is not {name}", hint="leave out --as")
    client = connect(call.settings, acting_as=name, label=f"cchat {call.args.command}")
    agent = Answering(call, name, client)
    interrupt_on_signals()
    try:
        yield agent
        call.out.taken_off(name)
    except KeyboardInterrupt:
        if call.args.ephemeral:
            with suppress(AiAgentChatError):
                client.detach(name)
