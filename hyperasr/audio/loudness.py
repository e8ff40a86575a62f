"""How loud a waveform is where someone speaks: silence, gain without clipping, and a hash.

Levels are judged without what lies under some 70 Hz where that is most of it, so that hum of the
mains and rumble are not taken for sound; waveforms keep them.
"""

from __future__ import annotations

import hashlib
from functools import cache

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812

from hyperasr.audio.mel import SAMPLE_RATE

SILENCE_DBFS = -60.0  # 10 dB over faint hiss (-70), 10 dB under very quiet speech (-50)

LEVEL_SAMPLES = SAMPLE_RATE // 50  # 20 ms, the length of a level measurement
# Second-order sections (b0, b1, b2, 1, a1, a2) of a Chebyshev filter of type II and order 8, which
# lowers mains hum under 60 Hz by 40 dB and has -3 dB at 74 Hz. Written down, because the design
# takes scipy.signal, whose import takes longer than transcribing a sentence.
_STOPPED_DB = 40.0
_HIGH_PASS = (
    (0.9579288377024, -1.9158374328715, 0.9579288377024, 1, -1.9673386607071, 0.9676361622606),
    (1, -1.9998286351328, 1, 1, -1.9720501402886, 0.9724965232156),
    (1, -1.9996161924199, 1, 1, -1.9808806122222, 0.9815394938207),
    (1, -1.9994659863568, 1, 1, -1.9926661720999, 0.9934787188527),
)
_HUM_DB = 6.0  # a frame that the filter lowers by more is mostly hum
_SETTLING_FRAMES = 5  # of the filter, where a recording begins within hum
_SETTLING_DB = 12.0  # that it takes away from hum at once
_TINY_POWER = 1e-20  # -200 dBFS, in place of the logarithm of 0
_SUSTAINED_FRAMES = 15  # 0.3 s in all: louder is a door or a cough, not the voice
_OUTLIER_DB = 10.0  # over the sustained level
_ACTIVE_DB = 20.0  # under the sustained level; fainter is pause
_NOISE_FRAMES = 15  # 0.3 s; in less, a vowel may be as steady
_NOISE_SWING_DB = 3.0  # white noise swings by 1, running speech by 10 and more
_NOISE_PITCH = 0.35  # normalised autocorrelation; white noise reaches 0.25, a steady vowel 0.9
_PITCH_HZ = (70, 400)
_PITCH_SAMPLES = 2 * LEVEL_SAMPLES  # 40 ms: three periods of a low voice
_MAX_PITCH_FRAMES = 512
_TARGET_DBFS = -23.0
_MAX_GAIN_DB = 40.0
_PEAK = 0.99
_LIMITER_SAMPLES = SAMPLE_RATE // 200  # 5 ms


