"""A module for each row: ``measure(bench)`` returns its tables."""
