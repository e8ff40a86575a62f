"""Simulated corpora: what is on disk is the plan, whoever made it and however often it stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from hyperasr.audio.reading import load
from hyperasr.cohorts import simulated_corpus as room
from hyperasr.cohorts.manifest import read_manifest
from hyperasr.cohorts.simulate import COHORTS, simulate
from hyperasr.cohorts.simulated_corpus import simulate_corpus
from hyperasr.cohorts.views import plan_views
from hyperasr.errors import ConfigError, ManifestError
from hyperasr.types import Utterance


@pytest.fixture(scope="module")
def typical(tmp_path_factory: pytest.TempPathFactory, speech: tuple[np.ndarray, str]) -> list:
    folder = tmp_path_factory.mktemp("typical")
    rows = []
    for i, speaker in enumerate(("anna", "ben")):
        path = folder / f"{speaker}.wav"
        sf.write(path, speech[0][: 12_000 + 4_000 * i], 16_000)
        text = " ".join(speech[1].split()[: 2 + i])
        rows.append(Utterance(f"box {i}/ä", str(path), text, speaker, source="box"))
    return rows


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_corpus_is_the_plan(typical: list[Utterance], tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    made = simulate_corpus(
        typical, tmp_path, severities=(0.4, 0.8), seed=5, progress=lambda *n: seen.append(n)
    )
    assert (made.n_written, made.n_kept, made.failed) == (6, 0, ())
    assert seen == [(i, 6) for i in range(7)]
    rows = read_manifest(made.manifest)
    views = plan_views(typical, seed=5, cohorts=COHORTS, severities=(0.4, 0.8))
    assert [row.id for row in rows] == [view.id for view in views]
    for row, view in zip(rows, views, strict=True):
        wave = load(view.utterance.path)
        twin = simulate(
            wave, view.utterance.text, view.cohort, view.severity,
            seed=view.seed, speaker=view.person,
        )  # fmt: skip
        assert np.abs(load(row.path) - twin.waveform).max() < 2**-14, "16 bits"
        assert (row.text, row.text_clean) == (twin.verbatim, twin.text)
        assert (row.cohort, row.severity, row.speaker) == (view.cohort, view.severity, view.person)
        labels = json.loads(Path(row.path).with_suffix(".json").read_text())
        assert labels["simulated"] is True
        assert [e["kind"] for e in labels["events"]] == [e.kind for e in twin.events]


def test_interrupted_runs_go_on_and_end_alike(
    typical: list[Utterance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = simulate_corpus(typical, tmp_path / "whole", seed=1)
    write = room.atomic_write_bytes
    count = 0

    def stops(path: Path, data: bytes) -> Path:
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(room, "atomic_write_bytes", stops)
        with pytest.raises(KeyboardInterrupt):
            simulate_corpus(typical, tmp_path / "cut", seed=1)
    again = simulate_corpus(typical, tmp_path / "cut", seed=1)
    assert (again.n_written, again.n_kept) == (4, 2)
    assert content(tmp_path / "cut") == content(tmp_path / "whole")
    assert simulate_corpus(typical, tmp_path / "whole", seed=1).n_written == 0
    changed = [typical[0], replace(typical[1], text="music")]
    assert simulate_corpus(changed, tmp_path / "whole", seed=1).n_written == 3, "not believed"
    assert whole.n_written == 6


def test_labels_of_an_earlier_run_do_not_pass_for_those_of_a_new_recording(
    typical: list[Utterance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stops(*_: object) -> Path:
        raise KeyboardInterrupt

    kept = simulate_corpus(typical, tmp_path, cohorts=("stuttering",), seed=1) and content(tmp_path)
    changed = [replace(row, text="music and music") for row in typical]
    with monkeypatch.context() as patch:
        patch.setattr(room, "atomic_write_text", stops)  # after the recording
        with pytest.raises(KeyboardInterrupt):
            simulate_corpus(changed, tmp_path, cohorts=("stuttering",), seed=1)
    assert content(tmp_path) != kept
    simulate_corpus(typical, tmp_path, cohorts=("stuttering",), seed=1)
    assert content(tmp_path) == kept


def test_files_made_from_another_recording_are_made_again(
    typical: list[Utterance], tmp_path: Path
) -> None:
    row = replace(typical[0], path=str(tmp_path / "a.wav"))
    options = {"cohorts": ["parkinson", "parkinson"], "seed": 1}
    for source in typical:
        Path(row.path).write_bytes(Path(source.path).read_bytes())
        made = simulate_corpus([row], tmp_path / "out", **options)
        assert (made.n_written, made.n_kept) == (1, 0)
        (simulated,) = read_manifest(made.manifest)
        assert len(load(simulated.path)) == pytest.approx(len(load(source.path)), rel=0.4)
    assert simulate_corpus([row], tmp_path / "out", **options).n_kept == 1
    Path(row.path).unlink()
    with pytest.raises(ManifestError, match=r"no recording could be simulated.*a\.wav"):
        simulate_corpus([row], tmp_path / "out", **options)


def test_rows_of_one_channel_can_be_read(typical: list[Utterance], tmp_path: Path) -> None:
    sides = np.stack([np.zeros(12_000), sf.read(typical[0].path)[0]], axis=1)
    sf.write(tmp_path / "call.wav", sides, 16_000)
    extra = {"channel": "1", "mic": "head"}
    row = replace(typical[0], path=str(tmp_path / "call.wav"), extra=extra)
    made = simulate_corpus([row], tmp_path / "out", cohorts=("parkinson",))
    (simulated,) = read_manifest(made.manifest)
    assert len(load(simulated.path, channel=simulated.channel))
    assert simulated.extra == {"mic": "head"}


@pytest.mark.slow
def test_processes_make_the_same(typical: list[Utterance], tmp_path: Path) -> None:
    for workers in (1, 2):
        simulate_corpus(typical, tmp_path / str(workers), seed=2, workers=workers)
    assert content(tmp_path / "1") == content(tmp_path / "2")


def test_one_bad_recording_is_reported_and_the_rest_goes_on(
    typical: list[Utterance], tmp_path: Path
) -> None:
    bad = replace(typical[0], id="lost", path=str(tmp_path / "none.wav"))
    made = simulate_corpus([bad, typical[1]], tmp_path / "out", cohorts=("parkinson",))
    assert [name for name, _ in made.failed] == ["lost"]
    assert "none.wav" in made.failed[0][1]
    assert len(read_manifest(made.manifest)) == 1
    with pytest.raises(ManifestError, match=r"no recording could be simulated.*none\.wav"):
        simulate_corpus([bad], tmp_path / "nothing", cohorts=("parkinson",))
    assert not (tmp_path / "nothing" / "manifest.jsonl").exists()
    with pytest.raises(ConfigError, match="no cohort"):
        simulate_corpus(typical, tmp_path / "out", cohorts=("measles",))


def test_only_typical_rows_are_simulated_on(typical: list[Utterance], tmp_path: Path) -> None:
    patient = replace(typical[0], id="patient", speaker="F01", cohort="dysarthria")
    made = simulate_corpus([*typical, patient], tmp_path, cohorts=("stuttering",), seed=5)
    rows = read_manifest(made.manifest)
    assert made.n_left_out == 1
    assert {row.domain for row in rows} == {"simulated"}
    assert not any(row.id.startswith("patient") for row in rows)
    with pytest.raises(ManifestError, match="none of the 1 rows is typical"):
        simulate_corpus([patient], tmp_path)
