"""Put a recording together again along a timeline: pitch-synchronous overlap-add.

Two-period grains are cut at glottal marks (voiced) or anywhere (unvoiced), filtered towards a
target envelope, mixed with breath, and laid at new places. Duration, pitch, jitter, shimmer,
envelope and repetition are all one pass, and every join is a cross-fade of neighbouring grains.
Source: Moulines and Charpentier 1990, "Pitch-synchronous waveform processing techniques for
text-to-speech synthesis using diphones", Speech Communication 9.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft

from hyperasr.cohorts.simulate.analysis import FREQUENCIES, HOP, SAMPLE_RATE, Analysis
from hyperasr.cohorts.simulate.timeline import Timeline

N_GRAIN = 1024
_HALF = 320  # longest half grain: 20 ms, below any period we track
_UNVOICED_HZ = 200.0
_STEP_S = 0.0025
_MAX_GAIN = np.log(10.0) * 30.0 / 20.0


@dataclass
class Voice:
    """Controls on the output's 10 ms grid; None leaves that side of the voice alone.

    Attributes:
        pitch_ratio: (n_frames,) factor on f0.
        gain_db: (n_frames,) level change.
        target: (n_frames, 257) log envelope to reach; rows of NaN are left alone.
        breath_db: (n_frames,) aspiration noise relative to the voice, dB (-inf: none).
        jitter: standard deviation of a cycle's length, fraction.
        shimmer_db: standard deviation of a cycle's level, dB.
        excite_s: (n_frames,) input time the sound source is taken from where it differs
            from the articulation's (a voiceless consonant that is voiced); NaN: the same.
    """

    pitch_ratio: np.ndarray | None = None
    gain_db: np.ndarray | None = None
    target: np.ndarray | None = None
    breath_db: np.ndarray | None = None
    jitter: float = 0.0
    shimmer_db: float = 0.0
    excite_s: np.ndarray | None = None


@dataclass
class _Grains:
    """One row a grain: where it goes, where it comes from."""

    at: np.ndarray  # samples in the output
    source: np.ndarray  # samples in the input
    left: np.ndarray  # half widths in samples
    right: np.ndarray
    gain: np.ndarray
    voiced: np.ndarray
    frame: np.ndarray  # output frame


def _grid(values: np.ndarray, time_s: np.ndarray) -> np.ndarray:
    return np.interp(time_s * (SAMPLE_RATE / HOP), np.arange(len(values)), values)


def _source_times(
    analysis: Analysis, timeline: Timeline, voice: Voice, time_s: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    source, gain, stretch = timeline.locate(time_s)
    if voice.excite_s is not None:
        frame = np.rint(time_s * (SAMPLE_RATE / HOP)).astype(np.intp)
        other = voice.excite_s[np.minimum(frame, len(voice.excite_s) - 1)]
        source = np.where(np.isnan(other), source, other)
        stretch = np.where(np.isnan(other), stretch, 4.0)
    return source, gain, stretch


def _place(
    analysis: Analysis, timeline: Timeline, voice: Voice, rng: np.random.Generator
) -> _Grains:
    """Lay the grains: one per output cycle where voiced, one per 5 ms elsewhere."""
    time_s = np.arange(0.0, timeline.now + 0.03, _STEP_S)
    source_s, gain, stretch = _source_times(analysis, timeline, voice, time_s)
    frames = analysis.frame_at(source_s)
    ratio = np.ones(len(time_s)) if voice.pitch_ratio is None else _grid(voice.pitch_ratio, time_s)
    # Where nothing changes, grains on an even grid give the input back sample by sample.
    changed = (np.abs(stretch - 1.0) > 0.01) | (np.abs(ratio - 1.0) > 0.01) | (voice.jitter > 0)
    cycles = analysis.voiced[frames] & changed & (gain > 0)
    f0 = np.interp(source_s * (SAMPLE_RATE / HOP), np.arange(analysis.n_frames), analysis.f0_hz)
    rate = np.where(cycles, np.clip(f0 * ratio, 45.0, 600.0), _UNVOICED_HZ)
    phase = np.cumsum(rate) * _STEP_S
    at_s = np.interp(np.arange(1.0, np.floor(phase[-1])), phase, time_s)
    if voice.jitter > 0:
        local = np.interp(at_s, time_s, 1.0 / rate)
        is_voiced = np.interp(at_s, time_s, cycles.astype(float)) > 0.5
        wobble = np.clip(rng.standard_normal(len(at_s)), -2.5, 2.5) * voice.jitter * is_voiced
        at_s = np.sort(at_s + wobble * local)
    return _fetch(analysis, timeline, voice, at_s, rng)


def _fetch(
    analysis: Analysis,
    timeline: Timeline,
    voice: Voice,
    at_s: np.ndarray,
    rng: np.random.Generator,
) -> _Grains:
    """Choose the input behind each grain and its window."""
    at = np.rint(at_s * SAMPLE_RATE).astype(np.intp)
    time_s = at / SAMPLE_RATE
    source_s, gain, stretch = _source_times(analysis, timeline, voice, time_s)
    source = np.rint(source_s * SAMPLE_RATE).astype(np.intp)
    ratio = np.ones(len(at)) if voice.pitch_ratio is None else _grid(voice.pitch_ratio, time_s)
    changed = (np.abs(stretch - 1.0) > 0.01) | (np.abs(ratio - 1.0) > 0.01) | (voice.jitter > 0)
    frames = analysis.frame_at(source_s)
    period = SAMPLE_RATE / analysis.f0_hz[frames]
    voiced = analysis.voiced[frames] & changed & (gain > 0)
    if len(analysis.marks):
        mark = _nearest(analysis.marks, source)
        voiced &= np.abs(mark - source) < 0.9 * period
        source = np.where(voiced, mark, source)
    else:
        voiced[:] = False
    # Copies of one noise grain side by side would ring: move each a little.
    noisy = changed & ~voiced & (stretch > 1.15)
    spread = np.where(stretch > 3.0, 240.0, 80.0)
    move = np.rint((rng.random(len(at)) * 2 - 1) * spread).astype(np.intp)
    source = np.where(noisy, source + move, source)
    gap = np.diff(at, prepend=at[0] - 80, append=at[-1] + 80)
    widest = np.where(voiced, 1.15 * period, _HALF)
    left, right = (np.clip(np.minimum(g, widest), 2, _HALF) for g in (gap[:-1], gap[1:]))
    if voice.gain_db is not None:
        gain = gain * 10.0 ** (_grid(voice.gain_db, time_s) / 20)
    if voice.shimmer_db > 0:
        wobble = np.clip(rng.standard_normal(len(at)), -2.5, 2.5) * voice.shimmer_db
        gain = gain * np.where(voiced, 10.0 ** (wobble / 20), 1.0)
    frame = np.rint(time_s * (SAMPLE_RATE / HOP)).astype(np.intp)
    keep = gain > 1e-5
    return _Grains(*(v[keep] for v in (at, source, left, right, gain, voiced, frame)))


def _nearest(sorted_values: np.ndarray, query: np.ndarray) -> np.ndarray:
    above = np.clip(np.searchsorted(sorted_values, query), 1, max(1, len(sorted_values) - 1))
    above = np.minimum(above, len(sorted_values) - 1)
    low, high = sorted_values[np.maximum(above - 1, 0)], sorted_values[above]
    return np.where(query - low <= high - query, low, high)


def _cut(analysis: Analysis, grains: _Grains) -> np.ndarray:
    """Windowed grains (n_grains, 640), centred."""
    offset = np.arange(-_HALF, _HALF)
    side = np.where(offset < 0, grains.left[:, None], grains.right[:, None]).astype(np.float32)
    # clip, so that cos is exactly -1 beyond the window
    shape = 0.5 + 0.5 * np.cos(np.pi * np.minimum(np.abs(offset) / side, np.float32(1.0)))
    padded = np.pad(analysis.waveform, 4 * _HALF)
    start = np.clip(grains.source + 3 * _HALF, 0, len(padded) - 2 * _HALF)
    cut = np.lib.stride_tricks.sliding_window_view(padded, 2 * _HALF)[start]
    return cut * shape.astype(np.float32) * grains.gain[:, None].astype(np.float32)


def _breath(spectrum: np.ndarray, breath_db: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Replace part of each voiced grain by noise of the grain's own shape, mostly above 1.5 kHz.

    Source: Klatt and Klatt 1990, JASA 87: in breathy voice aspiration noise replaces the
    harmonics at high frequencies, and the first harmonics grow relative to the rest.
    """
    bank = rng.standard_normal((48, 2 * 96)).astype(np.float32) * np.hanning(192).astype(np.float32)
    noise = fft.rfft(bank, N_GRAIN, axis=1)
    frequency = np.linspace(0, SAMPLE_RATE / 2, N_GRAIN // 2 + 1)
    rise = (1.0 / (1.0 + np.exp(-(frequency - 1500.0) / 500.0))).astype(np.float32)
    amount = np.minimum(10.0 ** (breath_db / 20), 4.0).astype(np.float32)[:, None]
    pick = noise[rng.integers(0, len(bank), len(spectrum))]
    magnitude = np.abs(spectrum)
    # smooth over about 250 Hz, to take the shape and not the harmonics
    kernel = 16
    total = np.cumsum(np.pad(magnitude, ((0, 0), (kernel, kernel)), mode="edge"), axis=1)
    smooth = (total[:, 2 * kernel :] - total[:, : -2 * kernel])[:, : magnitude.shape[1]]
    smooth = smooth / (2 * kernel)
    unit = np.sqrt(np.mean(np.abs(noise) ** 2))
    added = pick * (smooth / unit) * (amount * (0.15 + 0.85 * rise))
    loss = 1.0 / np.sqrt(1.0 + (amount * rise) ** 2)
    return spectrum * loss + added * loss


def _filter(
    analysis: Analysis, grains: _Grains, cut: np.ndarray, voice: Voice, rng: np.random.Generator
) -> np.ndarray:
    """Bring grains to the target envelope and add breath; (n_grains, 1024), centred."""
    whole = np.zeros((len(cut), N_GRAIN), dtype=np.float32)
    middle = N_GRAIN // 2
    whole[:, middle - _HALF : middle + _HALF] = cut
    wanted = np.zeros(len(cut), dtype=bool)
    row = grains.frame
    if voice.target is not None:
        row = np.minimum(row, len(voice.target) - 1)
        wanted |= ~np.isnan(voice.target[row, 0])
    if voice.breath_db is not None:
        wanted |= grains.voiced & (voice.breath_db[np.minimum(row, len(voice.breath_db) - 1)] > -60)
    if not wanted.any():
        return whole
    spectrum = fft.rfft(whole[wanted], axis=1)
    if voice.target is not None:
        now = analysis.envelope[analysis.frame_at(grains.source[wanted] / SAMPLE_RATE)]
        log_gain = np.nan_to_num(voice.target[row[wanted]] - now, nan=0.0)
        gain = np.exp(np.clip(log_gain, -_MAX_GAIN, 0.8 * _MAX_GAIN)).astype(np.float32)
        full = np.empty((len(gain), N_GRAIN // 2 + 1), dtype=np.float32)
        full[:, ::2] = gain
        full[:, 1::2] = 0.5 * (gain[:, :-1] + gain[:, 1:])
        spectrum *= full
    if voice.breath_db is not None:
        amount = voice.breath_db[np.minimum(row[wanted], len(voice.breath_db) - 1)]
        spectrum = _breath(spectrum, np.where(grains.voiced[wanted], amount, -120.0), rng)
    whole[wanted] = fft.irfft(spectrum, N_GRAIN, axis=1)
    return whole


def render(
    analysis: Analysis, timeline: Timeline, voice: Voice, rng: np.random.Generator
) -> np.ndarray:
    """Synthesise the timeline with the given voice, the background under it without gaps.

    Returns:
        waveform (n_samples,) float32 of the timeline's length; not yet limited, see `finish`.
    """
    n_samples = max(1, round(timeline.now * SAMPLE_RATE))
    out = np.zeros(n_samples + 2 * N_GRAIN, dtype=np.float32)
    grains = _place(analysis, timeline, voice, rng)
    pieces = _filter(analysis, grains, _cut(analysis, grains), voice, rng)
    for start, piece in zip(grains.at + N_GRAIN // 2, pieces, strict=True):
        if start <= n_samples + N_GRAIN:
            out[start : start + N_GRAIN] += piece
    return _fill_silence(out[N_GRAIN : N_GRAIN + n_samples], analysis, timeline, rng)


def _noise(n_samples: int, log_shape: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Stationary noise of unit power with the given log-magnitude shape (257 bins)."""
    n_fft = fft.next_fast_len(max(n_samples, 1024), real=True)
    spectrum = fft.rfft(rng.standard_normal(n_fft).astype(np.float32))
    frequency = np.linspace(0, SAMPLE_RATE / 2, len(spectrum))
    spectrum *= np.exp(np.interp(frequency, FREQUENCIES, log_shape)).astype(np.float32)
    noise = fft.irfft(spectrum, n_fft)[:n_samples]
    return noise / max(float(np.sqrt(np.mean(noise**2))), 1e-12)


def _fill_silence(
    waveform: np.ndarray, analysis: Analysis, timeline: Timeline, rng: np.random.Generator
) -> np.ndarray:
    """Put the recording's own background under inserted sounds, so that they do not stand out.

    Inserted are silences and held sounds; the rest has its background already.
    """
    inserted = np.array([p.source is None or p.hold for p in timeline.pieces])
    if not inserted.any():
        return waveform
    rows = ~analysis.active
    if rows.sum() >= 10:
        level_db = min(float(np.median(analysis.level_db[rows])), analysis.speech_db - 20.0)
    else:
        rows = analysis.level_db <= np.percentile(analysis.level_db, 5) + 1.0
        level_db = min(float(analysis.level_db.min()), analysis.speech_db - 45.0)
    if level_db < -90.0:
        return waveform
    noise = _noise(len(waveform), analysis.envelope[rows].mean(axis=0), rng)
    index = timeline.piece_at(timeline.frames())
    bare = inserted[index].astype(float)
    under = np.interp(np.arange(len(waveform)) / HOP, np.arange(len(bare)), bare)
    return waveform + (noise * under * 10.0 ** (level_db / 20)).astype(np.float32)


def add_room(waveform: np.ndarray, level_db: float, rng: np.random.Generator) -> np.ndarray:
    """Add a steady room noise (falling 6 dB an octave above 200 Hz) of the given level."""
    shape = -np.log(np.maximum(FREQUENCIES, 200.0) / 200.0)
    noise = _noise(len(waveform), shape, rng)
    return waveform + (noise * 10.0 ** (level_db / 20)).astype(np.float32)


def finish(waveform: np.ndarray) -> np.ndarray:
    """Limit the peak to 0.99 by scaling; the result is finite float32."""
    peak = float(np.max(np.abs(waveform), initial=0.0))
    scaled = waveform * (0.9899 / peak) if peak > 0.99 else waveform
    return np.ascontiguousarray(scaled, dtype=np.float32)
