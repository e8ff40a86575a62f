"""Imports without the collector, which rests only where it would find nothing."""

from __future__ import annotations

import gc
import subprocess
import sys

import torch  # noqa: F401  (is what the first test is about)

from hyperasr.util.startup import import_all

FRESH = """
import gc
from hyperasr.util.startup import import_all
runs = []
gc.callbacks.append(lambda phase, info: runs.append(phase))
module = import_all(["json.tool", "jiwer", "hyperasr.metrics.error_rates"])
during = len(runs)
gc.collect()
print(module.__name__, during, len(runs) > 0, gc.isenabled(), gc.get_freeze_count() > 10_000)
"""


def test_a_process_that_has_torch_keeps_its_collector() -> None:
    before = gc.get_freeze_count()
    assert (
        import_all(["json", "hyperasr.metrics.error_rates"]).__name__
        == "hyperasr.metrics.error_rates"
    )
    assert gc.get_freeze_count() == before
    assert gc.isenabled()


def test_a_fresh_process_does_not_collect_while_it_imports() -> None:
    done = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["hyperasr.metrics.error_rates", "0", "True", "True", "True"]


def test_a_failed_import_leaves_the_collector_on() -> None:
    code = (
        "import gc\nfrom hyperasr.util.startup import import_all\n"
        "try:\n import_all(['no_such_module'])\nexcept ImportError:\n print(gc.isenabled())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
