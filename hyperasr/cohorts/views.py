"""Views: one utterance as it was recorded, or as a simulated person would say it.

Only typical speech is simulated on. What a manifest calls by any other cohort is a patient's own
recording, or one that a simulation made: it has one view, the recording as it is.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hyperasr.audio.reading import load
from hyperasr.cohorts.acoustics import change_place, change_speed
from hyperasr.cohorts.simulate import COHORTS, VERSION, check_simulated, simulate
from hyperasr.errors import AudioError, ConfigError
from hyperasr.types import Utterance

TYPICAL = "typical"
_CONTENT_BYTES = 2**18  # 8 s of 16-bit samples at 16 kHz


@dataclass(frozen=True)
class Variety:
    """What makes more speakers and places out of the recordings of a training plan."""

    speed: tuple[float, float] = (1.0, 1.0)
    """Range of the playback speed, one for each person: other pitch and vocal tract, [0.5, 2]."""
    place_share: float = 0.0
    """Share of the views in another room, noise and channel, in [0, 1]."""
    cohort_share: float = 1.0
    """Chance of a recording to be simulated in each cohort, in (0, 1]."""

    def __post_init__(self) -> None:
        low, high = self.speed
        if not 0.5 <= low <= high <= 2.0:
            raise ConfigError(f"speed is {self.speed}; give a range within [0.5, 2]")
        if not 0 <= self.place_share <= 1 or not 0 < self.cohort_share <= 1:
            raise ConfigError(
                f"place_share must be in [0, 1] and cohort_share in (0, 1], not "
                f"{self.place_share} and {self.cohort_share}"
            )


@dataclass(frozen=True)
class View:
    """One utterance in one condition: simulated, or as it was recorded.

    Attributes:
        utterance: the recording it is made from.
        cohort: a simulated cohort, or the utterance's own for the recording as it is.
        severity: in [0, 1]; None where nobody knows it.
        person: who speaks: a simulated person, whose traits all of their utterances share, or the
            utterance's speaker.
        seed: of what varies from utterance to utterance.
        speed: playback speed of the recording, before anything else.
        elsewhere: whether it is moved to another room, noise and channel, after all else.
    """

    utterance: Utterance
    cohort: str
    severity: float | None
    person: str
    seed: int
    speed: float = 1.0
    elsewhere: bool = False

    @property
    def id(self) -> str:
        """Unique within a plan."""
        severity = "unknown" if self.severity is None else f"{self.severity:.3f}"
        return f"{self.utterance.id}/{self.person}/{severity}/{self.seed}"

    @property
    def simulates(self) -> bool:
        """Whether the recording is changed by a simulation."""
        return self.cohort != self.utterance.cohort

    @property
    def domain(self) -> str:
        """``simulated``, here or when the recording was made, or ``recorded``."""
        return "simulated" if self.simulates else self.utterance.domain

    @property
    def key(self) -> str:
        """What the view's content depends on, for caches."""
        u = self.utterance
        said = (u.id, u.text_clean or u.text, u.start_s, u.end_s, u.speaker, u.source, u.cohort)
        side = () if u.channel is None else (u.channel,)
        how = (self.cohort, self.severity, self.person, self.seed, self.speed, self.elsewhere)
        return repr((*said, *side, *how, VERSION))


