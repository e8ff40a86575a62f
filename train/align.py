"""When each word of a transcribed recording was said, heard from the backbone's own encoder states.

A linear layer learns characters from the states by CTC, a matter of seconds; the most probable path
through the characters of a known text gives the times of its words. The decoder's attention, which
`hyperasr.words` reads, is not sharp enough to cut spelled letters apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from hyperasr._speechbrain import hmm_aligner
from hyperasr.errors import ConfigError, ShapeError
from hyperasr.mel import STATES_PER_SECOND

__all__ = ["Aligner", "WordSpan"]

_BLANK = 0
_BATCH = 32


@dataclass(frozen=True)
class WordSpan:
    """A word and when it was said: from the peak of its first to that of its last character."""

    word: str
    start_s: float
    end_s: float


class Aligner(nn.Module):
    """Linear CTC over encoder states.

    Args:
        d_model: width of the states.
        texts: all that will be aligned; their characters are those that it knows.
    """

    def __init__(self, d_model: int, texts: Sequence[str]) -> None:
        super().__init__()
        characters = sorted({c for text in texts for c in text} | {" "})
        self.id_of = {c: i for i, c in enumerate(characters, start=_BLANK + 1)}
        self.net = nn.Sequential(
            nn.LayerNorm(d_model), nn.Linear(d_model, len(characters) + 1), nn.LogSoftmax(dim=-1)
        )

    def learn(
        self,
        states: Sequence[Tensor],
        texts: Sequence[str],
        *,
        epochs: int = 8,
        lr: float = 2e-3,
        seed: int = 0,
    ) -> float:
        """Learn characters from states, and return the loss (nats a character) of the last epoch.

        Args:
            states: of each utterance (n_states, d_model).
            texts: what is said in each.
            epochs: passes over the utterances.
            lr: learning rate of AdamW.
            seed: of the order in which the utterances come.
        Raises:
            ShapeError: not as many texts as utterances.
        """
        if len(states) != len(texts) or not texts:
            raise ShapeError(f"{len(states)} utterances with {len(texts)} texts cannot be learnt")
        rng = np.random.default_rng(seed)
        optimizer = torch.optim.AdamW(self.parameters(), lr)
        losses: list[float] = []
        for _ in range(epochs):
            losses = []
            # Of like length together, but not the same ones every time.
            order = np.argsort([len(x) * rng.uniform(0.9, 1.1) for x in states])
            batches = [order[i : i + _BATCH] for i in range(0, len(order), _BATCH)]
            for index in rng.permutation(len(batches)):
                rows = [int(i) for i in batches[index]]
                targets = [self._ids(texts[i]) for i in rows]
                loss = nn.functional.ctc_loss(
                    self.net(pad_sequence([states[i] for i in rows])),
                    torch.cat(targets),
                    torch.tensor([len(states[i]) for i in rows]),
                    torch.tensor([len(target) for target in targets]),
                    blank=_BLANK,
                    zero_infinity=True,
                )
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                losses.append(loss.item())
        return float(np.mean(losses))

    @torch.no_grad()
    def spans(self, states: Sequence[Tensor], texts: Sequence[str]) -> list[list[WordSpan]]:
        """Return when each word of each text was said; no words where the text does not fit.

        Args:
            states: of each utterance (n_states, d_model), 20 ms a state.
            texts: what is said in each.
        Raises:
            ConfigError: a text holds a character that was not among the first ones.
        """
        spans: list[list[WordSpan]] = []
        for first in range(0, len(texts), _BATCH):
            rows = range(first, min(first + _BATCH, len(texts)))
            spans += self._spans([states[i] for i in rows], [texts[i] for i in rows])
        return spans

    def _spans(self, states: Sequence[Tensor], texts: Sequence[str]) -> Iterator[list[WordSpan]]:
        # CTC's blanks may be passed over, an HMM's states may not: with one before, between and
        # after all characters the paths are those of CTC that stop at every one of them.
        paths = [self._with_blanks(text) for text in texts]
        lengths = torch.tensor([len(x) for x in states])
        counts = torch.tensor([len(path) for path in paths])
        _, found = hmm_aligner()(
            self.net(pad_sequence(list(states), batch_first=True)),
            lengths / lengths.max(),
            pad_sequence(paths, batch_first=True),
            counts / counts.max(),
            "viterbi",
        )
        for text, path, labels, n_states in zip(texts, paths, found, lengths, strict=True):
            yield _words(text, np.asarray(labels)) if len(path) <= n_states else []

    def _with_blanks(self, text: str) -> Tensor:
        path = torch.full((2 * len(text) + 1,), _BLANK)
        path[1::2] = self._ids(text)
        return path

    def _ids(self, text: str) -> Tensor:
        unknown = sorted(set(text) - self.id_of.keys())
        if unknown:
            raise ConfigError(f"{text!r} holds {unknown[0]!r}, which the aligner never learnt")
        return torch.tensor([self.id_of[c] for c in text])


def _words(text: str, labels: np.ndarray) -> list[WordSpan]:
    """Read the words of a text off the labels (n_states,) of a path with blanks."""
    # Neighbours on the path differ, so that every change of label is one step along it.
    place = np.concatenate([[0], np.cumsum(labels[1:] != labels[:-1])])
    spans, first = [], 0
    for word in text.split(" "):
        last = first + len(word) - 1
        start = np.searchsorted(place, 2 * first + 1)
        end = np.searchsorted(place, 2 * last + 1, side="right")
        times = (float(state / STATES_PER_SECOND) for state in (start, end))
        spans.append(WordSpan(word, *times))
        first = last + 2
    return spans
