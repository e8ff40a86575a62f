"""`hyperasr export`: clips in, a folder for another program out, and how true it is."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from hyperasr.audio.mel import SAMPLE_RATE
from hyperasr.cli.commands import inputs_of
from hyperasr.errors import ConfigError, HyperASRError
from hyperasr.export.exporter import ExportConfig, Exported
from hyperasr.export.exporter import export as write_export
from hyperasr.hub import load
from hyperasr.transcription.options import TranscribeOptions
from hyperasr.transcription.recordings import Reading, Recording, find_recordings
from hyperasr.util.files import keep_inputs
from hyperasr.util.program import complain, one_line

_MOST_CLIPS = 200  # a voice does not become clearer by more


def export(args: Any) -> int:
    """Write one static adapter of the clips, and print how true it is.

    Raises:
        HyperASRError: the call or the model is wrong, no clip has speech in it, or what was
            written is not the model.
    """
    names = [field.name for field in dataclasses.fields(ExportConfig)]
    config = ExportConfig(**{name: args[name] for name in names})
    passed_over: list[str] = []
    recordings = find_recordings(args.sources, passed_over.append)
    keep_inputs([args.out], inputs_of(args, recordings))
    for line in passed_over:
        complain(line, "hyperasr: note")
    model = load(args.model, offline=args.offline, device=args.device, dtype="float32")
    if not model.adapts:
        raise ConfigError(
            f"{args.model} is a plain Whisper without an adapter: there is nothing to export; "
            "train one with python -m train.meta"
        )
    clips = clips_of(recordings, model.backbone.audio_context)
    made = write_export(model, clips, args.out, config, base=model.backbone_name)
    for line in _report(one_line(args.out), config, clips, made):
        print(line)
    return 0


def clips_of(recordings: Sequence[Recording], audio_context: str) -> list[np.ndarray]:
    """Read clips as `hyperasr transcribe` would hear them: cut at pauses, at one loudness.

    What cannot be read is named and left out.

    Raises:
        HyperASRError: nothing could be read, or nobody speaks in it.
    """
    clips: list[np.ndarray] = []
    options = TranscribeOptions()
    for recording in recordings:
        try:
            reading = Reading(recording, options.segment_s(audio_context), options)
            clips += [waveform for _, waveform in reading.segments()]
        except HyperASRError as error:
            if len(recordings) == 1:
                raise
            complain(error, "hyperasr: error")
    if not clips:
        raise ConfigError(f"nobody speaks in the {len(recordings)} clips; give clips with speech")
    if len(clips) > _MOST_CLIPS:
        print(f"hyperasr: note: the first {_MOST_CLIPS} of {len(clips)} clips", file=sys.stderr)
    return clips[:_MOST_CLIPS]


def _report(out: str, config: ExportConfig, clips: list[np.ndarray], made: Exported) -> list[str]:
    seconds = sum(map(len, clips)) / SAMPLE_RATE
    adapter, n = made.adapter, made.n_clips
    rank = next(iter(adapter.factors.targets.values())).A.shape[2]
    kept = f", which holds {100 * adapter.kept:.1f} % of the mean update"
    lines = [
        f"{out}: {config.to}, {config.dtype}",
        f"made of {len(clips)} clips ({seconds:.1f} s) with the method {config.method}, rank {rank}"
        + (kept if config.method == "average" else ""),
        f"the clips' own updates differ from their mean by {100 * adapter.spread:.0f} % of it",
        f"parity on {n} clips: {made.parity}",
        f"same text as with an adapter for each utterance: {made.n_as_dynamic} of {n} clips",
    ]
    if made.texts.elsewhere:
        others = {"ctranslate2": "faster-whisper", "ggml": "whisper.cpp"}
        engine = others.get(config.to, "transformers.pipeline")
        difference = 100 * made.texts.word_difference
        lines.append(f"{engine}, by its defaults: {difference:.1f} % of the words differ")
        for own, other in zip(made.texts.own, made.texts.elsewhere, strict=True):
            lines += [f"  hyperasr: {own}", f"  {engine}: {other}"]
    return [*lines, *(f"note: {note}" for note in made.notes)]
