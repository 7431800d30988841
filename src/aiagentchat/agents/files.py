"""The files that come with messages, between the homeserver and who may have them. What is in them is nobody's here."""

from aiagentchat.agents.messages import file_address
from aiagentchat.agents.past import Past, Speaker
from aiagentchat.errors import (
    FileTooLargeError,
    HomeserverUnavailableError,
    MatrixError,
    MatrixUnauthorizedError,
    NotFoundError,
    RateLimitedError,
    RefusedError,
)
from aiagentchat.model import Attachment, EventId

_SURELY_TAKEN_BYTES = 1_000_000
_REMEMBERED = 1_000


class Files:
    """Moves files. `limit_bytes`: what none may exceed, either way."""

    def __init__(self, past: Past, limit_bytes: int) -> None:
        self._past = past
        self._limit_bytes = limit_bytes
        self._stored: dict[tuple[str, str], str] = {}  # for a message that is sent again

    async def fetch(self, speaker: Speaker, event_id: EventId) -> bytes:
        """Return the file that came with a message which the speaker may read.

        Raises:
            NotFoundError: there is no such message, none came with it, or the homeserver does not give it.
            FileTooLargeError: it is larger than the limit, whatever its sender says.
        """
        _, event = await self._past.find(speaker, event_id)
        address = file_address(event)
        if address is None:
            raise NotFoundError(f"no file came with {event_id}")
        try:
            return await speaker.client.download(address, most_bytes=self._limit_bytes)
        except (MatrixUnauthorizedError, RateLimitedError):
            raise
        except (MatrixError, HomeserverUnavailableError) as error:  # which has just told of the message
            reason = f"the homeserver does not give the file of {event_id}: {error.message}"
            raise NotFoundError(reason, hint=f"try again later: cchat file '{event_id}'") from None

    async def store(self, speaker: Speaker, key: str, file: Attachment) -> str:
        """Have the homeserver keep a file for the message of this key, in the speaker's name; return its address.

        Raises:
            FileTooLargeError: it is larger than our limit, or the homeserver's. RefusedError: it does not take it.
        """
        known = self._stored.get((speaker.user_id, key))
        if known is not None:
            return known
        if len(file.data) > self._limit_bytes:
            raise FileTooLargeError(
                f"the file has {len(file.data):,} bytes; the limit is {self._limit_bytes:,}. Nothing was sent",
                hint="AIAGENTCHAT_FILE_LIMIT sets the limit",
            )
        address = await self._upload(speaker, file)
        self._stored[speaker.user_id, key] = address
        if len(self._stored) > _REMEMBERED:
            del self._stored[next(iter(self._stored))]
        return address

    async def _upload(self, speaker: Speaker, file: Attachment) -> str:
        too_large = FileTooLargeError(
            f"the file has {len(file.data):,} bytes, which is more than the homeserver takes; nothing was sent",
            hint="its max_upload_size sets the limit",
        )
        if len(file.data) > _SURELY_TAKEN_BYTES:
            limit_bytes = await speaker.client.upload_limit()
            if limit_bytes is not None and len(file.data) > limit_bytes:  # Synapse would cut the connection
                raise too_large
        try:
            return await speaker.client.upload(file.data, name=file.name, mimetype=file.mimetype)
        except MatrixUnauthorizedError:
            raise
        except MatrixError as error:
            if error.status == 413:
                raise too_large from None
            raise RefusedError(
                f"the homeserver does not take the file, and nothing was sent: {error.message}"
            ) from None
