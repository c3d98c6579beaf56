"""What the machine's processors and GPUs are and how busy they are."""
