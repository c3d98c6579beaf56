"""Calls a hive makes to its workers."""
