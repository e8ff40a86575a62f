"""Exported weights in the engine they are for, called by its defaults, as its users do.

Clips are (n_samples,) float32, 16 kHz, at most 30 s. Their language is said to a multilingual model
alone; others do not take it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from hyperasr.audio.mel import SAMPLE_RATE
from hyperasr.errors import CheckpointMismatch
from hyperasr.whisper.backbone import Backbone
from hyperasr.whisper.loading import quiet_transformers


@contextmanager
def _refusing(engine: str) -> Iterator[None]:
    """Let whatever another engine fails with be one line: then the export does not hold."""
    try:
        yield
    except Exception as error:
        reason = " ".join((str(error).strip() or type(error).__name__).split())[:200]
        raise CheckpointMismatch(
            f"{engine} cannot run what was exported ({reason}). Nothing was written; with "
            "max_word_difference null it is not tried"
        ) from error


def by_pipeline(
    whisper: Any, backbone: Backbone, clips: Sequence[np.ndarray], language: str
) -> tuple[str, ...]:
    """Return the text of each clip by `transformers.pipeline`, on 30 s of audio.

    Args:
        whisper: folder of a merged Whisper, or a Whisper with a PEFT adapter on it.
        backbone: what was exported from: the tokenizer and the number of mel bands.
        clips: what is transcribed.
        language: of the clips.
    """
    if not clips:
        return ()
    from transformers import WhisperFeatureExtractor, pipeline

    parts: dict[str, Any] = {}
    if not isinstance(whisper, Path):
        parts["tokenizer"] = backbone.tokenizer
        parts["feature_extractor"] = WhisperFeatureExtractor(feature_size=backbone.n_mels)
    said = {"language": language} if backbone.is_multilingual else {}
    with _refusing("transformers.pipeline"), quiet_transformers():
        model = str(whisper) if isinstance(whisper, Path) else whisper
        recognise: Any = pipeline("automatic-speech-recognition", model, device="cpu", **parts)
        return tuple(
            recognise({"raw": clip, "sampling_rate": SAMPLE_RATE}, generate_kwargs=dict(said))[
                "text"
            ].strip()
            for clip in clips
        )


def by_faster_whisper(
    folder: Path, backbone: Backbone, clips: Sequence[np.ndarray], language: str
) -> tuple[str, ...]:
    """Return the texts by faster-whisper: beam search, retries at higher temperatures."""
    if not clips:
        return ()
    from faster_whisper import WhisperModel

    said = language if backbone.is_multilingual else None
    found = []
    with _refusing("faster-whisper"):
        engine = WhisperModel(str(folder), device="cpu")
        for clip in clips:
            segments, _ = engine.transcribe(clip, language=said)
            found.append(" ".join(segment.text.strip() for segment in segments))
    return tuple(found)


def by_whisper_cpp(
    file: Path, backbone: Backbone, clips: Sequence[np.ndarray], language: str
) -> tuple[str, ...]:
    """Return the texts by whisper.cpp, in the binding pywhispercpp."""
    if not clips:
        return ()
    from pywhispercpp.model import Model

    said: Any = {"language": language} if backbone.is_multilingual else {}
    with _refusing("whisper.cpp"):
        engine = Model(str(file), redirect_whispercpp_logs_to=None, print_progress=False, **said)
        return tuple(
            " ".join(segment.text.strip() for segment in engine.transcribe(clip)) for clip in clips
        )
