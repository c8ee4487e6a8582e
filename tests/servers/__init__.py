"""Private servers for the tests: each its own process, port and directory, on 127.0.0.1 only."""
