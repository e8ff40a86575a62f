"""Zero-shot speech recognition for atypical speech: one frozen Whisper, adapted per utterance."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hyperasr.util.torchaudio_shim import ensure_torchaudio

if TYPE_CHECKING:
    from hyperasr.errors import HyperASRError
    from hyperasr.hub import HyperASR, load
    from hyperasr.transcription.transcript import Result, Transcript
    from hyperasr.types import Batch, Decoded, LayerFactors, LoRAFactors, Segment, Utterance, Word

__all__ = [
    "Batch",
    "Decoded",
    "HyperASR",
    "HyperASRError",
    "LayerFactors",
    "LoRAFactors",
    "Result",
    "Segment",
    "Transcript",
    "Utterance",
    "Word",
    "load",
]

__version__ = "0.1.0"

# Before anything imports transformers or peft.
ensure_torchaudio()

_HOME = {
    "HyperASR": "hyperasr.hub",
    "HyperASRError": "hyperasr.errors",
    "Result": "hyperasr.transcription.transcript",
    "Transcript": "hyperasr.transcription.transcript",
    "load": "hyperasr.hub",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import hyperasr` costs next to nothing."""
    if name not in __all__:
        raise AttributeError(f"module 'hyperasr' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME.get(name, "hyperasr.types")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
