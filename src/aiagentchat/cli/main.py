"""`cchat`: its arguments, and the one place where an error becomes an exit code.

Only what a call needs is imported, because agents call it often and wait for its start.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any, NoReturn

from aiagentchat import __version__
from aiagentchat.cli.arguments import add_backup, add_janitor, add_logs, add_looking_on, add_rotate, add_service
from aiagentchat.cli.arguments import an_hour as _an_hour
from aiagentchat.cli.arguments import count as _count
from aiagentchat.cli.arguments import seconds as _seconds
from aiagentchat.cli.invocation import Invocation
from aiagentchat.cli.output import Output
from aiagentchat.config import load_settings
from aiagentchat.errors import AiAgentChatError, InvalidRequestError

_EXIT_CODES = """exit codes:
  0 done   1 unexpected   2 usage or bad input   3 daemon not running   4 not found   5 refused
  6 homeserver unavailable, or deadline passed   7 waited in vain"""

_EPILOG = f"""to begin with:
  cchat up                                start everything; prints where to point Element
  cchat who                               who is there
  cchat ask echo "hello"                  write to the built-in agent, and see its answer
  cchat chat echo                         talk to it, here in the terminal
  cchat join claude-dev --detach          bring an agent of your own online
  cchat --as claude-dev read --wait       wait for a message to it
  cchat --as claude-dev reply "Done."     answer the message read last

Who a command speaks for: --as, else AIAGENTCHAT_TOKEN or AIAGENTCHAT_AGENT, else the operator.
'cchat COMMAND --help' says more.

{_EXIT_CODES}"""

_EXTRAS = ("acp", "mcp")
"""Commands that need what is installed with the extra of their name."""
_HELD, _TIMED = "as long as this command runs", "until it is silent for AIAGENTCHAT_SESSION_TTL (1 h)"


class _Parser(argparse.ArgumentParser):
    """Errors say what to do, and end as all others do: exit code 2."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        hint = f"'{self.prog} --help' shows what can be given"
        if message.startswith("unrecognized arguments"):
            hint += "; a text of several words goes into quotes, with -- before one that begins with -"
        if "--json" not in sys.argv or sys.__stdout__ is None:
            self.exit(2, f"cchat: {message}\n  {hint}\n")
        Output(as_json=True).error(InvalidRequestError(message, hint=hint))
        self.exit(2)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one call; return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    if any(_is_no_text(word) for word in words):
        parser.error("an argument is not UTF-8 text")
    if sys.__stdout__ is None:
        parser.error("standard output is closed: what is read could be acknowledged unseen")
    args = parser.parse_args(words)
    out = Output(as_json=getattr(args, "json", False))
    try:
        settings = load_settings(os.environ, _setting_flags(args))
        module, _, function = str(args.run).partition(":")
        command: Callable[[Invocation], None] = getattr(_import(module), function)
        command(Invocation(args, settings, out))
        out.flush()
    except AiAgentChatError as error:
        out.error(error)
        return error.outcome.exit_code
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        # Mostly of standard output, where nobody reads any more, or the disk is full. What was not acknowledged comes
        # again. Python's own flush at exit is to stay silent.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            out.error(AiAgentChatError(str(error)))
        return 1
    return 0


def _import(module: str) -> ModuleType:
    try:
        return import_module(f"aiagentchat.cli.{module}")
    except ModuleNotFoundError as error:
        if module not in _EXTRAS:
            raise
        raise InvalidRequestError(
            f"'cchat {module}' needs the package {error.name}", hint=f"pip install 'aiagentchat[{module}]'"
        ) from None


def _is_no_text(word: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in word)


def _setting_flags(args: argparse.Namespace) -> dict[str, str]:
    given = {name: getattr(args, name, None) for name in ("port", "server_name", "public_url")}
    return {name: str(value) for name, value in given.items() if value is not None}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    common = _Parser(add_help=False)
    common.add_argument("--as", dest="acting_as", metavar="NAME", default=argparse.SUPPRESS, help="speak as this agent")
    common.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON, one object a line")
    parser = _Parser(
        prog="cchat",
        description="A Matrix room for every AI agent, all under one Space: find agents, write to them, read.",
        epilog=_EPILOG,
        parents=[common],
    )
    parser.add_argument("--version", action="version", version=f"aiagentchat {__version__}")
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, title="commands", parser_class=_Parser
    )

    def add(name: str, run: str, text: str, *examples: str, more: str = "") -> argparse.ArgumentParser:
        title = "examples:" if len(examples) > 1 else "example:"
        command = commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog="\n  ".join([f"{more}\n\n{title}" if more else title, *examples]),
            parents=[common],
        )
        command.set_defaults(run=run)
        return command

    _add_system(add)
    add_service(add)
    add_backup(add)
    add_logs(add)
    add_janitor(add)
    add_rotate(add)
    _add_own_homeserver(add)
    _add_agents(add)
    _add_people(add)
    _add_messages(add)
    add_looking_on(add)
    _add_tools(add)
    add("config", "settings:show", "show the settings in force, and where each came from", "cchat config --json")
    return parser


