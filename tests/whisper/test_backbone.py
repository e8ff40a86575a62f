"""The frozen Whisper against transformers, with padding, on disk, and with real vocabularies."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from transformers import WhisperConfig, WhisperForConditionalGeneration

from hyperasr.audio.mel import SAMPLE_RATE, log_mel_batch
from hyperasr.errors import AudioError, ConfigError, ShapeError
from hyperasr.types import EncoderOutput
from hyperasr.whisper.backbone import MARGIN_S, SHORTEST_S, Backbone
from hyperasr.whisper.search import SearchConfig

LENGTHS = (37, 80, 63, 1)  # mel frames: odd, even, and shorter than a convolution
SHARED_ASSETS = Path(__file__).resolve().parents[3] / "shared" / "whisper-assets"


@pytest.fixture(scope="module")
def full(random_backbone_folder: Path) -> Backbone:
    """The random backbone on 30 s, as Whisper was published."""
    return Backbone.from_pretrained(random_backbone_folder, offline=True, audio_context="full")


@pytest.fixture(scope="module")
def mel_30_s() -> Tensor:
    return torch.randn(2, 80, 3000, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def rows() -> list[Tensor]:
    """Log-mel of several utterances, each (80, n_frames)."""
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(80, n, generator=generator) for n in LENGTHS]


def padded(rows: list[Tensor], fill: float = 0.0, spare: int = 0) -> tuple[Tensor, Tensor]:
    """Put utterances into one batch whose padding holds `fill`."""
    n_frames = torch.tensor([row.shape[1] for row in rows])
    mel = torch.full((len(rows), 80, int(n_frames.max()) + spare), fill)
    for target, row in zip(mel, rows, strict=True):
        target[:, : row.shape[1]] = row
    return mel, n_frames


# Full context: the published model


@torch.no_grad()
def test_full_context_is_the_published_encoder(full: Backbone, mel_30_s: Tensor) -> None:
    published = full.whisper.model.encoder(mel_30_s, output_hidden_states=True)
    encoded = full.encode(mel_30_s, torch.tensor([3000, 170]), pool_layers=(0, 1))
    torch.testing.assert_close(encoded.states, published.last_hidden_state, rtol=0, atol=1e-6)
    assert encoded.lengths.tolist() == [1500, 1500], "in full context the silence counts too"
    for layer in (0, 1):  # the published last hidden state has already been normalised
        for i, n in enumerate((1500, 85)):  # but the embedding is of what was said
            heard = published.hidden_states[layer][i, :n]
            expected = torch.cat([heard.mean(0), heard.std(0, correction=0)])
            torch.testing.assert_close(encoded.moments[layer][i], expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_score_is_the_loss_of_transformers(full: Backbone, mel_30_s: Tensor) -> None:
    tokens, n_tokens, n_prompt = full.targets(["seven", "open the kitchen door"])
    encoded = full.encode(mel_30_s, torch.tensor([3000, 3000]))
    nll, n_scored = full.nll(encoded, tokens, n_tokens, n_prompt)
    assert n_scored.tolist() == (n_tokens - n_prompt).tolist()
    for i, n in enumerate(n_tokens.tolist()):
        labels = tokens[i : i + 1, 1:n].clone()
        labels[:, : n_prompt - 1] = -100
        loss = full.whisper(
            mel_30_s[i : i + 1], decoder_input_ids=tokens[i : i + 1, : n - 1], labels=labels
        ).loss
        assert float(nll[i] / n_scored[i]) == pytest.approx(float(loss), abs=1e-5)


@pytest.mark.parametrize("beam_size", [1, 3])
@pytest.mark.parametrize("suppress", [False, True])
def test_decoding_finds_the_tokens_of_transformers(
    full: Backbone,
    mel_30_s: Tensor,
    beam_size: int,
    suppress: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoded = full.encode(mel_30_s, torch.tensor([3000, 3000]))
    config = SearchConfig(beam_size=beam_size, max_tokens=12)
    free = full.generate(encoded, config).tokens
    if suppress:
        # As published checkpoints have it; taken from what would be decoded otherwise.
        generation = full.whisper.generation_config
        monkeypatch.setattr(generation, "suppress_tokens", [row[1] for row in free])
        monkeypatch.setattr(generation, "begin_suppress_tokens", [free[0][0], full.eos])
    own = full.generate(encoded, config).tokens
    assert (own != free) == suppress
    published = full.whisper.generate(
        mel_30_s, language="en", task="transcribe", num_beams=beam_size, max_new_tokens=12
    )
    expected = [
        tuple(row[: row.index(full.eos)] if full.eos in row else row) for row in published.tolist()
    ]
    assert list(own) == expected


def test_full_context_needs_30_s(full: Backbone) -> None:
    with pytest.raises(ShapeError, match=r"mel has 80 frames.*takes exactly 3000"):
        full.encode(torch.zeros(1, 80, 80), torch.tensor([80]))


def test_full_context_features_are_padded_with_silence(full: Backbone) -> None:
    mel, n_frames = full.features([np.zeros(SAMPLE_RATE, np.float32)])
    assert mel.shape == (1, 80, 3000)
    assert n_frames.tolist() == [100]


# Trimmed context: padding never changes anything


@torch.no_grad()
@pytest.mark.parametrize(("fill", "spare"), [(0.0, 0), (5.0, 0), (float("nan"), 21)])
def test_padding_never_changes_a_state(
    random_backbone: Backbone, rows: list[Tensor], fill: float, spare: int
) -> None:
    mel, n_frames = padded(rows, fill, spare)
    together = random_backbone.encode(mel, n_frames, pool_layers=(0, 1, 2))
    for i, row in enumerate(rows):
        alone = random_backbone.encode(row[None], n_frames[i : i + 1], pool_layers=(0, 1, 2))
        n = int(alone.lengths[0])
        assert n == int(together.lengths[i]) == (row.shape[1] + 1) // 2
        torch.testing.assert_close(together.states[i, :n], alone.states[0], rtol=0, atol=1e-5)
        assert torch.equal(together.states[i, n:], torch.zeros_like(together.states[i, n:]))
        for layer in (0, 1, 2):
            torch.testing.assert_close(
                together.moments[layer][i], alone.moments[layer][0], rtol=1e-5, atol=1e-4
            )


@torch.no_grad()
def test_trimmed_context_is_the_published_encoder_on_the_real_length(
    random_backbone: Backbone, rows: list[Tensor]
) -> None:
    # One utterance alone needs no mask, so the published layers say what is right.
    encoder = random_backbone.whisper.model.encoder
    hidden = torch.nn.functional.gelu(encoder.conv1(rows[0][None]))
    hidden = torch.nn.functional.gelu(encoder.conv2(hidden)).transpose(1, 2)
    hidden = hidden + encoder.embed_positions.weight[: hidden.shape[1]]
    for layer in encoder.layers:
        hidden = layer(hidden, None)
    encoded = random_backbone.encode(rows[0][None], torch.tensor([LENGTHS[0]]))
    torch.testing.assert_close(encoded.states, encoder.layer_norm(hidden), rtol=0, atol=1e-6)


@torch.no_grad()
def test_padding_never_changes_a_score_or_a_token(
    random_backbone: Backbone, rows: list[Tensor]
) -> None:
    texts = ["seven", "open the kitchen door", "a", "stop"]
    tokens, n_tokens, n_prompt = random_backbone.targets(texts)
    mel, n_frames = padded(rows, spare=30)
    encoded = random_backbone.encode(mel, n_frames)
    nll, n_scored = random_backbone.nll(encoded, tokens, n_tokens, n_prompt)
    greedy = random_backbone.generate(encoded, SearchConfig(max_tokens=10))
    beams = random_backbone.generate(encoded, SearchConfig(beam_size=3, max_tokens=10))
    for i, row in enumerate(rows):
        alone = random_backbone.encode(row[None], n_frames[i : i + 1])
        own_tokens, own_n, _ = random_backbone.targets([texts[i]])
        own_nll, own_scored = random_backbone.nll(alone, own_tokens, own_n, n_prompt)
        torch.testing.assert_close(nll[i], own_nll[0], rtol=1e-5, atol=1e-4)
        assert n_scored[i] == own_scored[0]
        for together, size in ((greedy, 1), (beams, 3)):
            config = SearchConfig(beam_size=size, max_tokens=10)
            assert together.tokens[i] == random_backbone.generate(alone, config).tokens[0]


@torch.no_grad()
def test_the_states_matter(random_backbone: Backbone, rows: list[Tensor]) -> None:
    # A decoder that ignored its states would pass every test of padding.
    tokens, n_tokens, n_prompt = random_backbone.targets(["seven"])
    scores = [
        random_backbone.nll(
            random_backbone.encode(row[None], torch.tensor([row.shape[1]])),
            tokens,
            n_tokens,
            n_prompt,
        )[0]
        for row in rows[:2]
    ]
    assert abs(float(scores[0] - scores[1])) > 1e-2


@torch.no_grad()
def test_the_decoder_is_causal_whatever_attention_was_asked_for(tiny_whisper: Any) -> None:
    tiny_whisper.set_attn_implementation("eager")
    backbone = Backbone(tiny_whisper, None, "trimmed")
    states = torch.randn(1, 7, 32, generator=torch.Generator().manual_seed(0))
    encoded = EncoderOutput(states, torch.tensor([7]))
    first = backbone.logits(encoded, torch.tensor([[3, 4, 5, 6]]))
    other = backbone.logits(encoded, torch.tensor([[3, 4, 5, 99]]))
    torch.testing.assert_close(first[:, :3], other[:, :3], rtol=0, atol=1e-5)
    assert not torch.allclose(first[:, 3], other[:, 3])


def test_more_than_30_s_is_refused(random_backbone: Backbone) -> None:
    with pytest.raises(ShapeError, match=r"mel has 3001 frames.*at most 3000"):
        random_backbone.encode(torch.zeros(1, 80, 3001), torch.tensor([3001]))


def test_more_tokens_than_positions_are_refused(random_backbone: Backbone) -> None:
    encoded = EncoderOutput(torch.zeros(1, 3, 32), torch.tensor([3]))
    with pytest.raises(ShapeError, match="225 tokens are more than the decoder's 224 positions"):
        random_backbone.logits(encoded, torch.zeros(1, 225, dtype=torch.int64))


def test_trimmed_features_are_the_real_frames(random_backbone: Backbone) -> None:
    waveforms = [np.zeros(n, np.float32) for n in (2 * SAMPLE_RATE, SAMPLE_RATE * 5 // 4)]
    mel, n_frames = random_backbone.features(waveforms)
    assert mel.shape == (2, 80, 200)
    assert n_frames.tolist() == [200, 125]


@pytest.mark.parametrize("n_samples", [400, 6_400, 19_198, 19_199, 19_200, 20_000])
def test_short_input_gets_silence_on_both_sides(
    random_backbone: Backbone, full: Backbone, voice: Callable[..., np.ndarray], n_samples: int
) -> None:
    waveform = voice(2.0)[:n_samples]
    mel, n_frames = random_backbone.features([waveform])
    lead = round(random_backbone.lead_s(n_samples) * SAMPLE_RATE)
    missing = max(0, round(SHORTEST_S * SAMPLE_RATE) - n_samples)
    assert lead == missing // 2
    by_hand = np.concatenate(
        [np.zeros(lead, np.float32), waveform, np.zeros(missing - lead, np.float32)]
    )
    expected, expected_frames = log_mel_batch([by_hand], n_mels=80)
    assert torch.equal(mel, expected)
    assert n_frames.tolist() == expected_frames.tolist() == [max(120, -(-n_samples // 160))]
    assert full.lead_s(n_samples) == 0, "the full context has its silence after the words"
    assert torch.equal(full.features([waveform])[0], log_mel_batch([waveform], pad_to_s=30)[0])


def test_a_short_utterance_is_padded_whatever_is_beside_it(
    random_backbone: Backbone, voice: Callable[..., np.ndarray]
) -> None:
    short, long = voice(0.4), voice(2.0, 200.0)
    together, n_frames = random_backbone.features([short, long])
    alone, _ = random_backbone.features([short])
    assert n_frames.tolist() == [120, 200]
    assert torch.equal(together[0, :, :120], alone[0])
    with pytest.raises(AudioError):
        random_backbone.features([short[:0]])


def test_unknown_audio_context(tiny_whisper: Any) -> None:
    with pytest.raises(ConfigError, match="audio_context is 'short'"):
        Backbone(tiny_whisper, None, "short")


# On disk


@torch.no_grad()
def test_round_trip(random_backbone: Backbone, rows: list[Tensor], tmp_path: Path) -> None:
    random_backbone.save_pretrained(tmp_path)
    loaded = Backbone.from_pretrained(tmp_path, offline=True)
    assert loaded.audio_context == "trimmed"
    assert loaded.fingerprint() == random_backbone.fingerprint()
    before, after = (b.whisper.generation_config for b in (random_backbone, loaded))
    for name in ("lang_to_id", "task_to_id", "is_multilingual", "no_timestamps_token_id"):
        assert getattr(after, name) == getattr(before, name), name
    tokens, _, _ = loaded.targets(["seven", "one", "two", "three"])
    logits = [b.logits(b.encode(*padded(rows)), tokens) for b in (random_backbone, loaded)]
    assert torch.equal(*logits)
    assert loaded.text_ids("kitchen") == random_backbone.text_ids("kitchen")
    # And what we wrote is a folder that anybody's transformers reads.
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["WhisperForConditionalGeneration"]


def test_the_fingerprint_sees_every_weight(tiny_whisper: Any) -> None:
    backbone = Backbone(tiny_whisper, None, "trimmed")
    start = backbone.fingerprint()
    assert start == backbone.fingerprint()
    generator = torch.Generator().manual_seed(0)
    for name, weight in backbone.whisper.named_parameters():
        flat = weight.data.view(-1)
        index = int(torch.randint(len(flat), (), generator=generator))
        kept = flat[index].clone()
        flat[index] += 0.125
        assert backbone.fingerprint() != start, f"{name}[{index}]"
        flat[index] = kept
    assert backbone.fingerprint() == start
    backbone.audio_context = "full"
    assert backbone.fingerprint() != start


def test_the_fingerprint_survives_fp16_storage(random_backbone: Backbone, tmp_path: Path) -> None:
    random_backbone.save_pretrained(tmp_path)
    half = Backbone.from_pretrained(tmp_path, offline=True)
    half.whisper.half()
    half.save_pretrained(tmp_path / "half")
    loaded = Backbone.from_pretrained(tmp_path / "half", offline=True)
    assert next(loaded.parameters()).dtype == torch.float32
    assert loaded.fingerprint() == random_backbone.fingerprint()


def _without(pattern: str) -> Callable[[Path], None]:
    return lambda folder: [path.unlink() for path in folder.glob(pattern)] and None


def _config(**changes: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))

    return spoil


def _damaged_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def _truncated_weights(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def _without_a_shard(folder: Path) -> None:
    whisper = Backbone.from_pretrained(folder).whisper
    (folder / "model.safetensors").unlink()
    whisper.save_pretrained(folder, max_shard_size="100KB")
    sorted(folder.glob("model-*.safetensors"))[-1].unlink()


def _another_tokenizer(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    ends = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 2)
    start = {"decoder_start_token_id": 3, "vocab_size": 200}
    other = WhisperConfig(**{**config, **ends, **start})
    WhisperForConditionalGeneration(other).save_pretrained(folder)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_without("config.json"), "it has no config.json"),
        (_damaged_config, "config.json says nothing of a model"),
        (_without("model.safetensors"), "it has no weights"),
        (_truncated_weights, "a folder with a Whisper"),
        (_without_a_shard, "a folder with a Whisper"),
        (_without("tokenizer*"), "it has no tokenizer.json"),
        (_another_tokenizer, "its tokenizer is of another model"),
        (
            _config(decoder_layers=3),
            "incomplete for its .*, without model.decoder.layers.2",
        ),
        (
            _config(encoder_layers=1),
            "of a larger model .*, with model.encoder.layers.1",
        ),
        (
            _config(decoder_ffn_dim=64),
            r"fc1.bias is \(128,\) .* and \(64,\) after config.json",
        ),
        (_config(model_type="bert"), "config.json says bert"),
        (_config(format_version=1), "it is an adapter; as a backbone give the Whisper"),
    ],
)
def test_a_folder_that_is_no_whisper(
    spoil: Callable[[Path], None], reason: str, random_backbone_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(random_backbone_folder, folder)
    spoil(folder)
    with pytest.raises(ConfigError, match=f"cannot load the Whisper .*{reason}") as error:
        Backbone.from_pretrained(folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize(
    ("name", "offline", "message"),
    [
        ("/nowhere/model", False, "no model folder at /nowhere/model"),
        ("./nowhere", False, "no model folder at ./nowhere"),
        ("nobody/whisper-nowhere", True, "not in the local cache and --offline is set"),
    ],
)
def test_a_model_that_is_not_there(name: str, offline: bool, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        Backbone.from_pretrained(name, offline=offline)
    assert "\n" not in str(error.value)


# Tokens


def test_prompt_and_text_of_the_random_backbone(random_backbone: Backbone) -> None:
    vocabulary = random_backbone.tokenizer.get_vocab()
    names = ["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]
    assert random_backbone.prompt_ids() == [vocabulary[name] for name in names]
    assert random_backbone.text_ids("") == random_backbone.text_ids("  ") == []
    for text in ("turn on the light", "sto- stop", "Grüße 日本"):
        assert random_backbone.text(random_backbone.text_ids(text)) == text
    extra = [*random_backbone.text_ids("go"), vocabulary["<|0.48|>"], random_backbone.eos]
    assert random_backbone.text(extra) == "go"


@pytest.mark.parametrize(
    ("language", "task"), [("de", "transcribe"), ("transcribe", "transcribe"), ("en", "sing")]
)
def test_unknown_language_or_task(random_backbone: Backbone, language: str, task: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot {task} {language!r}"):
        random_backbone.prompt_ids(language, task)


# Ids of the published models, as OpenAI's tokenizer numbers them.
PUBLISHED = {
    "whisper-en": {"vocab_size": 51864, "eos": 50256, "prompt": [50257, 50362]},
    "whisper-multilingual": {
        "vocab_size": 51865,
        "eos": 50257,
        "prompt": [50258, 50259, 50359, 50363],
    },
    "whisper-v3": {"vocab_size": 51866, "eos": 50257, "prompt": [50258, 50259, 50360, 50364]},
}


@pytest.fixture(scope="module", params=PUBLISHED)
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny random model with a published vocabulary, loaded as any folder; and its facts."""
    assets = SHARED_ASSETS / request.param
    if not assets.is_dir():
        pytest.skip("needs the tokenizers in ../shared/whisper-assets")
    facts = PUBLISHED[request.param]
    shape = {
        f"{p}_{n}": v
        for p in ("encoder", "decoder")
        for n, v in (("layers", 1), ("attention_heads", 1), ("ffn_dim", 8))
    }
    ends = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), facts["eos"])
    config = WhisperConfig(
        vocab_size=facts["vocab_size"],
        d_model=8,
        **shape,
        **ends,
        decoder_start_token_id=facts["prompt"][0],
        num_mel_bins=128 if request.param == "whisper-v3" else 80,
    )
    folder = tmp_path_factory.mktemp("published") / request.param
    WhisperForConditionalGeneration(config).save_pretrained(folder)
    # The fine-tuned folders of many users have no generation config that says so.
    for path in assets.iterdir():
        shutil.copy(path, folder)
    return Backbone.from_pretrained(folder, offline=True), facts


