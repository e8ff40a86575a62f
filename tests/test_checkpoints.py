"""Checkpoints with every published tokenizer: vocabularies, prompts, languages, number formats.

The weights are random, layers and widths reduced but for one model; vocabularies, mel channels,
positions and tokens are those of the published models.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import soundfile
import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

from hyperasr.adapters import SourceConfig, lora
from hyperasr.cli.parser import main
from hyperasr.errors import ConfigError, ShapeError
from hyperasr.hub import HyperASR
from hyperasr.speaker.encoder import SpeakerConfig
from hyperasr.types import Batch
from hyperasr.whisper.backbone import Backbone
from hyperasr.whisper.search import SearchConfig

ASSETS = Path(__file__).resolve().parents[2] / "shared" / "whisper-assets"

# d_model, heads, encoder layers, decoder layers, tokenizer: openai/whisper-*.
SHAPES = {
    "tiny": (384, 6, 4, 4, "whisper-multilingual"),
    "small": (768, 12, 12, 12, "whisper-multilingual"),
    "large-v3-turbo": (1280, 20, 32, 4, "whisper-v3"),
    "tiny.en": (384, 6, 4, 4, "whisper-en"),
}
# Vocabulary, end of text, start of transcript, mel channels.
TOKENS = {
    "whisper-en": (51_864, 50_256, 50_257, 80),
    "whisper-multilingual": (51_865, 50_257, 50_258, 80),
    "whisper-v3": (51_866, 50_257, 50_258, 128),
}
REDUCED = {"whisper-en": "tiny.en", "whisper-multilingual": "small", "whisper-v3": "large-v3-turbo"}


def published(name: str, d_model: int | None = None, layers: int | None = None) -> Any:
    """Build a random Whisper of a published shape, narrower and shallower where asked for."""
    width, heads, encoder, decoder, tokenizer = SHAPES[name]
    n_vocab, eos, start, n_mels = TOKENS[tokenizer]
    if d_model is not None:
        width, heads = d_model, 2
    config = WhisperConfig(
        vocab_size=n_vocab,
        num_mel_bins=n_mels,
        d_model=width,
        encoder_layers=layers or encoder,
        decoder_layers=min(layers or decoder, decoder),
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), eos),
        decoder_start_token_id=start,
        suppress_tokens=None,
        begin_suppress_tokens=None,
        init_std=0.15,  # large enough that logits depend on the audio
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return WhisperForConditionalGeneration(config).eval()


def save(whisper: Any, folder: Path, tokenizer: str) -> Path:
    """Save beside a published tokenizer, with the generation config that published models have."""
    assets = ASSETS / tokenizer
    if not assets.is_dir():
        pytest.skip("needs the tokenizers in ../shared/whisper-assets")
    folder.mkdir(parents=True, exist_ok=True)
    for path in assets.iterdir():
        shutil.copyfile(path, folder / path.name)
    backbone = Backbone(whisper, _tokenizer(folder))
    generation, vocabulary = whisper.generation_config, backbone.tokenizer.get_vocab()
    generation.is_multilingual = tokenizer != "whisper-en"
    generation.no_timestamps_token_id = vocabulary["<|notimestamps|>"]
    if generation.is_multilingual:
        ids = backbone.language_ids
        generation.lang_to_id = {f"<|{code}|>": i for code, i in ids.items()}
        generation.task_to_id = {t: vocabulary[f"<|{t}|>"] for t in ("translate", "transcribe")}
    generation._from_model_config = False
    whisper.save_pretrained(folder)
    return folder


def _tokenizer(folder: Path) -> Any:
    from transformers import WhisperTokenizer

    return WhisperTokenizer.from_pretrained(folder, local_files_only=True)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a reduced model with this tokenizer, made once."""
    made: dict[str, Path] = {}

    def get(tokenizer: str) -> Path:
        if tokenizer not in made:
            whisper = published(REDUCED[tokenizer], d_model=16, layers=2)
            folder = tmp_path_factory.mktemp("checkpoints") / tokenizer
            made[tokenizer] = save(whisper, folder, tokenizer)
        return made[tokenizer]

    return get


