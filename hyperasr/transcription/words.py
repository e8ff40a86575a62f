"""Words of decoded tokens: their probabilities, and their times from cross-attention.

While the decoder writes a token it looks at the sound of that token. One forced pass over the
decoded tokens gives the attention weights; dynamic time warping finds the path through them that
goes forward only. Method: Whisper's own (openai/whisper, timing.py): weights standardised over the
tokens, median filtered in time, averaged over the alignment heads.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from hyperasr.adapters import lora
from hyperasr.audio.loudness import LEVEL_SAMPLES, frame_levels_dbfs
from hyperasr.audio.mel import SAMPLE_RATE, STATES_PER_SECOND
from hyperasr.model import AdaptedWhisper
from hyperasr.types import Batch
from hyperasr.whisper.backbone import Backbone
from hyperasr.whisper.biasing import WORD_STARTS
from hyperasr.whisper.decoder import DecoderStep, alignment_heads

NO_BLANKS = ("zh", "ja", "th", "lo", "my", "yue", "bo", "km")  # languages written without blanks
_TINY_STD = 1e-9
_SOUND_DB = 30.0  # under the loudest frames; fainter is pause
_MARGIN_S = 0.02


@dataclass(frozen=True)
class Word:
    """A word and the tokens that spell it: `first` to `last - 1` of its row."""

    text: str
    probability: float
    first: int
    last: int


@dataclass(frozen=True)
class Attention:
    """Where one row's decoder looked, (n_tokens + 1, n_states) each; the last is end of text.

    Attributes:
        mean: cross-attention weights, averaged over all heads kept.
        aligned: the same standardised over tokens and filtered, which alignment goes by.
    """

    mean: np.ndarray
    aligned: np.ndarray


def words_of(
    backbone: Backbone, tokens: Sequence[int], logprobs: Sequence[float], language: str = "en"
) -> tuple[Word, ...]:
    """Return the words of decoded tokens.

    The probability of a word is the geometric mean of those of its tokens, so that a long word is
    not less sure than a short one. In languages without blanks each character is a word.
    """
    words: list[Word] = []
    first = 0  # of the tokens that are no word yet, such as a lone blank
    for group in _groups(backbone, tokens, language):
        text = printable(backbone.text([tokens[i] for i in group]))
        if text:
            last = group[-1] + 1
            probability = math.exp(math.fsum(logprobs[first:last]) / (last - first))
            words += [Word(word, probability, group[0], last) for word in text.split()]
            first = last
    return tuple(words)


def chars_of(backbone: Backbone, tokens: Sequence[int]) -> list[int]:
    """Return the number of characters (bytes of other scripts) of each token, at least 1."""
    names = backbone.tokenizer.convert_ids_to_tokens(list(tokens))
    return [max(1, len(name.lstrip("".join(WORD_STARTS)))) for name in names]


def printable(text: str) -> str:
    """Return one line without control characters, which a model may spell byte by byte."""
    visible = (" " if unicodedata.category(char) == "Cc" else char for char in text)
    return " ".join("".join(visible).split())


def _groups(backbone: Backbone, tokens: Sequence[int], language: str) -> list[list[int]]:
    """Return the tokens of each word, by index."""
    groups: list[list[int]] = []
    whole = True
    for index, name in enumerate(backbone.tokenizer.convert_ids_to_tokens(list(tokens))):
        starts = whole if language in NO_BLANKS else name.startswith(WORD_STARTS)
        if not groups or starts:
            groups.append([])
        groups[-1].append(index)
        # A character of three bytes may be several tokens.
        whole = "\ufffd" not in backbone.text([tokens[i] for i in groups[-1]])
    return groups


@torch.inference_mode()
def attend(
    model: AdaptedWhisper,
    batch: Batch,
    tokens: Sequence[Sequence[int]],
    prompts: Sequence[Sequence[int]] | None = None,
    *,
    adapt: bool = True,
) -> list[Attention]:
    """Return where the decoder looked while it wrote the tokens of each utterance.

    Args:
        batch: the batch that was decoded.
        tokens: what was decoded for each utterance.
        prompts: what each was given before them, all equally long; None is the prompt of English.
        adapt: as in decoding.
    """
    backbone = model.backbone
    if prompts is None:
        prompts = [backbone.prompt_ids()] * batch.n_utt
    n_prompt = len(prompts[0])
    n_longest = max(map(len, tokens))
    # A row that was stopped at the last position has no room for what comes after it.
    n_most = int(backbone.whisper.config.max_target_positions)
    rows = [
        [*prompt, *row, *[backbone.eos] * (n_longest - len(row))][:n_most]
        for prompt, row in zip(prompts, tokens, strict=True)
    ]
    # The position of the last prompt token is the one that writes the first token.
    spans = [(n_prompt - 1, min(n_most, n_prompt + len(row))) for row in tokens]
    n_states = ((batch.n_frames + 1) // 2).tolist()
    with (
        model.adapted(batch, adapt=adapt) as states,
        _tapped(backbone.whisper, states.lengths.tolist(), spans, n_states) as sums,
    ):
        step = DecoderStep(backbone.whisper, states, cached=False)
        step.hidden(torch.tensor(rows, device=backbone.device))
    n_heads = sum(map(len, alignment_heads(backbone.whisper).values()))
    seen = []
    for row, *of_row in zip(tokens, *sums, strict=True):
        weights = [(summed / n_heads).numpy() for summed in of_row]
        missing = ((0, len(row) + 1 - len(weights[0])), (0, 0))
        seen.append(Attention(*(np.pad(w, missing, mode="edge") for w in weights)))
    return seen


@contextmanager
def _tapped(
    whisper: Any,
    lengths: Sequence[int],
    spans: Sequence[tuple[int, int]],
    n_states: Sequence[int],
) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Sum the cross-attention weights of the alignment heads while the decoder runs.

    Layer by layer and row by row, so that the weights of all heads are never held at once.

    Args:
        lengths: encoder states of each row.
        spans: positions of each row that count.
        n_states: states of each row that hold sound.
    Yields:
        Of each row the sum over the heads (n_tokens, n_states) of the weights, and of the weights
        standardised and filtered; complete when the decoder has run.
    """
    width = int(getattr(whisper.config, "median_filter_width", 7))  # in states
    sizes = [(last - first, n) for (first, last), n in zip(spans, n_states, strict=True)]
    mean, aligned = ([torch.zeros(size) for size in sizes] for _ in range(2))
    queries: list[Tensor] = []  # of the layer that runs

    def keep_queries(module: Any, args: Any, output: Tensor) -> None:
        queries[:] = [output]

    def with_keys(attention: Any, heads: list[int]) -> Callable[..., None]:
        def hook(module: Any, args: Any, keys: Tensor) -> None:
            scaled = queries[0] * attention.scaling
            for row, (first, last) in enumerate(spans):
                q = scaled[row, first:last].unflatten(-1, (attention.num_heads, -1))
                k = keys[row, : lengths[row]].unflatten(-1, (attention.num_heads, -1))
                weights = torch.einsum("thd,shd->hts", q[:, heads].float(), k[:, heads].float())
                weights = weights.softmax(dim=-1)[..., : n_states[row]].cpu()
                mean[row] += weights.sum(0)
                aligned[row] += _standardised(weights, width).sum(0)

        return hook

    with ExitStack() as hooks:
        for index, heads in alignment_heads(whisper).items():
            attention = whisper.model.decoder.layers[index].encoder_attn
            for layer, hook in (
                (attention.q_proj, keep_queries),
                (attention.k_proj, with_keys(attention, heads)),
            ):
                hooks.enter_context(layer.register_forward_hook(lora.of_this_thread(hook)))
        yield mean, aligned


