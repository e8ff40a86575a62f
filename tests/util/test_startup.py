"""Late imports: no collector and nothing that only training needs, where the process is ours."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path
from typing import Any

import soundfile as sf
import torch  # noqa: F401  (is what the first test is about)

from hyperasr.util.startup import import_late

FRESH = """
import gc, sys
import hyperasr
from hyperasr.cli import parser
from hyperasr.util.startup import import_late
runs = []
gc.callbacks.append(lambda phase, info: runs.append(phase))
try:
    import_late("no_such_module", transcribes=False)
except ImportError:
    print(gc.isenabled(), len(runs))

def watched(name, **how):
    runs.clear()
    module = import_late(name, **how)
    print(name, len(runs), gc.isenabled(), gc.get_freeze_count() > 10_000)
    return module

parser.import_late = watched
assert parser.main(["transcribe", *sys.argv[1:], "--offline"]) == 0
print([heavy for heavy in ("torch._dynamo", "scipy", "sympy", "accelerate", "datasets",
       "speechbrain") if heavy in sys.modules])
from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex
from transformers.loss.loss_utils import LOSS_MAPPING
print(TransformGetItemToIndex.__module__, "ForCausalLM" in LOSS_MAPPING)
"""


def test_a_process_that_has_torch_is_left_alone() -> None:
    before = gc.get_freeze_count()
    name = "hyperasr.metrics.error_rates"
    assert import_late(name, transcribes=True).__name__ == name
    assert gc.get_freeze_count() == before
    assert gc.isenabled()


def test_a_fresh_process_imports_what_transcribing_needs(
    random_model_folder: Path, voice: Any, tmp_path: Path
) -> None:
    sf.write(tmp_path / "a.wav", voice(0.7), 16_000)
    command = [sys.executable, "-c", FRESH, str(tmp_path / "a.wav")]
    command += ["--model", str(random_model_folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    failed, imported, *text, heavy, after = done.stdout.splitlines()
    assert failed == "True 0", done.stderr
    assert imported == "hyperasr.cli.commands 0 True True"
    assert text
    assert heavy == "[]"
    # What was stood in for is there for everybody who asks later.
    assert after == "torch._dynamo._trace_wrapped_higher_order_op True"
