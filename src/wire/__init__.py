"""What every rbee program needs to speak the contract; knows no program."""

import os

# rbee starts processes but never forks Python itself; gRPC's fork handlers would only log about its threads.
# Read by gRPC when it is first imported, so they are set here, before any module of ours imports it.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
# gRPC's C++ core would write lines of its own between those meant for people; what it reports comes back as errors.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
