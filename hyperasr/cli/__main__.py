"""`python -m hyperasr` is the command `hyperasr`."""

from __future__ import annotations

import sys

from hyperasr.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
