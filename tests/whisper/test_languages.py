"""Language and task, from the option to what is written: found, given, translated, refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from hyperasr.audio.loudness import audible
from hyperasr.cli.parser import main
from hyperasr.errors import ConfigError
from hyperasr.hub import HyperASR
from hyperasr.model import decode
from hyperasr.transcription.options import TranscribeOptions
from hyperasr.transcription.pipeline import transcribe
from hyperasr.transcription.recogniser import Recogniser
from hyperasr.types import Batch
from hyperasr.whisper.backbone import Backbone
from hyperasr.whisper.search import SearchConfig, text_only
from tests.test_checkpoints import published, save

RATE = 16_000
Voice = Callable[..., np.ndarray]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Whisper of many languages."""
    whisper = published("small", d_model=16, layers=2)
    generator = torch.Generator().manual_seed(0)
    for name, weight in whisper.named_parameters():
        # Large enough that the language depends on the sound.
        if weight.dim() > 1 and "embed_positions" not in name:
            weight.data.normal_(0, 0.5, generator=generator)
    return save(whisper, tmp_path_factory.mktemp("many"), "whisper-multilingual")


@pytest.fixture(scope="module")
def english(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Whisper of English alone."""
    whisper = published("tiny.en", d_model=16, layers=2)
    return save(whisper, tmp_path_factory.mktemp("english"), "whisper-en")


@pytest.fixture(scope="module")
def model(folder: Path) -> HyperASR:
    return HyperASR.unadapted(Backbone.from_pretrained(folder, offline=True))


def heard_as(model: HyperASR, waveform: np.ndarray) -> tuple[str, float]:
    backbone = model.backbone
    with torch.no_grad():
        encoded = backbone.encode(*backbone.features([audible(waveform)]))
    return backbone.detect_language(encoded)[0]


@pytest.fixture(scope="module")
def sounds(model: HyperASR) -> list[np.ndarray]:
    """Two sounds that the random model takes for different languages."""
    found: dict[str, np.ndarray] = {}
    for seed in range(24):
        rng = np.random.default_rng(seed)
        t = np.arange(6 * RATE) / RATE
        sound = 0.3 * np.sign(np.sin(2 * np.pi * rng.uniform(60, 900) * t)) * (t % 0.3 < 0.2)
        sound = (sound + rng.uniform(0, 0.1) * rng.normal(size=len(t))).astype(np.float32)
        found.setdefault(heard_as(model, sound)[0], sound)
        if len(found) == 2:
            return list(found.values())
    raise AssertionError("the random model hears one language only")


OPTIONS: dict[str, Any] = {"adapt": False, "loop_guard": False}


def test_the_language_of_each_recording_is_found(model: HyperASR, sounds: list[np.ndarray]) -> None:
    options = TranscribeOptions(language="auto", **OPTIONS)
    found = [r.transcript for r in transcribe(model, [(s, RATE) for s in sounds], options)]
    for transcript, sound in zip(found, sounds, strict=True):
        assert transcript is not None
        language, probability = heard_as(model, sound)
        assert transcript.language == language
        told = model.transcribe(sound, RATE, language=language, **OPTIONS)
        assert transcript.text == told.text, "as if the language had been given"
        warned = any("the language is not certain" in line for line in transcript.warnings)
        assert warned == (probability < 0.5)
        assert not any("not certain" in line for line in told.warnings)
    assert len({t.language for t in found if t}) == 2
    other = model.transcribe(sounds[0], RATE, language=found[1].language, **OPTIONS)  # type: ignore[union-attr]
    assert other.text != found[0].text, "the language must matter"  # type: ignore[union-attr]


def test_all_segments_of_a_recording_have_the_language_of_the_first(
    model: HyperASR, sounds: list[np.ndarray]
) -> None:
    pause = np.zeros(3 * RATE, np.float32)
    recording = np.concatenate([sounds[0], pause, sounds[1]])
    options = {**OPTIONS, "max_segment_s": 7.0}
    found = model.transcribe(recording, RATE, language="auto", **options)
    assert len(found.segments) == 2
    assert found.language == heard_as(model, sounds[0])[0]
    told = model.transcribe(recording, RATE, language=found.language, **options)
    assert [s.text for s in found.segments] == [s.text for s in told.segments]


def test_translating_is_another_prompt_and_english(
    model: HyperASR, sounds: list[np.ndarray]
) -> None:
    backbone = model.backbone
    search = text_only(SearchConfig(), backbone.eos, int(backbone.whisper.config.vocab_size))
    mel, n_frames = backbone.features([audible(sounds[0])])
    batch = Batch(n_frames=n_frames, mel=mel)
    texts = {}
    for task in ("transcribe", "translate"):
        found = model.transcribe(sounds[0], RATE, language="German", task=task, **OPTIONS)
        (row,) = decode(model, batch, search, adapt=False, language="de", task=task).tokens
        assert " ".join(found.text.split()) == " ".join(backbone.text(row).split())
        assert found.language == {"transcribe": "de", "translate": "en"}[task]
        texts[task] = found.text
    assert texts["transcribe"] != texts["translate"]


def test_languages_of_rows_stay_with_their_rows(model: HyperASR, sounds: list[np.ndarray]) -> None:
    mel, n_frames = model.backbone.features(sounds)
    batch, search = Batch(n_frames=n_frames, mel=mel), SearchConfig(max_tokens=6)
    together = decode(model, batch, search, adapt=False, language=["de", "ja"]).tokens
    for row, language in enumerate(["de", "ja"]):
        alone = decode(model, batch, search, adapt=False, language=language).tokens
        assert together[row] == alone[row]


def test_a_name_is_a_code(model: HyperASR) -> None:
    assert Recogniser(model, TranscribeOptions(language="Japanese")).language == "ja"
    with pytest.raises(ConfigError, match="cannot transcribe 'klingon'; try language="):
        Recogniser(model, TranscribeOptions(language="klingon"))


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--task", "translate"], "cannot translate 'en': it knows English alone"),
        (["--task", "translate", "--language", "auto"], "it knows English alone"),
        (["--language", "de"], "cannot transcribe 'de': it knows English alone"),
        (["--task", "sing"], "task is 'sing'; it must be one of 'transcribe', 'translate'"),
    ],
)
def test_models_of_english_alone_refuse(
    options: list[str],
    part: str,
    voice: Voice,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wav = tmp_path / "a.wav"
    soundfile.write(wav, voice(1.5), RATE)
    assert main(["transcribe", str(wav), "--model", "tiny.en", "--offline", *options]) == 2
    seen = capsys.readouterr()
    (line,) = (line for line in seen.err.splitlines() if "error" in line)
    assert part in line
    assert seen.out == ""


def test_the_options_on_the_command_line(
    folder: Path,
    english: Path,
    model: HyperASR,
    sounds: list[np.ndarray],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wav = tmp_path / "a.wav"
    soundfile.write(wav, sounds[0], RATE, subtype="FLOAT")
    call = ["transcribe", str(wav), "--offline", "--format", "json", "--language", "auto"]
    for chosen, task, language in (
        (folder, "transcribe", heard_as(model, sounds[0])[0]),
        (folder, "translate", "en"),
        (english, "transcribe", "en"),
    ):
        assert main([*call, "--model", str(chosen), "--task", task]) == 0
        values = json.loads(capsys.readouterr().out)
        assert values["language"] == language
        rough = any("word times of a translation are rough" in w for w in values["warnings"])
        assert rough == (task == "translate")
