"""Running jobs: a supervisor, its keeper and its children."""
