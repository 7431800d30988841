"""A request's body: JSON, or a form in which a file comes with it."""

import json
from typing import Any

from aiohttp import BodyPartReader, web
from aiohttp.http import HttpProcessingError

from aiagentchat.errors import BodyTooLargeError, FileTooLargeError, InvalidRequestError
from aiagentchat.model import CONTENT_LIMIT_BYTES

BODY_LIMIT_BYTES = 512 * 1024
FORM = "multipart/form-data"

_MESSAGE, _FILE = "message", "file"
_CHUNK_BYTES = 64 * 1024


async def read_json(request: web.Request) -> Any:
    """Return the JSON of a body. Raises `InvalidRequestError`."""
    return _parse(await request.read())


async def read_form(request: web.Request, file_limit_bytes: int) -> tuple[Any, bytearray]:
    """Return what a form of two parts holds: JSON in `message`, and the `file`.

    Raises:
        InvalidRequestError: it is no such form. BodyTooLargeError, FileTooLargeError: a part is too large.
    """
    too_large = {
        _MESSAGE: body_too_large(),
        _FILE: FileTooLargeError(
            f"the file is larger than {file_limit_bytes:,} bytes, and nothing was sent",
            hint="AIAGENTCHAT_FILE_LIMIT sets the limit",
        ),
    }
    most = {_MESSAGE: BODY_LIMIT_BYTES, _FILE: file_limit_bytes}
    parts: dict[str, bytearray] = {}
    try:
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader) or (name := part.name) not in most or name in parts:
                raise _no_form()
            parts[name] = bytearray()
            while chunk := await part.read_chunk(_CHUNK_BYTES):
                parts[name] += chunk
                if len(parts[name]) > most[name]:
                    raise too_large[name]
    except (ValueError, LookupError, HttpProcessingError):
        raise _no_form() from None
    if len(parts) < len(most):
        raise _no_form()
    return _parse(parts[_MESSAGE]), parts[_FILE]


def body_too_large() -> BodyTooLargeError:
    """Return what is said of a body that is larger than any that makes sense."""
    return BodyTooLargeError(
        f"the request is larger than {BODY_LIMIT_BYTES} bytes, and nothing was done",
        hint=f"a message may make an event of {CONTENT_LIMIT_BYTES} bytes",
    )


def _no_form() -> InvalidRequestError:
    return InvalidRequestError(f"the body is no form ({FORM}) of two parts: message, which is JSON, and file")


def _parse(data: bytes | bytearray) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise InvalidRequestError("the body is not JSON") from None
