"""The fault harness: workers, producers and servers of its own, and a random schedule of what goes wrong with them.

`python -m tests.faults --broker redis --seconds 600 --seed 7`, or `make soak`. See docs/reliability.md.
"""
