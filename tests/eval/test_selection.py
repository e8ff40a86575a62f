"""Active selection: each order by hand, and one recording of each person enrolled."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from eval import selection
from eval.selection import STRATEGIES, SelectionConfig, farthest_first, keys_of, orders
from hyperasr.adapters import SourceConfig
from hyperasr.errors import ConfigError, ManifestError
from hyperasr.hub import HyperASR
from hyperasr.metrics.uncertainty import word_correctness
from hyperasr.speaker.encoder import SpeakerConfig
from tests.eval.running import run_program


def test_the_farthest_first_by_hand() -> None:
    # The mean is 2.2: 6 is farthest, then 0, then 3 (as far from both), then 1 or 2.
    embs = torch.tensor([[1.0], [6.0], [2.0], [0.0], [3.0], [1.2]])
    assert farthest_first(embs)[:4] == [1, 3, 4, 5]
    assert sorted(farthest_first(embs)) == list(range(6))
    assert farthest_first(torch.zeros(3, 2)) == [0, 1, 2]


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="'global_lora' is not among the systems"):
        SelectionConfig()


@pytest.fixture
def bayesian(random_backbone, random_backbone_folder, tmp_path) -> Path:
    """A random Bayesian hypernetwork whose samples differ."""
    source = SourceConfig(
        "bayes_hypernet", settings={"rank": 2, "sigma_start": 1.0, "bayesian": "both"}
    )
    model = HyperASR(random_backbone, SpeakerConfig(), source)
    model.save_pretrained(tmp_path / "bayes", backbone=str(random_backbone_folder))
    return tmp_path / "bayes"


@pytest.mark.slow
def test_one_recording_of_each_person(
    world, systems, bayesian, random_backbone_folder, train_here, tmp_path, monkeypatch
) -> None:
    settings = {
        "individual": tmp_path / "individual.yaml",
        "cohort": "stuttering",
        "k": [1],
        "held_out": 1,
        "n_samples": 3,
        "processes": 1,
        "runs": tmp_path / "runs",
    }
    loop = {"steps": 1, "clip_norm": 1e9, "tracker": "none", "log_every": 1}
    static = {"kind": "static", "settings": {"rank": 2}}
    settings["individual"].write_text(json.dumps({"source": static, "loop": loop, "workers": 1}))
    chosen = {"global_lora": systems["global_lora"], "bayes_hypernet": bayesian}
    config = world.config(random_backbone_folder, chosen, controls_of=())
    content = run_program(selection, config, tmp_path, monkeypatch, **settings)
    names = {*chosen, "backbone", "everything", *(f"{name}_1" for name in STRATEGIES)}
    rates = [row for row in content["rows"] if "errors" in row and "corpus" not in row]
    assert {row["system"] for row in rates} == names
    assert {row["n_utterances"] for row in rates} == {4}  # one of each of four speakers
    against = {(row["system"], row["against"]) for row in content["rows"] if "against" in row}
    assert ("longest_1", "random_1") in against
    assert ("longest_1", "everything") in against
    assert ("random_1", "random_1") not in against
    with pytest.raises(ManifestError, match="has 2 utterances, 6 are needed"):
        run_program(selection, config, tmp_path, monkeypatch, **{**settings, "k": [5]})


@pytest.mark.slow
def test_orders_by_hand(world, systems, bayesian, random_backbone, random_backbone_folder) -> None:
    from eval.lib.bench import Bench

    chosen = {"global_lora": systems["global_lora"], "bayes_hypernet": bayesian}
    config = SelectionConfig(
        world.config(random_backbone_folder, chosen, controls_of=()),
        cohort="typical",
        k=(1,),
        held_out=1,
        n_samples=3,
    )
    bench = Bench(config.bench, random_backbone)
    rows = [i for i, cohort in enumerate(bench.column("cohort")) if cohort == "typical"]
    keys = keys_of(config, bench, rows)
    written = bench.decoded("global_lora", rows).logprobs
    normalise = bench.protocol.normaliser
    for i, row in enumerate(rows):
        assert keys["longest"][row] == -bench.rows.n_frames[row]
        mean = sum(written[i]) / len(written[i]) if written[i] else 0
        assert keys["improbable"][row] == pytest.approx(mean)
        (own,) = bench.decode("bayes_hypernet", [row])
        samples = bench.decoded("bayes_hypernet", [row], n_samples=3).tokens
        wrong = []
        for tokens in samples:
            text = normalise(random_backbone.text(tokens))
            wrong += [not same for same in word_correctness(text, normalise(own))]
        share = sum(wrong) / len(wrong) if wrong else 0
        assert keys["disagreeing"][row] == pytest.approx(-share)
    assert any(keys["disagreeing"].values())
    persons = bench.column("person")
    for name, by_person in orders(config, bench).items():
        assert name in STRATEGIES
        for person, order in by_person.items():
            assert sorted(order) == [row for row in rows if persons[row] == person]
