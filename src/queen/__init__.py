"""The queen: admission, queue, placement, routing and state. A daemon, started as `queen-rbee`."""
