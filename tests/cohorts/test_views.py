"""Views: who the simulated people are, how severe, and that a plan says it all."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf

from hyperasr.audio.reading import load
from hyperasr.cohorts.simulate import COHORTS
from hyperasr.cohorts.views import TYPICAL, Variety, View, plan_key, plan_views, render_view
from hyperasr.errors import AudioError, ConfigError
from hyperasr.types import Utterance

UTTERANCES = [
    Utterance(f"{speaker}{i}", f"/{speaker}{i}.wav", "words", speaker)
    for speaker in ("anna", "ben", "cleo")
    for i in range(8)
]


def by_person(views: list[View]) -> dict[str, set[float]]:
    severities = defaultdict(set)
    for view in views:
        severities[view.person].add(view.severity)
    return severities


def test_one_view_of_every_utterance_in_every_cohort() -> None:
    views = plan_views(UTTERANCES, seed=0)
    assert len(views) == len(UTTERANCES) * 4
    assert {(v.utterance.id, v.cohort) for v in views} == {
        (u.id, cohort) for u in UTTERANCES for cohort in (*COHORTS, TYPICAL)
    }
    assert len({view.id for view in views}) == len(views), "ids are unique"
    assert all(v.severity == 0.0 for v in views if v.cohort == TYPICAL)
    chosen = plan_views(UTTERANCES, seed=0, cohorts=("parkinson",))
    assert chosen == [v for v in views if v.cohort == "parkinson"]


def test_recorded_cohorts_are_never_simulated_on(tmp_path: Path) -> None:
    """A patient's recording has one view, itself, whatever a plan asks for."""
    sf.write(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, 8_000), 16_000)
    said = Utterance("a", str(tmp_path / "a.wav"), "words", "F01", cohort="dysarthria")
    rows = [said, replace(said, id="b", cohort="als", severity=0.75)]
    variety = Variety(speed=(0.8, 1.2), place_share=1.0, cohort_share=0.5)
    for more in ({}, {"severities": (0.3,)}, {"variety": variety}, {"cohorts": ()}):
        views = plan_views([*rows, *UTTERANCES[:1]], seed=0, people_per_speaker=3, **more)
        own = views[:2]
        assert [(v.cohort, v.severity, v.person) for v in own] == [
            ("dysarthria", None, "F01"),
            ("als", 0.75, "F01"),
        ]
        assert not any(v.simulates for v in own)
        assert [v.domain for v in own] == ["recorded", "recorded"]
        assert all(v.utterance.cohort == TYPICAL for v in views[2:])
        assert {v.domain for v in views[2:] if v.cohort != TYPICAL} <= {"simulated"}
    waveform, text = render_view(own[0])
    assert np.array_equal(waveform, load(said.path))
    assert text == "words"


def test_a_recording_that_a_simulation_made_stays_simulated() -> None:
    row = Utterance("a", "/a.flac", "words", "p", cohort="stuttering", domain="simulated")
    (view,) = plan_views([row], seed=0)
    assert (view.simulates, view.domain) == (False, "simulated")


def test_people_keep_their_severity() -> None:
    views = plan_views(UTTERANCES, seed=0, cohorts=COHORTS, people_per_speaker=2)
    people = by_person(views)
    assert len(people) == 3 * 3 * 2, "three voices, three cohorts, two people each"
    assert all(len(severities) == 1 for severities in people.values())
    levels = [next(iter(s)) for s in people.values()]
    assert len(set(levels)) == len(levels)
    assert min(levels) >= 0.1
    assert max(levels) <= 1.0
    assert max(levels) - min(levels) > 0.5, "over the whole range"
    voices = {view.person: view.utterance.speaker for view in views}
    assert all(v.utterance.speaker == voices[v.person] for v in views), "a person has one voice"


def test_fixed_severities_come_in_turn() -> None:
    views = plan_views(UTTERANCES, seed=0, severities=(0.3, 0.6, 0.9))
    for speaker in ("anna", "ben", "cleo"):
        for cohort in COHORTS:
            own = [v for v in views if (v.utterance.speaker, v.cohort) == (speaker, cohort)]
            assert [v.severity for v in own] == [0.3, 0.6, 0.9, 0.3, 0.6, 0.9, 0.3, 0.6]