_Add = Callable[..., argparse.ArgumentParser]


def _add_system(add: _Add) -> None:
    up = add(
        "up",
        "system:up",
        "start a homeserver and the daemon, for use",
        "cchat up",
        "cchat up --detach --port 0",
        "cchat up --element",
        more="It runs until Ctrl-C, with --detach until 'cchat down'. What still runs after a crash is taken over.\n"
        "With --element it serves Element Web as well, on loopback, and opens it in your browser, signed in. Its\n"
        "release is fetched once, and checked.",
    )
    up.add_argument("--detach", action="store_true", help="return when all is up; it goes on in the background")
    up.add_argument("--port", metavar="N", help="the homeserver's port on loopback; 0: any free one")
    up.add_argument("--server-name", metavar="S", help="the Matrix server name; it cannot be changed later")
    up.add_argument("--public-url", metavar="URL", help="where clients elsewhere reach it, through a proxy of yours")
    up.add_argument("--no-echo", action="store_true", help="without the built-in agent 'echo'")
    up.add_argument("--element", action="store_true", help="serve Element Web too, and open it, signed in")
    up.add_argument("--no-browser", action="store_true", help="print the link that signs in, as --detach does")
    up.add_argument("--element-archive", metavar="FILE", help="Element's release, fetched by you: element-vN.tar.gz")
    up.add_argument("--element-sha256", metavar="SUM", default="", help="the archive's, if it is not the locked one")
    up.add_argument("--report-fd", type=int, help=argparse.SUPPRESS)
    add("down", "system:down", "stop daemon and homeserver", "cchat down")
    add(
        "status",
        "system:status",
        "show what runs, where to point Element, and what is wrong",
        "cchat status",
        "cchat status --json",
    )
    login = add(
        "login",
        "accounts:login",
        "log in an account of an agent, or of the operator, on a homeserver that is not yours",
        "cchat login claude-dev --homeserver https://matrix.example.org",
        "cchat login --operator --user @alice:example.org --with sso",
        more="Where the daemon is no application service, each agent has an ordinary account, and 'cchat up' is their "
        "client.\nThe password or token is asked for, or read from standard input.",
    )
    login.add_argument("name", nargs="?", metavar="NAME", help="the agent")
    login.add_argument("--operator", action="store_true", help="you: your account makes the Space and invites agents")
    login.add_argument("--homeserver", metavar="URL", help="where; once it is known, that one")
    login.add_argument("--user", metavar="U", help="localpart or user id of the account; without: NAME")
    login.add_argument(
        "--with",
        dest="way",
        choices=("password", "access-token", "login-token", "sso"),
        default="password",
        help="what is given: a password, an access token, the login token of a single sign-on; sso: through a browser",
    )
    daemon = add(
        "daemon",
        "system:daemon",
        "run a daemon against a configured homeserver",
        "cchat daemon --agent claude-dev --agent claude-review",
        more="Needs AIAGENTCHAT_HOMESERVER_URL and what 'cchat registration' writes ('cchat doctor' tells whether all\n"
        "fits), or accounts that 'cchat login' logged in. 'cchat up' brings a homeserver along.",
    )
    daemon.add_argument(
        "--agent", action="append", default=[], metavar="NAME", help="an agent that is online as long as it runs"
    )


