"""A homeserver of several processes in place of the one that integration tests start: `make workers`.

PostgreSQL, Redis and nginx of Debian, and Synapse with two workers, configured by the files in `deploy/workers`, with
ports and secrets of their own.
"""

import atexit
import contextlib
import functools
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from aiagentchat.homeserver.launch import synapse_environment
from aiagentchat.homeserver.ports import any_free_port
from aiagentchat.homeserver.readiness import answers_within
from aiagentchat.homeserver.render import HOMESERVER_FILE

FILES = Path(__file__).parents[2] / "deploy" / "workers"
WORKERS = ("reader", "writer")
PORTS = (5432, 6379, 8008, 8010, 8011, 8012, 8020, 8021, 8022)
PROGRAMS = ("redis-server", "nginx", "runuser")
START_S = 60.0
NGINX = """
daemon off;
user root;
worker_processes 1;
error_log stderr;
pid {directory}/nginx.pid;
events {{ worker_connections 2048; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
{routes}
}}
"""


def are_wanted() -> bool:
    """Whether tests are to run on several processes."""
    return os.environ.get("AIAGENTCHAT_TEST_WORKERS") == "1"


class Cluster:
    """What stands beside the main process of one homeserver.

    Args:
        directory: of the homeserver's files. port: where clients reach it.
    """

    def __init__(self, directory: Path, port: int) -> None:
        self._directory = directory
        self._database = f"synapse_{secrets.token_hex(6)}"
        _psql(f"CREATE DATABASE {self._database} ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0")
        self._ports = {each: any_free_port() for each in PORTS} | {8008: port, 5432: _postgres()[1]}
        self._secret = secrets.token_hex(16)
        self._redis: subprocess.Popen[bytes] | None = None
        self._nginx: subprocess.Popen[bytes] | None = None
        self._workers: dict[str, subprocess.Popen[bytes]] = {}
        atexit.register(self.stop)

    def overrides(self) -> dict[str, Any]:
        """Return what `homeserver.yaml` has instead of ours."""
        shared: dict[str, Any] = yaml.safe_load(self._read("shared.yaml"))
        for listener in shared["listeners"]:
            listener["x_forwarded"] = False
            if listener["resources"][0]["names"] == ["client"]:
                listener["resources"][0]["names"].append("health")
        return shared

    def start(self) -> None:
        """Have what the main process needs run, and nginx before it."""
        if self._redis is None:
            self._redis = self._run(
                "redis", "redis-server", "--port", str(self._ports[6379]), "--save", "", "--bind", "127.0.0.1"
            )
        if self._nginx is None:
            routes = self._read("nginx.conf").replace("location /_matrix/", "location /")  # tests administrate, too
            file = self._directory / "nginx.conf"
            file.write_text(NGINX.format(directory=self._directory, routes=routes))
            self._nginx = self._run("nginx", "nginx", "-c", str(file), "-e", "stderr")

    async def start_workers(self) -> None:
        """Have the workers run, and answer."""
        for name in WORKERS:
            if name in self._workers and self._workers[name].poll() is None:
                continue
            configuration: dict[str, Any] = yaml.safe_load(self._read(f"{name}.yaml"))
            configuration["worker_log_config"] = str(self._log_config(name))
            for listener in configuration["worker_listeners"]:
                listener["x_forwarded"] = False
            file = self._directory / f"{name}.yaml"
            file.write_text(yaml.safe_dump(configuration))
            main = str(self._directory / HOMESERVER_FILE)
            command = (sys.executable, "-P", "-m", "synapse.app.generic_worker", "-c", main, "-c", str(file))
            self._workers[name] = self._run(name, *command)
        for name, port in zip(WORKERS, (8011, 8012), strict=True):
            if not await answers_within(f"http://127.0.0.1:{self._ports[port]}", START_S):
                raise AssertionError(
                    f"{name} does not answer:\n{(self._directory / f'{name}.log').read_text()[-4000:]}"
                )

    def stop_workers(self) -> None:
        """Stop the workers, as when a machine stops."""
        for process in self._workers.values():
            process.terminate()
        for process in self._workers.values():
            process.wait(START_S)
        self._workers.clear()

    def stop(self) -> None:
        """Stop all."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.stop_workers()
        for process in filter(None, (self._nginx, self._redis)):
            process.terminate()  # nginx ends its own processes then
            process.wait(START_S)
        self._nginx = self._redis = None

    def _read(self, name: str) -> str:
        """Return a file of `deploy/workers`, with ports and secrets that are this one's."""
        text = (
            (FILES / name)
            .read_text()
            .replace("SECRET", self._secret)
            .replace("dbname: synapse", f"dbname: {self._database}")
        )
        return re.sub(r"\b\d{4}\b", lambda found: str(self._ports.get(int(found[0]), found[0])), text)

    def _log_config(self, name: str) -> Path:
        text = (self._directory / "log.yaml").read_text().replace("homeserver.log", f"{name}.log")
        file = self._directory / f"{name}-log.yaml"
        file.write_text(text)
        return file

    def _run(self, name: str, *command: str) -> "subprocess.Popen[bytes]":
        with (self._directory / f"{name}-printed.log").open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._directory,
                env=synapse_environment(os.environ),
                start_new_session=True,
            )


_clusters: dict[Path, Cluster] = {}


def cluster_of(directory: Path, port: int) -> Cluster:
    """Return what stands beside the homeserver whose files are in a directory."""
    if directory not in _clusters:
        _clusters[directory] = Cluster(directory, port)
    return _clusters[directory]


@functools.cache
def _postgres() -> tuple[Path, int]:
    """Return the directory and the port of a PostgreSQL that runs until this process ends."""
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    missing = [each for each in PROGRAMS if shutil.which(each) is None]
    if not binaries or missing:
        raise AssertionError(
            f"there is no {', '.join(missing) or 'PostgreSQL'}: apt-get install postgresql redis-server nginx"
        )
    directory, port, programs = Path(tempfile.mkdtemp(prefix="postgres-")), any_free_port(), binaries[-1].parent
    shutil.chown(directory, "postgres")
    as_postgres = ("runuser", "-u", "postgres", "--")
    initdb = (
        programs / "initdb",
        "--pgdata",
        directory / "data",
        "--auth=trust",
        "--encoding=UTF8",
        "--locale=C",
        "--username=synapse",
    )
    subprocess.run([*as_postgres, *initdb], check=True, capture_output=True, cwd=directory)
    options = {
        "port": port,
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": directory,
        "max_connections": 500,
    }
    flags = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    command: list[str | Path] = [*as_postgres, programs / "postgres", "-D", directory / "data", *flags]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=directory, start_new_session=True)

    def end() -> None:
        process.terminate()
        process.wait(START_S)
        shutil.rmtree(directory, ignore_errors=True)

    atexit.register(end)
    until = time.monotonic() + START_S
    while subprocess.run([programs / "pg_isready", "-q", "-h", directory, "-p", str(port)], check=False).returncode:
        assert time.monotonic() < until, (directory / "log").read_text()
        time.sleep(0.1)
    return directory, port


def _psql(statement: str) -> None:
    directory, port = _postgres()
    command = ["psql", "-q", "-h", str(directory), "-p", str(port), "-U", "synapse", "-d", "postgres", "-c", statement]
    subprocess.run(command, check=True, capture_output=True)
