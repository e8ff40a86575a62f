"""The command `hyperasr`."""

from hyperasr.cli.parser import main

__all__ = ["main"]
