"""Word error rates of development rows, decoded by all processes together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object

from hyperasr.cache import Cache
from hyperasr.decode import decode_rows
from hyperasr.errors import ConfigError
from hyperasr.metrics import error_rate, score
from hyperasr.model import HyperASR
from hyperasr.text import normaliser
from hyperasr.types import Batch

__all__ = ["MelOnly", "decode_together", "evaluate"]


class MelOnly:
    """A cache whose batches bring log-mel alone, for recognisers with an encoder of their own.

    Raises:
        ConfigError: the cache keeps no log-mel.
    """

    def __init__(self, cache: Cache) -> None:
        if not cache.keeps_mel:
            raise ConfigError("an adapted encoder needs log-mel; build the cache with keep_mel")
        self.cache, self.meta, self.n_frames = cache, cache.meta, cache.n_frames

    def __len__(self) -> int:
        return len(self.cache)

    def batch(self, rows: Sequence[int]) -> Batch:
        """Return rows without the encoder states and embeddings of the frozen backbone."""
        return replace(self.cache.batch(rows), encoded=None, speaker_emb=None)


def decode_together(model: HyperASR, cache: Any, *, adapt: bool = True) -> list[str]:
    """Decode every row of a cache, each on one process; all get all texts, in the order of rows.

    Every process of the run has to call it.
    """
    state = PartialState()
    # Dealt out by length, so that all are done at about the same time.
    order = sorted(range(len(cache)), key=lambda row: cache.n_frames[row])
    own = order[state.process_index :: state.num_processes]
    texts = decode_rows(model, cache, own, batch_size=64, adapt=adapt) if own else []
    found = dict(gather_object(list(zip(own, texts, strict=True))))
    return [found[row] for row in range(len(cache))]


def evaluate(model: HyperASR, cache: Any, adapt: bool = True) -> dict[str, float]:
    """Return word error rates of the development views by cohort; the score weighs them alike."""
    hypotheses = decode_together(model, cache, adapt=adapt)
    counts = score(cache.meta["text"], hypotheses, normaliser("whisper"), "wer")
    measures = {}
    for cohort in sorted(set(cache.meta["cohort"])):
        chosen = [c for c, name in zip(counts, cache.meta["cohort"], strict=True) if name == cohort]
        measures[cohort] = error_rate(chosen)
    return {**measures, "score": sum(measures.values()) / len(measures)}
