"""Model files of this machine."""
