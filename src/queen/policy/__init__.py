"""The policy language: Lua policies over a mirror of the queen's state, behind a fence."""