def audible(waveform: np.ndarray) -> np.ndarray | None:
    """Bring the speech to a common level, -23 dBFS: hypophonic (quiet) speech is otherwise lost.

    Nobody can be heard where the loudest 20 ms are fainter than `SILENCE_DBFS`, or in steady hiss
    of any level: at least 0.3 s that never leave their median level by 3 dB and have no trace of a
    pitch. Anything else may be speech, however noisy. An offset (DC) and mains hum do not count.

    No waveform is raised by more than 40 dB. Peaks that the gain would carry over full scale are
    turned down by a limiter with 5 ms of lookahead, so that a click does not keep the speech quiet.

    Args:
        waveform: (n_samples,) float32, 16 kHz.
    Returns:
        (n_samples,) float32, within [-0.99, 0.99]; None where nobody can be heard.
    """
    # Without that of a begun frame, unless it is the only one.
    levels = frame_levels_dbfs(waveform)[: max(1, len(waveform) // LEVEL_SAMPLES)]
    if len(levels) == 0 or levels.max() < SILENCE_DBFS or _is_steady_noise(waveform, levels):
        return None
    gain_db = min(_TARGET_DBFS - _active_level_dbfs(levels), _MAX_GAIN_DB)
    return _limit(waveform.astype(np.float32) * np.float32(10 ** (gain_db / 20)))


def _active_level_dbfs(levels: np.ndarray) -> float:
    """Return the level of the speech alone, of the levels (n_frames,) of 20 ms each.

    The RMS over the frames that are at most 20 dB under, and 10 dB over, the level that is exceeded
    for 0.3 s in all: pauses and single bangs do not count.
    """
    levels = np.sort(levels)[::-1]
    sustained = levels[min(_SUSTAINED_FRAMES, len(levels) // 4)]
    active = levels[(levels >= sustained - _ACTIVE_DB) & (levels <= sustained + _OUTLIER_DB)]
    return float(10 * np.log10(np.mean(10 ** (active / 10))))


class LevelMeter:
    """Measure a recording that comes in pieces: the level of each 20 ms, without hum.

    A frame that is mostly hum is measured behind a high-pass, any other as it is. The filter runs
    on from piece to piece, so levels do not depend on how the recording is cut.
    """

    def __init__(self) -> None:
        self._state: np.ndarray | None = None
        self._rest = np.zeros(0, np.float32)  # less than a frame
        self._n_frames = 0

    def __call__(self, piece: np.ndarray, last: bool = False) -> np.ndarray:
        """Return the levels of the frames that are complete (n_frames,), in dB full scale.

        Args:
            piece: (n_samples,) float32, 16 kHz.
            last: whether nothing follows; then a begun frame counts.
        """
        samples = np.concatenate([self._rest, piece])
        n_frames = len(samples) // LEVEL_SAMPLES
        whole, self._rest = np.split(samples, [n_frames * LEVEL_SAMPLES])
        filtered, self._state = _high_pass(whole, self._state)
        power = np.stack([filtered, whole]).reshape(2, n_frames, LEVEL_SAMPLES).var(axis=2)
        if last and self._rest.size:
            filtered, _ = _high_pass(self._rest, self._state)
            power = np.append(power, [[filtered.var()], [self._rest.var()]], axis=1)
        filtered_db, levels = 10 * np.log10(np.maximum(power, _TINY_POWER))
        lowered = levels - filtered_db
        # Hum that is there from the first sample on is a step for the filter. What is left of a
        # frame that was mostly hum is then the filter's own ringing.
        n_settling = max(0, _SETTLING_FRAMES - self._n_frames)
        ringing = (lowered > _SETTLING_DB) & (np.arange(len(levels)) < n_settling)
        lowered[ringing] = _STOPPED_DB
        self._n_frames += n_frames
        return levels - np.where(lowered > _HUM_DB, lowered, 0.0)


def frame_levels_dbfs(waveform: np.ndarray) -> np.ndarray:
    """Return the level of each 20 ms without hum (n_frames,); a begun frame counts.

    Args:
        waveform: (n_samples,) float32, 16 kHz.
    """
    return LevelMeter()(waveform, last=True)


def content_hash(waveform: np.ndarray) -> str:
    """Return the SHA-256, 64 hex digits, of the samples as little-endian float32."""
    return hashlib.sha256(np.ascontiguousarray(waveform, dtype="<f4").tobytes()).hexdigest()


@cache
def _high_pass_blocks() -> tuple[np.ndarray, ...]:
    """Return the filter as matrices that take a whole frame of n samples x at once.

    Of its state-space form (A, B, C, D), the sections one after the other, with 8 states s:
    the output is H x + O s and the next state A^n s + R x. Returns H (n, n), O (n, 8), A^n (8, 8),
    R (8, n), and the state behind a constant 1 (8,).
    """
    a, b, c, d = np.zeros((0, 0)), np.zeros(0), np.zeros(0), 1.0
    for b0, b1, b2, _, a1, a2 in _HIGH_PASS:
        drive = np.array([b1 - a1 * b0, b2 - a2 * b0])
        own = np.array([[-a1, 1.0], [-a2, 0.0]])
        a = np.block([[a, np.zeros((len(a), 2))], [np.outer(drive, c), own]])
        b, c, d = np.append(b, d * drive), np.append(b0 * c, [1.0, 0.0]), b0 * d
    powers = [np.eye(len(a))]
    for _ in range(LEVEL_SAMPLES):
        powers.append(a @ powers[-1])
    observed = np.stack([c @ power for power in powers[:-1]])
    driven = np.stack([power @ b for power in powers[:-1]], axis=1)
    response = np.append(d, c @ driven[:, :-1])
    i = np.arange(LEVEL_SAMPLES)
    delays = i[:, None] - i
    impulse = np.where(delays >= 0, response[np.maximum(delays, 0)], 0.0)
    return impulse, observed, powers[-1], driven[:, ::-1], np.linalg.solve(np.eye(len(a)) - a, b)


def _high_pass(
    samples: np.ndarray, state: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the samples without hum, float64, and the filter's state behind the last whole frame.

    Without a state the filter begins as if the first sample had always been there.
    """
    if not len(samples):
        return samples.astype(np.float64), state
    impulse, observed, step, driven, constant = _high_pass_blocks()
    state = constant * samples[0] if state is None else state
    n_frames, n_rest = divmod(len(samples), LEVEL_SAMPLES)
    frames = samples[: n_frames * LEVEL_SAMPLES].reshape(n_frames, LEVEL_SAMPLES)
    frames = frames.astype(np.float64)
    states = [state]
    for pushed in frames @ driven.T:
        states.append(step @ states[-1] + pushed)
    filtered = frames @ impulse.T + np.stack(states)[:-1] @ observed.T
    rest = impulse[:n_rest, :n_rest] @ samples[len(samples) - n_rest :].astype(np.float64)
    rest += observed[:n_rest] @ states[-1]
    return np.concatenate([filtered.ravel(), rest]), states[-1]


def _is_steady_noise(waveform: np.ndarray, levels: np.ndarray) -> bool:
    if len(levels) < _NOISE_FRAMES:
        return False
    swing = levels - np.median(levels)  # the first frames may be short of what the filter rings
    if swing.max() > _NOISE_SWING_DB or swing[_SETTLING_FRAMES:].min() < -_NOISE_SWING_DB:
        return False
    settled = _high_pass(waveform)[0][_SETTLING_FRAMES * LEVEL_SAMPLES :]
    return float(np.quantile(_periodicity(settled), 0.95)) < _NOISE_PITCH


def _periodicity(waveform: np.ndarray) -> np.ndarray:
    """Return how well some pitch explains each frame: 1 for a steady vowel, 0.2 for noise."""
    frames = torch.from_numpy(waveform.astype(np.float32)).unfold(0, _PITCH_SAMPLES, LEVEL_SAMPLES)
    frames = frames[:: -(-len(frames) // _MAX_PITCH_FRAMES)]
    window = torch.hann_window(_PITCH_SAMPLES)
    # Divided by that of the window, as in Boersma (1993, IFA Proceedings 17, 97-110).
    correlation = _autocorrelation(frames * window) / _autocorrelation(window)
    first, last = SAMPLE_RATE // _PITCH_HZ[1], SAMPLE_RATE // _PITCH_HZ[0]
    energy = correlation[:, :1].clamp_min(_TINY_POWER)
    return (correlation[:, first:last] / energy).amax(dim=1).numpy()


def _autocorrelation(frames: torch.Tensor) -> torch.Tensor:
    spectrum = torch.fft.rfft(frames, 2 * _PITCH_SAMPLES)
    return torch.fft.irfft(spectrum.abs().square())[..., : _PITCH_SAMPLES - 1]


def _limit(waveform: np.ndarray) -> np.ndarray:
    peak = float(np.abs(waveform).max())
    if peak <= _PEAK:
        return waveform
    samples = torch.from_numpy(waveform)[None]
    # The lowest gain within half a window, then its average over half a window: smooth, and
    # nowhere above what any single sample needs.
    needed = _PEAK / samples.abs().clamp_min(_PEAK)
    window, reach = 2 * _LIMITER_SAMPLES + 1, _LIMITER_SAMPLES
    lowest = -F.max_pool1d(-needed, window, stride=1, padding=reach)
    smooth = F.avg_pool1d(lowest, window, stride=1, padding=reach, count_include_pad=False)
    return (samples * smooth).clamp_(-_PEAK, _PEAK)[0].numpy()