@pytest.fixture(scope="module", params=TOKENS)
def backbone(request: pytest.FixtureRequest, folders: Callable[[str], Path]) -> Backbone:
    return Backbone.from_pretrained(folders(request.param), offline=True)


@pytest.fixture(scope="module")
def multilingual(folders: Callable[[str], Path]) -> Backbone:
    return Backbone.from_pretrained(folders("whisper-multilingual"), offline=True)


@pytest.fixture(scope="module")
def mel() -> Callable[[Backbone], torch.Tensor]:
    def make(backbone: Backbone, n: int = 3) -> torch.Tensor:
        generator = torch.Generator().manual_seed(n)
        return torch.randn(n, backbone.n_mels, 3000, generator=generator)

    return make


def adapted(backbone: Backbone, targets: tuple[str, ...] = ("decoder.fc1",)) -> HyperASR:
    """Return a model with a random hypernetwork that does adapt."""
    settings = {"rank": 2, "d_hidden": 8, "d_layer_emb": 4, "n_hidden": 1}
    model = HyperASR(
        backbone, SpeakerConfig(), SourceConfig(targets=targets, settings=settings)
    ).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in [*model.source.heads.parameters(), *model.source.bias_B.parameters()]:
            weight.normal_(0, 0.3, generator=generator)
    return model


def check_size(name: str, whisper: Any, folder: Path) -> None:
    """Load it, hear a second, adapt every kind of matrix, decode."""
    tokenizer = SHAPES[name][4]
    n_vocab, _, _, n_mels = TOKENS[tokenizer]
    backbone = Backbone.from_pretrained(save(whisper, folder, tokenizer), offline=True)
    assert backbone.audio_context == "full"
    assert backbone.is_multilingual == (tokenizer != "whisper-en")
    n_languages = {"whisper-en": 0, "whisper-multilingual": 99, "whisper-v3": 100}[tokenizer]
    assert len(backbone.language_ids) == n_languages
    features, n_frames = backbone.features([np.zeros(16_000, np.float32)])
    assert features.shape == (1, n_mels, 3000)
    model = adapted(backbone, ("decoder.fc1", "decoder.cross_v_proj"))
    emb, encoded = model.embed(Batch(n_frames=n_frames, mel=features))
    with torch.no_grad(), lora.using(backbone.whisper, model.factors(emb)):
        found = backbone.generate(encoded, SearchConfig(max_tokens=4))
    assert encoded.states.shape[1] == 1500
    assert len(found.tokens[0]) <= 4
    assert max(found.tokens[0], default=0) < n_vocab


@pytest.mark.slow
@pytest.mark.parametrize("name", REDUCED.values())
def test_every_published_tokenizer(name: str, tmp_path: Path) -> None:
    check_size(name, published(name, d_model=16, layers=2), tmp_path / name)


@pytest.mark.slow
def test_tiny_in_full(tmp_path: Path) -> None:
    whisper = published("tiny")
    assert sum(p.numel() for p in whisper.parameters()) == 37_760_640, "as published"
    check_size("tiny", whisper, tmp_path / "tiny")


# Languages and tasks


@torch.no_grad()
def test_the_language_is_the_one_transformers_detects(
    backbone: Backbone, mel: Callable[..., torch.Tensor]
) -> None:
    sound = mel(backbone)
    encoded = backbone.encode(sound, torch.tensor([3000] * 3))
    found = backbone.detect_language(encoded)
    if not backbone.is_multilingual:
        assert found == [("en", 1.0)] * 3
        return
    ids = backbone.whisper.detect_language(sound)
    assert [backbone.language_ids[code] for code, _ in found] == ids.tolist()
    assert len({code for code, _ in found}) > 1, "it must depend on the sound"
    # Against the whole distribution, by hand.
    start = backbone.prompt_ids()[:1]
    logits = backbone.whisper(sound, decoder_input_ids=torch.tensor([start] * 3)).logits[:, -1]
    for row, (_, probability) in zip(logits, found, strict=True):
        among = row[list(backbone.language_ids.values())].softmax(-1)
        assert probability == pytest.approx(float(among.max()), abs=1e-5)


