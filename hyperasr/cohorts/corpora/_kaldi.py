"""Kaldi folders: wav.scp, text, segments, utt2spk."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

from hyperasr.cohorts.corpora import base
from hyperasr.cohorts.corpora._layouts import SPLITS, Defaults

# Programs that decode, each with words that take a part of the recording or change its times.
_DECODERS = {
    "flac": {"--skip", "--until"},
    "sox": {"trim", "speed", "tempo"},
    "sph2pipe": {"-s", "-t"},
    "ffmpeg": {"-ss", "-sseof", "-to", "-t"},
}
# Not sox -c, which is the number of channels to make.
_CHANNEL = re.compile(r"sph2pipe\b.*\s-c\s*([12])\s|sox\s.*\sremix\s+(\d+)\s")


def kaldi_rows(folder: Path, defaults: Defaults, report: base.Report) -> base.Rows:
    """Yield the utterances of one Kaldi folder.

    No command of ``wav.scp`` is ever run. Where one only decodes a recording (flac, sox, sph2pipe
    or ffmpeg with a single recording among its words), that recording is taken; other commands,
    such as those that take a part of one, are skipped. Besides Kaldi's own files, ``utt2cohort``
    and ``utt2lang`` are read, and ``spk2gender``.
    """
    recordings = _recordings(folder, defaults, report)
    texts = base.read_pairs(folder / "text", report)
    people = {
        name: base.read_pairs(folder / name, report)
        for name in ("utt2spk", "utt2cohort", "utt2lang")
    }
    genders = base.read_pairs(folder / "spk2gender", report)
    split = defaults.split or SPLITS.get(folder.name.lower())
    cut = (folder / "segments").is_file()
    segments = (
        base.read_pairs(folder / "segments", report) if cut else dict.fromkeys(recordings, "")
    )
    for name, rest in segments.items():
        recording, start_s, end_s = name, None, None
        if cut:
            fields = rest.split()
            try:
                recording, start_s, end_s = fields[0], float(fields[1]), float(fields[2])
            except (IndexError, ValueError):
                report.skip("a segment without recording, start and end", name)
                continue
            if recording not in recordings:
                report.skip("the recording is listed but absent", name)
                continue
        source = recordings[recording]
        if source is None:
            continue
        path, channel = source
        speaker = people["utt2spk"].get(name) or defaults.speaker or "unknown"
        extra = {} if channel is None else {"channel": channel}
        if speaker in genders:
            extra["gender"] = genders[speaker]
        known: dict[str, Any] = {
            "speaker": speaker,
            "cohort": people["utt2cohort"].get(name),
            "language": people["utt2lang"].get(name),
            "start_s": start_s,
            # An end of -1 is Kaldi's way of saying: to the end.
            "end_s": None if end_s is None or end_s < 0 else end_s,
            "split": split,
            "extra": extra,
        }
        yield from defaults.row(path, name, texts.pop(name, None), report, **known)
    for name in texts:
        report.skip("a text without a recording or a segment", name)


def _recordings(
    folder: Path, defaults: Defaults, report: base.Report
) -> dict[str, tuple[Path, str | None] | None]:
    """Return file and channel of each recording; None where it was refused, with a reason."""
    recordings: dict[str, tuple[Path, str | None] | None] = {}
    for name, source in base.read_pairs(folder / "wav.scp", report).items():
        channel = None
        if source.endswith("|") or source.startswith("|"):
            side = _CHANNEL.search(source)
            channel = str(int(side[1] or side[2]) - 1) if side else None
            source = _decoded(source) or ""
            if not source:
                report.skip("a command in wav.scp that does more than decode a file", name)
                recordings[name] = None
                continue
        path = defaults.inside(source, report, folder)
        if path is not None and not path.exists():
            # Relative paths of Kaldi start from where it was run.
            other = defaults.inside(source, base.Report(), defaults.audio_root)
            path = other if other is not None and other.exists() else path
        recordings[name] = None if path is None else (path, channel)
    return recordings


def _decoded(command: str) -> str | None:
    """Return the one recording that a command of a known program decodes."""
    try:
        words = shlex.split(command.strip("| "))
    except ValueError:
        return None
    audio = [word for word in words if word.lower().endswith(base.AUDIO_SUFFIXES)]
    cuts = _DECODERS.get(Path(words[0]).name) if words else None
    if cuts is None or "|" in words or len(audio) != 1:
        return None
    return audio[0] if cuts.isdisjoint(word.partition("=")[0] for word in words) else None
