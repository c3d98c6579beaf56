"""Where the platform policy's source is: in a checkout beside src/, in an installed package inside it."""

from __future__ import annotations

from pathlib import Path


def folder() -> Path:
    """Returns the folder of the policies that come with rbee."""
    packaged = Path(__file__).parent / "policies"
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "policies"


def source() -> str:
    """Returns the platform policy as text."""
    return (folder() / "platform.lua").read_text("utf-8")