@pytest.mark.parametrize(("language", "task"), [("de", "transcribe"), ("ja", "translate")])
@pytest.mark.parametrize("beam_size", [1, 2])
def test_decoding_is_that_of_transformers(
    multilingual: Backbone,
    mel: Callable[..., torch.Tensor],
    language: str,
    task: str,
    beam_size: int,
) -> None:
    sound = mel(multilingual, 2)
    with torch.no_grad():
        encoded = multilingual.encode(sound, torch.tensor([3000, 3000]))
    config = SearchConfig(beam_size=beam_size, max_tokens=8)
    found = multilingual.generate(encoded, config, language=language, task=task).tokens
    theirs = multilingual.whisper.generate(
        sound, language=language, task=task, num_beams=beam_size, max_new_tokens=8
    ).tolist()
    eos = multilingual.eos
    assert list(found) == [tuple(r[: r.index(eos)] if eos in r else r) for r in theirs]


def test_each_row_has_its_language(
    multilingual: Backbone, mel: Callable[..., torch.Tensor]
) -> None:
    with torch.no_grad():
        encoded = multilingual.encode(mel(multilingual), torch.tensor([3000] * 3))
    config, languages = SearchConfig(max_tokens=6), ["de", "japanese", "en"]
    together = multilingual.generate(encoded, config, language=languages).tokens
    for i, language in enumerate(languages):
        assert together[i] == multilingual.generate(encoded, config, language=language).tokens[i]
    alike = multilingual.generate(encoded, config, language="en").tokens
    assert together != alike, "the language must matter"
    with pytest.raises(ShapeError, match="2 languages do not fit 3 rows"):
        multilingual.generate(encoded, config, language=languages[:2])


def test_language_names_and_near_misses(multilingual: Backbone) -> None:
    assert multilingual.prompt_ids("German") == multilingual.prompt_ids("de")
    assert multilingual.prompt_ids("de")[2] == multilingual.prompt_ids("de", "translate")[2] + 1
    with pytest.raises(ConfigError, match="cannot transcribe 'jap'; try language='ja'"):
        multilingual.prompt_ids("jap")
    with pytest.raises(ConfigError, match="cannot sing 'de'"):
        multilingual.prompt_ids("de", "sing")


# Number formats


@pytest.mark.parametrize(
    ("dtype", "bound"), [("bfloat16", 0.05), ("float16", 0.01), ("int8", 0.05)]
)
@torch.no_grad()
def test_other_number_formats_stay_near(
    folders: Callable[[str], Path],
    multilingual: Backbone,
    mel: Callable[..., torch.Tensor],
    dtype: str,
    bound: float,
) -> None:
    folder = folders("whisper-multilingual")
    reduced = Backbone.from_pretrained(folder, offline=True, dtype=dtype)
    assert reduced.fingerprint() == multilingual.fingerprint(), "an adapter still belongs to it"
    assert reduced.n_parameters == multilingual.n_parameters
    sound, tokens = mel(multilingual, 2), torch.tensor([[*multilingual.prompt_ids(), 5, 700]] * 2)
    logits, changes = [], []
    for one in (multilingual, reduced):
        model = adapted(one)
        emb, encoded = model.embed(Batch(n_frames=torch.tensor([300, 2900]), mel=sound))
        factors = model.factors(emb)
        assert emb.dtype == factors["decoder.fc1"].A.dtype == torch.float32
        plain = one.logits(encoded, tokens).float()
        with lora.using(one.whisper, factors):
            logits.append(one.logits(encoded, tokens).float())
        changes.append(logits[-1] - plain)
    assert float((logits[0] - logits[1]).norm() / logits[0].norm()) < bound
    assert float((logits[0] - logits[1]).abs().max()) > 0
    assert float(changes[0].abs().max()) > 0.1, "it does adapt"


