"""Single words and short phrases cut out of longer recordings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import hyperasr
from hyperasr.audio.mel import SAMPLE_RATE
from hyperasr.audio.reading import load
from hyperasr.cohorts.manifest import read_manifest, write_manifest
from hyperasr.cohorts.views import TYPICAL
from hyperasr.hub import HyperASR
from hyperasr.metrics.error_rates import word_edits
from hyperasr.metrics.normalisers import normaliser
from train.data.words import WordsConfig, agreeing, main, pieces

DEMO = Path(hyperasr.__file__).parent / "assets" / "demo" / "manifest.jsonl"


@pytest.mark.parametrize(
    ("text", "hypothesis", "same"),
    [
        ("A cat sat.", "a cat, sat", [True, True, True]),
        ("A cat sat.", "a hat sat", [True, False, True]),
        ("the the end", "the end", [False, True, True]),
        ("A cat", "", [False, False]),
    ],
)
def test_agreeing(text: str, hypothesis: str, same: list[bool]) -> None:
    assert agreeing(text, hypothesis) == same


def test_pieces_lie_between_pauses() -> None:
    # a: 0.5 to 0.9, b: 0.9 to 1.4, pause, c: 2.0 to 2.1, d: 2.1 to 2.8, pause to the end
    times = [(0.5, 0.9), (0.9, 1.4), (2.0, 2.1), (2.1, 2.8)]
    found = list(pieces(times, [True, True, False, True], 3.0, longest=2))
    assert [(first, last) for first, last, *_ in found] == [(0, 1), (0, 2), (1, 2), (3, 4)]
    # Up to 0.15 s of the pauses stay, never more than half.
    assert [round(t, 3) for t in found[1][2:]] == [0.35, 1.55]
    assert [round(t, 3) for t in found[3][2:]] == [2.1, 2.9]
    assert not list(pieces([(0.0, 0.5), (0.5, 9.0)], [True, True], 9.0, longest=2))


def test_pieces_of_real_speech_say_their_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row for row in read_manifest(DEMO) if row.cohort == TYPICAL]
    write_manifest(tmp_path / "written.jsonl", rows)
    lines = [json.dumps({"id": row.id, "hypothesis": row.text}) for row in rows]
    (tmp_path / "written.lines.jsonl").write_text("\n".join(lines) + "\n")
    config = WordsConfig(tmp_path / "written.jsonl", tmp_path / "words.jsonl", per_recording=4)
    monkeypatch.setattr("train.data.words.read_config", lambda kind: config)
    main()
    cut = read_manifest(config.out)
    assert f"{len(cut)} pieces of 3 recordings" in capsys.readouterr().out
    assert len({row.id for row in cut}) == len(cut) >= 6
    assert {row.source for row in cut} == {"words"}
    model = HyperASR.from_pretrained("tiny.en")
    said, heard = [], []
    for row in cut:
        whole = next(other for other in rows if row.id.startswith(f"{other.id}/"))
        assert (row.text or "").lower().rstrip(".") in (whole.text or "").lower()
        waveform = load(row.path, start_s=row.start_s, end_s=row.end_s)
        said.append(row.text or "")
        heard.append(model.transcribe(waveform, SAMPLE_RATE).text)
    alike = normaliser("whisper")
    assert word_edits(alike(" ".join(said)), alike(" ".join(heard))).rate < 0.5
