"""Recordings that are longer than Whisper hears at once, cut at pauses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from hyperasr.audio.mel import CHUNK_S, SAMPLE_RATE
from hyperasr.audio.reading import stream
from hyperasr.audio.segments import cut_at_pauses
from hyperasr.cohorts.corpora._report import Report
from hyperasr.errors import AudioError
from hyperasr.types import Utterance

__all__ = ["LONGEST_S", "at_most_longest"]

LONGEST_S = float(CHUNK_S)
_READ_S = 60.0  # at a time, so that an hour does not fill the memory


def at_most_longest(row: Utterance, duration_s: float, report: Report) -> Iterator[Utterance]:
    """Yield a row whose recording can be heard at once, or its pieces of at most 30 s.

    A long row without text is cut at pauses; the times of the pieces are those within its
    recording, their ids count on from the row's. One with a text stays whole, because nobody says
    which words are in which piece; the report tells it.
    """
    if duration_s <= LONGEST_S:
        yield row
    elif row.text is not None:
        report.note(
            f"an utterance of more than {LONGEST_S:g} s whose text has no times: it can be "
            "transcribed, but training leaves it out"
        )
        yield row
    else:
        report.note(f"a recording of more than {LONGEST_S:g} s without text was cut at pauses")
        try:
            yield from _pieces(row)
        except AudioError:
            report.skip("the recording cannot be decoded to its end", row.id)


def _pieces(row: Utterance) -> Iterator[Utterance]:
    recording = stream(
        row.path, chunk_s=_READ_S, start_s=row.start_s, end_s=row.end_s, channel=row.channel
    )
    for number, (first, waveform) in enumerate(cut_at_pauses(recording, LONGEST_S)):
        start_s = row.start_s + first / SAMPLE_RATE
        end_s = start_s + len(waveform) / SAMPLE_RATE
        yield replace(row, id=f"{row.id}-{number:04d}", start_s=start_s, end_s=end_s)
