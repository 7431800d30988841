"""Builds the images, runs `deploy/compose.yaml` with them, and looks at it from inside and outside: `make container`.

As root, with podman, podman-compose and debootstrap. Images that no registry gives are made here, under the same names:
Python's from Debian and the Python of this machine, PostgreSQL's from Debian's package. Element Web is left out. Prints
a line for what was seen, and ends with 0, or with what is not as it should be. Nothing stays but the images.
"""

import contextlib
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from aiagentchat import __version__
from scripts.demo import Person

ROOT = Path(__file__).resolve().parent.parent
COMPOSE_FILE = ROOT / "deploy" / "compose.yaml"
BASE, POSTGRES = "docker.io/library/python:3.12-slim", "docker.io/library/postgres:17-bookworm"
IMAGES = {"aiagentchat": f"aiagentchat:{__version__}", "synapse": f"aiagentchat-synapse:{__version__}"}
SERVICES = ("daemon", "synapse", "postgres", "agent")
OURS = ("daemon", "synapse", "agent")
UID = "10001"
PULL_S, BUILD_S, COMMAND_S, UP_S = 60.0, 900.0, 60.0, 180.0
LIBRARIES = "ca-certificates,libbz2-1.0,libffi8,liblzma5,libncursesw6,libreadline8,libsqlite3-0,libssl3,libuuid1,zlib1g"
ENGINE = """
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=30000:30000"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
POSTGRES_FILE = f"""
FROM {BASE}
RUN apt-get update && apt-get install --yes --no-install-recommends postgresql \\
    && install --directory --owner=postgres --group=postgres --mode=3777 /run/postgresql \\
    && install --directory --owner=postgres --group=postgres --mode=1777 /var/lib/postgresql/data
COPY docker-entrypoint.sh /usr/local/bin/docker-entrypoint.sh
"""
POSTGRES_ENTRYPOINT = """#!/bin/sh
# What the official image does with these variables: https://hub.docker.com/_/postgres
set -eu
export PATH="$(echo /usr/lib/postgresql/*/bin):$PATH" PGDATA=/var/lib/postgresql/data
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  initdb --username="$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" $POSTGRES_INITDB_ARGS
  echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
  echo "create database $POSTGRES_DB;" | postgres --single -D "$PGDATA" postgres
fi
exec "$@" -c listen_addresses='*' -c unix_socket_directories=/run/postgresql
"""


class CheckFailedError(Exception):
    """Something is not as it should be."""


def step(text: str) -> None:
    print(f"container: {text}", flush=True)


def run(
    *command: str | Path, timeout_s: float = COMMAND_S, code: int | None = 0, env: dict[str, str] | None = None
) -> str:
    """Return what the command printed; `code` None: however it ended."""
    try:
        done = subprocess.run(
            command, env=os.environ | (env or {}), capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise CheckFailedError(f"{' '.join(map(str, command))}: not done after {timeout_s:g} s") from None
    if code is not None and done.returncode != code:
        said = f"{done.stdout}{done.stderr}"[-4000:]
        raise CheckFailedError(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{said}")
    return done.stdout


def check(what: str, holds: bool, seen: object = "") -> None:
    if not holds:
        raise CheckFailedError(f"not so: {what}\n{seen}")
    step(what)


def wait_until(what: str, holds: Callable[[], Any], timeout_s: float = UP_S) -> Any:
    began = time.monotonic()
    while not (answer := holds()):
        if time.monotonic() - began > timeout_s:
            raise CheckFailedError(f"not so within {timeout_s:g} s: {what}")
        time.sleep(0.5)
    step(f"{what} ({time.monotonic() - began:.0f} s)")
    return answer


# --- images


def is_to_be_had(image: str) -> bool:
    """Whether an image is here, or a registry gives it."""
    if subprocess.run(["podman", "image", "exists", image], check=False).returncode == 0:
        return True
    with contextlib.suppress(CheckFailedError):
        run("podman", "pull", "--quiet", image, timeout_s=PULL_S)
        return True
    return False


def make_base() -> None:
    """Make Python's image: Debian of the release and mirror that this machine has, and a Python copied into it."""
    prefix = python_prefix()
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "root"
        mirror = [found] if (found := debian_mirror()) else []
        codename = release["VERSION_CODENAME"].strip('"')
        run("debootstrap", "--variant=minbase", f"--include={LIBRARIES}", codename, root, *mirror, timeout_s=BUILD_S)
        for part in ("bin", "lib"):
            shutil.copytree(prefix / part, root / "usr/local" / part, symlinks=True, dirs_exist_ok=True)
        for unneeded in (root / "usr/local/lib").glob("python3.*/test"):
            shutil.rmtree(unneeded)
        pip = root / "usr/local/bin/pip"
        pip.unlink(missing_ok=True)
        pip.write_text('#!/bin/sh\nexec python -m pip "$@"\n')
        pip.chmod(0o755)
        certificates = "etc/ssl/certs/ca-certificates.crt"
        shutil.copyfile(Path("/") / certificates, root / certificates)
        run("chroot", root, "ldconfig")
        run("sh", "-c", f"tar -C {root} -c . | podman import --quiet - {BASE}", timeout_s=BUILD_S)


