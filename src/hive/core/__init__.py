"""The pure part of a hive: what it knows, where a worker's process stands, what changed between two reports."""
