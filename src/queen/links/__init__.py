"""How the queen reaches others: gRPC to hives and workers, and their messages turned into the queen's own values."""