def python_prefix() -> Path:
    """Return where a Python is that can be copied: 3.12 where there is one, else the one that runs this."""
    asked = "import sys; print(sys.base_prefix)"
    for python in filter(None, (os.environ.get("PYTHON_3_12"), shutil.which("python3.12"), sys.executable)):
        done = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout.strip() != "/usr":
            return Path(done.stdout.strip())
    raise CheckFailedError("there is no Python beside Debian's that could be copied into an image")


def debian_mirror() -> str:
    for path in (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list")):
        if path.exists() and (found := re.search(r"^(?:URIs:|deb)\s+(http\S+)", path.read_text(), re.MULTILINE)):
            return found[1]
    return ""


def make_postgres() -> None:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "Dockerfile").write_text(POSTGRES_FILE)
        entrypoint = Path(name) / "docker-entrypoint.sh"
        entrypoint.write_text(POSTGRES_ENTRYPOINT)
        entrypoint.chmod(0o755)
        run("podman", "build", "--network=host", "--tag", POSTGRES, name, timeout_s=BUILD_S)


def build_images() -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as pip:
        pip.write("[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n")
        pip.flush()
        for target, image in IMAGES.items():
            began = time.monotonic()
            options = ("--format=docker", "--network=host", f"--volume={pip.name}:/etc/pip.conf:ro")
            file = ("--file", ROOT / "deploy/Dockerfile", "--target", target, "--tag", image)
            run("podman", "build", *options, *file, ROOT, timeout_s=BUILD_S)
            size = int(run("podman", "image", "inspect", "--format={{.Size}}", image))
            step(f"{image}: built in {time.monotonic() - began:.0f} s, {size / 1e6:.0f} MB with its base")


def check_images() -> None:
    base = json.loads(run("podman", "image", "inspect", BASE))[0]
    for image in IMAGES.values():
        found = json.loads(run("podman", "image", "inspect", image))[0]
        check(f"{image}: runs as user {UID}", found["Config"]["User"] == f"{UID}:{UID}")
        check(f"{image}: has a health check", bool(found["Config"].get("Healthcheck") or found.get("Healthcheck")))
        names = {each.partition("=")[0] for each in found["Config"]["Env"]} - {
            each.partition("=")[0] for each in base["Config"].get("Env") or []
        }
        suspicious = [name for name in names if re.search("token|password|secret|key", name, re.IGNORECASE)]
        check(f"{image}: no variable is a secret", not suspicious, suspicious)
        empty = ("/var/lib/aiagentchat", "/stack", "/run/aiagentchat", "/data", "/config")
        files = run(
            "podman",
            "run",
            "--rm",
            "--network=none",
            image,
            "sh",
            "-c",
            f"find {' '.join(empty)} -type f 2>/dev/null; true",
        )
        check(f"{image}: no layer holds a file where secrets will be", not files.strip(), files)


# --- the stack


class Stack:
    """The services of the compose file, under names and ports of their own."""

    def __init__(self) -> None:
        self.project = f"check-{secrets.token_hex(3)}"
        self.url = f"http://127.0.0.1:{free_port()}"
        self._environment = {
            "AIAGENTCHAT_PORT": self.url.rpartition(":")[2],
            "AIAGENTCHAT_PUBLIC_URL": self.url,
        }

    def compose(self, *arguments: str, code: int | None = 0) -> str:
        command = (
            Path(sys.executable).parent / "podman-compose",
            "--file",
            COMPOSE_FILE,
            "--project-name",
            self.project,
        )
        return run(*command, *arguments, env=self._environment, timeout_s=UP_S, code=code)

    def exec(self, service: str, *command: str, code: int | None = 0) -> str:
        return run("podman", "exec", self.name(service), *command, code=code)

    def name(self, service: str) -> str:
        return f"{self.project}_{service}_1"

    def up(self) -> None:
        self.compose("up", "--detach", *SERVICES)

    def health(self, service: str) -> bool:
        command = ["podman", "healthcheck", "run", self.name(service)]
        return subprocess.run(command, capture_output=True, check=False, timeout=COMMAND_S).returncode == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running_stack() -> Iterator[Stack]:
    stack = Stack()
    try:
        stack.up()
        yield stack
    except BaseException:
        for service in SERVICES:
            print(f"--- {service}", file=sys.stderr, flush=True)
            subprocess.run(["podman", "logs", "--tail=40", stack.name(service)], stdout=sys.stderr, check=False)
        raise
    finally:
        stack.compose("down", "--volumes", code=None)


