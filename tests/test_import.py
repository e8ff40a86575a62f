"""`import hyperasr` is cheap and quiet, and makes transformers, peft and SpeechBrain importable."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hyperasr.util.torchaudio_shim import _ExtensionFinder, _ForgivingLoader, ensure_torchaudio

ROOT = Path(__file__).parents[1]

# Records every event of the interpreter that opens a socket or resolves a name.
WATCH_NETWORK = """
import sys
events = []
sys.addaudithook(lambda name, args: events.append(name) if name.startswith("socket.") else None)
"""


def run_fresh(code: str) -> str:
    """Run `code` in a new interpreter and return what it prints."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_neighbours_import_after_hyperasr() -> None:
    # SpeechBrain first; in the suite itself it is transformers.
    code = """
import hyperasr
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
from transformers import WhisperForConditionalGeneration
import peft
import torchaudio
print(torchaudio.transforms.Resample.__name__)
"""
    assert run_fresh(code).strip() == "Resample"


def test_torchaudio_recovers_from_a_failed_import_before_hyperasr() -> None:
    code = """
try:
    import torchaudio
except (OSError, RuntimeError, ImportError):
    pass
import hyperasr
import torchaudio
print(torchaudio.functional.resample.__name__)
"""
    assert run_fresh(code).strip() == "resample"


def test_missing_compiled_part_says_so_when_called_and_present_part_is_untouched() -> None:
    import torchaudio
    from torchaudio import _extension

    # One or the other holds on any machine: the real module, or ours that says it is absent.
    if _extension._IS_TORCHAUDIO_EXT_AVAILABLE:
        assert _extension._check_cuda_version.__module__.startswith("torchaudio")
    else:
        with pytest.raises(RuntimeError, match="compiled part") as error:
            torchaudio.functional.forced_align(torch.zeros(1, 2, 2), torch.ones(1, 1, dtype=int))
        assert error.value.__cause__ is not None


@pytest.mark.parametrize("failure", ["OSError", "RuntimeError", "ImportError", None])
def test_only_a_failing_extension_is_replaced(tmp_path: Path, failure: str | None) -> None:
    path = tmp_path / "extension.py"
    tail = f"raise {failure}('does not load')" if failure else "_IS_ALIGN_AVAILABLE = True"
    path.write_text(f"own = 1\n_IS_TORCHAUDIO_EXT_AVAILABLE = True\n{tail}\n", encoding="utf-8")
    module = type(sys)("extension")
    _ForgivingLoader("extension", str(path)).exec_module(module)
    assert module.own == 1
    assert module._IS_TORCHAUDIO_EXT_AVAILABLE is (failure is None)
    assert hasattr(module, "fail_if_no_align") is (failure is not None)
    if failure:
        with pytest.raises(RuntimeError, match=r"^join needs torchaudio's compiled part"):
            module.fail_if_no_align(os.path.join)()


def test_other_errors_of_the_extension_are_not_hidden(tmp_path: Path) -> None:
    path = tmp_path / "extension.py"
    path.write_text("1 / 0", encoding="utf-8")
    with pytest.raises(ZeroDivisionError):
        _ForgivingLoader("extension", str(path)).exec_module(type(sys)("extension"))


def test_ensure_torchaudio_twice_installs_one_finder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torchaudio._extension", raising=False)
    others = [f for f in sys.meta_path if not isinstance(f, _ExtensionFinder)]
    monkeypatch.setattr(sys, "meta_path", others)
    ensure_torchaudio()
    ensure_torchaudio()
    assert sum(isinstance(f, _ExtensionFinder) for f in sys.meta_path) == 1


def test_import_is_cheap_and_touches_neither_network_nor_gpu() -> None:
    code = (
        WATCH_NETWORK
        + """
import json, time
import torch
before = time.process_time()
import hyperasr
hyperasr.Transcript
cost = time.process_time() - before
heavy = ["transformers", "torchaudio", "speechbrain", "peft", "datasets", "scipy"]
found = list(events)
import socket
socket.socket().close()
print(json.dumps({
    "cost_s": cost,
    "events": found,
    "watched": len(events) > len(found),
    "cuda": torch.cuda.is_initialized(),
    "heavy": [name for name in heavy if name in sys.modules],
}))
"""
    )
    seen = json.loads(run_fresh(code))
    assert seen["cost_s"] < 2.0
    assert seen["events"] == []
    assert seen["watched"], "what watches sees a socket"
    assert not seen["cuda"]
    assert seen["heavy"] == []


def test_speechbrain_through_hyperasr_changes_nothing_for_others() -> None:
    # SpeechBrain's own import switches TF32 on for the whole process, and leaves modules that break
    # whoever looks at them.
    code = """
import os, sys, torch
from hyperasr.speaker.encoder import SmallEcapa
before = torch.backends.cuda.matmul.allow_tf32
SmallEcapa(8, channels=8)
print(before, torch.backends.cuda.matmul.allow_tf32, os.environ.get("SB_DISABLE_QUIRKS"))
looked = [getattr(module, "no_such_name", None) for name, module in list(sys.modules.items())
          if name.startswith("speechbrain")]
print("looked", len(looked) > 1)
"""
    assert run_fresh(code).splitlines() == ["False False None", "looked True"]
