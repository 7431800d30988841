"""The files that come with messages, between the homeserver and who may have them. What is in them is nobody's here."""

import asyncio

from aiagentchat.agents.messages import file_address
from aiagentchat.agents.past import Past, Speaker
from aiagentchat.errors import FileTooLargeError, MatrixError, MatrixNotFoundError, NotFoundError
from aiagentchat.model import Attachment, EventId

TRANSFER_S = 300.0
"""How long one file may take to the homeserver, or from there."""

_SURELY_TAKEN_BYTES = 1_000_000
_AT_ONCE = 2
"""Files that are in memory at a time."""


class Files:
    """Moves files. `limit_bytes`: what none may exceed, either way."""

    def __init__(self, past: Past, limit_bytes: int) -> None:
        self._past = past
        self._limit_bytes = limit_bytes
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def fetch(self, speaker: Speaker, event_id: EventId) -> bytes:
        """Return the file that came with a message which the speaker may read.

        Raises:
            NotFoundError: there is no such message, none came with it, or the homeserver has it no more.
            FileTooLargeError: it is larger than the limit, whatever its sender says.
        """
        message, event = await self._past.find(speaker, event_id)
        address = file_address(event)
        if address is None:
            raise NotFoundError(f"no file came with {message.event_id}")
        async with self._slots:
            try:
                client = speaker.client.with_deadline(TRANSFER_S)
                return await client.download(address, most_bytes=self._limit_bytes)
            except MatrixNotFoundError as error:
                raise NotFoundError(
                    f"the homeserver does not have the file of {message.event_id}: {error.error}"
                ) from None

    async def store(self, speaker: Speaker, file: Attachment) -> str:
        """Have the homeserver keep a file, in the speaker's name; return its address.

        Raises:
            FileTooLargeError: it is larger than our limit, or the homeserver's.
        """
        if len(file.data) > self._limit_bytes:
            raise FileTooLargeError(
                f"the file has {len(file.data):,} bytes; the limit is {self._limit_bytes:,}. Nothing was sent",
                hint="AIAGENTCHAT_FILE_LIMIT sets the limit",
            )
        if len(file.data) > _SURELY_TAKEN_BYTES:
            limit_bytes = await speaker.client.upload_limit()
            if limit_bytes is not None and len(file.data) > limit_bytes:  # Synapse would cut the connection
                raise _refused_by_homeserver(file)
        async with self._slots:
            try:
                client = speaker.client.with_deadline(TRANSFER_S)
                return await client.upload(file.data, name=file.name, mimetype=file.mimetype)
            except MatrixError as error:
                if error.status != 413:
                    raise
                raise _refused_by_homeserver(file) from None


def _refused_by_homeserver(file: Attachment) -> FileTooLargeError:
    return FileTooLargeError(
        f"the file has {len(file.data):,} bytes, which is more than the homeserver takes; nothing was sent",
        hint="its max_upload_size sets the limit",
    )
