"""From K posterior samples of an utterance to one transcript and to doubt about its words.

The transcript is one of the samples: the one with the fewest word edits to all of them together
(minimum Bayes risk). Voting word by word (ROVER) was the other choice; it can put together a
sentence that no sample holds and that the adapted decoder never scored. Texts are compared as they
are, so normalise them first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import jiwer

from hyperasr.errors import ConfigError


@dataclass(frozen=True)
class Consensus:
    """One transcript of several samples.

    Attributes:
        index: number of the sample it is.
        text: its words, separated by single spaces.
        expected_edits: mean word edits to a sample, its own 0 included.
        disagreement: of each word, the share of the samples that have another word or none in its
            place, in [0, 1 - 1/K].
        missing: words that the samples have and the transcript has not, mean over the samples:
            doubt that no word of the transcript can show.
    """

    index: int
    text: str
    expected_edits: float
    disagreement: tuple[float, ...]
    missing: float


def consensus(samples: Sequence[str], scores: Sequence[float] | None = None) -> Consensus:
    """Choose the sample with the smallest expected number of word edits to all samples.

    Args:
        samples: normalised texts, at least one; they count the same, being draws.
        scores: of each sample, such as its mean log-probability: among samples of equal expected
            edits the highest score wins, then the lowest index.
    Raises:
        ConfigError: there are no samples, or not one score each.
    Source: Stolcke, König and Weintraub 1997, Explicit word error minimization in N-best list
        rescoring, Eurospeech; Goel and Byrne 2000, Minimum Bayes-risk automatic speech
        recognition, Computer Speech and Language 14.
    """
    if not samples:
        raise ConfigError("a consensus needs at least one sample")
    if scores is not None and len(scores) != len(samples):
        raise ConfigError(f"{len(samples)} samples with {len(scores)} scores; give one each")
    texts = [" ".join(text.split()) for text in samples]
    counts = Counter(texts)
    # Samples are often the same text: each pair of different ones is aligned once.
    distinct = list(counts)
    edits = {text: 0 for text in distinct}
    for i, first in enumerate(distinct):
        for second in distinct[i + 1 :]:
            distance = _distance(first, second)
            edits[first] += counts[second] * distance
            edits[second] += counts[first] * distance
    ranks = [0.0] * len(texts) if scores is None else [-score for score in scores]
    index = min(range(len(texts)), key=lambda k: (edits[texts[k]], ranks[k], k))
    chosen = texts[index]
    doubt, missing = disagreement(chosen, texts)
    return Consensus(index, chosen, edits[chosen] / len(texts), doubt, missing)


def disagreement(text: str, samples: Sequence[str]) -> tuple[tuple[float, ...], float]:
    """Hold a transcript, such as the posterior mean's, against samples.

    Args:
        text: normalised.
        samples: normalised, at least one.
    Returns:
        For each word of `text` the share of samples that have another word or none in its place;
        and the number of words that samples have beyond it, mean over the samples.
    Raises:
        ConfigError: there are no samples.
    """
    if not samples:
        raise ConfigError("disagreement needs at least one sample")
    n_words = len(text.split())
    different, added = [0] * n_words, 0
    for sample, count in Counter(" ".join(s.split()) for s in samples).items():
        same, inserted = word_matches(text, sample)
        for i, agrees in enumerate(same):
            different[i] += 0 if agrees else count
        added += count * inserted
    return tuple(n / len(samples) for n in different), added / len(samples)


def word_correctness(reference: str, hypothesis: str) -> list[bool]:
    """Say of each word of the hypothesis whether the best alignment gives it the same word.

    Words that the reference has and the hypothesis has not show nowhere here: confidence of words
    cannot be held against what was not written.
    """
    return word_matches(hypothesis, reference)[0]


def word_matches(text: str, other: str) -> tuple[list[bool], int]:
    """Align two texts; returns whether each word of `text` stands in `other`, and how many words
    of `other` stand beside nothing."""
    words, others = text.split(), other.split()
    if not words or not others:
        return [False] * len(words), len(others)
    same, beyond = [False] * len(words), 0
    for chunk in jiwer.process_words(" ".join(words), " ".join(others)).alignments[0]:
        if chunk.type == "equal":
            for i in range(chunk.ref_start_idx, chunk.ref_end_idx):
                same[i] = True
        elif chunk.type == "insert":
            beyond += chunk.hyp_end_idx - chunk.hyp_start_idx
    return same, beyond


def _distance(first: str, second: str) -> int:
    """Count word edits; the texts are single-spaced and may be empty."""
    if not first or not second:
        return len((first or second).split())
    output = jiwer.process_words(first, second)
    return output.substitutions + output.deletions + output.insertions
