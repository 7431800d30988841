"""Every error that this project raises on purpose, and what each means to a caller.

    AiAgentChatError
    ├── InvalidRequestError        the caller's words are wrong; nothing was done
    │   ├── InvalidNameError
    │   ├── BodyTooLargeError
    │   └── FileTooLargeError
    ├── NotFoundError
    │   └── AgentNotFoundError
    ├── RefusedError               understood, and not allowed
    │   ├── UnauthenticatedError
    │   ├── NameTakenError
    │   ├── ReaderBusyError
    │   ├── AckWindowFullError
    │   ├── RoomEncryptedError
    │   ├── TooFastError
    │   └── AlreadyRunningError
    ├── DaemonNotRunningError
    ├── HomeserverUnavailableError the homeserver cannot be reached, or is overloaded
    │   ├── RateLimitedError
    │   └── DeadlineExceededError
    ├── MatrixError                the homeserver answered with an error
    │   ├── MatrixUnauthorizedError (401)
    │   ├── MatrixForbiddenError    (403)
    │   ├── MatrixNotFoundError     (404)
    │   └── MatrixConflictError     (409, M_ROOM_IN_USE)
    ├── HomeserverStartError       the embedded homeserver did not start
    └── WaitedInVainError

`OUTCOMES` is the one table from an error's code to its HTTP status and its exit code. Every layer uses this
module; it knows none of them.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an error leaves the process: over HTTP, and as an exit code of `cchat`."""

    http_status: int
    exit_code: int


OUTCOMES: dict[str, Outcome] = {
    "internal": Outcome(500, 1),
    "bad_request": Outcome(400, 2),
    "bad_name": Outcome(400, 2),
    "body_too_large": Outcome(413, 2),
    "file_too_large": Outcome(413, 2),
    "daemon_not_running": Outcome(503, 3),
    "not_found": Outcome(404, 4),
    "agent_not_found": Outcome(404, 4),
    "forbidden": Outcome(403, 5),
    "unauthenticated": Outcome(401, 5),
    "name_taken": Outcome(409, 5),
    "reader_busy": Outcome(409, 5),
    "ack_window_full": Outcome(409, 5),
    "room_encrypted": Outcome(409, 5),
    "already_running": Outcome(409, 5),
    "too_fast": Outcome(429, 5),
    "homeserver_unavailable": Outcome(503, 6),
    "rate_limited": Outcome(503, 6),
    "deadline_exceeded": Outcome(504, 6),
    "homeserver_error": Outcome(502, 1),
    "homeserver_start": Outcome(500, 1),
    "waited_in_vain": Outcome(408, 7),
}


class AiAgentChatError(Exception):
    """The root of all errors raised on purpose.

    Args:
        message: one sentence on what is wrong; never holds a secret.
        hint: what the reader can do about it, or "".

    `code` is stable and a key of `OUTCOMES`. `retryable` says whether the same call may succeed later.
    """

    code: str = "internal"
    retryable: bool = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def outcome(self) -> Outcome:
        return OUTCOMES[self.code]


class InvalidRequestError(AiAgentChatError):
    """The request cannot be taken as it is; nothing was done."""

    code = "bad_request"


class InvalidNameError(InvalidRequestError):
    """An agent's name is outside the grammar of `model.parse_agent_name`."""

    code = "bad_name"


class BodyTooLargeError(InvalidRequestError):
    """The event would pass the size limit; the message names the limit."""

    code = "body_too_large"


class FileTooLargeError(InvalidRequestError):
    """A file passes the size limit; the message names the limit."""

    code = "file_too_large"


class NotFoundError(AiAgentChatError):
    """The thing named does not exist, or the caller may not know of it."""

    code = "not_found"


class AgentNotFoundError(NotFoundError):
    """No agent has this name; the hint holds near matches."""

    code = "agent_not_found"


class RefusedError(AiAgentChatError):
    """The caller's credential does not allow this."""

    code = "forbidden"


class UnauthenticatedError(RefusedError):
    """No credential, or one that stands for nobody."""

    code = "unauthenticated"


class NameTakenError(RefusedError):
    """Another live daemon hosts an agent of this name."""

    code = "name_taken"


class ReaderBusyError(RefusedError):
    """Another reader holds this agent's inbox; the message says who."""

    code = "reader_busy"
    retryable = True


class AckWindowFullError(RefusedError):
    """As many messages as the cursor can hold were acknowledged beyond one that was not."""

    code = "ack_window_full"


class RoomEncryptedError(RefusedError):
    """The room is encrypted, and nothing is ever sent in clear into it."""

    code = "room_encrypted"


class TooFastError(RefusedError):
    """An agent asks for more than it may in this time; nothing was done. `wait_s`: after so long it may again."""

    code = "too_fast"
    retryable = True

    def __init__(self, message: str, *, hint: str = "", wait_s: float) -> None:
        super().__init__(message, hint=hint)
        self.wait_s = wait_s


class AlreadyRunningError(RefusedError):
    """A daemon runs on this home already."""

    code = "already_running"


class DaemonNotRunningError(AiAgentChatError):
    """No gateway answers where this home says it should."""

    code = "daemon_not_running"
    retryable = True


class HomeserverUnavailableError(AiAgentChatError):
    """The homeserver could not be reached, or answered 502, 503 or 504, until the deadline."""

    code = "homeserver_unavailable"
    retryable = True


class RateLimitedError(HomeserverUnavailableError):
    """The homeserver asked for a wait that goes past the deadline."""

    code = "rate_limited"


class DeadlineExceededError(HomeserverUnavailableError):
    """The whole operation took longer than its deadline; it may still take effect."""

    code = "deadline_exceeded"


class MatrixError(AiAgentChatError):
    """The homeserver answered with an error that a retry does not mend.

    Attributes:
        status: HTTP status. errcode: the Matrix error code, "M_UNKNOWN" where the body had none.
    """

    code = "homeserver_error"

    def __init__(self, status: int, errcode: str, error: str, *, request: str = "") -> None:
        where = f" to {request}" if request else ""
        super().__init__(f"the homeserver answered {status} {errcode}{where}: {error}")
        self.retryable = not 400 <= status < 500  # a fault of the homeserver's own, which may have done it all the same
        self.status = status
        self.errcode = errcode
        self.error = error


class MatrixUnauthorizedError(MatrixError):
    """401: the token is not, or no longer, known."""


class MatrixForbiddenError(MatrixError):
    """403: power level, membership, or an exclusive namespace forbids it."""


class MatrixNotFoundError(MatrixError):
    """404: no such room, alias, event, state or endpoint."""


class MatrixConflictError(MatrixError):
    """409 with whatever errcode, or 400 `M_ROOM_IN_USE`/`M_USER_IN_USE`: somebody was first."""


class HomeserverStartError(AiAgentChatError):
    """The embedded homeserver did not become ready; the message ends with the tail of its log."""

    code = "homeserver_start"


class WaitedInVainError(AiAgentChatError):
    """What was waited for did not come in time."""

    code = "waited_in_vain"
    retryable = True
