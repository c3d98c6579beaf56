"""The contract's services, thin: convert, call, convert."""
