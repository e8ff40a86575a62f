"""Mean and deviation over time of hidden states, over the real frames alone."""

from __future__ import annotations

import torch
from torch import Tensor

from hyperasr.errors import ShapeError
from hyperasr.types import real_mask


def require_frames(lengths: Tensor, size: torch.Size) -> None:
    """Raise where lengths are not (n_utt,), each in [1, n_frames], for a size (n_utt, n_frames).

    Raises:
        ShapeError: says which lengths there are.
    """
    if lengths.shape != size[:1] or bool((lengths < 1).any() | (lengths > size[1]).any()):
        raise ShapeError(
            f"{size[0]} utterances of up to {size[1]} frames need as many lengths in "
            f"[1, {size[1]}], not {lengths.tolist()}"
        )


def frame_weights(lengths: Tensor, size: torch.Size) -> Tensor:
    """Return what each frame counts in a mean over time: (n_utt, 1, n_frames), 0 on padding.

    Args:
        lengths: real frames of each utterance (n_utt,).
        size: (n_utt, n_frames).
    Raises:
        ShapeError: as `require_frames`.
    """
    require_frames(lengths, size)
    return real_mask(lengths, size[1])[:, None].float() / lengths[:, None, None]


def moments(states: Tensor, weights: Tensor) -> Tensor:
    """Pool states (n_utt, n_frames, d) into mean and deviation: (n_utt, 2 * d), float32.

    Passes no gradient on. One frame has deviation 0.

    Args:
        states: finite on padding too, which counts nothing.
        weights: of the frames, from `frame_weights`.
    """
    states = states.detach().float()
    # A product with the weights reads the states once; filling and summing reads them thrice.
    mean = torch.bmm(weights, states)
    # Two passes: E[x^2] - E[x]^2 cancels where the mean is large.
    variance = torch.bmm(weights, (states - mean).square_())
    return torch.cat([mean[:, 0], variance[:, 0].sqrt()], dim=1)
