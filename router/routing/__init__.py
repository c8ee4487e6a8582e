"""From settings to the routing table, and from import paths to callables."""
