"""Two real homeservers that federate on loopback: each with a server name that says its port, and with TLS.

A server name with a port needs neither DNS nor well-known: the other server connects to that port. Both show one
certificate, made for the test, and take it for the authority that they trust.
"""

import contextlib
import datetime
import ipaddress
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from aiagentchat.config import Paths
from aiagentchat.homeserver.embedded import load_or_create
from aiagentchat.model import RoomAlias, UserId
from tests.integration.systems import OPERATOR, Synapse, start_synapse

HOST = "localhost"


@dataclass(frozen=True)
class Certificate:
    """Files of a certificate that signs itself, and of its key."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Federation:
    """Two homeservers that reach each other."""

    here: Synapse
    there: Synapse


def user_on(synapse: Synapse, localpart: str = OPERATOR) -> UserId:
    return UserId(f"@{localpart}:{synapse.config.server_name}")


def alias_on(synapse: Synapse, localpart: str) -> RoomAlias:
    return RoomAlias(f"#{localpart}:{synapse.config.server_name}")


@contextlib.asynccontextmanager
async def federation(home: Path, **settings: object) -> AsyncIterator[Federation]:
    """Run two homeservers in `home`; `settings` of both, on top of what federation needs."""
    certificate = make_certificate(home)
    ports = _free_ports(2)
    names = [f"{HOST}:{port}" for port in ports]
    async with contextlib.AsyncExitStack() as stack:
        servers = []
        for place, name, port in zip(("here", "there"), names, ports, strict=True):
            given = render_settings(home / place, name, port, names, certificate) | settings
            servers.append(await start_synapse(home / place, server_name=name, **given))
            stack.push_async_callback(servers[-1].stop)
        yield Federation(*servers)


def render_settings(
    home: Path, server_name: str, port: int, federate_with: list[str], certificate: Certificate
) -> dict[str, Any]:
    """Return what Synapse needs to federate on loopback, to be put on top of ours."""
    paths = Paths(config_dir=home, data_dir=home)
    client_port = load_or_create(paths, server_name=server_name, port=0).config.port
    listener = {"type": "http", "bind_addresses": ["127.0.0.1"]}
    return {
        "listeners": [
            listener | {"port": client_port, "tls": False, "resources": [{"names": ["client"]}]},
            listener | {"port": port, "tls": True, "resources": [{"names": ["federation"]}]},
        ],
        "tls_certificate_path": str(certificate.certificate),
        "tls_private_key_path": str(certificate.key),
        "federation_custom_ca_list": [str(certificate.certificate)],
        "federation_domain_whitelist": federate_with,
        "ip_range_whitelist": ["127.0.0.1", "::1"],  # Synapse connects to no loopback address unless told to
    }


def make_certificate(directory: Path) -> Certificate:
    """Make a certificate for loopback that lasts for a day."""
    made = Certificate(directory / "tls.crt", directory / "tls.key")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    names = [x509.DNSName(HOST), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    made.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    made.key.touch(mode=0o600)
    made.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return made


def _free_ports(count: int) -> list[int]:
    """Return different ports that were free a moment ago: part of a server's name, they are needed before it starts."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(each.getsockname()[1]) for each in held]
