"""What `deploy/` says agrees with the package and with what is claimed of it."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from aiagentchat import __version__
from aiagentchat.homeserver.element import render_config

DEPLOY = Path(__file__).parents[2] / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def test_element_is_configured_as_cchat_up_does_it() -> None:
    told = json.loads((DEPLOY / "element.json").read_text())
    wanted = render_config("http://127.0.0.1:8008", "localhost")
    assert told == wanted | {"default_device_display_name": told["default_device_display_name"]}


def test_our_images_have_the_version_and_those_of_others_are_pinned() -> None:
    images = {each["image"] for each in SERVICES.values()}
    ours = {f"aiagentchat:{__version__}", f"aiagentchat-synapse:{__version__}"}
    assert ours < images
    assert all(image.partition(":")[2] not in ("", "latest") for image in images)


@pytest.mark.parametrize("service", SERVICES)
def test_every_container_is_confined(service: str) -> None:
    container = SERVICES[service]
    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in container


def test_only_synapse_and_element_are_published_on_loopback_unless_told_otherwise() -> None:
    published = {name: each["ports"] for name, each in SERVICES.items() if "ports" in each}
    assert published.keys() == {"synapse", "element"}
    assert all(port.startswith("${AIAGENTCHAT_BIND:-127.0.0.1}:") for ports in published.values() for port in ports)
    assert [name for name, network in COMPOSE["networks"].items() if not (network or {}).get("internal")] == ["outside"]


def test_no_secret_is_in_an_environment_and_each_volume_with_one_is_for_who_needs_it() -> None:
    for each in SERVICES.values():
        assert not [name for name in each.get("environment", {}) if name.endswith(("TOKEN", "PASSWORD", "SECRET"))]
    holders: dict[str, set[str]] = {}
    for name, each in SERVICES.items():
        for volume in each["volumes"]:
            holders.setdefault(volume.partition(":")[0], set()).add(name)
    assert holders["home"] == {"daemon"}
    assert holders["synapse-config"] == {"daemon", "synapse"}
    assert holders["postgres-password"] == {"daemon", "postgres"}
    assert holders["agent-credential"] == {"daemon", "agent"}
    assert {volume.partition(":")[0] for volume in SERVICES["agent"]["volumes"]} == {"agent-credential", "gateway"}
    assert SERVICES["agent"]["network_mode"] == "none"
