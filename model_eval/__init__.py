"""Measures the quality of what is written, on the engine and the turn code that serve.

Nothing here is needed to serve or to export.
"""
