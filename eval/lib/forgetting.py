"""Forgetting as BLoRA means it: what adaptation does to the speech that the backbone was made for.

The paper (arXiv 2510.18723) reports a "backward gain" over LoRA and a drop in the new domain, and
prints no definition that we could find. Our reading, with the typical speech of unseen speakers as
the original domain and the other cohorts, recorded or simulated, as the new one:

- **backward degradation** of a system: its error on typical speech minus the frozen backbone's,
  after minus before; below zero it got better;
- **backward gain** of a system over a LoRA: the share of the LoRA's degradation that it avoids,
  (degradation of the LoRA - its own) / degradation of the LoRA; 1 is no forgetting at all. A LoRA
  that forgets nothing leaves nothing to avoid, and there is no gain to speak of;
- **target loss** against that LoRA: how much more errors it makes in the new domain, relative to
  the LoRA's; 0.04 is the paper's "4 % drop".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.lib.scores import RECORDED, Scores
from hyperasr.metrics.statistics import ONE_SPEAKER, PERCENTILES, SpeakerBootstrap

DEGRADATION = "backward_degradation"
GAIN = "backward_gain"
TARGET_LOSS = "target_loss"
_NOT_FORGETTING = "the LoRA does not degrade: nothing to gain"
_UNSURE = "the LoRA's degradation is not clearly above zero: no interval"
_NO_ERRORS = "no errors to compare with: no interval"

_Floats = NDArray[np.float64]
Row = dict[str, Any]


def forgetting_rows(
    typical: Scores,
    target: Mapping[str, Scores],
    system: str,
    lora: str,
    before: str = "backbone",
    **extra: Any,
) -> list[Row]:
    """Return degradation, gain and target loss of one system.

    Args:
        typical: scores on the original domain.
        target: scores on the new one, by whether it was recorded or simulated.
        system: which one; `lora` itself has a degradation only.
        lora: the one it is compared with, of the same rank and targets where that matters.
        before: the unadapted system.
        extra: further fields of every row.
    """
    drawn = _Draws(typical)
    (value, draws), (of_before, before_draws) = drawn.rates(system), drawn.rates(before)
    lost, drops = value - of_before, draws - before_draws
    rows = [drawn.row(DEGRADATION, system, before, RECORDED, lost, drops)]
    if system != lora:
        of_lora, lora_draws = drawn.rates(lora)
        lora_lost, lora_drops = of_lora - of_before, lora_draws - before_draws
        if lora_lost <= 0:
            rows.append(drawn.row(GAIN, system, lora, RECORDED, None, None, _NOT_FORGETTING))
        else:
            # Where the LoRA of a draw does not degrade, the share has no meaning.
            sure, kept = np.percentile(lora_drops, PERCENTILES[0]) > 0, lora_drops > 0
            gains = 1 - drops[kept] / lora_drops[kept] if sure else None
            share = 1 - lost / lora_lost
            rows.append(drawn.row(GAIN, system, lora, RECORDED, share, gains, _UNSURE))
        for domain, scores in target.items():
            there = _Draws(scores)
            (a, draws_a), (b, draws_b) = there.rates(system), there.rates(lora)
            ratios = draws_a / draws_b - 1 if b and (draws_b > 0).all() else None
            loss = a / b - 1 if b else None
            rows.append(there.row(TARGET_LOSS, system, lora, domain, loss, ratios, _NO_ERRORS))
    return [{**row, **extra} for row in rows]


class _Draws:
    """Rates of the systems over one set of draws of speakers."""

    def __init__(self, scores: Scores) -> None:
        self.scores = scores
        self.drawn = SpeakerBootstrap(
            scores.meta["speaker"], seed=scores.seed, clip=scores.protocol.clip
        )

    def rates(self, system: str) -> tuple[float, _Floats]:
        counts = self.scores.counts[system]
        return self.drawn.rate(counts).value, self.drawn.resampled(counts)

    def row(
        self,
        metric: str,
        system: str,
        against: str,
        domain: str,
        value: float | None,
        draws: _Floats | None,
        why_not: str = "",
    ) -> Row:
        """Return a row; where there are no draws, `why_not` is the reason."""
        low, high, reason = None, None, why_not
        if self.drawn.n_speakers < 2 and value is not None:
            reason = ONE_SPEAKER
        elif draws is not None:
            (low, high), reason = np.percentile(draws, PERCENTILES).tolist(), ""
        row: Row = {"system": system, "against": against, "metric": metric}
        row |= {"unit": self.scores.metric, "domain": domain, "value": value}
        row |= {"low": low, "high": high, "n_utterances": len(self.scores)}
        row |= {"n_speakers": self.drawn.n_speakers, **self.scores.protocol.fields()}
        return row | ({"reason": reason} if reason else {})