# Offline


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every attempt to open a connection, even to this machine; libraries swallow the error."""
    seen: list[Any] = []

    def refuse(*args: Any, **options: Any) -> Any:
        seen.append(args[1:] or args)
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    # `make test` sets it, and it is read when huggingface_hub is imported.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return seen


def test_offline_means_offline(
    attempts: list[Any],
    random_backbone_folder: Path,
    random_model_folder: Path,
    voice: Callable[..., np.ndarray],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wav = tmp_path / "a.wav"
    soundfile.write(wav, voice(1.5), 16_000)
    for model in (random_model_folder, random_backbone_folder, "tiny.en"):
        assert main(["transcribe", str(wav), "--model", str(model), "--offline"]) == 0
    capsys.readouterr()
    assert main(["transcribe", str(wav), "--model", "nobody/nowhere", "--offline"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "nobody/nowhere" in line
    assert "--offline" in line
    assert attempts == []
    with pytest.raises(OSError, match="no network"):
        socket.create_connection(("192.0.2.1", 80))
    assert len(attempts) == 1, "an attempt would have been seen"


def test_a_hub_name_from_the_local_cache(
    attempts: list[Any],
    random_backbone_folder: Path,
    voice: Callable[..., np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from huggingface_hub import constants

    # As huggingface_hub lays it out, in one shard and in several.
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    wav, texts = tmp_path / "a.wav", []
    soundfile.write(wav, voice(1.5), 16_000)
    for name in ("whole", "sharded"):
        repo = tmp_path / "cache" / f"models--me--{name}"
        snapshot = repo / "snapshots" / ("a" * 40)
        shutil.copytree(random_backbone_folder, snapshot)
        if name == "sharded":
            whisper = WhisperForConditionalGeneration.from_pretrained(snapshot)
            whisper.save_pretrained(snapshot, max_shard_size="100KB")
            (snapshot / "model.safetensors").unlink(missing_ok=True)
        (repo / "refs").mkdir()
        (repo / "refs" / "main").write_text("a" * 40)
        assert main(["transcribe", str(wav), "--model", f"me/{name}", "--offline"]) == 0
        texts.append(capsys.readouterr().out)
    assert len(list(repo.rglob("model-*.safetensors"))) > 1
    assert main(["transcribe", str(wav), "--model", str(random_backbone_folder)]) == 0
    assert texts == [capsys.readouterr().out] * 2
    assert attempts == []


def test_a_plain_whisper_transcribes_unadapted(
    random_backbone_folder: Path,
    voice: Callable[..., np.ndarray],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, wav = random_backbone_folder, tmp_path / "a.wav"
    soundfile.write(wav, voice(1.5), 16_000)
    assert main(["transcribe", str(wav), "--model", str(folder), "--offline"]) == 0
    seen = capsys.readouterr()
    assert "is a plain Whisper without an adapter: transcripts are unadapted" in seen.err
    backbone = Backbone.from_pretrained(folder, offline=True)
    assert (
        seen.out.strip()
        == HyperASR.unadapted(backbone).transcribe(str(wav), adapt=False).text.strip()
    )
    assert main(["transcribe", str(wav), "--model", str(folder), "--compare"]) == 2
    assert (
        "plain Whisper without an adapter: it has no second transcript" in capsys.readouterr().err
    )
    assert main(["inspect", str(folder), "--offline"]) == 0
    assert "it transcribes unadapted" in capsys.readouterr().out


def test_a_plain_whisper_hears_the_real_length_where_that_is_asked_for(
    folders: Callable[[str], Path],
    random_model_folder: Path,
    voice: Callable[..., np.ndarray],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, wav = folders("whisper-en"), tmp_path / "a.wav"
    soundfile.write(wav, voice(1.5), 16_000)
    trimmed = ["transcribe", str(wav), "--offline", "--audio-context", "trimmed", "--model"]
    assert main([*trimmed, str(folder)]) == 0
    text = capsys.readouterr().out.strip()
    backbone = Backbone.from_pretrained(folder, offline=True, audio_context="trimmed")
    assert text == HyperASR.unadapted(backbone).transcribe(str(wav), adapt=False).text.strip()
    assert (
        main(
            ["transcribe", str(wav), "--audio-context", "full", "--model", str(random_model_folder)]
        )
        == 2
    )
    assert "was trained for audio context 'trimmed', not 'full'" in capsys.readouterr().err