def _add_own_homeserver(add: _Add) -> None:
    registration = add(
        "registration",
        "registration:write",
        "write the file that a homeserver of your own needs, and say where it goes",
        "cchat registration --server-name example.org",
        "cchat registration --server-name example.org --id lab --url http://127.0.0.1:29330",
        more="A file that is there is never overwritten, since the homeserver may use it: then it is only shown where\n"
        "it is and what to do. No secret is printed.",
    )
    registration.add_argument("--server-name", metavar="S", help="the homeserver's name, as in its user ids")
    registration.add_argument("--id", metavar="ID", help="of a further daemon on one homeserver: a-z 0-9 _")
    registration.add_argument(
        "--url",
        metavar="URL",
        help="where the homeserver reaches the daemon, and on which port it listens (port 29328, with --id 29329)",
    )
    registration.add_argument("--output", metavar="FILE", help="the file (registration.yaml in the data directory)")
    add(
        "doctor",
        "doctor:doctor",
        "prove that homeserver and registration fit together, or say what is wrong",
        "cchat doctor",
        "cchat doctor --json",
        more="It works whether or not the daemon runs, and leaves nothing behind but one account, which it uses again.",
    )


def _add_agents(add: _Add) -> None:
    add("who", "agents:who", "list the agents, and who is online", "cchat who")
    join = add(
        "join",
        "agents:join",
        "bring an agent online",
        'cchat join claude-dev --detach --description "Writes the code"',
        "cchat join",
        more=f"Held: online {_HELD}.\nWith --detach: {_TIMED};\nevery call made as the agent renews it.",
    )
    join.add_argument("name", nargs="?", metavar="NAME", help="without: an ephemeral one, session- and six hex digits")
    join.add_argument("--ephemeral", action="store_true", help="a passing session: 'cchat leave' takes it off the list")
    join.add_argument("--description", metavar="T", help="what it does, for others to see")
    join.add_argument("--detach", action="store_true", help=f"return at once; it is online {_TIMED}")
    join.add_argument(
        "--take-over", action="store_true", help="take the name though another daemon that is running hosts it"
    )
    run = add(
        "run",
        "run:run",
        "have a program answer for an agent",
        "cchat run upper -- tr a-z A-Z",
        "cchat run claude-dev --fenced --markdown -- claude -p",
        "cchat run logs --shell -- 'tail -n 20 app.log | grep -i \"$(cat)\"'",
        more="The program is started for each message: it gets the text on standard input, and what it prints is the\n"
        "answer. One at a time in a conversation, four conversations at once. The agent is online as long as this\n"
        "command runs. An agent's answer starts nothing, a message to all only if it names the agent.\n\n"
        "In CMD, {session} is the conversation's id, a UUID that stays the same. The program's environment has\n"
        "CCHAT_SENDER, CCHAT_SENDER_NAME, CCHAT_SENDER_KIND (person or agent), CCHAT_ROOM, CCHAT_EVENT, CCHAT_THREAD,\n"
        "CCHAT_BROADCAST and CCHAT_LATE (1, or empty), CCHAT_FILE (the path of the file that came with it, or\n"
        "empty), CCHAT_EDITS (the message whose text it replaces, or empty), CCHAT_AGENT and CCHAT_SESSION. In it,\n"
        "cchat speaks as the agent.",
    )
    run.usage = (
        "cchat run [-h] [--json] [--ephemeral] [--description T] [--timeout S] [--fenced] [--markdown] [--shell] "
        "NAME -- CMD…"
    )
    _add_answering(run)
    run.add_argument(
        "--timeout", type=_seconds, default=600.0, metavar="S", help="seconds that the program may take (600)"
    )
    run.add_argument(
        "--fenced", action="store_true", help="give it the message as a language model should get it: below its sender"
    )
    run.add_argument("--markdown", action="store_true", help="what it prints is Markdown")
    run.add_argument("--shell", action="store_true", help="CMD is one line for /bin/sh")
    _add_acp(add)
    leave = add("leave", "agents:leave", "take an agent offline", "cchat leave claude-dev")
    leave.add_argument("name", metavar="NAME")


def _add_people(add: _Add) -> None:
    invite = add(
        "invite",
        "people:invite",
        "invite a person to the agents' rooms, or change what they may",
        "cchat invite @bob:example.org",
        "cchat invite @bob:example.org --role watch",
        "cchat invite @bob:example.org --agent claude-dev --role approve",
        more="Without --agent: the Space, the broadcast room and all agents' rooms, of agents that come later too.\n"
        "With it: that agent's room alone, besides those that they are in. watch: reads; talk: writes as well;\n"
        "approve: decides on what agents ask approval for as well. Who is invited for the first time may talk.",
    )
    invite.add_argument("user_id", metavar="USER", help="a Matrix user id, such as @bob:example.org")
    invite.add_argument("--agent", action="append", default=[], metavar="NAME", help="into this agent's room alone")
    invite.add_argument("--role", choices=("watch", "talk", "approve"), help="what they may, in all rooms of theirs")
    add("people", "people:people", "list who was invited, what they may, and whether they came", "cchat people")
    uninvite = add("uninvite", "people:uninvite", "take a person out of all rooms", "cchat uninvite @bob:example.org")
    uninvite.add_argument("user_id", metavar="USER", help="a Matrix user id, such as @bob:example.org")


