"""What the daemon's container runs in `compose.yaml`: it equips the other containers, and then is the daemon.

Each container gets the secrets that it needs and no other, as files in a volume that it shares with this one alone.
They are made at random at the first start, and kept in the daemon's home. The operator has an account and a device, as
with `cchat up`.
"""

import asyncio
import hmac
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import yaml

from aiagentchat.config import Settings, load_settings, replace_file, write_private
from aiagentchat.errors import AiAgentChatError
from aiagentchat.gateway.credentials import Credentials
from aiagentchat.homeserver.embedded import EmbeddedConfig, load_or_create
from aiagentchat.homeserver.operator import ensure_operator
from aiagentchat.homeserver.readiness import answers_within
from aiagentchat.homeserver.render import render_homeserver_yaml
from aiagentchat.model import parse_agent_name
from aiagentchat.registration import new_registration, registration_file, render_registration

STACK = Path("/stack")
"""Where the volumes of the others are: `synapse`, `postgres` and `agent`."""
SYNAPSE_PORT, EVENTS_PORT = 8008, 29328
EVENTS_URL = f"http://daemon:{EVENTS_PORT}"
AGENT = os.environ.get("STACK_AGENT", "")
ANSWERS_WITHIN_S = 300.0

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {
        "synapse.access": {"level": "WARNING"},  # else a line for every request
        "synapse.storage.SQL": {"level": "INFO"},  # below that it would log tokens
    },
    "root": {"level": "INFO", "handlers": ["console"]},
}


def main() -> NoReturn:
    """Equip the others, and become the daemon."""
    settings = load_settings(os.environ)
    try:
        config = equip(settings)
        asyncio.run(provide_operator(settings, config))
    except AiAgentChatError as error:
        sys.exit(f"{error.message}\n  {error.hint}".rstrip())
    os.execvp("cchat", ["cchat", "daemon"])  # noqa: S606, S607 - it takes this one's place, in an image of ours


def equip(settings: Settings) -> EmbeddedConfig:
    """Write what the others need, the same at each start, but for what was configured anew."""
    paths = settings.paths
    remembered, _ = load_or_create(paths, server_name=settings.server_name)
    config = replace(remembered, port=SYNAPSE_PORT, appservice_port=EVENTS_PORT)
    registration = render_registration(
        new_registration(
            config.server_name,
            as_token=config.as_token,
            hs_token=config.hs_token,
            url=EVENTS_URL,
            space_alias=settings.space_alias,
        )
    )
    write_private(registration_file(settings), registration)
    write_private(STACK / "synapse" / "registration.yaml", registration)
    write_private(STACK / "synapse" / "log.yaml", yaml.safe_dump(LOGGING))
    password = hmac.new(config.form_secret.encode(), b"postgres", "sha256").hexdigest()  # another after `cchat rotate`
    write_private(STACK / "synapse" / "homeserver.yaml", render_synapse(config, settings.public_url, password))
    replace_file(STACK / "postgres" / "password", password, 0o644)  # for its user, who is alone with this volume
    if AGENT:
        token = Credentials(paths).issue(parse_agent_name(AGENT), detached=False)
        write_private(STACK / "agent" / "token", token + "\n")
    return config


def render_synapse(config: EmbeddedConfig, public_url: str, password: str) -> str:
    """Return the embedded homeserver's configuration, changed to PostgreSQL and to a network of containers."""
    synapse: dict[str, Any] = yaml.safe_load(render_homeserver_yaml(config, Path("/data"), public_url))
    synapse["listeners"][0]["bind_addresses"] = ["0.0.0.0"]  # noqa: S104 - of a container's own network
    synapse["listeners"][0]["resources"][0]["names"].append("health")
    synapse["database"] = {
        "name": "psycopg2",
        "args": {
            "host": "postgres",
            "user": "synapse",
            "dbname": "synapse",
            "password": password,
            "cp_min": 5,
            "cp_max": 10,
        },
    }
    synapse["log_config"] = "/config/log.yaml"
    synapse["app_service_config_files"] = ["/config/registration.yaml"]
    return yaml.safe_dump(synapse, sort_keys=False)


async def provide_operator(settings: Settings, config: EmbeddedConfig) -> None:
    """Wait for the homeserver, and have the operator's account and device be there."""
    print(f"waiting for the homeserver at {settings.homeserver_url}", file=sys.stderr)
    if not await answers_within(settings.homeserver_url, ANSWERS_WITHIN_S):
        sys.exit(f"no homeserver answers at {settings.homeserver_url}: see 'docker compose logs synapse postgres'")
    operator = await ensure_operator(settings.homeserver_url, settings.paths, config, settings.operator)
    print(
        f"the operator is {operator.user_id}; the password: docker compose exec daemon cat "
        f"{settings.paths.operator_password}",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