def test_published_vocabularies(published: Any) -> None:
    backbone, facts = published
    assert backbone.audio_context == "full", "a checkpoint that records nothing was trained on 30 s"
    assert backbone.eos == facts["eos"]
    assert backbone.prompt_ids() == facts["prompt"]
    assert backbone.text_ids("turn on the light") == backbone.text_ids(" turn on the light ")
    for text in ("turn on the light", "sto- stop", "Grüße 日本"):
        ids = backbone.text_ids(text)
        assert max(ids) < facts["eos"], "text has no special token"
        assert backbone.text([*backbone.prompt_ids(), *ids, backbone.eos]) == text
    # OpenAI's targets begin with a blank: " turn" is one token.
    assert backbone.tokenizer.convert_ids_to_tokens(backbone.text_ids("turn")) == ["Ġturn"]


def test_published_languages(published: Any) -> None:
    backbone, facts = published
    if facts["vocab_size"] == 51864:
        with pytest.raises(ConfigError, match="cannot transcribe 'de'"):
            backbone.prompt_ids("de")
        return
    assert backbone.prompt_ids("de")[1] == 50261
    assert backbone.prompt_ids("de", "translate")[2] == facts["prompt"][2] - 1
    with pytest.raises(ConfigError, match="cannot transcribe 'klingon'"):
        backbone.prompt_ids("klingon")


