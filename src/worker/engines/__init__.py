"""The engines a worker can run, each behind `port.Engine`."""
