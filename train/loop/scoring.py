"""Word error rates of development rows, decoded by all processes together; is a training worth it?

A training that ends worse than the recogniser it began with must not pass for done. `Judge` holds
what the unadapted backbone makes of the same rows, hearing 30 s, and lets no checkpoint be the best
that harms typical speech or does not help atypical speech.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object

from hyperasr.cohorts.cache import Cache
from hyperasr.cohorts.views import TYPICAL
from hyperasr.errors import HyperASRError
from hyperasr.hub import HyperASR
from hyperasr.metrics.error_rates import error_rate, score
from hyperasr.metrics.normalisers import normaliser
from hyperasr.model import decode_tokens
from hyperasr.types import Batch

log = logging.getLogger(__name__)
_BATCH = 16  # a row that runs away, as unadapted ones do, holds up its batch alone
HARM = 0.005
"""Word error rate that typical speech may lose on the development speakers: half a point."""


class NotWorthIt(HyperASRError):
    """Nothing that was trained is better than the unadapted recogniser."""


@dataclass(frozen=True)
class Judge:
    """Compares with the unadapted backbone on 30 s.

    Attributes:
        unadapted: its word error rate by cohort, on the same rows.
    """

    unadapted: dict[str, float]

    def __call__(self, measures: Mapping[str, float]) -> dict[str, float]:
        """Return the measures with the score that counts: the mean over atypical cohorts.

        It is infinite, and so never the best, where typical speech loses more than `HARM` or
        atypical speech gains nothing. Where all rows are typical, their rate is the score.
        """
        rates = {name: measures[name] for name in self.unadapted}
        score, before = _atypical(rates), _atypical(self.unadapted)
        harm = rates.get(TYPICAL, 0.0) - self.unadapted.get(TYPICAL, 0.0)
        gains = score < before or set(rates) == {TYPICAL}
        log.info("unadapted, 30 s: %s", _said(self.unadapted))
        if harm > HARM:
            log.info("not kept: typical speech loses %.1f points", 100 * harm)
            score = math.inf
        elif not gains:
            log.info("not kept: atypical speech gains nothing")
            score = math.inf
        return {**measures, "score": score}

    def verdict(self, best: Mapping[str, float]) -> str:
        """Return one line: what the best checkpoint is worth.

        Raises:
            NotWorthIt: there is none.
        """
        if not best:
            raise NotWorthIt(
                "no checkpoint helps atypical speech without harm to typical speech, so none is "
                f"kept (unadapted: {_said(self.unadapted)}); train on more speech, more gently or "
                "with a teacher, or set must_help to false to keep the best of them regardless"
            )
        parts = [
            f"{name} {100 * rate:.1f} -> {100 * best[name]:.1f} %"
            for name, rate in self.unadapted.items()
        ]
        return f"worth, against the unadapted recogniser on 30 s: {', '.join(parts)}"


def _atypical(rates: Mapping[str, float]) -> float:
    own = [rate for name, rate in rates.items() if name != TYPICAL] or [rates[TYPICAL]]
    return sum(own) / len(own)


def _said(rates: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {100 * rate:.1f} %" for name, rate in rates.items())


@dataclass(frozen=True)
class Rows:
    """As much of a `hyperasr.cohorts.cache.Cache` as decoding and scoring need."""

    meta: dict[str, list[Any]]
    n_frames: Sequence[int]
    batch: Callable[[Sequence[int]], Batch]

    def __len__(self) -> int:
        return len(self.n_frames)


def mel_only(cache: Cache) -> Rows:
    """Return a cache's rows without the encoder states and embeddings of the frozen backbone.

    For recognisers with an encoder of their own; the cache has to keep log-mel.
    """

    def batch(rows: Sequence[int]) -> Batch:
        return replace(cache.batch(rows), encoded=None, speaker_emb=None)

    return Rows(cache.meta, cache.n_frames, batch)


def decode_together(model: HyperASR, cache: Any, *, adapt: bool = True) -> list[str]:
    """Decode every row of a cache, each on one process; all get all texts, in the order of rows.

    Every process of the run has to call it.
    """
    state = PartialState()
    # Dealt out by length, so that all are done at about the same time.
    order = sorted(range(len(cache)), key=lambda row: cache.n_frames[row])
    own = order[state.process_index :: state.num_processes]
    tokens = decode_tokens(model, cache, own, batch_size=_BATCH, adapt=adapt).tokens
    texts = map(model.backbone.text, tokens)
    text_of = dict(gather_object(list(zip(own, texts, strict=True))))
    return [text_of[row] for row in range(len(cache))]


def evaluate(model: HyperASR, cache: Any, adapt: bool = True) -> dict[str, float]:
    """Return word error rates of the development views by cohort; the score weighs them alike."""
    hypotheses, cohorts = decode_together(model, cache, adapt=adapt), cache.meta["cohort"]
    counts = score(cache.meta["text"], hypotheses, normaliser("whisper"), "wer")
    rates = {
        cohort: error_rate([c for c, own in zip(counts, cohorts, strict=True) if own == cohort])
        for cohort in sorted(set(cohorts))
    }
    return {**rates, "score": sum(rates.values()) / len(rates)}
