"""`python -m client.cli` is `rbee`."""

from client.cli.app import main

main()