# The margin of trimmed context


@pytest.fixture(scope="module")
def with_margin(random_backbone_folder: Path) -> Backbone:
    return Backbone.from_pretrained(random_backbone_folder, audio_context="trimmed", margin_s=0.5)


def test_the_margin_is_silence_that_the_model_hears(
    with_margin: Backbone, random_backbone: Backbone, voice: Callable[..., np.ndarray]
) -> None:
    """As if the recording itself had gone on in silence, and whatever else is in the batch."""
    waves = [voice(1.3), voice(2.01, 200.0), voice(1.55, 90.0)]
    mel, n_frames = with_margin.features(waves)
    assert n_frames.tolist() == [130, 201, 155], "the margin is not of the utterance"
    found = with_margin.encode(mel, n_frames, pool_layers=(1,))
    assert found.lengths.tolist() == [90, 126, 103]
    for row, wave in enumerate(waves):
        longer = np.pad(wave, (0, 8_000))
        plain = random_backbone.encode(*random_backbone.features([longer]))
        n = int(plain.lengths[0])
        torch.testing.assert_close(found.states[row, :n], plain.states[0], atol=1e-4, rtol=1e-4)
        alone = with_margin.encode(*with_margin.features([wave]), pool_layers=(1,))
        torch.testing.assert_close(found.moments[1][row], alone.moments[1][0], atol=1e-4, rtol=1e-3)
    # What is pooled is the utterance: 65 of the 90 states.
    hidden = with_margin.encode(mel[:1], n_frames[:1], pool_layers=(0,))
    stem = F.gelu(with_margin.whisper.model.encoder.conv1(mel[:1, :, :180]))
    stem = F.gelu(with_margin.whisper.model.encoder.conv2(stem)).transpose(1, 2)
    stem = stem + with_margin.whisper.model.encoder.embed_positions.weight[:90]
    twin = stem[0, :65].mean(0)
    torch.testing.assert_close(hidden.moments[0][0, :32], twin, atol=1e-4, rtol=1e-3)