def plan_views(
    utterances: Iterable[Utterance],
    *,
    seed: int,
    cohorts: Sequence[str] = (*COHORTS, TYPICAL),
    severities: Sequence[float] | None = None,
    people_per_speaker: int = 1,
    typical_share: float = 1.0,
    variety: Variety | None = None,
) -> list[View]:
    """Plan the views of every utterance.

    A typical utterance has one in each of `cohorts`, where no share says less; one of any other
    cohort has one alone, the recording as it is: simulation is never done to a patient's.

    Args:
        utterances: recordings with text.
        seed: of people, severities and moments; another seed gives other people.
        cohorts: what becomes of typical utterances: cohorts to simulate, and ``typical`` for the
            recording as it is; may be empty.
        severities: fixed levels, taken in turn within a speaker and cohort; None draws uniformly
            from [0.1, 1] for each person, so that a person keeps their severity.
        people_per_speaker: simulated people that share one real voice in each cohort.
        typical_share: share of the typical utterances that also get their typical view, in [0, 1].
        variety: for training; None takes every typical recording once a cohort.
    Raises:
        ConfigError: a cohort that cannot be simulated, a severity outside [0, 1], or nobody to
            simulate.
    """
    for cohort in cohorts:
        if cohort != TYPICAL:
            check_simulated(cohort)
    if severities is not None and not (severities and all(0 <= s <= 1 for s in severities)):
        raise ConfigError(f"severities are {list(severities)}; give some, each in [0, 1]")
    if people_per_speaker < 1:
        raise ConfigError(f"people_per_speaker is {people_per_speaker}; it must be at least 1")
    variety = variety or Variety()
    views: list[View] = []
    turn: dict[tuple[str, str], int] = {}
    for utterance in utterances:
        if utterance.cohort != TYPICAL:
            views.append(
                View(utterance, utterance.cohort, utterance.severity, utterance.speaker, 0)
            )
            continue
        for cohort in cohorts:
            rng = random.Random(f"{seed}/{utterance.id}/{cohort}")
            share = typical_share if cohort == TYPICAL else variety.cohort_share
            if share < 1 and rng.random() >= share:
                continue
            if cohort == TYPICAL:
                view = View(utterance, TYPICAL, 0.0, utterance.speaker, 0)
            else:
                k = rng.randrange(people_per_speaker)
                person = f"{utterance.speaker}-{cohort}-{seed}-{k}"
                if severities is None:
                    severity = random.Random(person).uniform(0.1, 1.0)
                else:
                    index = turn.get((utterance.speaker, cohort), 0)
                    turn[utterance.speaker, cohort] = index + 1
                    severity = severities[index % len(severities)]
                view = View(utterance, cohort, severity, person, rng.getrandbits(31))
            views.append(_varied(view, variety, seed, rng))
    return views


def _varied(view: View, variety: Variety, seed: int, rng: random.Random) -> View:
    """Give a view of typical speech its voice and place; a speaker sounds otherwise by seed."""
    if variety.speed != (1.0, 1.0):
        if view.cohort == TYPICAL:
            view = replace(view, person=f"{view.person}-{TYPICAL}-{seed}-{view.seed}")
        speed = random.Random(f"{view.person}/speed").uniform(*variety.speed)
        view = replace(view, speed=round(speed, 4))
    return replace(view, elsewhere=rng.random() < variety.place_share)


def render_view(view: View) -> tuple[np.ndarray, str]:
    """Return the waveform (n_samples,) float32, 16 kHz, and the intended text of a view."""
    waveform, text, _ = _performed(view)
    if view.elsewhere:
        seed = int.from_bytes(hashlib.sha256(view.id.encode()).digest()[:8], "big")
        waveform = change_place(waveform, np.random.default_rng(seed))
    return waveform, text


def verbatim_text(view: View) -> str:
    """Return the verbatim text of a view: repetitions, part-words and fillers included.

    Raises:
        AudioError: the recording cannot be read.
    """
    u = view.utterance
    return _performed(view)[2] if view.simulates else u.text or u.text_clean or ""


def _performed(view: View) -> tuple[np.ndarray, str, str]:
    """Return the waveform of a view where it was recorded, and its intended and verbatim text."""
    u = view.utterance
    waveform = load(u.path, start_s=u.start_s, end_s=u.end_s, channel=u.channel)
    text = u.text_clean or u.text or ""
    if view.speed != 1.0:
        waveform = change_speed(waveform, view.speed)
    if not view.simulates:
        return waveform, text, text
    assert view.severity is not None
    simulated = simulate(
        waveform, text, view.cohort, view.severity, seed=view.seed, speaker=view.person
    )
    return simulated.waveform, simulated.text, simulated.verbatim


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
