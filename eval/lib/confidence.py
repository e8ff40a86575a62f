"""Words of transcripts with what several kinds of confidence claim about them, and the rows made
of it.

Claims about the same words, those of the posterior mean's transcript:

- ``token_logprob``: geometric mean probability of the word's tokens.
- ``probability``: the same through the model's own calibration, where it ships one: what
  `hyperasr transcribe` writes.
- ``disagreement``: share of the K posterior samples that agree, smoothed: it is never 0 or 1.
- ``combined``: logistic regression on the log odds of both; ``token_logprob_fitted`` and
  ``disagreement_fitted`` are the same with one of them, so that calibration compares like with
  like. Every speaker's claims come from a fit on other speakers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.lib.results import interval_fields
from hyperasr.errors import ConfigError
from hyperasr.metrics.calibration import (
    BINNINGS,
    PlattScaling,
    auroc,
    brier,
    clustered_interval,
    expected_calibration_error,
    log_odds,
    negative_log_likelihood,
    reliability,
    risk_coverage,
    smoothed,
)
from hyperasr.metrics.normalisers import Normaliser
from hyperasr.metrics.uncertainty import disagreement, word_correctness
from hyperasr.transcription.words import words_of
from hyperasr.types import Decoded
from hyperasr.whisper.backbone import Backbone

Row = dict[str, Any]
Floats = NDArray[np.float64]
N_BINS = 15  # of the calibration error
_FOLDS = 5


@dataclass(frozen=True)
class Said:
    """A normalised transcript, word by word.

    Attributes:
        words: after normalisation.
        probabilities: of each; a word that normalisation splits gives its own to every part.
        score: mean log-probability of the tokens.
    """

    words: tuple[str, ...]
    probabilities: tuple[float, ...]
    score: float

    @property
    def text(self) -> str:
        """The words, separated by single spaces."""
        return " ".join(self.words)


def said(decoded: Decoded, backbone: Backbone, normaliser: Normaliser) -> list[Said]:
    """Return the words of every decoded row as the normaliser leaves them.

    Raises:
        ConfigError: the normaliser joins words across a space, so that no word has a probability
            of its own.
    """
    found = []
    lines = zip(decoded.tokens, decoded.logprobs, decoded.score, strict=True)
    for tokens, logprobs, score in lines:
        words: list[str] = []
        probabilities: list[float] = []
        for word in words_of(backbone, tokens, logprobs):
            parts = normaliser(word.text).split()
            words += parts
            probabilities += [min(1.0, word.probability)] * len(parts)
        whole = normaliser(backbone.text(tokens))
        if whole != " ".join(words):
            raise ConfigError(
                f"normaliser {normaliser.name!r} changes words across spaces, so that they have no "
                "probability of their own; use the protocol 'spoken'"
            )
        found.append(Said(tuple(words), tuple(probabilities), score))
    return found


@dataclass(frozen=True)
class Words:
    """Words of many utterances: whether each is right, and what is claimed about it.

    Attributes:
        utterance, speaker: row number and speaker of each word.
        correct: whether it is the reference's word.
        claims: probability of being right, by kind of confidence.
    """

    utterance: NDArray[np.int64]
    speaker: NDArray[np.str_]
    correct: NDArray[np.bool_]
    claims: Mapping[str, Floats]

    def part(self, chosen: NDArray[np.int64]) -> Words:
        """Return some of the words."""
        claims = {name: values[chosen] for name, values in self.claims.items()}
        return Words(self.utterance[chosen], self.speaker[chosen], self.correct[chosen], claims)


def collect(
    transcripts: Sequence[Said],
    references: Sequence[str],
    samples: Sequence[Sequence[str]] | None,
    speakers: Sequence[str],
    calibration: PlattScaling | None = None,
) -> Words:
    """Align transcripts with references, and with posterior samples where there are any.

    Args:
        transcripts, references, speakers: one an utterance; references are normalised.
        samples: normalised texts of each utterance's samples; None for a point source.
        calibration: the model's own; None where it ships none.
    Raises:
        ConfigError: no word was written at all.
    """
    correct: list[bool] = []
    for made, reference in zip(transcripts, references, strict=True):
        correct += word_correctness(reference, made.text)
    if not correct:
        raise ConfigError("no word was recognised in any utterance; there is nothing to calibrate")
    probability = np.array([p for made in transcripts for p in made.probabilities])
    claims: dict[str, Floats] = {"token_logprob": probability}
    if calibration is not None:
        claims["probability"] = calibration(probability)
    if samples is not None:
        pairs = [(disagreement(m.text, s), s) for m, s in zip(transcripts, samples, strict=True)]
        claims["disagreement"] = np.concatenate(
            [smoothed(1 - np.array(d), len(s)) for d, s in pairs]
        )
    rows = np.repeat(np.arange(len(transcripts)), [len(made.words) for made in transcripts])
    return Words(rows, np.asarray(speakers, dtype=str)[rows], np.array(correct), claims)


def fitted(words: Words) -> Words:
    """Add claims by logistic regression, fitted across speakers; see the module.

    Words keep only the claims they had where there are fewer than two speakers, or where all words
    are right or all wrong: there is nothing to fit.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    n_speakers = len(set(words.speaker))
    if n_speakers < 2 or words.correct.all() or not words.correct.any():
        return words
    fit = [name for name in words.claims if name != "probability"]
    odds = {name: log_odds(words.claims[name]) for name in fit}
    claims = dict(words.claims)
    for name, column in odds.items():
        claims[f"{name}_fitted"] = _across_speakers(column[:, None], words)
    if len(odds) > 1:
        claims["combined"] = _across_speakers(np.stack(list(odds.values()), axis=1), words)
    return replace(words, claims=claims)


