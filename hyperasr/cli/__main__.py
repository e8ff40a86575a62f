"""`python -m hyperasr.cli` is the command `hyperasr`."""

from __future__ import annotations

import sys

from hyperasr.cli import main

if __name__ == "__main__":
    sys.exit(main())
