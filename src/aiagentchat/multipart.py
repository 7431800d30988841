"""What goes out with a request to the gateway: JSON, or a form with a file (RFC 7578). `client` sends it."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

Json = Any


@dataclass(frozen=True, slots=True)
class RequestBody:
    """What goes out with a request, as it is on the wire."""

    content_type: str
    data: bytes = field(repr=False)

    @classmethod
    def form(cls, message: Mapping[str, Json], file: bytes | bytearray) -> Self:
        """Return a form of two parts, a message and its file."""
        boundary = secrets.token_hex(16)
        parts = (
            b'--%b\r\nContent-Disposition: form-data; name="message"\r\n\r\n%b\r\n'
            b'--%b\r\nContent-Disposition: form-data; name="file"; filename="file"\r\n\r\n%b\r\n--%b--\r\n'
        )
        mark = boundary.encode()
        data = parts % (mark, json.dumps(message).encode(), mark, file, mark)
        return cls(f"multipart/form-data; boundary={boundary}", data)