def platt_scaling(probabilities: Floats, correct: NDArray[np.bool_]) -> PlattScaling:
    """Return the Platt scaling of least negative log likelihood, without a penalty.

    Args:
        probabilities: that each word is right (n_words,).
        correct: whether it is (n_words,).
    Raises:
        ConfigError: all words are right, or all wrong.
    """
    from sklearn.linear_model import LogisticRegression

    if correct.all() or not correct.any():
        raise ConfigError(
            f"all {len(correct)} words are right, or all wrong: there is nothing to fit"
        )
    model = LogisticRegression(C=np.inf).fit(log_odds(probabilities)[:, None], correct)
    return PlattScaling(float(model.coef_[0, 0]), float(model.intercept_[0]))


def _across_speakers(features: Floats, words: Words) -> Floats:
    """Predict each speaker's words from a fit on the words of others (n_words,)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold

    claims = np.full(len(features), float(words.correct.mean()))
    folds = GroupKFold(min(_FOLDS, len(set(words.speaker))))
    for train, test in folds.split(features, words.correct, words.speaker):
        seen = words.correct[train]
        if seen.all() or not seen.any():
            continue  # these speakers get the mean
        model = LogisticRegression().fit(features[train], seen)
        claims[test] = model.predict_proba(features[test])[:, 1]
    return claims


def word_rows(words: Words, *, n_resamples: int, seed: int) -> list[Row]:
    """Return how well each kind of confidence does, with intervals, and AUROC differences.

    Each row has ``measure``, ``score`` (the kind of confidence), ``value`` with its interval,
    ``n_words``; calibration errors also their bins, ``aurc`` the area of a perfect ranking.
    """
    y = words.correct
    n_utterances = len(set(words.utterance))
    rows: list[Row] = []

    def add(
        measure: str, statistic: Callable[[NDArray[np.int64]], float], score: str, **more: Any
    ) -> None:
        interval = clustered_interval(
            statistic,
            list(words.speaker),
            n_utterances=n_utterances,
            n_resamples=n_resamples,
            seed=seed,
        )
        about: Row = {"measure": measure, "level": "word", "score": score, **more}
        rows.append({**about, **interval_fields(interval), "n_words": len(y)})

    for name, p in words.claims.items():
        add("auroc", lambda i, p=p: auroc(1 - p[i], ~y[i]), name)
        add("nll", lambda i, p=p: negative_log_likelihood(p[i], y[i]), name)
        add("brier", lambda i, p=p: brier(p[i], y[i]), name)
        for how in BINNINGS:
            bins = [vars(b) for b in reliability(p, y, N_BINS, how)]

            def gap(i: NDArray[np.int64], p: Floats = p, how: str = how) -> float:
                return expected_calibration_error(p[i], y[i], N_BINS, how)

            add(f"ece_{how}", gap, name, n_bins=N_BINS, bins=bins)
        perfect = risk_coverage(1 - p, ~y).oracle
        add("aurc", lambda i, p=p: risk_coverage(1 - p[i], ~y[i]).area, name, oracle=perfect)
    # A fit in folds shifts speakers against each other and costs a little rank: `combined` is held
    # against the plain probability, and against one that was fitted in the same way.
    for name, base in (
        ("disagreement", "token_logprob"),
        ("combined", "token_logprob"),
        ("combined", "token_logprob_fitted"),
    ):
        if name in words.claims:
            p, q = words.claims[name], words.claims[base]
            add(
                "auroc_difference",
                lambda i, p=p, q=q: auroc(1 - p[i], ~y[i]) - auroc(1 - q[i], ~y[i]),
                name,
                base=base,
            )
    return rows
