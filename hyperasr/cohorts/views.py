"""Views: one utterance as a simulated person would say it, planned ahead and made on the fly."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from hyperasr.audio import load
from hyperasr.cohorts.simulate import COHORTS, VERSION, simulate
from hyperasr.errors import AudioError, ConfigError
from hyperasr.types import Utterance

__all__ = ["TYPICAL", "View", "plan_views", "realise"]

TYPICAL = "typical"
_CONTENT_BYTES = 2**18  # 8 s of 16-bit samples at 16 kHz


@dataclass(frozen=True)
class View:
    """One utterance in one simulated condition.

    Attributes:
        utterance: the typical recording it is made from.
        cohort: a simulated cohort, or ``typical`` for the recording as it is.
        severity: in [0, 1].
        person: names the simulated person, whose traits all of their utterances share.
        seed: of what varies from utterance to utterance.
    """

    utterance: Utterance
    cohort: str
    severity: float
    person: str
    seed: int

    @property
    def id(self) -> str:
        """Unique within a plan."""
        return f"{self.utterance.id}/{self.person}/{self.severity:.3f}/{self.seed}"

    @property
    def key(self) -> str:
        """What the view's content depends on, for caches."""
        u = self.utterance
        said = (u.id, u.text_clean or u.text, u.start_s, u.end_s, u.speaker, u.source)
        return repr((*said, self.cohort, self.severity, self.person, self.seed, VERSION))


def plan_views(
    utterances: Iterable[Utterance],
    *,
    seed: int,
    cohorts: Sequence[str] = (*COHORTS, TYPICAL),
    severities: Sequence[float] | None = None,
    people_per_speaker: int = 1,
    typical_share: float = 1.0,
) -> list[View]:
    """Plan one view of every utterance in every cohort.

    Args:
        utterances: typical recordings with text.
        seed: of people, severities and moments; another seed gives other people.
        cohorts: which cohorts; ``typical`` leaves the recording as it is.
        severities: fixed levels, taken in turn within a speaker and cohort; None draws uniformly
            from [0.1, 1] for each person, so that a person keeps their severity.
        people_per_speaker: simulated people that share one real voice in each cohort.
        typical_share: share of the utterances that also get their typical view, in [0, 1].
    Raises:
        ConfigError: an unknown cohort, a severity outside [0, 1], or nobody to simulate.
    """
    _check_plan(cohorts, severities, people_per_speaker)
    views: list[View] = []
    turn: dict[tuple[str, str], int] = {}
    for utterance in utterances:
        for cohort in cohorts:
            rng = random.Random(f"{seed}/{utterance.id}/{cohort}")
            if cohort == TYPICAL:
                if rng.random() < typical_share:
                    views.append(View(utterance, TYPICAL, 0.0, utterance.speaker, 0))
                continue
            k = rng.randrange(people_per_speaker)
            person = f"{utterance.speaker}-{cohort}-{seed}-{k}"
            if severities is None:
                severity = random.Random(person).uniform(0.1, 1.0)
            else:
                index = turn.get((utterance.speaker, cohort), 0)
                turn[utterance.speaker, cohort] = index + 1
                severity = severities[index % len(severities)]
            views.append(View(utterance, cohort, severity, person, rng.getrandbits(31)))
    return views


def _check_plan(
    cohorts: Sequence[str], severities: Sequence[float] | None, people_per_speaker: int
) -> None:
    unknown = [cohort for cohort in cohorts if cohort not in (*COHORTS, TYPICAL)]
    if unknown:
        raise ConfigError(f"no cohort {unknown[0]!r}; there are {', '.join((*COHORTS, TYPICAL))}")
    if severities is not None and not (severities and all(0 <= s <= 1 for s in severities)):
        raise ConfigError(f"severities are {list(severities)}; give some, each in [0, 1]")
    if people_per_speaker < 1:
        raise ConfigError(f"people_per_speaker is {people_per_speaker}; it must be at least 1")


def realise(view: View) -> tuple[np.ndarray, str]:
    """Return the waveform (n_samples,) float32, 16 kHz, and the intended text of a view."""
    u = view.utterance
    waveform = load(u.path, start_s=u.start_s, end_s=u.end_s)
    text = u.text_clean or u.text or ""
    if view.cohort == TYPICAL:
        return waveform, text
    made = simulate(waveform, text, view.cohort, view.severity, seed=view.seed, speaker=view.person)
    return made.waveform, made.text


def plan_key(views: Sequence[View]) -> str:
    """Return 16 hex digits that identify a plan and the recordings it is made from.

    Raises:
        AudioError: a recording cannot be read.
    """
    digest = hashlib.sha256()
    contents: dict[str, bytes] = {}
    for view in views:
        path = view.utterance.path
        if path not in contents:
            contents[path] = _content(path)
        digest.update(view.key.encode() + b"\n" + contents[path])
    return digest.hexdigest()[:16]


def _content(path: str) -> bytes:
    """Tell recordings apart by content, not by name: their size and first seconds."""
    try:
        with open(path, "rb") as file:
            head = file.read(_CONTENT_BYTES)
            return hashlib.sha256(f"{os.fstat(file.fileno()).st_size}/".encode() + head).digest()
    except OSError as error:
        raise AudioError(f"{path}: cannot be read ({error.strerror})") from error
