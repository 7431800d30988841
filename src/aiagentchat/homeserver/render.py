"""Synapse's three configuration files as text, from the choices that we keep. Pure.

Called by `homeserver.process` before each start. Keys: https://element-hq.github.io/synapse/latest/usage/configuration/
"""

from pathlib import Path
from typing import Any

import yaml

from aiagentchat.homeserver.embedded import SIGNING_KEY_FILE, EmbeddedConfig
from aiagentchat.homeserver.operator import LOGIN_TOKEN_S
from aiagentchat.registration import EMBEDDED_FILE, new_registration, render_registration

HOMESERVER_FILE = "homeserver.yaml"
REGISTRATION_FILE = EMBEDDED_FILE
LOG_CONFIG_FILE = "log.yaml"
DATABASE_FILE = "homeserver.db"
LOG_FILE = "homeserver.log"

_HEADER = "# Written anew by aiagentchat before each start: changes made here are lost.\n"
_LOG_BYTES = 10 * 1024 * 1024
OLD_LOGS = 3
"""How many files of a log are kept besides the one that is written to: `.1` is the latest of them."""


def render_files(
    config: EmbeddedConfig, directory: Path, space_alias: str = "", public_url: str = ""
) -> dict[str, str]:
    """Return what Synapse needs in `directory`: file name to text.

    Args:
        space_alias: as in `new_registration`. public_url: as in `render_homeserver_yaml`.
    """
    return {
        HOMESERVER_FILE: render_homeserver_yaml(config, directory, public_url),
        REGISTRATION_FILE: render_registration_yaml(config, space_alias),
        LOG_CONFIG_FILE: render_log_config(directory / LOG_FILE),
    }


def render_homeserver_yaml(config: EmbeddedConfig, directory: Path, public_url: str = "") -> str:
    """Return Synapse's main configuration: loopback, SQLite, no federation, registration closed.

    Args:
        directory: absolute; holds the database, the media, the signing key and the other two files. public_url: where
            a proxy of the person's takes its clients' requests, without a final slash; "": there is none.
    """
    return _yaml(
        {
            "server_name": config.server_name,
            "public_baseurl": f"{public_url or config.base_url}/",
            "report_stats": False,
            "serve_server_wellknown": False,
            # 127.0.0.1 alone: Synapse does not start where an address in this list cannot be bound, and many
            # machines have no ::1. Clients that try `localhost` on IPv6 are refused there and go on to IPv4.
            "listeners": [
                {
                    "type": "http",
                    "port": config.port,
                    "bind_addresses": ["127.0.0.1"],
                    "tls": False,
                    "x_forwarded": bool(public_url),  # what a proxy says of who asks counts where one is meant to be
                    "resources": [{"names": ["client"], "compress": False}],
                }
            ],
            # Neither journal nor `synchronous` is set: Synapse's WAL and SQLite's own default keep what was answered.
            "database": {"name": "sqlite3", "args": {"database": str(directory / DATABASE_FILE)}},
            "media_store_path": str(directory / "media"),
            "signing_key_path": str(directory / SIGNING_KEY_FILE),
            "log_config": str(directory / LOG_CONFIG_FILE),
            "app_service_config_files": [str(directory / REGISTRATION_FILE)],
            "registration_shared_secret": config.registration_shared_secret,
            "macaroon_secret_key": config.macaroon_secret_key,
            "form_secret": config.form_secret,
            "enable_registration": False,
            # For `operator.issue_login_token`; with the password, so that a device alone makes no further ones.
            "login_via_existing_session": {
                "enabled": True,
                "require_ui_auth": True,
                "token_timeout": f"{LOGIN_TOKEN_S}s",
            },
            "allow_guest_access": False,
            "allow_public_rooms_without_auth": False,
            "federation_domain_whitelist": [],
            "trusted_key_servers": [],
            "suppress_key_server_warning": True,
            "url_preview_enabled": False,
            "forgotten_room_retention_period": "1d",  # such as what the janitor has cleared away
            "presence": {"enabled": True},
            "encryption_enabled_by_default_for_room_type": "off",
            # An older Synapse lets the daemon act through an agent's device only with this; a newer one does anyhow.
            "experimental_features": {"msc3202_device_masquerading": True},
            **_limits(),
        }
    )


def _limits() -> dict[str, Any]:
    """Limits for people on loopback: far above what a person does, low enough to end a loop gone wild.

    Synapse's defaults are for the open internet (a login every five minutes, a room a minute); every client of ours
    shares the one address. Masquerading by the application service is not limited at all.
    """
    return {
        "rc_message": _limit(50, 500),
        "rc_joins": {"local": _limit(50, 500), "remote": _limit(50, 500)},
        "rc_joins_per_room": _limit(50, 500),
        "rc_invites": {"per_room": _limit(50, 500), "per_user": _limit(50, 500), "per_issuer": _limit(50, 500)},
        "rc_room_creation": _limit(10, 100),
        "rc_login": {"address": _limit(10, 100), "account": _limit(1, 50), "failed_attempts": _limit(0.5, 20)},
        "rc_admin_redaction": _limit(50, 500),
        "rc_presence": {"per_user": _limit(1, 10)},
        "rc_user_directory": _limit(5, 200),
    }


def _limit(per_second: float, burst_count: int) -> dict[str, float]:
    return {"per_second": per_second, "burst_count": burst_count}


def render_registration_yaml(config: EmbeddedConfig, space_alias: str = "") -> str:
    """Return the application-service registration. `space_alias`: as in `new_registration`."""
    registration = new_registration(
        config.server_name,
        as_token=config.as_token,
        hs_token=config.hs_token,
        url=f"http://127.0.0.1:{config.appservice_port}",
        space_alias=space_alias,
    )
    return _HEADER + render_registration(registration)


def render_log_config(log_file: Path) -> str:
    """Return Synapse's logging configuration: one file, rotated by size, written at once."""
    return _yaml(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                "precise": {"format": "%(asctime)s - %(name)s - %(lineno)d - %(levelname)s - %(request)s - %(message)s"}
            },
            "handlers": {
                "file": {
                    "class": "logging.handlers.RotatingFileHandler",
                    "formatter": "precise",
                    "filename": str(log_file),
                    "maxBytes": _LOG_BYTES,
                    "backupCount": OLD_LOGS,
                    "encoding": "utf8",
                }
            },
            "loggers": {
                "synapse.access": {"level": "WARNING"},  # else a line for every request
                "synapse.storage.SQL": {"level": "INFO"},  # below that it would log tokens
            },
            "root": {"level": "INFO", "handlers": ["file"]},
        }
    )


def _yaml(data: dict[str, Any]) -> str:
    return _HEADER + yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=200)
