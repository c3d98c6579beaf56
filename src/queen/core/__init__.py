"""The rules, without I/O: what a job, a worker, a hive is and what may happen to it. Time is a value here."""