def _standardised(weights: Tensor, width: int) -> Tensor:
    """Return weights (n_heads, n_tokens, n_states) standardised over tokens and filtered."""
    std, mean = torch.std_mean(weights, dim=-2, keepdim=True, unbiased=False)
    weights = (weights - mean) / std.clamp_min(_TINY_STD)
    if weights.shape[-1] <= width // 2:
        return weights
    padded = F.pad(weights, (width // 2, width // 2), mode="reflect")
    return padded.unfold(-1, width, 1).sort()[0][..., width // 2]


def first_states(aligned: np.ndarray) -> np.ndarray:
    """Return the first state of each token on the best path that only goes forward (n_tokens,).

    Dynamic time warping by anti-diagonals, cell by cell the one of transformers.

    Args:
        aligned: high where a token matches a state, (n_tokens, n_states).
    """
    n_rows, n_columns = aligned.shape
    matrix = -aligned.astype(np.float64)
    cost = np.full((n_rows + 1, n_columns + 1), np.inf, dtype=np.float32)
    trace = np.full(cost.shape, 2, dtype=np.int8)
    trace[:, 0] = 1
    trace[0] = 2
    cost[0, 0] = 0
    for diagonal in range(2, n_rows + n_columns + 1):
        i = np.arange(max(1, diagonal - n_columns), min(n_rows, diagonal - 1) + 1)
        j = diagonal - i
        both, token, state = cost[i - 1, j - 1], cost[i - 1, j], cost[i, j - 1]
        step = np.where(
            (both < token) & (both < state), 0, np.where((token < both) & (token < state), 1, 2)
        )
        best = np.where(step == 0, both, np.where(step == 1, token, state))
        cost[i, j] = matrix[i - 1, j - 1] + best
        trace[i, j] = step
    first = np.zeros(n_rows, dtype=np.int64)
    row, column = n_rows, n_columns
    while row > 0:
        first[row - 1] = column - 1
        step = trace[row, column]
        row -= step != 2
        column -= step != 1
    return np.maximum(first, 0)


def word_times(words: Sequence[Word], attention: Attention) -> list[tuple[float, float]]:
    """Return start and end of each word of a row, in seconds of its segment."""
    starts = first_states(attention.aligned) / STATES_PER_SECOND
    return [(float(starts[word.first]), float(starts[word.last])) for word in words]


def fit_to_sound(
    times: Sequence[tuple[float, float]], waveform: np.ndarray
) -> list[tuple[float, float]]:
    """Take the silence at the borders of each word away.

    Alignment gives the pauses to one of the words beside them. A word in which nothing sounds
    keeps its times.

    Args:
        times: start and end of each word, in seconds of the waveform.
        waveform: (n_samples,) float32, 16 kHz.
    """
    levels = frame_levels_dbfs(waveform)
    sounds = levels > np.percentile(levels, 95) - _SOUND_DB
    frame_s = LEVEL_SAMPLES / SAMPLE_RATE
    fitted = []
    for start, end in times:
        first = round(start / frame_s)
        inside = np.flatnonzero(sounds[first : round(end / frame_s)])
        if len(inside):
            start, end = (
                max(start, (first + inside[0]) * frame_s - _MARGIN_S),
                min(end, (first + inside[-1] + 1) * frame_s + _MARGIN_S),
            )
        fitted.append((float(start), float(end)))
    return fitted


def with_length(times: Sequence[tuple[float, float]], last_s: float) -> list[tuple[float, float]]:
    """Give every word at least one state of the encoder (20 ms), in order.

    Of fast speech the alignment puts several words on one state, which then begin and end at once.
    Times of words with a length stay as they are, unless a neighbour needs room.

    Args:
        times: start and end of each word in seconds of its segment, in order.
        last_s: length of the segment; where it is too short the words share it equally.
    """
    least = min(1 / STATES_PER_SECOND, last_s / max(1, len(times)))
    longer = []
    now = 0.0
    for start, end in times:
        start = max(start, now)
        now = max(end, start + least)
        longer.append((start, now))
    for index in reversed(range(len(longer))):  # what went over the end comes back
        start, end = longer[index]
        end = min(end, last_s)
        last_s = max(0.0, min(start, end - least))
        longer[index] = (last_s, end)
    return longer
