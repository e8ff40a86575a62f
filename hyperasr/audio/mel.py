"""Whisper's log-mel input, frame by frame equal to that of transformers, and its constants."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hyperasr.errors import AudioError

SAMPLE_RATE = 16_000  # samples per second, everywhere behind `audio.load`
N_FFT = 400  # samples in an analysis window: 25 ms
HOP_LENGTH = 160  # samples from one frame to the next: 10 ms
CHUNK_S = 30  # seconds that Whisper hears at once
FRAMES_PER_STATE = 2  # mel frames to one encoder state: its second convolution has stride 2

FRAMES_PER_SECOND = SAMPLE_RATE // HOP_LENGTH  # 100
STATES_PER_SECOND = FRAMES_PER_SECOND // FRAMES_PER_STATE  # 50
N_SAMPLES = CHUNK_S * SAMPLE_RATE  # 480,000 samples in a chunk
MIN_SAMPLES = N_FFT  # one whole window, 25 ms; anything shorter holds no speech sound

_LOG_FLOOR = 1e-10  # power below which Whisper hears nothing
_DYNAMIC_RANGE = 8.0  # log10 power kept under the loudest point of an utterance: 80 dB
_SOUNDING_RANGE = 3.0 / 4  # log10 power as log-mel has it, a quarter: 30 dB
# A window centred up to N_FFT / 2 samples after the end still holds real samples; the last of these
# frames does not: it is silence, as are all after it. That also keeps the mirror image that
# torch.stft appends out of every frame.
TAIL_FRAMES = -(-N_FFT // 2 // HOP_LENGTH) + 1


def count_frames(n_samples: int) -> int:
    """Return how many mel frames (10 ms each) `n_samples` samples make; a begun frame counts."""
    return -(-n_samples // HOP_LENGTH)


def sounding_frames(mel: Tensor, n_frames: Tensor) -> Tensor:
    """Return how many frames each utterance has up to its last sound.

    That is the last frame less than 30 dB under its loudest one.

    Args:
        mel: log-mel (n_utt, n_mels, n_frames), as `log_mel_batch` returns it.
        n_frames: real frames of each utterance (n_utt,), at least 1.
    Returns:
        (n_utt,) int64, from 1 to n_frames.
    """
    places = torch.arange(mel.shape[-1], device=mel.device)
    level = mel.amax(dim=1).masked_fill(places >= n_frames[:, None], -torch.inf)
    sounds = level > level.amax(dim=1, keepdim=True) - _SOUNDING_RANGE
    return torch.where(sounds, places + 1, 0).amax(dim=1)


def log_mel(waveform: np.ndarray, *, n_mels: int = 80, pad_to_s: float | None = None) -> Tensor:
    """Compute Whisper's log-mel input of one waveform.

    Args:
        waveform: (n_samples,) float32, 16 kHz, at least one sample.
        n_mels: mel channels; 80, or 128 from large-v3 on.
        pad_to_s: pad with silence to this length in seconds (30 gives exactly the input of the
            published models). None returns the real frames only, each as it is in the padded
            computation.
    Returns:
        (n_mels, n_frames) float32, 10 ms a frame; n_frames is `count_frames(n_samples)`, or that
        of `pad_to_s`.
    Raises:
        AudioError: the waveform is empty, not one-dimensional, or longer than `pad_to_s`.
    Source: Whisper, arXiv 2212.04356, section 2.2; `transformers.WhisperFeatureExtractor`.
    """
    if waveform.ndim != 1 or len(waveform) == 0:
        raise AudioError(
            f"a waveform of shape {tuple(waveform.shape)} has no log-mel; "
            "expected (n_samples,), 16 kHz, at least one sample"
        )
    n_samples = len(waveform)
    if pad_to_s is not None and n_samples > round(pad_to_s * SAMPLE_RATE):
        raise AudioError(
            f"the waveform lasts {n_samples / SAMPLE_RATE:.2f} s and cannot be padded to "
            f"{pad_to_s:g} s; cut it into segments of at most that length"
        )
    if pad_to_s is None:
        n_frames = count_frames(n_samples)
        n_padded = (n_frames + TAIL_FRAMES) * HOP_LENGTH
    else:
        n_padded = round(pad_to_s * SAMPLE_RATE)
        n_frames = n_padded // HOP_LENGTH
    padded = torch.zeros(n_padded)
    padded[:n_samples] = torch.as_tensor(np.ascontiguousarray(waveform, dtype=np.float32))
    spectrum = torch.view_as_real(
        torch.stft(padded, N_FFT, HOP_LENGTH, window=_window(), return_complex=True)
    )
    power = spectrum[:, :-1].square().sum(dim=-1)
    log_power = (_filters(n_mels) @ power).clamp_(min=_LOG_FLOOR).log10_()
    # The maximum is taken over the tail too, as in the padded computation.
    log_power = log_power.clamp_(min=float(log_power.max()) - _DYNAMIC_RANGE)
    return log_power[:, :n_frames].add(4.0).div_(4.0)


def log_mel_batch(
    waveforms: Sequence[np.ndarray], *, n_mels: int = 80, pad_to_s: float | None = None
) -> tuple[Tensor, Tensor]:
    """Compute the log-mel input of several waveforms.

    Each row is bit for bit `log_mel` of its waveform, whatever else is in the batch.

    Args:
        waveforms: each (n_samples,) float32, 16 kHz; their lengths may differ.
        n_mels: mel channels.
        pad_to_s: as in `log_mel`.
    Returns:
        mel (n_utt, n_mels, n_frames), exactly 0 after an utterance's last frame (with `pad_to_s`:
        Whisper's silence); and the real frames of each utterance (n_utt,) int64.
    Raises:
        AudioError: there is no waveform, or one of them is not as `log_mel` needs it.
    """
    if len(waveforms) == 0:
        raise AudioError("a batch needs at least one waveform")
    rows = [log_mel(w, n_mels=n_mels, pad_to_s=pad_to_s) for w in waveforms]
    mel = torch.zeros(len(rows), n_mels, max(row.shape[1] for row in rows))
    for target, row in zip(mel, rows, strict=True):
        target[:, : row.shape[1]] = row
    return mel, torch.tensor([count_frames(len(w)) for w in waveforms])


@functools.lru_cache(maxsize=8)
def _filters(n_mels: int) -> Tensor:
    """Return triangular filters of equal area on Slaney's mel scale (n_mels, N_FFT // 2 + 1)."""
    from transformers.audio_utils import mel_filter_bank

    n_bins, highest_hz = N_FFT // 2 + 1, SAMPLE_RATE / 2
    filters = mel_filter_bank(
        n_bins, n_mels, 0.0, highest_hz, SAMPLE_RATE, norm="slaney", mel_scale="slaney"
    )
    return torch.tensor(filters, dtype=torch.float32).T.contiguous()


@functools.lru_cache(maxsize=1)
def _window() -> Tensor:
    return torch.hann_window(N_FFT)
