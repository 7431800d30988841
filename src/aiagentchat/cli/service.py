"""`cchat service`: has systemd start `cchat up` at login, and again after a crash."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from aiagentchat.cli.invocation import Invocation
from aiagentchat.cli.output import Output
from aiagentchat.daemon.lock import running_pid
from aiagentchat.errors import AiAgentChatError, AlreadyRunningError, InvalidRequestError, NotFoundError, RefusedError

UNIT = "aiagentchat.service"
_MARK = "# Written by 'cchat service install', which replaces it; 'cchat service uninstall' removes it.\n"
_COMMAND_S = 660.0
"""Longer than systemd waits for a start."""
_SHOWN = ("LoadState", "ActiveState", "SubState", "Result", "MainPID", "NRestarts", "StatusText", "UnitFileState")

_UNIT_TEXT = """{mark}
[Unit]
Description=aiagentchat: a Matrix room for every AI agent
StartLimitIntervalSec=10min
StartLimitBurst=10

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
{environment}# It says that it goes on as long as it takes in events. A homeserver that is away starts nothing anew.
WatchdogSec=60
# The first start makes a database, and one after an upgrade changes it.
TimeoutStartSec=10min
TimeoutStopSec=30
Restart=on-failure
RestartSec=5
# It stops the homeserver itself; what is left after that is killed.
KillMode=mixed
UMask=0077
# What needs no privileges; options that hide files would need namespaces of users, which not every system permits.
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
SystemCallArchitectures=native
SystemCallFilter=@system-service

[Install]
WantedBy=default.target
"""


def render_unit(command: list[str], environment: Mapping[str, str]) -> str:
    """Return the unit's text. `command`: the absolute path of a program, and its arguments."""
    return _UNIT_TEXT.format(
        mark=_MARK.rstrip(),
        command=" ".join(_quoted(word).replace("$", "$$") for word in command),
        environment="".join(f"Environment={_quoted(f'{name}={value}')}\n" for name, value in environment.items()),
    )


def _quoted(word: str) -> str:
    """Return a word as systemd.syntax(7) has it in quotes. Raises `InvalidRequestError` where no file can hold it."""
    if "\n" in word or "\0" in word:
        raise InvalidRequestError(f"{word!r} cannot stand in a unit file")
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def unit_path(env: Mapping[str, str]) -> Path:
    """Return where a user's own units are."""
    configured = env.get("XDG_CONFIG_HOME", "")
    base = Path(configured) if configured.startswith("/") else Path.home() / ".config"
    return base / "systemd" / "user" / UNIT


# --- the commands


def service(call: Invocation) -> None:
    """Do what is asked for: install, uninstall or status."""
    {"install": install, "uninstall": uninstall, "status": status}[call.args.action](call)


def install(call: Invocation) -> None:
    """Write the unit, and have systemd start it, now and at each login."""
    out, settings, path = _checked(call), call.settings, unit_path(os.environ)
    if path.exists() and not path.read_text(errors="replace").startswith(_MARK):
        raise RefusedError(f"{path} is not of 'cchat service install'", hint="move it away, and install again")
    pid = running_pid(settings.paths.daemon_lock)
    if pid is not None and _show()["MainPID"] != str(pid):
        raise AlreadyRunningError(f"a daemon runs here already (pid {pid})", hint="'cchat down' stops it; then install")
    home = os.environ.get("AIAGENTCHAT_HOME", "")
    environment = {"AIAGENTCHAT_HOME": str(Path(home).absolute())} if home else {}
    elsewhere = [source.split()[1] for source in settings.sources.values() if source.startswith("environment ")]
    command = [sys.executable, "-P", "-m", "aiagentchat", "up"]
    command += ["--no-echo"] if call.args.no_echo else []
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_unit(command, environment))
    _systemctl("daemon-reload")
    out.note(f"wrote {path}; starting it (the first start takes some seconds)")
    _systemctl("enable", "--quiet", UNIT)
    _systemctl("restart", UNIT)
    if elsewhere:
        out.note(f"set in this shell, and unknown to the service: {', '.join(elsewhere)}. What is to hold goes into")
        out.note(f"{settings.paths.config_file}; then: systemctl --user restart {UNIT}")
    lingers = _lingers()
    if not lingers:
        out.note("it ends when you log out; to have it run without you: loginctl enable-linger")
    out.result({"unit": str(path), "state": "active", "lingers": lingers}, "the service runs: 'cchat status'")


