"""Measures djtasks and its peers with the same task and the same instrument: `python -m benchmarks --help`."""