def _add_messages(add: _Add) -> None:
    text = "the message; - reads standard input"
    attached = "a file, with which TEXT may be left out"
    markdown = "TEXT is Markdown, which people see rendered"
    key = "the same key is the same message, however often it is sent; without, each call is a message of its own"
    send = add(
        "send",
        "messages:send",
        "send a message to an agent, or to all",
        'cchat send "System maintenance in 5 minutes"',
        "git diff | cchat send --to claude-dev -",
        'cchat send --to claude-dev --wait-read 60 "Please review PR #42"',
        'cchat send --to claude-dev --file screen.png "Why is this red?"',
        more="It is sent once, also when the daemon or the homeserver is restarted meanwhile.\n"
        "'cchat sent' shows how far it came.",
    )
    send.add_argument(
        "--to",
        metavar="NAME",
        help="the agent, NAME:SERVER on another homeserver; without: everyone, in the broadcast room",
    )
    send.add_argument("--key", metavar="K", help=key)
    send.add_argument(
        "--wait-read", type=_seconds, metavar="S", help="wait until the agent has read it, at most S seconds"
    )
    send.add_argument("--file", metavar="PATH", help=attached)
    send.add_argument("--markdown", action="store_true", help=markdown)
    send.add_argument("text", nargs="?", metavar="TEXT", help=text)
    sent = add(
        "sent",
        "messages:sent",
        "show what was sent, and how far it came: stored, read, answered",
        "cchat sent",
        "cchat --as claude-dev sent --to claude-administrator --limit 5",
        more="The newest first, as the homeserver knows it. Of a message to all it says which agents of this daemon\n"
        "have read it.",
    )
    sent.add_argument("--to", metavar="NAME", help="what was sent to this agent alone")
    sent.add_argument("--limit", type=_count, default=20, metavar="N", help="at most N messages (20)")
    read = add(
        "read",
        "messages:read",
        "print the messages that an agent has not acknowledged",
        "cchat --as claude-dev read",
        "cchat --as claude-dev read --wait 60 --json",
        more="They are acknowledged once they are written out, and then never come again. A file that came with one\n"
        "is fetched, and kept for a week: behind the sender it says where.",
    )
    how = read.add_mutually_exclusive_group()
    how.add_argument(
        "--wait", nargs="?", type=_seconds, const=float("inf"), metavar="S", help="wait for one, at most S seconds"
    )
    how.add_argument("--follow", action="store_true", help="go on, each message as it comes")
    how.add_argument("--peek", action="store_true", help="acknowledge nothing")
    how.add_argument("--before", metavar="ID", help="look back: what stands before this event")
    read.add_argument(
        "--fenced", action="store_true", help="for a language model: each message below its sender, who is verified"
    )
    read.add_argument("--limit", type=_count, default=100, metavar="N", help="at most N messages (100)")
    file = add(
        "file",
        "messages:file",
        "write the file that came with a message to standard output",
        "cchat --as claude-dev file '$r9Xa8uTqbZ' >screen.png",
        more="'cchat read' fetches files by itself. This is for older ones, and for you.",
    )
    file.add_argument("event", metavar="EVENT", help="the message's id, as 'cchat read --json' shows it")
    reply = add(
        "reply",
        "messages:reply",
        "answer the message read last, or EVENT",
        'cchat --as claude-dev reply "Done."',
        "cchat --as claude-dev reply '$r9Xa8uTqbZ' \"Done.\"",
    )
    reply.usage = "cchat reply [-h] [--as NAME] [--json] [--key K] [--file PATH] [--markdown] [EVENT] TEXT"
    reply.add_argument("words", nargs="*", metavar="TEXT", help=f"{text}; before it, the id of the event to answer")
    reply.add_argument("--key", metavar="K", help=key)
    reply.add_argument("--file", metavar="PATH", help=attached)
    reply.add_argument("--markdown", action="store_true", help=markdown)
    ask = add(
        "ask",
        "messages:ask",
        "send a message to an agent, wait for its answer, and print that",
        'cchat ask --timeout 60 claude-dev "Is main green?"',
    )
    ask.add_argument("--timeout", type=_seconds, default=300.0, metavar="S", help="seconds to wait (300)")
    ask.add_argument("--fenced", action="store_true", help="for a language model: the answer below its sender")
    ask.add_argument("--key", metavar="K", help=key)
    ask.add_argument("name", metavar="NAME", help="the agent")
    ask.add_argument("--file", metavar="PATH", help="a file that comes with it")
    ask.add_argument("--markdown", action="store_true", help=markdown)
    ask.add_argument("text", metavar="TEXT", help=text)


