"""What the queen and the workers call."""