def check_restrictions(stack: Stack) -> None:
    for service in SERVICES:
        status = dict(
            line.split(":\t", 1) for line in stack.exec(service, "cat", "/proc/1/status").splitlines() if ":\t" in line
        )
        uids = set(status["Uid"].split())
        if service in OURS:
            check(f"{service}: is user {UID}", uids == {UID}, uids)
            check(f"{service}: process 1 is tini", status["Name"] == "tini", status["Name"])
        else:
            check(f"{service}: is not root", "0" not in uids, uids)
        capabilities = {status[name].strip("0") for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
        check(f"{service}: has no capability, and can get none", capabilities == {""}, capabilities)
        check(f"{service}: NoNewPrivs", status["NoNewPrivs"] == "1")
        said = stack.exec(service, "sh", "-c", "touch /probe /usr/probe 2>&1", code=None)
        check(f"{service}: its root is read-only", said.count("Read-only file system") == 2, said)


def check_agent(stack: Stack) -> None:
    who = stack.exec("agent", "sh", "-c", "AIAGENTCHAT_TOKEN=$(cat /credential/token) cchat who")
    check("agent: sees the directory with its own credential", "example" in who, who)
    refused = stack.exec("agent", "sh", "-c", "AIAGENTCHAT_TOKEN=$(cat /credential/token) cchat people 2>&1", code=None)
    check("agent: is refused what is the operator's", "operator" in refused, refused)
    links = stack.exec("agent", "ls", "/sys/class/net").split()
    check("agent: has no network", links == ["lo"], links)
    files = stack.exec(
        "agent", "find", "/credential", "/run/aiagentchat", "/var/lib/aiagentchat", "/stack", "-type", "f"
    )
    check("agent: holds its own credential and no other", files.split() == ["/credential/token"], files)


class Operator(Person):
    """The operator, with a Matrix client of their own."""

    def room(self, name: str) -> str:
        """Return the joined room of a name, "" where there is none."""
        for room_id in self.joined_rooms():
            if any(
                each["type"] == "m.room.name" and each["content"].get("name") == name for each in self.state(room_id)
            ):
                return room_id
        return ""

    def bodies(self, room_id: str) -> list[str]:
        chunk = self.call("GET", f"/rooms/{room_id}/messages?dir=b&limit=50")["chunk"]
        return [each["content"]["body"] for each in reversed(chunk) if "body" in each["content"]]


def check_first_experience(stack: Stack, text: str, before: list[str]) -> None:
    """The operator signs in, finds the example's room in the sidebar without a click, writes, and is answered."""
    wait_until("synapse: healthy", lambda: stack.health("synapse"))
    wait_until("daemon: healthy", lambda: stack.health("daemon"))
    password = stack.exec("daemon", "cat", "/var/lib/aiagentchat/operator-password").strip()
    person = Operator(stack.url, "operator", password)
    room_id = wait_until("operator: the example's room is there, joined", lambda: person.room("example"))
    check("operator: what was said before is there", set(before) <= set(person.bodies(room_id)), before)
    person.write(room_id, text)
    wait_until(f"operator: {text!r} is answered", lambda: text.upper() in person.bodies(room_id))


def main() -> None:
    if os.geteuid() != 0 or None in map(shutil.which, ("podman", "debootstrap", "runc", "iptables")):
        raise CheckFailedError(
            "needs root, and: apt-get install podman runc iptables debootstrap netavark aardvark-dns"
        )
    with tempfile.TemporaryDirectory() as directory:
        configuration = Path(directory) / "containers.conf"
        configuration.write_text(ENGINE)
        os.environ["CONTAINERS_CONF"] = str(configuration)
        for image, make in ((BASE, make_base), (POSTGRES, make_postgres)):
            if not is_to_be_had(image):
                step(f"no registry gives {image}: one is made of what is here")
                make()
        build_images()
        check_images()
        with running_stack() as stack:
            check_first_experience(stack, "first words", [])
            check_restrictions(stack)
            check_agent(stack)
            password = stack.exec("daemon", "cat", "/var/lib/aiagentchat/operator-password")
            stack.exec("daemon", "cchat", "rotate")
            others = stack.exec("daemon", "cat", "/var/lib/aiagentchat/operator-password")
            check("operator: has another password", password != others)
            stack.compose("restart", "daemon")  # which gives the others theirs
            stack.compose("restart", "synapse", "agent")
            step("all secrets are others, and all are started anew")
            check_first_experience(stack, "words between", ["first words", "FIRST WORDS"])
            stack.compose("down")
            step("all are stopped, and started again on the same volumes")
            stack.up()
            check_first_experience(stack, "second words", ["first words", "FIRST WORDS", "WORDS BETWEEN"])
    step("all is as it should be")


if __name__ == "__main__":
    try:
        main()
    except CheckFailedError as error:
        sys.exit(f"container: {error}")
