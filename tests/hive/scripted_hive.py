"""A hive in a process of its own, exactly as installed, but for the worker it starts: argv[1] is that script."""

import sys

from hive.__main__ import main

sys.exit(main(sys.argv[2:], worker_command=(sys.executable, sys.argv[1])))
