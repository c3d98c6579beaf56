"""Channels to other programs: options, addresses and the checks around dialling."""

from __future__ import annotations

import ipaddress
from typing import Final

import grpc

from wire import errors

MAX_MESSAGE_BYTES: Final = 16 * 2**20
"""Largest message either side accepts. A prompt may have 4 MiB; lists page well below this."""

ADDRESSEE: Final = "rbee-addressee"
"""Metadata key of a call that is meant for the program of this id alone, not for another one at its address."""

CHANNEL_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # A machine that was cut off is noticed within half a minute, also when no call is open.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # Reconnect soon after a program comes back: the longest pause between tries.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_http_proxy", 0),
    # Channels share nothing: not the pauses between the tries to reach a program that was at the same address before.
    ("grpc.use_local_subchannel_pool", 1),
)


def dial(address: str) -> grpc.aio.Channel:
    """Returns a channel to "host:port"; it connects when first used and again whenever it must.

    Must be called on the event loop that will use it; close it with `await channel.close()`.
    """
    split_address(address)
    return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)


def split_address(address: str) -> tuple[str, int]:
    """Returns (host, port) of "host:port" or "[v6]:port"; raises `Invalid` for anything else. Port 0 to 65535."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise errors.Invalid(
            f"'{address}' is not an address: expected host:port, such as 127.0.0.1:7833", "BAD_ADDRESS"
        )
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """Tells whether a host is this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # another name, such as 127.evil.example
        return False
