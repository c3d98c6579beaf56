"""What is reported to the queen, and the stream that carries it."""
