"""The loop guard: find a decoder that runs away, by evidence other than repeated text.

People who stutter repeat words; a decoder that runs away repeats them too. What tells them apart is
the sound: a real repetition takes time and the decoder's attention moves on with it. Evidence is
more text than anyone can say in the time that sounds, cross-attention that does not advance while
text goes on, and no end of text. It takes two of them, or one where the text also compresses like a
loop; compression alone, which real stuttering shows as well, is never enough. Nothing is forbidden
to the decoder and no repeats are collapsed. The thresholds are ours.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hyperasr.audio.loudness import LEVEL_SAMPLES, SILENCE_DBFS, frame_levels_dbfs
from hyperasr.audio.mel import SAMPLE_RATE, STATES_PER_SECOND
from hyperasr.model import AdaptedWhisper
from hyperasr.transcription.words import Attention, attend, chars_of, printable
from hyperasr.types import Batch

CHARS_PER_S = 30.0  # most characters a second of sound; fast speech has 24
STALLED_CHARS = 20.0  # written while attention stood still, above which it is stalled
COMPRESSION = 2.4  # length of the text over that of its zlib; Whisper's own threshold for loops
_SOUND_DB = 30.0  # under the loudest frames; fainter is pause
_SHORTEST_SOUND_S = 0.2  # of sound that a rate is taken over
_SMOOTHING = 3  # tokens, of the median over where the decoder looks


@dataclass(frozen=True)
class Evidence:
    """What is known of one decoded row.

    Attributes:
        chars_per_s: characters a second of sound.
        compression: length of the text over that of its zlib.
        finished: whether end of text was found.
        stalled: characters beyond what can be said in the sound that attention passed meanwhile,
            over the worst stretch; None before attention was looked at.
        stretch: tokens of that stretch, first and one after the last.
    """

    chars_per_s: float
    compression: float
    finished: bool
    stalled: float | None = None
    stretch: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class RepetitionLoop:
    """A decoder that ran away: tokens `first` to `last - 1`, and why they are not trusted."""

    first: int
    last: int
    reason: str


def find_loops(
    model: AdaptedWhisper,
    batch: Batch,
    tokens: Sequence[Sequence[int]],
    finished: Sequence[bool],
    prompts: Sequence[Sequence[int]],
    *,
    adapt: bool,
) -> list[tuple[RepetitionLoop | None, Attention | None]]:
    """Judge a decoded batch; attention is looked at only where something is suspicious.

    Args:
        model, prompts, adapt: as in `hyperasr.transcription.words.attend`.
        batch: the batch that was decoded, with its waveforms.
        tokens: decoded for each utterance.
        finished: whether end of text was found.
    Returns:
        For each utterance what ran away, and its attention where it was looked at.
    """
    backbone = model.backbone
    evidence = [
        evidence_of(printable(backbone.text(row)), waveform, ended)
        for row, waveform, ended in zip(tokens, batch.waveforms or (), finished, strict=True)
    ]
    verdicts: list[tuple[RepetitionLoop | None, Attention | None]] = [(None, None)] * len(tokens)
    rows = [i for i, e in enumerate(evidence) if tokens[i] and is_suspicious(e)]
    if not rows:
        return verdicts
    part = batch if len(rows) == len(tokens) else batch.select(rows)
    seen = attend(model, part, [tokens[i] for i in rows], [prompts[i] for i in rows], adapt=adapt)
    for i, attention in zip(rows, seen, strict=True):
        stalled, stretch = runaway_stretch(attention, chars_of(backbone, tokens[i]))
        complete = replace(evidence[i], stalled=stalled, stretch=stretch)
        verdicts[i] = judge(complete, len(tokens[i])), attention
    return verdicts


def evidence_of(text: str, waveform: np.ndarray, finished: bool) -> Evidence:
    """Return the evidence that costs nothing, of a text and its waveform (n_samples,)."""
    data = text.encode()
    ratio = len(data) / len(zlib.compress(data)) if data else 0.0
    return Evidence(len(text) / sounding_s(waveform), ratio, finished)


def is_suspicious(evidence: Evidence) -> bool:
    """Say whether a row deserves a look at its attention, which costs a pass of the decoder."""
    return bool(_signs(evidence)) or evidence.compression > COMPRESSION


def judge(evidence: Evidence, n_tokens: int) -> RepetitionLoop | None:
    """Say whether the decoder ran away in a row of `n_tokens`, and from where to where."""
    signs = _signs(evidence)
    stalled = evidence.stalled is not None and evidence.stalled > STALLED_CHARS
    if stalled:
        signs.append("attention that stands still")
    loops = evidence.compression > COMPRESSION
    if not n_tokens or not signs or len(signs) + loops < 2:
        return None
    if loops:
        signs.append(f"text that compresses {evidence.compression:.1f} times")
    first, last = evidence.stretch if stalled else (0, n_tokens)
    return RepetitionLoop(first, last, " and ".join(signs))


def _signs(evidence: Evidence) -> list[str]:
    """Return what the text and the sound alone tell, in words."""
    signs = []
    if evidence.chars_per_s > CHARS_PER_S:
        signs.append(f"{evidence.chars_per_s:.0f} characters a second of sound")
    if not evidence.finished:
        signs.append("no end of text")
    return signs


def runaway_stretch(attention: Attention, chars: Sequence[int]) -> tuple[float, tuple[int, int]]:
    """Return the stretch of tokens with the most text beyond what attention passed over.

    Attention's front is the furthest state looked at so far. Each token adds its characters and
    takes away those that fit into what the front moved on with it; the worst stretch is the one
    with the largest sum.

    Args:
        attention: of the row, from `hyperasr.transcription.words.attend`.
        chars: characters of each token.
    Returns:
        Characters too many, and first and one after the last token of the stretch.
    """
    n = len(chars)
    looked = attention.mean[:n].argmax(axis=1)
    # Single glances elsewhere, and the rest position of idle heads, say nothing.
    padded = np.pad(looked, _SMOOTHING // 2, mode="edge")
    smooth = np.median(np.lib.stride_tricks.sliding_window_view(padded, _SMOOTHING), axis=1)
    front = np.maximum.accumulate(smooth)
    advance_s = np.diff(front, prepend=0.0) / STATES_PER_SECOND
    best, stretch, total, start = 0.0, (0, 0), 0.0, 0
    for index, excess in enumerate(np.asarray(chars) - CHARS_PER_S * advance_s):
        if total <= 0:
            total, start = 0.0, index
        total += float(excess)
        if total > best:
            best, stretch = total, (start, index + 1)
    return best, stretch


def sounding_s(waveform: np.ndarray) -> float:
    """Return for how long something sounds, in seconds, at least a fifth of one."""
    levels = frame_levels_dbfs(waveform)
    threshold = max(SILENCE_DBFS, float(np.percentile(levels, 95)) - _SOUND_DB)
    return max(_SHORTEST_SOUND_S, float((levels > threshold).sum()) * LEVEL_SAMPLES / SAMPLE_RATE)
