"""Posterior samples in decoding: one set of weights a row, whatever else is in the batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hyperasr.adapters import SourceConfig, lora
from hyperasr.adapters.posterior import utterance_generators
from hyperasr.errors import ConfigError
from hyperasr.hub import HyperASR
from hyperasr.model import decode, decode_tokens, token_limits
from hyperasr.speaker.encoder import SpeakerConfig
from hyperasr.types import Batch, Decoded
from hyperasr.whisper.backbone import Backbone
from hyperasr.whisper.search import SearchConfig
from tests.test_decode import Rows, decode_rows

K = 3
NET = {"rank": 2, "d_hidden": 16, "d_layer_emb": 4, "n_hidden": 1, "bayesian": "both"}
SOURCES = {
    "bayes_hypernet": SourceConfig("bayes_hypernet", settings={**NET, "sigma_start": 0.3}),
    "blora": SourceConfig("blora", settings={"rank": 2, "sigma_start": 0.5}),
    "encoder": SourceConfig(
        "vi_lora",
        ("encoder.fc1", "decoder.q_proj"),
        {"rank": 2, "sigma_start": 0.3, "prior": "fixed"},
    ),
}


def build(backbone: Backbone, name: str) -> HyperASR:
    model = HyperASR(backbone, SpeakerConfig(), SOURCES[name])
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.source.parameters():
            weight.add_(torch.randn(weight.shape, generator=g), alpha=0.2)
    return model.eval()


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def model(random_backbone: Backbone) -> HyperASR:
    return build(random_backbone, "bayes_hypernet")


@pytest.fixture(scope="module")
def rows(model: HyperASR) -> Rows:
    return Rows(model)


def alone(model: HyperASR, batch: Batch, seed: int, search: SearchConfig | None) -> Decoded:
    """Decode each sample of each utterance by itself, its factors merged into the weights."""
    base = int(torch.randint(2**62, (), generator=seeded(seed)))
    parts: list[Decoded] = []
    for i in range(batch.n_utt):
        n = int(batch.n_frames[i])
        assert batch.mel is not None
        one = Batch(batch.n_frames[i : i + 1], mel=batch.mel[i : i + 1, :, :n])
        emb, _ = model.embed(one)
        generators = utterance_generators(base, [batch.ids[i]], K)
        factors = model.factors(emb, n_samples=K, generators=generators)
        for k in range(K):
            with (
                lora.merged(model.backbone.whisper, factors.map(lambda t, k=k: t[:, k : k + 1])),
                torch.no_grad(),
            ):
                assert one.mel is not None
                states = model.backbone.encode(one.mel, one.n_frames)
                limits = token_limits((one.n_frames + 1) // 2)
                parts.append(model.backbone.generate(states, search, max_tokens=limits))
    columns = ("tokens", "logprobs", "finished", "score")
    return Decoded(*(tuple(getattr(p, c)[0] for p in parts) for c in columns))


@pytest.mark.parametrize("search", [None, SearchConfig(beam_size=2)], ids=["greedy", "beam"])
@pytest.mark.parametrize("name", SOURCES)
def test_samples_are_those_of_merged_weights(
    name: str, search: SearchConfig | None, random_backbone: Backbone
) -> None:
    model = build(random_backbone, name)
    n_frames = torch.tensor([60, 21])
    mel = torch.randn(2, 80, 60, generator=seeded())
    mel[1, :, 21:] = 0
    batch = Batch(n_frames, mel=mel, ids=("x", "y"))
    found = decode(model, batch, search, n_samples=K, seed=7)
    expected = alone(model, batch, 7, search)
    assert found.tokens == expected.tokens
    assert found.finished == expected.finished
    for ours, theirs in zip(found.logprobs, expected.logprobs, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-3)
    assert len(set(found.tokens)) > 2, "samples differ, or this tests nothing"


def test_a_sample_does_not_depend_on_its_batch(model: HyperASR, rows: Rows) -> None:
    together = decode_rows(model, rows, n_samples=K, seed=3)
    assert len(together) == 5 * K
    assert len(set(together)) > 5, "samples differ"
    for batch_size in (1, 2 * K, 1000):
        again = decode_rows(model, rows, batch_size=batch_size, n_samples=K, seed=3)
        assert again == together
    order = [4, 1, 1]
    some = decode_rows(model, rows, order, n_samples=K, seed=3)
    assert some == [together[i * K + k] for i in order for k in range(K)]
    fewer = decode_rows(model, rows, n_samples=1, seed=3)
    assert fewer == together[::K], "the first sample is the first, however many are drawn"


def test_samples_follow_the_id_where_there_is_one(model: HyperASR, rows: Rows) -> None:
    batch = replace(rows.batch([0, 1, 2]), ids=("a", "b", "c"))
    found = decode(model, batch, n_samples=K, seed=3)
    turned = replace(rows.batch([2, 0]), ids=("c", "a"))
    again = decode(model, turned, n_samples=K, seed=3)
    assert again.tokens == found.tokens[2 * K :] + found.tokens[:K]
    renamed = replace(rows.batch([0, 1, 2]), ids=("a", "b", "d"))
    other = decode(model, renamed, n_samples=K, seed=3)
    assert other.tokens[: 2 * K] == found.tokens[: 2 * K]
    assert other.logprobs[2 * K :] != found.logprobs[2 * K :]


def test_samples_know_where_the_sound_ends(model: HyperASR, rows: Rows) -> None:
    batch = rows.batch([0, 1])
    assert batch.encoded is not None
    heard = replace(batch.encoded, sounding=torch.tensor([9, 4]))
    with model.adapted(replace(batch, encoded=heard), n_samples=2) as states:
        assert states.sounding is not None
        assert states.sounding.tolist() == [9, 9, 4, 4]


def test_the_seed_decides(model: HyperASR, rows: Rows) -> None:
    first = decode_tokens(model, rows, n_samples=K, seed=1)
    assert decode_tokens(model, rows, n_samples=K, seed=1) == first
    assert decode_tokens(model, rows, n_samples=K, seed=2).logprobs != first.logprobs
    default = decode_tokens(model, rows, n_samples=K)
    assert default == decode_tokens(model, rows, n_samples=K, seed=0)


def test_without_samples_the_mean_is_decoded(model: HyperASR, rows: Rows) -> None:
    found = decode_tokens(model, rows)
    assert len(found.tokens) == 5
    texts = [model.backbone.text(tokens) for tokens in found.tokens]
    assert decode_rows(model, rows) == texts
    assert [len(t) for t in found.tokens] == [len(p) for p in found.logprobs]
    assert decode_tokens(model, rows, []) == Decoded((), (), ())
    quiet = build(model.backbone, "bayes_hypernet")
    quiet.load_state_dict(model.state_dict())
    with torch.no_grad():
        for bias in quiet.source.bias_sigma.parameters():
            bias.fill_(-100.0)
    samples = decode_tokens(quiet, rows, n_samples=2).tokens
    assert samples == tuple(t for t in found.tokens for _ in range(2)), "no noise, no difference"


def test_bad_calls(model: HyperASR, rows: Rows, random_backbone: Backbone) -> None:
    with pytest.raises(ConfigError, match="n_samples is 0"):
        decode_rows(model, rows, n_samples=0)
    with pytest.raises(ConfigError, match="needs adapt=True"):
        decode_rows(model, rows, n_samples=2, adapt=False)
    point = HyperASR(random_backbone, SpeakerConfig(), SourceConfig())
    with pytest.raises(ConfigError, match="gives points"):
        decode_rows(point, rows, n_samples=2)
