"""Words for times, sizes and states."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING

from wire.words import span as span  # noqa: PLC0414  one of these words

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration
    from google.protobuf.message import Message
    from google.protobuf.timestamp_pb2 import Timestamp

NOTHING = "-"


def duration(value: Duration) -> str:
    """Returns a Duration in words."""
    return span(value.ToNanoseconds() / 1e9)


def ago(moment: Timestamp, now: float) -> str:
    """Returns how long ago a moment was, such as "3 min ago"; `now` in seconds since 1970. The epoch is "-"."""
    seconds = moment.ToNanoseconds() / 1e9
    if seconds == 0:
        return NOTHING
    return "now" if now - seconds < 1 else f"{span(now - seconds)} ago"


def clock_time(moment: Timestamp) -> str:
    """Returns a moment to the millisecond in the machine's own time zone; the epoch is "-"."""
    if moment.ToNanoseconds() == 0:
        return NOTHING
    return moment.ToDatetime(UTC).astimezone().isoformat(sep=" ", timespec="milliseconds")


def size(count: float) -> str:
    """Returns bytes in words: "812 B", "3.9 MB", "41 GB" (powers of 1,000, as disks are sold)."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            break
        count /= 1000
    return f"{count:.1f} {unit}" if count < 10 and unit != "B" else f"{count:.0f} {unit}"


def memory(megabytes: float) -> str:
    """Returns memory given in MB of 2^20 bytes in words: "850 MB", "23.5 GB"."""
    return f"{megabytes:.0f} MB" if megabytes < 1024 else f"{megabytes / 1024:.1f} GB"


def amount(count: float) -> str:
    """Returns a large number in words: "812", "1.9 M", "70 B"."""
    for unit in ("", " k", " M", " B"):
        if count < 1000 or unit == " B":
            break
        count /= 1000
    return f"{count:.1f}{unit}" if count < 10 and unit else f"{count:.0f}{unit}"


def state(message: Message, field: str) -> str:
    """Returns the word for an enum field of a message: JOB_STATE_QUEUED is "queued"; unspecified is "-"."""
    kind = message.DESCRIPTOR.fields_by_name[field].enum_type
    assert kind is not None
    number = getattr(message, field)
    value = kind.values_by_number.get(number)
    if value is None:
        return str(number)
    # Values are named after their type: JobState -> JOB_STATE_...
    prefix = kind.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return value.name.removeprefix(prefix).lower().replace("_", " ") if number else NOTHING


def optional(message: Message, field: str, unit: str = "") -> str:
    """Returns an optional number of a message rounded, with its unit; "-" when it is not known."""
    if not message.HasField(field):
        return NOTHING
    return f"{getattr(message, field):.0f}{unit}"


def plural(count: int, noun: str) -> str:
    """Returns "1 hive", "2 hives"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
