"""Exported folders, read back by the programs they are for."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

import hyperasr
from hyperasr.adapters import lora
from hyperasr.audio.reading import load
from hyperasr.cli.parser import main
from hyperasr.errors import CheckpointMismatch, ConfigError, ShapeError
from hyperasr.export.exporter import ExportConfig, _n_as_static, export
from hyperasr.export.parity import Parity, Texts
from hyperasr.export.peft_folder import write_peft
from hyperasr.export.static_adapter import build_static_adapter
from hyperasr.hub import HyperASR
from hyperasr.whisper.backbone import Backbone
from hyperasr.whisper.search import SearchConfig, text_only
from tests.test_checkpoints import adapted, published, save

DEMO = Path(hyperasr.__file__).parent / "assets" / "demo"


@pytest.fixture(scope="module")
def clips(voice: Callable[..., np.ndarray]) -> list[np.ndarray]:
    return [voice(1.5, 110.0), voice(2.0, 130.0)]


@pytest.fixture(scope="module")
def full(random_backbone_folder: Path) -> HyperASR:
    """A model whose context is 30 s, as every published Whisper's; its scaling is not 1."""
    backbone = Backbone.from_pretrained(random_backbone_folder, audio_context="full")
    return adapted(backbone, ("decoder.fc1", "decoder.q_proj", "encoder.fc2"))


def state_of(model: HyperASR) -> dict[str, torch.Tensor]:
    return {n: t.clone() for n, t in model.backbone.whisper.state_dict().items()}


@torch.no_grad()
def logits_of(model: HyperASR, clip: np.ndarray, tokens: torch.Tensor) -> torch.Tensor:
    """Logits with the static adapter of this clip, from our own injection."""
    mel, n_frames = model.backbone.features([clip])
    with lora.using(model.backbone.whisper, build_static_adapter(model, [clip]).factors):
        return model.backbone.logits(model.backbone.encode(mel, n_frames), tokens)


# PEFT


@torch.no_grad()
def test_peft_gives_the_same_logits_on_the_same_whisper(
    full: HyperASR, clips: list[np.ndarray], tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    before = state_of(full)
    made = export(
        full,
        clips[:1],
        tmp_path / "out",
        ExportConfig("peft", max_word_difference=None),
        base="somebody/whisper",
    )
    assert made.parity.relative < 1e-5
    assert made.texts.elsewhere == ()
    after = full.backbone.whisper.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[n], t) for n, t in before.items()), "the model is as it was"
    assert not any(p.requires_grad for p in full.backbone.parameters())

    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "somebody/whisper"
    folder = full.backbone.tokenizer.name_or_path
    stock = Backbone.from_pretrained(folder, audio_context="full").whisper
    tokens = torch.tensor([[*full.backbone.prompt_ids(), 70, 80, 90]])
    mel, _ = full.backbone.features(clips[:1])
    plain = stock(mel, decoder_input_ids=tokens).logits
    stock = peft.PeftModel.from_pretrained(stock, str(tmp_path / "out"))
    found = stock(input_features=mel, decoder_input_ids=tokens).logits
    expected = logits_of(full, clips[0], tokens)
    assert float((expected - plain).abs().max()) > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


def test_a_peft_folder_is_of_one_utterance(
    full: HyperASR, clips: list[np.ndarray], tmp_path: Path
) -> None:
    factors = build_static_adapter(full, clips).factors
    both = replace(factors, shared=False).map(lambda t: t.expand(-1, 2, -1, -1))
    with pytest.raises(ShapeError, match="of 2 utterances"):
        write_peft(full.backbone.whisper, both, tmp_path, "x/y")


# Merged


