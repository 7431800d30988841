"""`cchat backup` and `cchat restore`: a home in one archive, and back."""

from pathlib import Path

from aiagentchat.backup import DATABASE, write_backup
from aiagentchat.cli.invocation import Invocation, interrupt_on_signals
from aiagentchat.daemon.lock import DaemonLock
from aiagentchat.errors import AlreadyRunningError
from aiagentchat.homeserver.process import find_running
from aiagentchat.restoring import restore as put_back


def back_up(call: Invocation) -> None:
    """Write what of this home must not be lost to a file, whether anything runs or not."""
    call.refuse_agents("a backup of all")
    paths, target = call.settings.paths, Path(call.args.file).absolute()
    interrupt_on_signals()
    pid = find_running(paths)
    manifest, files = write_backup(
        paths, target, replace=call.args.replace, progress=lambda text: call.out.note(f"… {text}")
    )
    size, has_homeserver = target.stat().st_size, (paths.data_dir / DATABASE).exists()
    state = "elsewhere" if not has_homeserver else "stopped" if pid is None else "running"
    call.out.result(
        {
            "file": str(target),
            "bytes": size,
            "files": files,
            "made_at": manifest.made_at,
            "homeserver": state,
        },
        f"wrote {target}: the state of {manifest.made_at}, {files} files, {size:,} bytes",
    )
    if state == "running":
        call.out.note(f"the homeserver (pid {pid}) goes on; what was written since is not in it")
    elif state == "elsewhere":
        call.out.note(
            "rooms and messages are not in it: they are on a homeserver elsewhere, whose administrator backs it up"
        )
    given = call.settings.registration
    if given and not Path(given).absolute().is_relative_to(paths.data_dir):
        call.out.note(f"{given} is not in it either: it lies outside the home")
    call.out.note("whoever can read it can read all messages and write as anybody: keep it as you keep passwords")


def restore(call: Invocation) -> None:
    """Put what a backup holds into this home, which is empty."""
    call.refuse_agents("restoring a home")
    paths, archive = call.settings.paths, Path(call.args.file).absolute()
    interrupt_on_signals()
    with DaemonLock(paths.daemon_lock):
        if (pid := find_running(paths)) is not None:
            raise AlreadyRunningError(f"a homeserver runs here (pid {pid})", hint="'cchat down' stops it")
        made = put_back(
            paths, archive, move_aside=call.args.move_aside, progress=lambda text: call.out.note(f"… {text}")
        )
    aside = None if made.aside is None else str(made.aside)
    call.out.result(
        {"home": str(paths.data_dir), "files": made.files, "made_at": made.manifest.made_at, "aside": aside},
        f"restored the state of {made.manifest.made_at} into {paths.data_dir}: {made.files} files. Next: 'cchat up'",
    )
    if aside is not None:
        call.out.note(f"what was there before is in {aside}")
