"""From K posterior samples of an utterance to one transcript and to doubt about its words.

The transcript is one of the samples: the one with the fewest word edits to all of them together
(minimum Bayes risk). Voting word by word (ROVER) was the other choice; it can put together a
sentence that no sample holds and that the adapted decoder never scored. Texts are compared as they
are, so normalise them first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import jiwer

from hyperasr.metrics.error_rates import word_edits


def consensus(samples: Sequence[str], scores: Sequence[float]) -> str:
    """Return the sample with the smallest expected number of word edits to all samples.

    Args:
        samples: normalised texts, at least one; they count the same, being draws.
        scores: of each sample, such as its mean log-probability: among samples of equal expected
            edits the highest score wins, then the first one.
    Returns:
        Its words, separated by single spaces.
    Source: Stolcke, König and Weintraub 1997, Explicit word error minimization in N-best list
        rescoring, Eurospeech; Goel and Byrne 2000, Minimum Bayes-risk automatic speech
        recognition, Computer Speech and Language 14.
    """
    texts = [" ".join(text.split()) for text in samples]
    counts = Counter(texts)
    # Samples are often the same text: each pair of different ones is aligned once.
    distinct = list(counts)
    edits = dict.fromkeys(distinct, 0.0)
    for i, first in enumerate(distinct):
        for second in distinct[i + 1 :]:
            distance = word_edits(first, second).errors
            edits[first] += counts[second] * distance
            edits[second] += counts[first] * distance
    best = min(range(len(texts)), key=lambda k: (edits[texts[k]], -scores[k]))
    return texts[best]


def disagreement(text: str, samples: Sequence[str]) -> tuple[float, ...]:
    """Hold a transcript, such as the posterior mean's, against samples.

    Args:
        text: normalised.
        samples: normalised, at least one.
    Returns:
        For each word of `text` the share of samples that have another word or none in its place.
    """
    different = [0] * len(text.split())
    for sample, count in Counter(" ".join(s.split()) for s in samples).items():
        for i, agrees in enumerate(word_correctness(sample, text)):
            different[i] += 0 if agrees else count
    return tuple(n / len(samples) for n in different)


def word_correctness(reference: str, hypothesis: str) -> list[bool]:
    """Say of each word of the hypothesis whether the best alignment gives it the same word.

    Words that the reference has and the hypothesis has not show nowhere here: confidence of words
    cannot be held against what was not written.
    """
    words, others = hypothesis.split(), reference.split()
    same = [False] * len(words)
    if words and others:
        for chunk in jiwer.process_words(" ".join(words), " ".join(others)).alignments[0]:
            if chunk.type == "equal":
                for i in range(chunk.ref_start_idx, chunk.ref_end_idx):
                    same[i] = True
    return same
