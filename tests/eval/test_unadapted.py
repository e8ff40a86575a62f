"""The recogniser alone: transformers' generate against itself, and every row of the program."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from eval import zero_shot
from eval.lib import bench as room
from eval.lib.bench import Bench
from eval.lib.systems import (
    BACKBONE,
    PLAIN,
    TRIMMED,
    TRIMMED_STOP,
    most_tokens,
    plain_tokens,
    view_of,
)
from eval.lib.testset import sets_of
from eval.zero_shot import ZeroShotConfig
from hyperasr.cohorts.manifest import read_manifest, write_manifest
from hyperasr.cohorts.simulate import COHORTS
from hyperasr.cohorts.views import render_view
from hyperasr.model import token_limits
from hyperasr.util.config import parse
from hyperasr.whisper.backbone import MARGIN_S, Backbone
from hyperasr.whisper.search import SearchConfig, text_only
from tests.eval.running import run_program

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def english_folder(random_backbone_folder, tmp_path_factory) -> Path:
    """A random Whisper of English alone that hears 30 s, and ends its texts now and then."""
    backbone = Backbone.from_pretrained(random_backbone_folder, audio_context="full")
    generation = backbone.whisper.generation_config
    generation.is_multilingual = False
    for name in ("lang_to_id", "task_to_id"):
        delattr(generation, name)
    size = backbone.whisper.config.vocab_size
    generation.suppress_tokens = list(range(backbone.eos + 1, size))
    generation.max_length = 40
    with torch.no_grad():
        backbone.whisper.model.decoder.embed_tokens.weight[backbone.eos] *= 8
    folder = tmp_path_factory.mktemp("english")
    backbone.save_pretrained(folder)
    return folder


@pytest.fixture
def alone(patients, english_folder) -> Bench:
    systems = (BACKBONE, PLAIN)
    return Bench(patients.config(english_folder, {}, unadapted=systems, simulate=("stuttering",)))


def test_the_committed_configuration() -> None:
    path = str(ROOT / "eval/configs/unadapted.yaml")
    config = parse(ZeroShotConfig, ["--config", path])
    assert config.out == Path("results/unadapted.json")
    assert not config.bench.systems
    whole, nonnative, an4 = sets_of(config.bench, config.more)
    assert whole.unadapted == nonnative.unadapted == (BACKBONE, PLAIN)
    assert whole.simulate == an4.simulate == COHORTS
    assert (an4.protocol, an4.apart) == ("spelled", ("an4",))


@pytest.mark.slow
def test_plain_is_transformers_generate(alone) -> None:
    """The slow twin: one recording at a time, features made by hand."""
    system = alone.systems[PLAIN]
    backbone = system.model.backbone
    assert backbone.whisper is alone.backbone.whisper, "the weights are not loaded twice"
    found = alone.decoded(PLAIN)
    assert most_tokens(backbone) == 40
    for row, (tokens, finished) in enumerate(zip(found.tokens, found.finished, strict=True)):
        mel, _ = backbone.features([render_view(alone.views[row])[0]])
        assert mel.shape[-1] == 3_000
        expected = backbone.whisper.generate(input_features=mel)[0].tolist()
        text = [token for token in expected if token != backbone.eos]
        assert list(tokens) == text
        assert finished == (len(text) < 40)
    assert 0 < sum(found.finished) < len(alone.views)
    some = view_of(system, alone.rows, alone.views)
    assert plain_tokens(backbone, some, [3, 1]).tokens == (found.tokens[3], found.tokens[1])


@pytest.mark.slow
def test_plain_hears_30_s_beside_systems_that_hear_less(
    patients, random_backbone, random_backbone_folder
) -> None:
    systems = (BACKBONE, PLAIN)
    config = patients.config(random_backbone_folder, {}, unadapted=systems, simulate=())
    bench = Bench(config, random_backbone)
    assert random_backbone.audio_context == "trimmed"
    assert bench.systems[PLAIN].model.backbone.audio_context == "full"
    assert len(bench.decode(PLAIN, [0, 1])) == 2
    assert bench.systems[PLAIN].fingerprint != bench.systems[BACKBONE].fingerprint
    assert bench.names() == [BACKBONE, PLAIN]


@pytest.mark.slow
def test_trimmed_hears_the_real_length_and_a_margin(patients, english_folder) -> None:
    systems = (BACKBONE, TRIMMED, TRIMMED_STOP)
    bench = Bench(patients.config(english_folder, {}, unadapted=systems, simulate=()))
    plain, stopped = (bench.systems[name] for name in systems[1:])
    assert (plain.stops, stopped.stops) == (False, True)
    assert plain.fingerprint != stopped.fingerprint
    short = plain.model.backbone
    assert (short.audio_context, short.margin_s) == ("trimmed", MARGIN_S)
    made = bench.decoded(TRIMMED, [0])
    mel, n_frames = short.features([render_view(bench.views[0])[0]])
    limit = token_limits((n_frames + 1) // 2)
    size = int(short.whisper.config.vocab_size)
    search = text_only(SearchConfig(stop=False), short.eos, size)
    twin = short.generate(short.encode(mel, n_frames), search, max_tokens=limit)
    assert made.tokens == twin.tokens
    assert len(bench.decode(TRIMMED_STOP, [0, 1])) == 2


@pytest.mark.slow
def test_the_program(alone, patients, tmp_path, monkeypatch, capsys) -> None:
    typical = [u for u in read_manifest(patients.test) if u.cohort == "typical"]
    spelled = [replace(u, path=str(Path(u.path).resolve()), source="an4") for u in typical]
    write_manifest(tmp_path / "an4.jsonl", spelled)
    an4 = {"test": str(tmp_path / "an4.jsonl"), "protocol": "spelled", "apart": ["an4"]}
    rows = run_program(zero_shot, alone.config, tmp_path, monkeypatch, more={"an4": an4})["rows"]
    printed = capsys.readouterr().out
    errors = [r for r in rows if "errors" in r and r["metric"] == "wer"]
    assert {r["system"] for r in errors} == {BACKBONE, PLAIN}
    main = [r for r in errors if r["protocol"] == "spoken"]
    places = {(r["cohort"], r["domain"], r.get("corpus")) for r in main if "severity" not in r}
    assert places == {
        ("stuttering", "simulated", None),
        ("stuttering", "simulated", "home"),
        *((c, "recorded", None) for c in ("atypical", "als", "cerebral_palsy", "typical")),
        *((c, "recorded", "home") for c in ("cerebral_palsy", "typical")),
        ("als", "recorded", "clinic"),
    }
    levels = {(r["cohort"], r["severity"]) for r in main if "severity" in r}
    assert {("stuttering", 0.25), ("stuttering", 0.5), ("als", 0.75)} < levels
    apart = [r for r in errors if r["protocol"] == "spelled"]
    assert {(r["cohort"], r["corpus"]) for r in apart} == {
        ("stuttering", "an4"),
        ("typical", "an4"),
    }
    differences = [r for r in rows if "against" in r]
    assert {(r["system"], r["against"]) for r in differences} == {(PLAIN, BACKBONE)}
    assert all("p_holm" in r for r in differences if r.get("p") is not None)
    assert "wer in percent, an4" in printed
    looks = [json.loads(line) for line in alone.config.looks.read_text().splitlines()]
    assert looks[-1]["systems"] == [BACKBONE, PLAIN]
    # An interrupted run goes on: what is there is not decoded again.
    monkeypatch.setattr(room, "plain_tokens", None)
    monkeypatch.setattr(room, "decode_tokens", None)
    again = run_program(zero_shot, alone.config, tmp_path, monkeypatch, more={"an4": an4})
    assert again["rows"] == rows
