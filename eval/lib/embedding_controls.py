"""Controls: what a conditioned system does when the embedding is not the utterance's own.

- ``shuffled``: the embedding of an utterance of another speaker.
- ``mean``: the mean over the training utterances for everybody: no information at all.
- ``cohort_mean``: the mean over the same cohort's utterances of all *other* test speakers: what
  kind of speech it is (an oracle says), and nothing about the person.
- ``same_speaker``: another utterance of the same (simulated) person, of the same severity where
  there is one: the person, and nothing of this utterance.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

log = logging.getLogger(__name__)

CONTROLS = ("shuffled", "mean", "cohort_mean", "same_speaker")


def impossible(control: str, speakers: Sequence[str], cohorts: Sequence[str]) -> str | None:
    """Return why a control means nothing on rows of these speakers and cohorts; None if it does."""
    if control == "shuffled" and len(set(speakers)) < 2:
        return "there is one speaker, and nobody else's embedding to take"
    if control != "cohort_mean":
        return None
    if len(set(cohorts)) < 2:
        return "there is one cohort, so that its mean tells nothing about the kind of speech"
    for cohort in sorted(set(cohorts)):
        if len({s for s, c in zip(speakers, cohorts, strict=True) if c == cohort}) < 2:
            return f"the cohort {cohort!r} has one speaker, and nobody else to take the mean of"
    return None


def control_embeddings(
    control: str,
    embs: Tensor,
    training_mean: Tensor,
    *,
    speakers: Sequence[str],
    persons: Sequence[str],
    cohorts: Sequence[str],
    severities: Sequence[float | None],
    seed: int,
) -> Tensor:
    """Return the embeddings (n_rows, d_spk) that a control puts in the place of `embs`.

    Args:
        control: one of `CONTROLS`.
        embs: the rows' own embeddings (n_rows, d_spk).
        training_mean: mean embedding of the training rows (d_spk,).
        speakers, persons, cohorts, severities: of each row.
        seed: of the shuffling.
    """
    if control == "shuffled":
        return embs[shuffled_across_speakers(speakers, seed)]
    if control == "mean":
        return training_mean.to(embs).expand_as(embs)
    if control == "cohort_mean":
        return cohort_mean(embs, cohorts, speakers)
    return embs[same_speaker_partner(persons, severities)]


def shuffled_across_speakers(speakers: Sequence[str], seed: int) -> list[int]:
    """Return for each row another row, of another speaker, each used once where possible.

    Where one speaker has more rows than all others, some rows of the others are used again.
    """
    generator = torch.Generator().manual_seed(seed)
    order = sorted(range(len(speakers)), key=lambda i: speakers[i])
    # Rotating rows sorted by speaker by more than the largest speaker always changes the speaker.
    largest = max(speakers.count(s) for s in set(speakers))
    span = max(len(order) - 2 * largest + 1, 1)
    shift = largest + int(torch.randint(span, (1,), generator=generator))
    partner = [0] * len(order)
    for position, row in enumerate(order):
        partner[row] = order[(position + shift) % len(order)]
        if speakers[partner[row]] == speakers[row]:
            others = [other for other in order if speakers[other] != speakers[row]]
            partner[row] = others[position % len(others)]
    return partner


def cohort_mean(embs: Tensor, cohorts: Sequence[str], speakers: Sequence[str]) -> Tensor:
    """Return each row's mean embedding (n_rows, d_spk) of its cohort over all other speakers."""
    means: dict[tuple[str, str], Tensor] = {}
    for cohort in sorted(set(cohorts)):
        own = [i for i, c in enumerate(cohorts) if c == cohort]
        total = embs[own].double().sum(0)
        for name in {speakers[i] for i in own}:
            rows = [i for i in own if speakers[i] == name]
            rest = total - embs[rows].double().sum(0)
            means[cohort, name] = (rest / (len(own) - len(rows))).to(embs.dtype)
    return torch.stack([means[c, s] for c, s in zip(cohorts, speakers, strict=True)])


def same_speaker_partner(persons: Sequence[str], severities: Sequence[float | None]) -> list[int]:
    """Return for each row another row of the same person, of the same severity where there is one.

    A person with a single utterance has no other one; the row stands for itself, and the log says
    how many do.
    """
    partner = list(range(len(persons)))
    for keys in (list(persons), list(zip(persons, severities, strict=True))):
        groups: dict[object, list[int]] = {}
        for row, key in enumerate(keys):
            groups.setdefault(key, []).append(row)
        for rows in groups.values():
            if len(rows) > 1:
                for position, row in enumerate(rows):
                    partner[row] = rows[(position + 1) % len(rows)]
    alone = sum(row == other for row, other in enumerate(partner))
    if alone:
        log.warning(
            "same-speaker control: %d of %d rows have no other utterance of the same person and "
            "keep their own embedding",
            alone,
            len(partner),
        )
    return partner
