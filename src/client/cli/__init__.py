"""The keeper, `rbee`: one file per noun, thin over the client library. It decides nothing, the queen does."""

from client.cli.app import main

__all__ = ["main"]
