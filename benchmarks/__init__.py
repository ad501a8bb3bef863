"""Measures speed, memory and quality; none of it is installed with the program."""
