"""The one table between the error taxonomy and HTTP: statuses, and errors in OpenAI's shape."""

from __future__ import annotations

import math
import re
from http import HTTPStatus
from typing import Any, Final

import orjson

from wire import errors


class NoSuchPath(errors.NotFound):
    """Nothing is served at a path."""

    default_reason = "PATH_NOT_FOUND"


class WrongMethod(errors.Invalid):
    """A path is not served by that method."""

    default_reason = "METHOD_NOT_ALLOWED"


class BodyTooLarge(errors.Invalid):
    """A body is over the limit."""

    default_reason = "BODY_TOO_LARGE"


class WrongMediaType(errors.Invalid):
    """A body is not said to be JSON."""

    default_reason = "UNSUPPORTED_MEDIA_TYPE"


class BodyTooSlow(errors.TimedOut):
    """A body did not come in time."""

    default_reason = "REQUEST_TIMED_OUT"


STATUSES: Final[dict[type[errors.RbeeError], int]] = {
    NoSuchPath: 404,
    WrongMethod: 405,
    BodyTooLarge: 413,
    WrongMediaType: 415,
    BodyTooSlow: 408,
    errors.NotFound: 404,
    errors.AlreadyExists: 409,
    errors.Invalid: 400,
    errors.WrongState: 400,  # not 409, which OpenAI's clients try again
    errors.Conflict: 409,
    errors.NoCapacity: 429,
    errors.Unreachable: 503,
    errors.Denied: 403,
    errors.Unauthenticated: 401,
    errors.TimedOut: 504,
    errors.Cancelled: 499,  # nginx's: nobody waits for an answer any more
    errors.Unserved: 501,
    errors.Internal: 500,
}
"""Every class of the taxonomy and its HTTP status."""

_TYPES: Final = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_CODES: Final = {"PROMPT_TOO_LONG": "context_length_exceeded", "INVALID": "invalid_value"}
"""Where OpenAI has a word for it that clients look for."""
_PREFACES: Final = {"PROMPT_TOO_LONG": "This model's maximum context length is exceeded: "}
"""What litellm and others look for in the message instead."""
_PARAMS: Final = {
    "MODEL_NOT_FOUND": "model",
    "MODEL_UNUSABLE": "model",
    "AMBIGUOUS_MODEL": "model",
    "MODEL_NOT_ALLOWED": "model",
    "TENANT_NOT_FOUND": "rbee.tenant",
}
_FIELDS: Final = (
    (re.compile(r"^sampling\."), ""),
    (re.compile(r"^chat\.messages"), "messages"),
    (re.compile(r"^embedding\.texts"), "input"),
    (re.compile(r"^output_format\.json_schema"), "response_format.json_schema.schema"),
    (re.compile(r"^output_format"), "response_format"),
    (re.compile(r"^(tools\[\d+\])\.parameters_json_schema"), r"\1.function.parameters"),
    (re.compile(r"^(tools\[\d+\])\."), r"\1.function."),
    (re.compile(r"^session_id"), "rbee.session"),
    (re.compile(r"^tenant_id"), "rbee.tenant"),
    (re.compile(r"^labels"), "rbee.labels"),
)
"""From a field of the contract's JobSpec to the parameter it came from."""


def status_of(error: errors.RbeeError) -> int:
    """Returns the HTTP status of an error of the taxonomy."""
    if isinstance(error, errors.Unserved) and error.faults:
        return HTTPStatus.BAD_REQUEST  # parameters that the model's engine does not serve
    return next((STATUSES[cls] for cls in type(error).__mro__ if cls in STATUSES), 500)


def headers_of(error: errors.RbeeError) -> dict[str, str]:
    """Returns the headers that tell a client whether and when to try again."""
    if error.retry_after_s is not None:
        return {"retry-after": str(max(1, math.ceil(error.retry_after_s)))}
    # OpenAI's clients try again after 408, 409, 429 and all of 5xx unless they are told not to.
    status = status_of(error)
    tried_again = status in (408, 409, 429) or status >= 500
    return {"x-should-retry": "false"} if tried_again and not error.retriable else {}


def body_of(error: errors.RbeeError) -> dict[str, Any]:
    """Returns an error in OpenAI's shape; `faults` beside it lists every bad field."""
    faults = [errors.FieldFault(param_of(fault.field), fault.expected) for fault in error.faults]
    message = _PREFACES.get(error.reason, "") + error.message
    if faults and isinstance(error, errors.Invalid):
        message = errors.invalid(faults).message
    status = status_of(error)
    told: dict[str, Any] = {
        "message": message,
        "type": _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error"),
        "param": faults[0].field if faults else _PARAMS.get(error.reason),
        "code": _CODES.get(error.reason, error.reason.lower()),
    }
    if faults:
        told["faults"] = [{"param": fault.field, "message": fault.expected} for fault in faults]
    return {"error": told}


def json_of(error: errors.RbeeError) -> bytes:
    """Returns an error's body as JSON text."""
    return orjson.dumps(body_of(error))


def param_of(field: str) -> str:
    """Returns the parameter of a request that a field of the contract came from; parameters stay as they are."""
    if not field.startswith("job."):
        return field
    field = field.removeprefix("job.")
    for pattern, replacement in _FIELDS:
        named, found = pattern.subn(replacement, field)
        if found:
            return named
    return field