@pytest.mark.parametrize(("dtype", "atol"), [("float32", 1e-3), ("bfloat16", 3.0)])
@torch.no_grad()
def test_a_merged_folder_is_a_whisper_for_everybody(
    full: HyperASR, clips: list[np.ndarray], tmp_path: Path, dtype: Any, atol: float
) -> None:
    from transformers import pipeline

    out, before = tmp_path / "out", state_of(full)
    made = export(
        full,
        clips[:1],
        out,
        ExportConfig("merged", dtype=dtype, max_difference=0.5, max_word_difference=None),
    )
    assert all(torch.equal(full.backbone.whisper.state_dict()[n], t) for n, t in before.items())
    config = json.loads((out / "config.json").read_text())
    assert config["dtype"] == dtype
    # Merged in float32 and cast once: the nearest numbers of that format to the true sum.
    factors = build_static_adapter(full, clips[:1]).factors
    stored = load_file(out / "model.safetensors")["model.decoder.layers.1.fc1.weight"]
    exact = before["model.decoder.layers.1.fc1.weight"]
    exact = exact + lora.delta_weight(factors, "decoder.fc1", 1)[0]
    assert torch.equal(stored, exact.to(getattr(torch, dtype)))
    tokens = torch.tensor([[*full.backbone.prompt_ids(), 70, 80, 90]])
    mel, _ = full.backbone.features(clips[:1])
    recognise = pipeline("automatic-speech-recognition", str(out), dtype=torch.float32)
    found = recognise.model(mel, decoder_input_ids=tokens).logits
    torch.testing.assert_close(found, logits_of(full, clips[0], tokens), rtol=0, atol=atol)
    sound = {"raw": clips[0], "sampling_rate": 16_000}
    assert isinstance(recognise(sound, generate_kwargs={"max_new_tokens": 3})["text"], str)
    card = (out / "README.md").read_text()
    for part in (
        "Not a medical device",
        "biometric",
        str(made.parity),
        full.backbone.fingerprint(),
    ):
        assert part in card


# CTranslate2 and faster-whisper


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> HyperASR:
    """A model with the vocabulary of a published one, which those engines go by."""
    whisper = published("tiny", d_model=32, layers=2)
    folder = save(whisper, tmp_path_factory.mktemp("small"), "whisper-multilingual")
    return adapted(Backbone.from_pretrained(folder, offline=True))


