"""The one table between the error taxonomy and gRPC status, with google.rpc details both ways."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from urllib.parse import quote

import grpc
from google.protobuf import any_pb2, message
from google.rpc import error_details_pb2, status_pb2

from wire import errors

DOMAIN: Final = "rbee"
DETAILS_KEY: Final = "grpc-status-details-bin"

CODES: Final[dict[type[errors.RbeeError], grpc.StatusCode]] = {
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.Invalid: grpc.StatusCode.INVALID_ARGUMENT,
    errors.WrongState: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Conflict: grpc.StatusCode.ABORTED,
    errors.NoCapacity: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unreachable: grpc.StatusCode.UNAVAILABLE,
    errors.Denied: grpc.StatusCode.PERMISSION_DENIED,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.TimedOut: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Cancelled: grpc.StatusCode.CANCELLED,
    errors.Unserved: grpc.StatusCode.UNIMPLEMENTED,
    errors.Internal: grpc.StatusCode.INTERNAL,
}
"""Every class of the taxonomy and its status code; the inverse is used on the caller's side."""

MAX_MESSAGE_BYTES: Final = 3000
MAX_FAULTS_BYTES: Final = 1200
"""Bounds of an error's texts. gRPC may refuse trailers of more than 8 KB, and the message travels in them twice: once
percent-encoded, which is what is bounded here, once in the base64 of the details. Beyond these the caller would get a
broken connection instead of the error."""

_PLAIN: Final = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
_CLASSES: Final = {code: cls for cls, code in CODES.items()}
_BY_NUMBER: Final[dict[int, grpc.StatusCode]] = {code.value[0]: code for code in grpc.StatusCode}


def code_of(error: errors.RbeeError) -> grpc.StatusCode:
    """Returns the status code of an error of the taxonomy."""
    return next((CODES[cls] for cls in type(error).__mro__ if cls in CODES), grpc.StatusCode.INTERNAL)


def code_number(error: errors.RbeeError) -> int:
    """Returns the google.rpc.Code of an error of the taxonomy, 0 to 16."""
    number: int = code_of(error).value[0]
    return number


def from_code_number(number: int, text: str, reason: str) -> errors.RbeeError:
    """Returns the error a stored google.rpc.Code, message and reason stand for."""
    return _CLASSES.get(_BY_NUMBER.get(number, grpc.StatusCode.INTERNAL), errors.Internal)(text, reason)


def short(text: str) -> str:
    """Returns a text cut in the middle to what fits an error: its beginning says what, its end often says why."""
    encoded = len(quote(text, safe=_PLAIN))
    if encoded <= MAX_MESSAGE_BYTES:
        return text
    half = len(text) * MAX_MESSAGE_BYTES // encoded // 2
    return short(f"{text[: half - 8]} ... {text[8 - half :]}")


def to_trailers(error: errors.RbeeError) -> tuple[tuple[str, bytes], ...]:
    """Returns the trailing metadata that carries ErrorInfo, RetryInfo and BadRequest of an error."""
    details: list[message.Message] = [
        error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)
    ]
    if error.retry_after_s is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        details.append(retry)
    if error.faults:
        details.append(_bad_request(error.faults))
    status = status_pb2.Status(code=code_number(error), message=short(error.message))
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return ((DETAILS_KEY, status.SerializeToString()),)


def _bad_request(faults: Iterable[errors.FieldFault]) -> error_details_pb2.BadRequest:
    """Returns as many of the faults as fit."""
    bad = error_details_pb2.BadRequest()
    for fault in faults:
        one = error_details_pb2.BadRequest.FieldViolation(field=fault.field[:80], description=fault.expected[:160])
        if bad.ByteSize() + one.ByteSize() > MAX_FAULTS_BYTES:
            break
        bad.field_violations.append(one)
    return bad


def from_rpc_error(error: grpc.RpcError) -> errors.RbeeError:
    """Returns the taxonomy's error for a failed call, with reason, retry time and bad fields where they were sent.

    Foreign statuses (the network's own, other servers') map by their code alone, with the code's name as reason.
    """
    assert isinstance(error, grpc.aio.AioRpcError | grpc.Call), "only errors of a call carry a status"
    code = error.code()
    cls = _CLASSES.get(code, errors.Internal)
    found = cls(error.details() or code.name, code.name)
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            _read_details(status_pb2.Status.FromString(value), found)
    return found


def _read_details(status: status_pb2.Status, found: errors.RbeeError) -> None:
    for packed in status.details:
        if packed.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo()
            packed.Unpack(info)
            found.reason, found.metadata = info.reason, dict(info.metadata)
        elif packed.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = error_details_pb2.RetryInfo()
            packed.Unpack(retry)
            found.retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9
        elif packed.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad = error_details_pb2.BadRequest()
            packed.Unpack(bad)
            found.faults = tuple(errors.FieldFault(v.field, v.description) for v in bad.field_violations)
