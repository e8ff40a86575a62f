"""What the backbone was trained on it knows by heart; spliced, it has to listen again."""

from __future__ import annotations

import json
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from eval import known_by_heart as program
from hyperasr.backbone import Backbone
from hyperasr.cohorts.manifest import write_manifest
from hyperasr.errors import ConfigError
from hyperasr.types import Utterance
from train.augment import FeatureVariety
from train.typical import an4_utterances


def test_texts_are_those_of_each_alone(random_backbone: Backbone, voice: Any) -> None:
    waveforms = [voice(0.5 + 0.2 * k, 100.0 + 30 * k) for k in range(5)]
    alone = [program.texts(random_backbone, [waveform])[0] for waveform in waveforms]
    assert program.texts(random_backbone, waveforms) == alone
    assert any(alone)
    stretched = program.texts(random_backbone, waveforms, FeatureVariety(0.3, 0.3))
    assert stretched != alone


@pytest.mark.slow
def test_sentences_known_by_heart_are_not_known_spliced(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = an4_utterances(shared_data / "an4-train")
    chosen: dict[str, list[Utterance]] = {}
    for split, n in (("train", 60), ("dev", 20)):
        chosen[split] = [row for row in rows if row.split == split][:n]
        write_manifest(tmp_path / f"{split}.jsonl", chosen[split])
    out = tmp_path / "known.json"
    manifests = ["--seen", str(tmp_path / "train.jsonl"), "--unseen", str(tmp_path / "dev.jsonl")]
    options = ["--splice.per_speaker", "4", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["known_by_heart", *manifests, *options])
    program.main()
    found = {(r["speakers"], r["speech"]): r for r in json.loads(out.read_text())["rows"]}
    assert sorted(found) == sorted(product(("seen", "unseen"), program.SPEECH))
    assert found["seen", "recorded"]["n_utterances"] == 60
    assert found["seen", "recorded"]["value"] < 0.01 < found["unseen", "recorded"]["value"]
    assert found["seen", "stretched"]["value"] < 0.02
    assert found["seen", "spliced"]["value"] > 0.1


def test_manifest_without_the_corpus_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "some.jsonl"
    write_manifest(path, [Utterance(id="a", path="a.wav", text="one", speaker="a")])
    monkeypatch.setattr(sys, "argv", ["known_by_heart", "--seen", str(path)])
    with pytest.raises(ConfigError, match="holds no recording of an4"):
        program.main()