def test_the_margin_ends_at_thirty_seconds(with_margin: Backbone) -> None:
    rng = np.random.default_rng(0)
    wave = rng.normal(0, 0.1, round(29.8 * 16_000)).astype(np.float32)
    mel, n_frames = with_margin.features([wave])
    assert (mel.shape[-1], n_frames.tolist()) == (3_000, [2_980])
    assert with_margin.encode(mel, n_frames).lengths.tolist() == [1_500]


def test_mel_without_its_margin_is_refused(with_margin: Backbone) -> None:
    with pytest.raises(ShapeError, match=r"its margin of 0\.5 s 150; make"):
        with_margin.encode(torch.zeros(1, 80, 120), torch.tensor([100]))


def test_a_margin_belongs_to_the_fingerprint_and_to_what_is_saved(
    with_margin: Backbone, random_backbone: Backbone, tmp_path: Path
) -> None:
    assert with_margin.fingerprint() != random_backbone.fingerprint()
    with_margin.save_pretrained(tmp_path)
    again = Backbone.from_pretrained(tmp_path)
    assert (again.audio_context, again.margin_s) == ("trimmed", 0.5)
    assert again.fingerprint() == with_margin.fingerprint()
    full = Backbone.from_pretrained(tmp_path, audio_context="full")
    assert full.margin_s == 0.0, "thirty seconds hold silence enough"


def test_saving_changes_nothing_of_what_is_heard_as_published(
    tiny_whisper: Any, random_backbone: Backbone, tmp_path: Path
) -> None:
    backbone = Backbone(tiny_whisper, random_backbone.tokenizer, "trimmed", 0.5)
    backbone.save_pretrained(tmp_path)
    assert backbone.as_published().audio_context == "full"


def test_published_weights_get_the_margin_that_suits_them(tiny_whisper: Any) -> None:
    assert Backbone(tiny_whisper, None, "trimmed").margin_s == MARGIN_S
    assert Backbone(tiny_whisper, None).margin_s == 0.0
    for wrong in (-1.0, 31.0, float("nan")):
        with pytest.raises(ConfigError, match="it must be in"):
            Backbone(tiny_whisper, None, "trimmed", wrong)
