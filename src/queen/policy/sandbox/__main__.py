"""The sandbox process, started by the queen: `python -m queen.policy.sandbox FD`, its end of the socket pair."""

from __future__ import annotations

import socket
import sys
import time

from queen.policy.language import Program
from queen.policy.sandbox import runner

if __name__ == "__main__":
    runner.serve(socket.socket(fileno=int(sys.argv[1])), Program(), time.perf_counter_ns)
