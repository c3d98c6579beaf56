"""Sandboxes for tests: hosts over real processes, with the real platform policy."""

import asyncio
from contextlib import asynccontextmanager

from queen.policy import platform
from queen.policy.rows import Rows
from queen.policy.sandbox.host import PolicyHost
