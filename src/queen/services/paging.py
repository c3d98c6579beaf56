"""Pages of lists: sizes checked, tokens that say where the next page begins."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from wire import errors

DEFAULT_PAGE: Final = 50
LARGEST_PAGE: Final = 1000

Item = TypeVar("Item")


def page_size(asked: int) -> int:
    """Returns the size of a page: 50 unless asked; raises `Invalid` above 1,000."""
    if asked > LARGEST_PAGE:
        raise errors.invalid([errors.FieldFault("page_size", f"0 to {LARGEST_PAGE:,}, not {asked:,}")])
    return asked or DEFAULT_PAGE


def token(key: str) -> str:
    """Returns the opaque token of the page that begins after an item's key."""
    return base64.urlsafe_b64encode(key.encode()).decode()


def key_of(page_token: str) -> str:
    """Returns the key a token was made from, "" for the first page; raises `Invalid` for a foreign token."""
    try:
        return base64.urlsafe_b64decode(page_token.encode()).decode()
    except (binascii.Error, ValueError) as error:
        fault = errors.FieldFault("page_token", "the next_page_token of this list's page before, or empty")
        raise errors.invalid([fault]) from error


def cut(items: Sequence[Item], key: Callable[[Item], str], size: int, page_token: str) -> tuple[list[Item], str]:
    """Returns one page of items sorted by a unique key, and the next page's token ("" on the last)."""
    after = key_of(page_token)
    rest = [item for item in items if key(item) > after] if after else list(items)
    page = rest[: page_size(size)]
    return page, token(key(page[-1])) if len(page) < len(rest) else ""
