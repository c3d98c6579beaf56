"""What there is now, in RAM: the mirror of hives, workers and models, and the jobs that are alive. No policy."""
