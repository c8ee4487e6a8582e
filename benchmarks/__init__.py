"""Ours beside its peers: ratios from one run on one machine. ``make bench``, or ``python -m benchmarks --help``.

``rows/`` has one module for each row of docs/benchmarks.md, each with one function ``measure(bench)`` that returns
tables. ``results.py`` says what a table is, ``bench.py`` has what rows share, ``systems.py`` the queues compared,
``apps/`` the peers' applications, ``producers.py`` the programs that dispatch.
"""
