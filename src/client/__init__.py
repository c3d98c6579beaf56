"""The client library and the keeper. `rbee` is the public face; nothing is imported here, so that it starts fast."""
