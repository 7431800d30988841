"""What arguments may be, and those of some commands: what keeps a system in order, and what the operator looks on with.

`cli.main` has all other commands.
"""

import argparse
from collections.abc import Callable

SECRETS = ("password", "homeserver", "registration", "accounts", "agents", "operator")
"""What `rotate` can be told to replace, in the order in which it does."""


def add_service(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command for what starts by itself."""
    service = add(
        "service",
        "service:service",
        "have systemd start everything at login, and again after a crash",
        "cchat service install",
        "cchat service status",
        "cchat service uninstall",
        more="install writes a unit of your user, starts it, and has it start at each login; after 'loginctl\n"
        "enable-linger' it needs none. It is 'cchat up' in this home: settings are those of config.toml, not of your\n"
        "shell. systemd starts it anew when it ends by a fault, or has not said for a minute that it goes on.",
    )
    service.add_argument("action", choices=("install", "status", "uninstall"), metavar="install|status|uninstall")
    service.add_argument("--no-echo", action="store_true", help="install: without the built-in agent 'echo'")


def add_rotate(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command that replaces secrets."""
    rotate = add(
        "rotate",
        "rotate:rotate",
        "replace secrets that somebody may know, and lose no message",
        "cchat rotate",
        "cchat rotate agents operator",
        more="operator: your gateway credential. agents: theirs. password: yours on the embedded homeserver, and the\n"
        "token of the daemon's device. homeserver: the embedded homeserver's own secrets, and the tokens between it\n"
        "and the daemon; both start anew. registration: that for a homeserver of your own. accounts: those of\n"
        "'cchat login'. Without WHAT: all that this home has. It says what was done, and what is left to do.",
    )
    rotate.add_argument("what", nargs="*", type=_secret, metavar="WHAT", help=", ".join(SECRETS))


def _secret(text: str) -> str:
    if text not in SECRETS:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(SECRETS)}")
    return text


def add_janitor(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command for what passing sessions leave behind."""
    janitor = add(
        "janitor",
        "janitor:janitor",
        "clear away the rooms of passing sessions that have been over for long",
        "cchat janitor --dry-run",
        more="The daemon does so by itself once an hour. An ephemeral agent that has been offline for\n"
        "AIAGENTCHAT_EPHEMERAL_TTL (24 h), and in whose room nobody has written since, is taken off the list; its\n"
        "room loses its alias and all members. Persistent agents, and those that are online, stay.",
    )
    janitor.add_argument("--dry-run", action="store_true", help="only show what would be cleared away")


def add_backup(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands for a home in one archive."""
    backup = add(
        "backup",
        "backup:back_up",
        "write what of this home must not be lost to a file",
        "cchat backup aiagentchat.tar.gz",
        more="Credentials, accounts, settings, and with 'cchat up' the homeserver's database, key and media: the\n"
        "state of one moment, whether anything runs or not. It has all secrets and messages; mode 0600.",
    )
    backup.add_argument("file", metavar="FILE", help="a gzipped tar archive")
    backup.add_argument("--replace", action="store_true", help="also where there is a FILE")
    restore = add(
        "restore",
        "backup:restore",
        "put what a backup holds into this home",
        "AIAGENTCHAT_HOME=~/restored cchat restore aiagentchat.tar.gz",
        more="The home has to be empty, and nothing may run in it. It is restored as a whole, or not at all.",
    )
    restore.add_argument("file", metavar="FILE", help="what 'cchat backup' wrote")
    restore.add_argument(
        "--move-aside", action="store_true", help="keep what is in the home in a directory there, before-restore-…"
    )


def add_logs(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command that shows the log."""
    logs = add(
        "logs",
        "logs:logs",
        "show what the daemon wrote to its log",
        "cchat logs",
        "cchat logs --follow",
        "cchat logs --homeserver -n 500",
        more="Of 'cchat up' in this home, also after it ended, and as a service. AIAGENTCHAT_LOG_LEVEL says what is\n"
        "logged, and AIAGENTCHAT_LOG_FORMAT how.",
    )
    logs.add_argument("-f", "--follow", action="store_true", help="go on, each line as it comes")
    logs.add_argument("-n", "--lines", type=_lines, default=100, metavar="N", help="the last N lines (100)")
    logs.add_argument("--homeserver", action="store_true", help="what the embedded homeserver wrote")


def _lines(text: str) -> int:
    """Return how many lines are wanted."""
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of lines")
    return int(text)


def add_looking_on(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands with which the operator looks on."""
    chat = add(
        "chat",
        "chat:chat",
        "talk to an agent here in the terminal",
        "cchat chat claude-dev",
        'echo "Is main green?" | cchat chat claude-dev',
        more="What was written before is shown, then what comes. The line at the bottom says whether the agent is\n"
        "online, types, and has read what you wrote. Enter sends, Alt-Enter begins a new line, Ctrl-D or Ctrl-C\n"
        "leaves. What the agent asks approval for is answered with /approve, /deny or an option's number; /help says\n"
        "more. Piped, each line of standard input is a message, and each message of others a line as of 'cchat read';\n"
        "it ends when all that was sent is answered.",
    )
    chat.add_argument("name", metavar="NAME", help="the agent, NAME:SERVER on another homeserver")
    chat.add_argument("--limit", type=_count_or_none, default=20, metavar="N", help="show N messages of before (20)")
    chat.add_argument(
        "--timeout", type=seconds, default=300.0, metavar="S", help="piped: seconds to wait for answers (300)"
    )
    history = add(
        "history",
        "messages:history",
        "print what was written in an agent's room",
        "cchat history claude-dev",
        "cchat history claude-dev --limit 5 --before '$r9Xa8uTqbZ'",
        more="By whomever, the newest last, each as it reads after its last edit. Nothing is acknowledged.",
    )
    history.add_argument("name", metavar="NAME", help="the agent, NAME:SERVER on another homeserver")
    history.add_argument("--limit", type=count, default=50, metavar="N", help="at most N messages (50)")
    history.add_argument("--before", metavar="EVENT", help="what stands before this event")
    top = add(
        "top",
        "top:top",
        "show all agents at a glance, live",
        "cchat top",
        "cchat top --once",
        more="Who is online and how it is reached, what is unread, how many messages a minute there are in its room,\n"
        "and the last one. A dash stands for what this daemon does not know, such as what is unread of an agent that\n"
        "has not asked for its messages since the daemon started; 3+ is at least 3. q or Ctrl-C leaves.",
    )
    top.add_argument("--once", action="store_true", help="print one table, as it does where there is no terminal")


def seconds(text: str) -> float:
    """Return a number of seconds."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return value


def an_hour(text: str) -> float:
    """Return a number of seconds, more than none and at most an hour."""
    if not 0 < (value := seconds(text)) <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is more than an hour, or nothing")
    return value


def count(text: str) -> int:
    """Return how many messages are wanted."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 500):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 500")
    return int(text)


def _count_or_none(text: str) -> int:
    return 0 if text == "0" else count(text)