def _add_answering(command: argparse.ArgumentParser) -> None:
    """Add what commands have in common that answer for an agent as long as they run."""
    command.add_argument("name", metavar="NAME", help="the agent")
    command.add_argument("words", nargs="+", metavar="CMD", help="the program and its arguments, after --")
    command.add_argument("--ephemeral", action="store_true", help="off the list when it ends")
    command.add_argument("--description", metavar="T", help="what it does, for others to see")


def _add_acp(add: _Add) -> None:
    acp = add(
        "acp",
        "acp:acp",
        "have an agent that speaks the Agent Client Protocol answer in a room",
        "cchat acp gemini-dev -- gemini --acp",
        "cchat acp claude-dev -- npx -y @agentclientprotocol/claude-agent-acp",
        "cchat acp opencode-dev -- opencode acp",
        more="A message is a prompt, in a session for each conversation, in this directory. How far it is stands in\n"
        "the thread of a person's message. What it asks approval for is asked in its room: a person answers with a\n"
        "reaction or a reply. !stop, or taking the message back, stops it. Needs the extra: pip install\n"
        "'aiagentchat[acp]'.",
    )
    acp.usage = (
        "cchat acp [-h] [--json] [--ephemeral] [--description T] [--timeout S] [--approval-timeout S] NAME -- CMD…"
    )
    _add_answering(acp)
    acp.add_argument(
        "--timeout", type=_seconds, default=3600.0, metavar="S", help="seconds that a prompt may take (3600)"
    )
    acp.add_argument(
        "--approval-timeout", type=_an_hour, default=600.0, metavar="S", help="seconds to wait for an approval (600)"
    )


def _add_tools(add: _Add) -> None:
    tools = ("claude-code", "codex", "gemini", "opencode")
    mcp = add(
        "mcp",
        "mcp:mcp",
        "have a session of a tool that speaks MCP be an agent",
        "cchat mcp --as claude-dev",
        "cchat mcp --tool claude-code",
        more="An MCP server on standard input and output: the tool starts it ('cchat setup' has it do so). The\n"
        "session is the agent --as NAME, or an ephemeral one, as long as it runs. Needs the extra:\n"
        "pip install 'aiagentchat[mcp]'.",
    )
    mcp.add_argument("--tool", choices=tools, help="what starts it")
    mcp.add_argument(
        "--channel", action="store_true", help="offer Claude Code's channel, on which a message wakes the session"
    )
    setup = add(
        "setup",
        "setup:setup",
        "have the sessions of a coding tool be agents: add aiagentchat to its configuration",
        "cchat setup claude-code",
        "cchat setup codex --write",
        "cchat setup claude-code --here --as claude-dev",
        "cchat setup gemini --undo",
        more="It shows what it would change, and writes that when it is confirmed. The tool gets an MCP server, and\n"
        "hooks where it has them; its sessions are the agent --as NAME, or each an ephemeral one. What else is in its\n"
        "files stays.",
    )
    setup.add_argument("tool", choices=tools, metavar="TOOL", help="claude-code, codex, gemini or opencode")
    setup.add_argument("--write", action="store_true", help="write it without asking")
    setup.add_argument("--undo", action="store_true", help="take out again what it added")
    setup.add_argument("--here", action="store_true", help="for sessions in this directory alone")
    setup.add_argument("--channel", action="store_true", help="offer Claude Code's channel as well")
    hook = add(
        "hook",
        "start:main",
        "answer a hook of a coding tool: whether somebody wrote to its session",
        "cchat hook claude-code <event.json",
        more="'cchat setup' has the tool run it. The session is the agent --as NAME, or an ephemeral one.\n"
        "It prints what the tool takes, or nothing; without a daemon, nothing.",
    )
    hook.add_argument("tool", choices=tools[:3], metavar="TOOL", help="claude-code, codex or gemini")
    hook.add_argument("--wait", action="store_true", help="wait for a message in the background, and wake Claude Code")
