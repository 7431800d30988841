"""Which loopback port a listener of ours takes: the pure rule, and the two questions it asks of the machine.

Called by `homeserver.embedded` only.
"""

import errno
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass

from aiagentchat.errors import InvalidRequestError

DEFAULT_PORT = 8008
"""Where Matrix clients expect a homeserver without TLS."""

_FIRST_PORT, _PORTS = 16_384, 16_384
"""Below those that Linux (from 32,768) and macOS (from 49,152) give to outgoing connections."""
_given: set[int] = set()
_LOOPBACKS = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))


@dataclass(frozen=True, slots=True)
class PortChoice:
    """A port, and a sentence for the person where it is not the one that they would expect."""

    port: int
    notice: str = ""


def choose_port(
    requested: int | None,
    remembered: int | None,
    *,
    ours: bool,
    is_free: Callable[[int], bool],
    any_free: Callable[[], int],
) -> PortChoice:
    """Return the homeserver's port.

    Args:
        requested: a port; 0: any free one, the remembered if it is; None: the remembered, else 8008, else any.
        ours: the remembered port is held by our own homeserver, and so not taken.

    Raises:
        InvalidRequestError: the port that was asked for by number is taken.
    """
    if requested:
        if (ours and requested == remembered) or is_free(requested):
            return PortChoice(requested)
        raise InvalidRequestError(
            f"port {requested} is taken by another program",
            hint="choose another port from 1024 up, or 0 for any free one",
        )
    if remembered is not None and (ours or is_free(remembered)):
        return PortChoice(remembered)
    if requested == 0:
        return PortChoice(any_free())
    wanted = DEFAULT_PORT if remembered is None else remembered
    if remembered is None and is_free(wanted):
        return PortChoice(wanted)
    port = any_free()
    return PortChoice(port, f"port {wanted} is taken by another program: the homeserver takes {port} instead")


def is_port_free(port: int) -> bool:
    """Whether nothing listens on `port` of either loopback address.

    IPv6 counts although Synapse listens on IPv4 alone: browsers try `localhost` there first. Connecting is tried as
    well as binding, since BSD lets one bind beside a listener on all addresses.
    """
    for family, host in _LOOPBACKS:
        try:
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
            with socket.socket(family) as probe:
                probe.settimeout(0.2)
                connected = probe.connect_ex((host, port)) == 0
                if connected and probe.getsockname() != probe.getpeername():  # equal: it met itself, by TCP's rules
                    return False
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            if family == socket.AF_INET:
                raise
            # a machine without IPv6 has nobody listening there
    return True


def any_free_port() -> int:
    """Return a port that was free on loopback a moment ago, and that no outgoing connection takes before it is used.

    Another each time: what was given before may be about to be used.
    """
    while True:
        port = _FIRST_PORT + secrets.randbelow(_PORTS)
        if port not in _given and is_port_free(port):
            _given.add(port)
            if len(_given) > _PORTS // 2:
                _given.clear()
            return port
