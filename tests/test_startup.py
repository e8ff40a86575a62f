"""Imports without the collector, which rests only where it would find nothing; memory kept."""

from __future__ import annotations

import gc
import os
import platform
import subprocess
import sys

import pytest
import torch  # noqa: F401  (is what the first test is about)

from hyperasr.startup import import_all

FRESH = """
import gc
from hyperasr.startup import import_all
runs = []
gc.callbacks.append(lambda phase, info: runs.append(phase))
module = import_all(["json.tool", "jiwer", "hyperasr.metrics"])
during = len(runs)
gc.collect()
print(module.__name__, during, len(runs) > 0, gc.isenabled(), gc.get_freeze_count() > 10_000)
"""


def test_a_process_that_has_torch_keeps_its_collector() -> None:
    before = gc.get_freeze_count()
    assert import_all(["json", "hyperasr.metrics"]).__name__ == "hyperasr.metrics"
    assert gc.get_freeze_count() == before
    assert gc.isenabled()


def test_a_fresh_process_does_not_collect_while_it_imports() -> None:
    done = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["hyperasr.metrics", "0", "True", "True", "True"]


def test_a_failed_import_leaves_the_collector_on() -> None:
    code = (
        "import gc\nfrom hyperasr.startup import import_all\n"
        "try:\n import_all(['no_such_module'])\nexcept ImportError:\n print(gc.isenabled())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


# 10 times 8 tensors of 8 MiB, half of what is kept, as the layers of an encoder make them. How much
# of that the defaults hand back depends on where the heap lies, so the tests ask for the worst.
TENSORS = """
import ctypes, resource, torch
from hyperasr.startup import keep_freed_memory
ctypes.CDLL(None).mallopt(-3, 1 << 17)  # M_MMAP_THRESHOLD: every tensor has pages of its own
done = keep_freed_memory() if {keep} else None
torch.set_num_threads(1)
for _ in range(3):
    [torch.ones(1 << 21) for _ in range(8)]
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    [torch.ones(1 << 21) for _ in range(8)]
print(done, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _new_pages(keep: bool, **environment: str) -> tuple[str, int]:
    """Return what `keep_freed_memory` said, and how many pages the kernel had to give."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", TENSORS.format(keep=keep)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=plain | environment
    )
    said, pages = done.stdout.split()
    return said, int(pages)


with_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")


@with_glibc
def test_freed_memory_is_used_again() -> None:
    said, kept = _new_pages(True)
    assert said == "True"
    _, usual = _new_pages(False)
    assert usual > 1_000
    assert kept < usual / 20


@with_glibc
@pytest.mark.parametrize(
    ("name", "value"),
    [("MALLOC_TRIM_THRESHOLD_", "131072"), ("GLIBC_TUNABLES", "glibc.malloc.top_pad=131072")],
)
def test_what_the_environment_says_of_malloc_counts(name: str, value: str) -> None:
    said, _ = _new_pages(True, **{name: value})
    assert said == "False"
