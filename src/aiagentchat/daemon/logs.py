"""What a line of the daemon's log is: for a person, or a JSON object for a program. `cchat up` and `daemon` set it up.

Whoever logs gives ids as `extra`: `agent`, `room_id`, `event_id`, each where it is known. No entry above debug holds
what somebody wrote, and none a secret.
"""

import json
import logging
from datetime import UTC, datetime

from aiohttp.http import HttpProcessingError

from aiagentchat.config import Settings
from aiagentchat.model import one_line

IDS = ("agent", "room_id", "event_id")


class TextFormatter(logging.Formatter):
    """`TIME LEVEL LOGGER: MESSAGE [agent=… room_id=… event_id=…]`, on one line but for a traceback."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line, without what of foreign text would begin another."""
        ids = " ".join(f"{name}={value}" for name, value in ids_of(record).items())
        return one_line(super().formatMessage(record) + (f" [{ids}]" if ids else ""))


class JsonFormatter(logging.Formatter):
    """An object a line: `time`, `level`, `logger`, `message`, the ids that are known, and `traceback` of a fault."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        entry = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= ids_of(record)
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def ids_of(record: logging.LogRecord) -> dict[str, str]:
    """Return the ids that were given with an entry."""
    return {name: str(value) for name in IDS if (value := getattr(record, name, None))}


def log_to(handler: logging.Handler, settings: Settings) -> None:
    """Have all entries of the level that is set be written by `handler`, in the form that is set."""
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter())
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])
    logging.getLogger("aiohttp.server").addFilter(_quotes_no_request)


def _quotes_no_request(record: logging.LogRecord) -> bool:
    """Leave out what aiohttp says of a request that is no HTTP: it quotes it, a credential in it too."""
    return record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError)