def test_a_plan_is_its_seed() -> None:
    views = plan_views(UTTERANCES, seed=5)
    assert views == plan_views(UTTERANCES, seed=5)
    # Nor does a view depend on what else is planned.
    assert plan_views(UTTERANCES[3:4], seed=5) == [v for v in views if v.utterance.id == "anna3"]
    other = plan_views(UTTERANCES, seed=6)
    simulated = [(a, b) for a, b in zip(views, other, strict=True) if a.cohort != TYPICAL]
    assert not {a.person for a, _ in simulated} & {b.person for _, b in simulated}
    assert not {a.severity for a, _ in simulated} & {b.severity for _, b in simulated}
    assert all(a.seed != b.seed for a, b in simulated)


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0, 0), (0.5, 70, 130), (1.0, 200, 200)])
def test_typical_share(share: float, low: int, high: int) -> None:
    many = [Utterance(f"u{i}", "/u.wav", "words", "anna") for i in range(200)]
    views = plan_views(many, seed=0, cohorts=(TYPICAL,), typical_share=share)
    assert low <= len(views) <= high


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cohorts": ("stutering",)}, "no cohort 'stutering'"),
        ({"severities": ()}, "severities are"),
        ({"severities": (0.5, 1.5)}, "severities are"),
        ({"severities": (float("nan"),)}, "severities are"),
        ({"people_per_speaker": 0}, "people_per_speaker is 0"),
    ],
)
def test_impossible_plans(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_views(UTTERANCES, seed=0, **options)


@pytest.fixture
def recording(tmp_path: Path, speech: tuple[np.ndarray, str]) -> Utterance:
    waveform, text = speech
    sf.write(tmp_path / "a.wav", waveform, 16_000, subtype="FLOAT")
    return Utterance("a", str(tmp_path / "a.wav"), f"uh {text}", "anna", text_clean=text)


def test_a_typical_view_is_the_recording(
    recording: Utterance, speech: tuple[np.ndarray, str]
) -> None:
    view = View(recording, TYPICAL, 0.0, "anna", 0)
    waveform, text = render_view(view)
    assert np.array_equal(waveform, speech[0])
    assert text == speech[1], "the intended words"
    part = View(replace(recording, start_s=0.5, end_s=1.0), TYPICAL, 0.0, "anna", 0)
    assert np.array_equal(render_view(part)[0], speech[0][8_000:16_000])


def test_a_view_is_made_the_same_every_time(recording: Utterance) -> None:
    view = plan_views([recording], seed=1, cohorts=("stuttering",), severities=(0.8,))[0]
    waveform, text = render_view(view)
    again, _ = render_view(view)
    assert waveform.dtype == np.float32
    assert np.array_equal(waveform, again)
    assert text == recording.text_clean
    for changed in (
        replace(view, seed=view.seed + 1),
        replace(view, person="ben"),
        replace(view, severity=0.3),
        replace(view, cohort="parkinson"),
    ):
        other, _ = render_view(changed)
        assert other.shape != waveform.shape or not np.array_equal(other, waveform)


def test_the_key_of_a_plan_follows_its_recordings(recording: Utterance, tmp_path: Path) -> None:
    views = plan_views([recording], seed=1)
    key = plan_key(views)
    assert key == plan_key(list(views))
    assert key != plan_key(views[1:])
    data = Path(recording.path).read_bytes()
    Path(recording.path).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert len(data) < 2**18, "or the change would lie behind what is read"
    assert plan_key(views) != key
    Path(recording.path).unlink()
    with pytest.raises(AudioError, match=r"a\.wav: cannot be read"):
        plan_key(views)


def test_variety_makes_more_people_and_places() -> None:
    variety = Variety(speed=(0.8, 1.2), place_share=0.5, cohort_share=0.5)
    views = plan_views(UTTERANCES, seed=0, people_per_speaker=2, variety=variety)
    assert len({view.id for view in views}) == len(views)
    by_cohort = Counter(v.cohort for v in views)
    assert by_cohort[TYPICAL] == 24
    assert 0.3 * 72 < by_cohort.total() - 24 < 0.7 * 72
    assert 0.3 < np.mean([v.elsewhere for v in views]) < 0.7
    speeds = defaultdict(set)
    for view in views:
        speeds[view.person].add(view.speed)
        assert 0.8 <= view.speed <= 1.2
    assert all(len(s) == 1 for s in speeds.values()), "a person keeps their voice"
    assert len({next(iter(s)) for s in speeds.values()}) == len(speeds)
    plain = plan_views(UTTERANCES, seed=0, variety=Variety())
    assert plain == plan_views(UTTERANCES, seed=0), "nothing asked for, nothing changed"


def test_speed_comes_before_the_cohort_and_the_place_after_all(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    rng = np.random.default_rng(0)
    sf.write(path, rng.normal(0, 0.1, 16_000).astype(np.float32), 16_000)
    view = View(Utterance("a", str(path), "words", "anna"), TYPICAL, 0.0, "anna", 0)
    plain, _ = render_view(view)
    fast, text = render_view(replace(view, speed=1.25))
    assert len(fast) == pytest.approx(len(plain) / 1.25, abs=2)
    assert text == "words"
    moved, _ = render_view(replace(view, elsewhere=True))
    again, _ = render_view(replace(view, elsewhere=True))
    assert np.array_equal(moved, again)
    assert moved.shape == plain.shape
    assert not np.allclose(moved, plain)
    keys = {replace(view, **c).key for c in ({}, {"speed": 1.25}, {"elsewhere": True})}
    assert len(keys) == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"speed": (0.1, 1.0)}, "speed"),
        ({"speed": (1.2, 0.9)}, "speed"),
        ({"place_share": 1.5}, "place_share"),
        ({"cohort_share": 0.0}, "cohort_share"),
    ],
)
def test_senseless_variety_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Variety(**changes)


def test_a_caller_is_heard_alone(tmp_path: Path) -> None:
    path = tmp_path / "call.wav"
    sf.write(path, np.stack([np.zeros(8_000), np.full(8_000, 0.5)], axis=1), 16_000)
    row = Utterance("b", str(path), "words", "ben", extra={"channel": "1"})
    view = View(row, TYPICAL, 0.0, "ben", 0)
    assert render_view(view)[0] == pytest.approx(0.5, abs=1e-3)
    other = replace(view, utterance=replace(row, extra={"channel": "0"}))
    assert render_view(other)[0] == pytest.approx(0.0, abs=1e-3)
    assert view.key != other.key