@pytest.mark.slow
def test_faster_whisper_transcribes_with_the_exported_model(
    small: HyperASR, clips: list[np.ndarray], tmp_path: Path
) -> None:
    pytest.importorskip("ctranslate2")
    faster_whisper = pytest.importorskip("faster_whisper")
    out = tmp_path / "out"
    made = export(
        small, clips[:1], out, ExportConfig("ctranslate2", language="de", max_word_difference=None)
    )
    assert made.parity.relative < 1e-4
    assert made.parity.agreement == 1
    engine = faster_whisper.WhisperModel(str(out), device="cpu", cpu_threads=1)
    silence = small.backbone.whisper.config.vocab_size
    options: dict[str, Any] = {
        "language": "de",
        "beam_size": 1,
        "without_timestamps": True,
        "suppress_tokens": list(range(small.backbone.eos + 1, silence)),
        "suppress_blank": False,
        "temperature": 0.0,
        "max_new_tokens": 8,
        "condition_on_previous_text": False,
        "no_speech_threshold": None,
        "compression_ratio_threshold": None,
        "log_prob_threshold": None,
    }
    segments = list(engine.transcribe(clips[0], **options)[0])
    found = [token for segment in segments for token in segment.tokens]
    factors = build_static_adapter(small, clips[:1]).factors
    # Its own input: it fills the 30 s with zeros of log-mel, where Whisper has digital silence.
    heard = engine.feature_extractor(clips[0])[:, : -(-len(clips[0]) // 160)]
    mel = torch.from_numpy(faster_whisper.audio.pad_or_trim(heard))[None]
    n_frames = torch.tensor([3000])
    search = text_only(
        SearchConfig(max_tokens=8), small.backbone.eos, small.backbone.whisper.config.vocab_size
    )
    with torch.no_grad(), lora.using(small.backbone.whisper, factors):
        encoded = small.backbone.encode(mel, n_frames)
        ours = small.backbone.generate(encoded, search, language="de").tokens[0]
        alone = small.backbone.encode(mel, n_frames)
    plain = small.backbone.generate(alone, search, language="de")
    assert ours[:5] != plain.tokens[0][:5], "the adapter must matter"
    assert len(found) > 4, "CTranslate2 takes half of prompt and new tokens for the text"
    assert found == list(ours[: len(found)])


@pytest.mark.slow
def test_ctranslate2_in_int8_of_a_trimmed_model(
    model: HyperASR, clips: list[np.ndarray], tmp_path: Path
) -> None:
    pytest.importorskip("ctranslate2")
    config = ExportConfig("ctranslate2", dtype="int8", max_difference=1.0, max_word_difference=None)
    made = export(model, clips, tmp_path / "out", config)
    assert made.parity.difference > 1e-3, "8 bits are seen"
    notes = " ".join(made.notes)
    assert "pad to 30 s may write other texts" in notes
    assert "leaves language and task out of the prompt" in notes
    assert (tmp_path / "out/preprocessor_config.json").is_file()
    assert (tmp_path / "out/tokenizer.json").is_file()


# The texts of the engines themselves


@pytest.mark.parametrize(
    ("to", "dtype"),
    [
        ("peft", "float32"),
        ("merged", "float32"),
        ("ctranslate2", "int8"),
        ("ggml", "float16"),
    ],
)
def test_the_embedded_adapters_hold_where_they_are_exported_to(
    to: Any, dtype: Any, tmp_path: Path
) -> None:
    """By the default calls of transformers, faster-whisper and whisper.cpp, on 30 s of audio."""
    pytest.importorskip({"merged": "transformers", "ggml": "pywhispercpp"}.get(to, to))
    model = HyperASR.from_pretrained("tiny.en", offline=True)
    clips = [load(path) for path in sorted(DEMO.glob("04*.ogg"))]
    made = export(model, clips, tmp_path / "out", ExportConfig(to, dtype=dtype), base="tiny.en")
    assert len(made.texts.elsewhere) == 1
    assert all(len(text.split()) > 3 for text in made.texts.elsewhere)
    assert made.texts.word_difference <= 0.3


def test_an_engine_that_fails_is_one_line(
    model: HyperASR, clips: list[np.ndarray], tmp_path: Path
) -> None:
    """transformers' defaults do not fit into the few positions of this random Whisper."""
    with pytest.raises(CheckpointMismatch, match=r"transformers.pipeline cannot run") as error:
        export(model, clips[:1], tmp_path / "out", ExportConfig("merged"))
    assert "\n" not in str(error.value)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("own", "elsewhere", "difference"),
    [
        (("Hello there, Ann.",), ("hello there Ann",), 0.0),
        (("Hello there, Ann.", "Yes."), ("Hello there, Ann.", "Yes. Yes. Yes."), 0.5),
        (("",), ("Thank you.",), 2.0),
        (("", ""), ("", ""), 0.0),
    ],
)
def test_texts_that_differ_too_much_are_refused(
    own: tuple[str, ...], elsewhere: tuple[str, ...], difference: float
) -> None:
    texts = Texts(own, elsewhere)
    assert texts.word_difference == pytest.approx(difference)
    texts.require(difference)
    if difference:
        with pytest.raises(CheckpointMismatch, match="writes other texts than the model") as error:
            texts.require(difference / 2)
        assert "\n" not in str(error.value)


def test_texts_are_compared_as_far_as_the_reference_goes() -> None:
    reference: Any = SimpleNamespace(
        tokens=((1, 2), (1, 2, 3), (1, 2)), search=SearchConfig(max_tokens=3)
    )
    own = [(1, 2), (1, 2, 3, 4), (1, 2, 3)]
    assert _n_as_static(own, reference) == 2, "the third goes on where the static text ended"


# What is refused, and what is left behind


@pytest.mark.parametrize("to", ["peft", "merged"])
def test_what_is_not_the_model_is_not_written(
    model: HyperASR, clips: list[np.ndarray], tmp_path: Path, to: Any, monkeypatch: Any
) -> None:
    pytest.importorskip("peft")
    out = tmp_path / "out"
    export(model, clips[:1], out, ExportConfig(to, max_word_difference=None))
    kept = {p.name: p.read_bytes() for p in out.iterdir()}
    before = state_of(model)
    # An adapter that is not the one that was checked, as a bug in a writer would leave it.
    wrong = build_static_adapter(model, clips[:1]).factors.map(lambda t: 1.2 * t)
    for name in ("write_peft", "write_merged"):
        real = getattr(__import__("hyperasr.export.exporter", fromlist=[name]), name)

        def spoilt(whisper: Any, factors: Any, *rest: Any, real: Any = real) -> None:
            real(whisper, wrong, *rest)

        monkeypatch.setattr(f"hyperasr.export.exporter.{name}", spoilt)
    with pytest.raises(CheckpointMismatch, match="what was exported is not the model") as error:
        export(model, clips[:1], out, ExportConfig(to, max_word_difference=None))
    assert "\n" not in str(error.value)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == kept
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert all(torch.equal(model.backbone.whisper.state_dict()[n], t) for n, t in before.items())


def test_an_interrupted_export_leaves_nothing(
    model: HyperASR, clips: list[np.ndarray], tmp_path: Path, monkeypatch: Any
) -> None:
    def interrupted(*args: Any) -> None:
        assert any(tmp_path.iterdir()), "in the middle of it there is a folder under another name"
        raise KeyboardInterrupt

    monkeypatch.setattr("hyperasr.export.exporter.parity", interrupted)
    before = state_of(model)
    with pytest.raises(KeyboardInterrupt):
        export(model, clips[:1], tmp_path / "out", ExportConfig("merged", max_word_difference=None))
    assert not any(tmp_path.iterdir())
    assert all(torch.equal(model.backbone.whisper.state_dict()[n], t) for n, t in before.items())


def test_a_folder_of_somebody_elses_stays(
    model: HyperASR, clips: list[np.ndarray], tmp_path: Path
) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match="will not replace"):
        export(model, clips[:1], tmp_path, ExportConfig("merged", max_word_difference=None))