def uninstall(call: Invocation) -> None:
    """Stop the service, and remove its unit. What the home holds stays."""
    out, path = _checked(call), unit_path(os.environ)
    if not path.exists():
        raise NotFoundError(f"there is no {path}", hint="it is not installed; 'cchat down' stops what runs otherwise")
    if not path.read_text(errors="replace").startswith(_MARK):
        raise RefusedError(f"{path} is not of 'cchat service install'", hint=f"systemctl --user disable --now {UNIT}")
    _systemctl("disable", "--quiet", "--now", UNIT)
    path.unlink()
    _systemctl("daemon-reload")
    out.result({"unit": str(path), "state": "removed"}, f"the service is stopped, and {path} removed")


def status(call: Invocation) -> None:
    """Print what systemd knows of the service."""
    out, path = _checked(call), unit_path(os.environ)
    shown = _show()
    if shown["LoadState"] != "loaded":
        raise NotFoundError("the service is not installed", hint="'cchat service install' does it")
    lingers = _lingers()
    if out.as_json:
        out.data(
            {
                "unit": str(path),
                "state": shown["ActiveState"],
                "at_login": shown["UnitFileState"] == "enabled",
                "lingers": lingers,
                "pid": int(shown["MainPID"]) or None,
                "restarts": int(shown["NRestarts"]),
                "result": shown["Result"],
                "status": shown["StatusText"],
            }
        )
        return
    rows = {
        "unit": str(path),
        "state": f"{shown['ActiveState']} ({shown['SubState']})",
        "at login": "started" if shown["UnitFileState"] == "enabled" else "not started",
        "after logout": "goes on" if lingers else "ends (loginctl enable-linger)",
        "daemon": f"pid {shown['MainPID']}" if shown["MainPID"] != "0" else "not running",
        "restarts": shown["NRestarts"],
        "result": shown["Result"],
        "says": shown["StatusText"] or "nothing",
    }
    for name, text in rows.items():
        out.line(f"{name.ljust(13)} {text}")
    if shown["ActiveState"] != "active":
        out.note(f"journalctl --user -u {UNIT} and {call.settings.paths.daemon_log} say why")


def _checked(call: Invocation) -> Output:
    call.refuse_agents("the service")
    if shutil.which("systemctl") is None:
        raise NotFoundError(
            "there is no systemctl here: the service is one of systemd",
            hint="have whatever starts programs here run 'cchat up'",
        )
    return call.out


def _show() -> dict[str, str]:
    text = _systemctl("show", UNIT, f"--property={','.join(_SHOWN)}")
    return dict.fromkeys(_SHOWN, "") | dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def _lingers() -> bool:
    """Whether the user's services run without a login."""
    return Path("/var/lib/systemd/linger", os.environ.get("USER") or Path.home().name).exists()


def _systemctl(*arguments: str) -> str:
    command = ["systemctl", "--user", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_S, check=False)
    except subprocess.TimeoutExpired:
        raise AiAgentChatError(f"'{' '.join(command)}' did not end", hint="see 'systemctl --user status'") from None
    if done.returncode == 0:
        return done.stdout
    said = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[0]
    hint = f"journalctl --user -u {UNIT} says more"
    if "bus" in said:
        hint = "the service manager of your user runs after a login; over ssh too, not after 'su' or 'sudo'"
    raise AiAgentChatError(f"{' '.join(command[:3])}: {said}", hint=hint)
