"""`hyperasr enrol`: clips of one person in, a model of their voice out, if it is worth it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hyperasr.audio.loudness import audible
from hyperasr.audio.mel import MIN_SAMPLES, N_SAMPLES, SAMPLE_RATE
from hyperasr.cli.commands import inputs_of
from hyperasr.cli.terminal import Reporter
from hyperasr.errors import AudioError, HyperASRError
from hyperasr.hub import load
from hyperasr.transcription import enrolment
from hyperasr.transcription.enrolment import FEWEST_CHECKED, STEPS, Clip, sentence
from hyperasr.transcription.options import TranscribeOptions
from hyperasr.transcription.recordings import Reading, Recording, find_recordings, samples_of
from hyperasr.util.files import check_writable, keep_inputs
from hyperasr.whisper.weights import EMBEDDED_WHISPERS


def enrol(args: Any) -> int:
    """Train the voice, print what it is worth, and write it where that is something.

    Returns:
        0; 1 where a clip could not be used, or the voice is worth nothing and is not written.
    Raises:
        HyperASRError: the call or the model is wrong, or no clip can be used.
    """
    recordings = find_recordings(args.sources)
    texts = [_text_file(recording) for recording in recordings]
    keep_inputs([args.out], [*inputs_of(args, recordings), *filter(None, texts)])
    check_writable(args.out, ("config.json",))
    with Reporter("steps") as reporter:
        clips, errors = clips_of(recordings, texts, reporter)
        model = load(args.model, offline=args.offline, device=args.device, dtype="float32")
        worth = enrolment.checked(model, clips, progress=reporter.progress)
        n_told = sum(bool(clip.text) for clip in clips)
        lines = [f"{len(clips)} clip{'s' * (len(clips) > 1)}, {n_told} with a text"]
        if worth is None:
            lines.append(f"not checked, which takes {FEWEST_CHECKED} clips with a text")
        else:
            rates = [f"{100 * c.rate:.1f} %" for c in (worth.before, *worth.after.values())]
            tried = " or ".join(map(str, worth.after))
            lines.append(
                f"word errors on clips that were held back: {rates[0]}, after {tried} steps "
                f"{' or '.join(rates[1:])}"
            )
            if not worth.steps:
                lines.append("not clearly better, so nothing is written; give more clips")
                print("\n".join(lines))
                return 1
        steps = worth.steps if worth is not None else STEPS[0]
        enrolment.enrol(model, clips, steps=steps, progress=reporter.progress)
        assert model.folder is not None
        head = json.loads((model.folder / "config.json").read_text(encoding="utf-8"))
        notes = head["training"] | {"enrolment": {"clips": len(clips), "with_text": n_told}}
        backbone = model.backbone_name
        if backbone not in EMBEDDED_WHISPERS and os.path.isdir(backbone):
            backbone = os.path.realpath(backbone)  # found from wherever the voice lies
        model.save_pretrained(args.out, backbone=backbone, training=notes)
    print("\n".join([*lines, f"{args.out}: use it with --model {args.out}"]))
    return 1 if errors else 0


def clips_of(
    recordings: Sequence[Recording], texts: Sequence[Path | None], reporter: Reporter
) -> tuple[list[Clip], list[HyperASRError]]:
    """Return clips with what is said in them, and the errors of those that cannot be used.

    A recording's file in `texts` goes before a manifest's text; without either it is cut at pauses.

    Raises:
        HyperASRError: none can be used.
    """
    clips: list[Clip] = []
    errors: list[HyperASRError] = []
    for recording, path in zip(recordings, texts, strict=True):
        try:
            text = _read(path) if path is not None else (recording.reference or "")
            clips += _clips(recording, _as_written(text), reporter)
        except HyperASRError as error:
            errors.append(error)
            if len(recordings) > 1:
                reporter.say("error", [str(error)])
    if not clips:
        raise errors[0] if errors else AudioError("nobody speaks in the clips; give others")
    return clips, errors


def _clips(recording: Recording, text: str, reporter: Reporter) -> list[Clip]:
    options = TranscribeOptions()
    if not text:
        reading = Reading(recording, N_SAMPLES / SAMPLE_RATE, options)
        clips = [Clip(waveform) for _, waveform in reading.segments()]
        reporter.say("warning", [f"{recording.id}: {line}" for line in reading.warnings])
        return clips
    warnings: list[str] = []
    waveform = np.concatenate([np.zeros(0, np.float32), *samples_of(recording, warnings.append)])
    reporter.say("warning", [f"{recording.id}: {line}" for line in warnings])
    if len(waveform) > N_SAMPLES:
        raise AudioError(f"{recording.id} has a text and is longer than 30 s; cut both at a pause")
    raised = audible(waveform) if len(waveform) >= MIN_SAMPLES else None
    if raised is None:
        raise AudioError(f"{recording.id} has a text, but nobody speaks in it; record it again")
    return [Clip(raised, text)]


def _as_written(text: str) -> str:
    """Return a text with capitals and a full stop where it has no capitals of its own."""
    return (
        sentence(text.lower()) if text in (text.lower(), text.upper()) else " ".join(text.split())
    )


def _text_file(recording: Recording) -> Path | None:
    """Return the file of corrections beside a recording, if there is one."""
    if recording.path is None:
        return None
    path = Path(recording.path).with_suffix(".txt")
    return path if path.is_file() else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise AudioError(f"{path} cannot be read as text: {error}; save it as UTF-8") from error