def test_float16_that_overflows(
    model: HyperASR, clips: list[np.ndarray], tmp_path: Path, monkeypatch: Any
) -> None:
    weight = model.backbone.whisper.model.decoder.layers[0].fc2.weight
    monkeypatch.setattr(weight, "data", weight.data.clone())
    weight.data[0, 0] = 1e5
    with pytest.raises(ConfigError, match=r"fc2.weight does not fit into float16"):
        export(model, clips[:1], tmp_path / "out", ExportConfig("merged", dtype="float16"))


def test_reduced_weights_are_not_exported(random_model_folder: Path, tmp_path: Path) -> None:
    backbone = Backbone.from_pretrained(random_model_folder.parent / "backbone", dtype="bfloat16")
    model = HyperASR.from_pretrained(random_model_folder, backbone=backbone)
    with pytest.raises(ConfigError, match="weights in bfloat16 cannot be exported"):
        export(model, [np.ones(20_000, np.float32)], tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": "onnx"}, "to is 'onnx'; it must be one of 'peft', 'merged', 'ctranslate2', 'ggml'"),
        ({"rank": "2"}, "rank is '2'; it must be a whole number or null"),
        ({"to": "ggml"}, "whisper.cpp takes matrices in float16 alone"),
        ({"to": "merged", "dtype": "int8"}, "int8 is written for ctranslate2 alone"),
        ({"dtype": "float16"}, "a PEFT adapter is written in float32"),
        ({"max_difference": 0.0}, "must be above 0"),
        ({"max_word_difference": -0.1}, "must be at least 0"),
    ],
)
def test_settings_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ExportConfig(**options)


def test_parity_knows_far_from_near() -> None:
    Parity(1e-4, 20.0, 1.0, 9).require(1e-4, 0.99)
    for far in (Parity(1e-2, 20.0, 1.0, 9), Parity(0.0, 20.0, 0.9, 9), Parity(np.nan, 1.0, 1.0, 9)):
        with pytest.raises(CheckpointMismatch):
            far.require(1e-4, 0.99)


# The command


def test_the_command(
    random_model_folder: Path,
    clips: list[np.ndarray],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("peft")
    folder, out = tmp_path / "clips", tmp_path / "out"
    folder.mkdir()
    for i, clip in enumerate(clips):
        soundfile.write(folder / f"{i}.wav", clip, 16_000)
    (folder / "broken.wav").write_text("no sound at all\n" * 9)
    call = ["export", str(folder), "--model", str(random_model_folder), "--offline"]
    call += ["--max-word-difference", "null"]
    assert main([*call, "--out", str(out), "--method", "average", "--rank", "3"]) == 0
    seen = capsys.readouterr()
    assert "broken.wav" in seen.err
    for part in (
        "peft, float32",
        "made of 2 clips (3.5 s)",
        "rank 3",
        "parity on 2 clips: largest",
    ):
        assert part in seen.out
    assert sorted(p.name for p in out.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    silent = tmp_path / "silent.wav"
    soundfile.write(silent, np.zeros(16_000), 16_000)
    call[1] = str(silent)
    assert main([*call, "--out", str(tmp_path / "other")]) == 2
    assert "nobody speaks in the 1 clips" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
