"""One engine each, run in a process and an environment of its own by ``benchmarks.peers``."""
