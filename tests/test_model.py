"""HyperASR: one forward for every source, step 0 is the backbone, checkpoints load strictly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hyperasr.adapters import SourceConfig, lora
from hyperasr.adapters.objective import ObjectiveConfig
from hyperasr.errors import CheckpointMismatch, ConfigError, ShapeError
from hyperasr.hub import HyperASR
from hyperasr.model import decode
from hyperasr.speaker.encoder import SpeakerConfig
from hyperasr.types import Batch, TeacherTokens
from hyperasr.whisper import backbone as backbone_module
from hyperasr.whisper.backbone import Backbone

COHORTS = ("stuttering", "dysarthria", "typical")
HYPERNET = {"rank": 2, "d_hidden": 8, "d_layer_emb": 4, "n_hidden": 1}
# Small enough to be quick; ECAPA needs channels in multiples of 8.
ECAPA = SpeakerConfig(kind="ecapa", d_spk=8, channels=8)
SOURCES = {
    "hypernet": SourceConfig(settings=HYPERNET),
    "two_targets": SourceConfig(targets=("decoder.fc1", "decoder.fc2"), settings=HYPERNET),
    "global": SourceConfig(kind="static", settings={"rank": 2}),
    "cohort": SourceConfig(
        kind="static", settings={"rank": 2, "by": "cohort", "groups": list(COHORTS)}
    ),
    "encoder": SourceConfig(targets=("encoder.fc1", "decoder.fc1"), settings=HYPERNET),
}


def make_batch(backbone: Backbone) -> Batch:
    """Return three utterances with mel, tokens, cohorts and speakers."""
    generator = torch.Generator().manual_seed(5)
    n_frames = torch.tensor([50, 33, 71])
    mel = torch.randn(3, 80, 71, generator=generator)
    for row, n in zip(mel, n_frames, strict=True):
        row[:, int(n) :] = 0
    tokens, n_tokens, n_prompt = backbone.targets(["seven", "open the door", "go"])
    return Batch(
        n_frames=n_frames,
        mel=mel,
        tokens=tokens,
        n_tokens=n_tokens,
        n_prompt=n_prompt,
        speakers=("anna", "ben", "anna"),
        cohorts=COHORTS,
    )


@pytest.fixture(scope="module")
def batch(random_backbone: Backbone) -> Batch:
    return make_batch(random_backbone)


def stir(model: HyperASR) -> HyperASR:
    """Let every factor depend on everything it can."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.source.named_parameters():
            if name.startswith(("heads", "bias", "A.", "B.")):
                weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.3)
    return model.eval()


def backbone_loss(model: HyperASR, batch: Batch) -> Tensor:
    encoded = model.encode(batch)
    assert batch.tokens is not None
    assert batch.n_tokens is not None
    logprobs, scored = model.backbone.scored_logprobs(
        encoded, batch.tokens, batch.n_tokens, batch.n_prompt
    )
    return -logprobs.gather(1, batch.tokens[scored][:, None]).mean()


@pytest.mark.parametrize("name", SOURCES)
def test_step_0_is_the_backbone_bit_for_bit(
    name: str, random_backbone: Backbone, batch: Batch
) -> None:
    model = HyperASR(random_backbone, SpeakerConfig(), SOURCES[name]).train()
    objective = model(batch)
    assert torch.equal(objective.total, backbone_loss(model, batch))
    assert torch.equal(objective.nll, objective.total)
    stirred = stir(model)(batch)
    assert not torch.isclose(stirred.nll, objective.nll), "and later it is not"


@pytest.mark.parametrize("name", SOURCES)
def test_a_batch_is_the_mean_over_tokens_of_its_utterances(
    name: str, random_backbone: Backbone, batch: Batch
) -> None:
    model = stir(HyperASR(random_backbone, SpeakerConfig(), SOURCES[name]))
    assert batch.tokens is not None
    assert batch.n_tokens is not None
    assert batch.mel is not None
    total, n_total = 0.0, 0
    with torch.no_grad():
        together = float(model(batch).nll)
        for i in range(3):
            # One utterance, its factors merged into the weights, the plain backbone.
            n, n_tokens = int(batch.n_frames[i]), batch.n_tokens[i : i + 1]
            one = replace(
                batch,
                mel=batch.mel[i : i + 1, :, :n],
                n_frames=batch.n_frames[i : i + 1],
                cohorts=batch.cohorts[i : i + 1],
                speakers=batch.speakers[i : i + 1],
            )
            emb, encoded = model.embed(one)
            with lora.merged(random_backbone.whisper, model.factors(emb, model.groups(one))):
                if model.adapts_encoder:
                    assert one.mel is not None
                    encoded = random_backbone.encode(one.mel, one.n_frames)
                tokens = batch.tokens[i : i + 1, : int(n_tokens)]
                nll, n_scored = random_backbone.nll(encoded, tokens, n_tokens, batch.n_prompt)
            total, n_total = total + float(nll), n_total + int(n_scored)
    assert together == pytest.approx(total / n_total, rel=1e-5)


@pytest.mark.parametrize("speaker", [SpeakerConfig(), ECAPA], ids=["pooled", "ecapa"])
def test_only_what_is_trained_has_gradients(
    speaker: SpeakerConfig, random_backbone: Backbone, batch: Batch
) -> None:
    model = stir(HyperASR(random_backbone, speaker, SOURCES["hypernet"])).train()
    assert not model.backbone.whisper.training
    model(batch).total.backward()
    moved = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    expected = {n for n, _ in model.named_parameters() if not n.startswith("backbone.")}
    # Behind a normalisation over the batch a constant has no effect.
    silent = {n for n in expected - moved if n.endswith("bias") and n.startswith("speaker.")}
    assert moved == expected - silent
    assert any(n.startswith("speaker.") for n in moved) == (speaker is ECAPA)
    assert all(p.grad is None for p in random_backbone.parameters())


def test_the_first_step_trains_the_heads_and_one_bias(
    random_backbone: Backbone, batch: Batch
) -> None:
    # B is zero at the start, so what A is made from cannot matter yet.
    model = HyperASR(random_backbone, SpeakerConfig(), SOURCES["hypernet"])
    model(batch).total.backward()
    moved = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {"source.bias_B.decoder_fc1", "source.heads.decoder_fc1.0.weight"}, (
        "the conditioning learns at once"
    )


def test_encoder_targets_change_the_states(random_backbone: Backbone, batch: Batch) -> None:
    model = stir(HyperASR(random_backbone, SpeakerConfig(), SOURCES["encoder"]))
    assert model.adapts_encoder
    with torch.no_grad():
        emb, encoded = model.embed(batch)
        assert torch.equal(model.encode(batch).states, encoded.states)
        with model.adapted_with(model.factors(emb), batch, encoded) as adapted:
            pass
        with model.adapted(batch) as same:
            pass
        with model.adapted(batch, adapt=False) as unadapted:
            pass
    assert torch.equal(adapted.states, same.states)
    assert torch.equal(unadapted.states, encoded.states)
    assert torch.equal(adapted.lengths, encoded.lengths)
    assert not torch.allclose(adapted.states, encoded.states, atol=1e-2)


@pytest.mark.parametrize(
    ("targets", "shares"),
    [
        (("encoder.fc1",), True),
        (("encoder.fc2", "decoder.fc1"), True),
        (("encoder.fc1", "encoder.v_proj"), False),
        (("decoder.fc1",), False),
    ],
)
def test_the_second_pass_goes_on_behind_what_it_shares_with_the_first(
    targets: tuple[str, ...], shares: bool, random_backbone: Backbone, batch: Batch
) -> None:
    source = SourceConfig("hypernet", targets, {"rank": 2})
    model = stir(HyperASR(random_backbone, SpeakerConfig(), source))
    with torch.no_grad():
        emb, encoded = model.embed(batch)
        assert (encoded.attended is not None) == shares
        assert batch.mel is not None
        plain = random_backbone.encode(batch.mel, batch.n_frames)
        assert torch.equal(encoded.states, plain.states)
        with lora.using(random_backbone.whisper, model.factors(emb)):
            twice = random_backbone.encode(batch.mel, batch.n_frames)
        with model.adapted_with(model.factors(emb), batch, encoded) as adapted:
            expected = twice if model.adapts_encoder else plain
            assert torch.equal(adapted.states, expected.states)
        # A part of the batch, as where memory does not suffice for all.
        rows = [2, 0]
        part = replace(batch, encoded=encoded, speaker_emb=emb).select(rows)
        with model.adapted(part) as chosen:
            n = chosen.states.shape[1]
            torch.testing.assert_close(chosen.states, expected.states[rows, :n])


@pytest.mark.parametrize(("layers", "once"), [((0,), True), ((0, 1), False)])
def test_an_embedding_of_the_stem_needs_no_pass_of_its_own(
    layers: tuple[int, ...], once: bool, random_backbone: Backbone, batch: Batch
) -> None:
    source = SourceConfig("hypernet", ("encoder.fc1", "decoder.fc1"), {"rank": 2})
    model = stir(HyperASR(random_backbone, SpeakerConfig(layers=layers), source))
    heard: list[str] = []
    handles = [
        layer.self_attn.register_forward_hook(lambda *_: heard.append("attention"))
        for layer in random_backbone.whisper.model.encoder.layers
    ]
    with torch.no_grad():
        emb, encoded = model.embed(batch)
        with model.adapted(replace(batch, encoded=encoded, speaker_emb=emb)) as adapted:
            pass
        n_layers = len(handles)
        for handle in handles:
            handle.remove()
        assert len(heard) == (n_layers if once else 2 * n_layers - 1)
        assert (encoded.states.shape[1] == 0) == once
        # Two whole passes.
        assert batch.mel is not None
        plain = random_backbone.encode(batch.mel, batch.n_frames, layers)
        own = model.speaker(encoded=plain, mel=batch.mel, n_frames=batch.n_frames)
        assert torch.equal(own, emb)
        with lora.using(random_backbone.whisper, model.factors(own)):
            twice = random_backbone.encode(batch.mel, batch.n_frames)
    assert torch.equal(adapted.states, twice.states)
    assert decode(model, batch).tokens == decode(model, replace(batch, speaker_emb=own)).tokens


def test_where_nobody_reads_the_embedding_there_is_no_pass_for_it(
    random_backbone: Backbone, batch: Batch
) -> None:
    source = SourceConfig("static", ("encoder.fc1", "decoder.fc1"), {"rank": 2})
    model = stir(HyperASR(random_backbone, SpeakerConfig(layers=(0, 2)), source))
    heard: list[str] = []
    handles = [
        layer.self_attn.register_forward_hook(lambda *_: heard.append("attention"))
        for layer in random_backbone.whisper.model.encoder.layers
    ]
    with torch.no_grad():
        with model.adapted(batch) as adapted:
            pass
        loss = model(batch).nll
        assert len(heard) == 2 * len(handles)
        for handle in handles:
            handle.remove()
        emb, encoded = model.embed(batch)
        with model.adapted_with(model.factors(emb), batch, encoded) as expected:
            pass
        assert torch.equal(adapted.states, expected.states)
        assert torch.equal(loss, model(replace(batch, encoded=encoded, speaker_emb=emb)).nll)


@pytest.mark.parametrize("layers", [(0,), (0, 2)])
@pytest.mark.parametrize("n_together", [40, 60])
def test_a_batch_goes_through_the_encoder_in_parts(
    layers: tuple[int, ...],
    n_together: int,
    random_backbone: Backbone,
    batch: Batch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As every utterance alone does, with the factors that are its own."""
    source = SourceConfig("hypernet", ("encoder.fc1", "decoder.fc1"), {"rank": 2})
    model = stir(HyperASR(random_backbone, SpeakerConfig(layers=layers), source))
    sizes: list[int] = []
    stem = random_backbone._stem

    def counted(mel: Tensor, n_frames: Tensor) -> Tensor:
        sizes.append(len(mel))
        return stem(mel, n_frames)

    monkeypatch.setattr(random_backbone, "_stem", counted)
    monkeypatch.setattr(backbone_module, "_TOGETHER", n_together)
    with torch.no_grad():
        emb, _ = model.embed(batch)
        with model.adapted(batch) as adapted:
            pass
        parts, sizes[:] = sizes.copy(), []
        assert len(parts) > 2
        assert max(parts) < batch.n_utt
        for row in range(batch.n_utt):
            alone = batch.select([row])
            own, _ = model.embed(alone)
            torch.testing.assert_close(emb[[row]], own)
            with model.adapted(alone) as expected:
                n = int(expected.lengths)
            torch.testing.assert_close(
                adapted.states[[row], :n], expected.states, rtol=0, atol=1e-3
            )
            assert not adapted.states[row, n:].any()
        # With samples, of which rows are more than utterances, and with gradients all at once.
        sizes.clear()
        mel, n_frames = (t.repeat_interleave(2, 0) for t in (batch.mel, batch.n_frames))
        with lora.using(random_backbone.whisper, model.factors(emb)):
            random_backbone.encode(mel, n_frames)
        assert sizes == [2 * batch.n_utt]
    sizes.clear()
    random_backbone.encode(batch.mel, batch.n_frames)
    assert sizes == [batch.n_utt]


@pytest.mark.parametrize("use", [lambda m, b: m(b), decode], ids=["forward", "decode"])
def test_encoder_targets_refuse_cached_states(
    use: Callable[[HyperASR, Batch], Any], random_backbone: Backbone, batch: Batch
) -> None:
    model = HyperASR(random_backbone, SpeakerConfig(), SOURCES["encoder"])
    emb, encoded = model.embed(batch)
    cached = replace(batch, mel=None, encoded=encoded, speaker_emb=emb)
    with pytest.raises(ShapeError, match="encoder targets need mel"):
        use(model, cached)
    # With decoder targets the very same batch will do.
    use(HyperASR(random_backbone, SpeakerConfig(), SOURCES["hypernet"]), cached)


@pytest.mark.parametrize("by", ["cohort", "speaker"])
def test_static_groups_follow_cohorts_or_speakers(
    by: str, random_backbone: Backbone, batch: Batch
) -> None:
    groups = list(COHORTS) if by == "cohort" else ["anna", "ben"]
    source = SourceConfig(kind="static", settings={"rank": 2, "by": by, "groups": groups})
    model = stir(HyperASR(random_backbone, SpeakerConfig(), source))
    emb, _ = model.embed(batch)
    a = model.factors(emb, model.groups(batch))["decoder.fc1"].A
    same = torch.equal(a[:, 0], a[:, 2])  # utterances 0 and 2: one speaker, two cohorts
    assert same == (by == "speaker")
    assert not torch.equal(a[:, 0], a[:, 1])
    unknown = replace(batch, cohorts=("stutering",) * 3, speakers=("stutering",) * 3)
    with pytest.raises(ConfigError, match=f"no factors for {by} 'stutering'"):
        model(unknown)


def test_incomplete_batches(random_backbone: Backbone, batch: Batch) -> None:
    model = HyperASR(random_backbone, SpeakerConfig(), SOURCES["hypernet"])
    with pytest.raises(ShapeError, match="needs tokens"):
        model(replace(batch, tokens=None))
    for use in (model, lambda b: decode(model, b), lambda b: decode(model, b, adapt=False)):
        with pytest.raises(ShapeError, match="needs encoder states or mel"):
            use(replace(batch, mel=None))


def test_embeddings_given_are_used(random_backbone: Backbone, batch: Batch) -> None:
    model = stir(HyperASR(random_backbone, SpeakerConfig(), SOURCES["hypernet"]))
    emb, _ = model.embed(batch)
    with torch.no_grad():
        own, same, other = (
            model(b).nll
            for b in (
                batch,
                replace(batch, speaker_emb=emb),
                replace(batch, speaker_emb=emb.roll(1, 0)),
            )
        )
    assert torch.equal(own, same)
    assert not torch.isclose(own, other)


def test_the_budget_is_one_line(random_backbone: Backbone) -> None:
    text = HyperASR(random_backbone, SpeakerConfig(), SOURCES["hypernet"]).budget()
    assert "%" in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "hypernt"}, "no adapter source 'hypernt'"),
        ({"settings": {"rnk": 2}}, "unknown key 'rnk'; did you mean 'rank'"),
        ({"settings": {"rank": "two"}}, "rank is 'two'; it must be a whole number"),
        ({"settings": {"rank": 0}}, "rank"),
        ({"targets": ("decoder.fc9",)}, "decoder.fc9"),
    ],
)
def test_impossible_sources(
    settings: dict[str, Any], message: str, random_backbone: Backbone
) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        HyperASR(random_backbone, SpeakerConfig(), SourceConfig(**settings))
    assert "\n" not in str(error.value)


# Checkpoints


@pytest.mark.parametrize("name", ["two_targets", "cohort", "ecapa"])
def test_round_trip(name: str, random_backbone: Backbone, batch: Batch, tmp_path: Path) -> None:
    speaker = ECAPA if name == "ecapa" else SpeakerConfig(layers=(0, 2), log_duration=True)
    model = HyperASR(random_backbone, speaker, SOURCES.get(name, SOURCES["hypernet"]))
    if name == "two_targets":
        many = torch.randn(9, model.speaker.d_spk, generator=torch.Generator().manual_seed(1))
        model.source.fit_embedding(1e6 * many)  # beyond fp16: statistics are stored as they are
    if name == "ecapa":
        model.train().embed(batch)  # moves the running statistics
    stir(model)
    model.save_pretrained(tmp_path / "m", backbone="unused", training={"note": "words"})
    loaded = HyperASR.from_pretrained(tmp_path / "m", backbone=random_backbone)
    assert not loaded.training
    assert (loaded.speaker_config, loaded.source_config.kind) == (speaker, model.source_config.kind)
    for key, value in model.state_dict().items():
        # fp16 has 11 bits: half a unit in the last place is 2 ** -11.
        rounding = 0.0 if "emb_" in key or "running_" in key else 2**-11
        torch.testing.assert_close(
            loaded.state_dict()[key], value, rtol=rounding, atol=2**-24 if rounding else 0.0
        )
    with torch.no_grad():
        for own, other in zip(*(factor_list(m, batch) for m in (model, loaded)), strict=True):
            torch.testing.assert_close(own, other, rtol=5e-3, atol=5e-3)
        again = HyperASR.from_pretrained(tmp_path / "m", backbone=random_backbone)
        assert decode(again, batch) == decode(loaded, batch)
    # Storing what was stored changes nothing any more.
    loaded.save_pretrained(tmp_path / "n", backbone="unused", training={"note": "words"})
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "n" / file).read_bytes() == (tmp_path / "m" / file).read_bytes()


def factor_list(model: HyperASR, batch: Batch) -> list[Tensor]:
    emb, _ = model.embed(batch)
    factors = model.factors(emb, model.groups(batch))
    return [t for pair in factors.targets.values() for t in (pair.A, pair.B)]


def test_a_model_finds_its_own_backbone(random_model_folder: Path, batch: Batch) -> None:
    model = HyperASR.from_pretrained(random_model_folder, offline=True)
    assert model.backbone.audio_context == "trimmed"
    text = decode(model, batch)
    assert text == decode(HyperASR.from_pretrained(random_model_folder, offline=True), batch)
    assert text != decode(model, batch, adapt=False)


def test_a_checkpoint_holds_no_backbone_and_no_pickle(random_model_folder: Path) -> None:
    assert sorted(p.name for p in random_model_folder.iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    assert not [n for n in load_file(random_model_folder / "model.safetensors") if "backbone" in n]


def test_another_backbone_is_refused(
    random_model_folder: Path, random_backbone_folder: Path
) -> None:
    other = Backbone.from_pretrained(random_backbone_folder, offline=True)
    with torch.no_grad():
        other.whisper.model.decoder.layers[0].fc1.weight[3, 3] += 0.1
    with pytest.raises(CheckpointMismatch, match="belongs to the backbone"):
        HyperASR.from_pretrained(random_model_folder, backbone=other)


def _missing(tensors: dict[str, Tensor]) -> str:
    del tensors["source.layer_emb"]
    return r"missing \['source.layer_emb'\]"


def _surplus(tensors: dict[str, Tensor]) -> str:
    tensors["source.extra"] = torch.zeros(2)
    return r"surplus \['source.extra'\]"


def _other_shape(tensors: dict[str, Tensor]) -> str:
    tensors["source.layer_emb"] = torch.zeros(2, 5)
    return r"source.layer_emb is \(2, 5\), not \(2, 4\)"


@pytest.mark.parametrize("spoil", [_missing, _surplus, _other_shape])
def test_weights_load_strictly(
    spoil: Callable[[dict[str, Tensor]], str],
    random_model_folder: Path,
    random_backbone: Backbone,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(random_model_folder, folder)
    tensors = load_file(folder / "model.safetensors")
    message = spoil(tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointMismatch, match=message) as error:
        HyperASR.from_pretrained(folder, backbone=random_backbone)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change", [{"settings": {"rank": 3}}, {"targets": ["decoder.fc2"]}])
def test_weights_fit_the_source_that_the_config_names(
    change: dict[str, Any], random_model_folder: Path, random_backbone: Backbone, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(random_model_folder, folder)
    head = json.loads((folder / "config.json").read_text())
    for key, value in change.items():
        old = head["source"][key]
        head["source"][key] = {**old, **value} if isinstance(old, dict) else value
    (folder / "config.json").write_text(json.dumps(head))
    with pytest.raises(CheckpointMismatch, match=r"does not fit its config\.json") as error:
        HyperASR.from_pretrained(folder, backbone=random_backbone)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("data", [None, b"", b"not weights"])
def test_weights_that_cannot_be_read(
    data: bytes | None, random_model_folder: Path, random_backbone: Backbone, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(random_model_folder, folder)
    if data is None:
        (folder / "model.safetensors").unlink()
    else:
        (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointMismatch, match="missing or damaged"):
        HyperASR.from_pretrained(folder, backbone=random_backbone)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sorce": {}}, "unknown key 'sorce'"),
        ({"source": None}, "it must be settings by name"),
        ({"backbone": ...}, "missing key 'backbone'"),
        ({"format_version": 99}, "format_version is 99"),
        ({"speaker": {"kinds": "pooled"}}, "unknown key 'kinds'; did you mean 'kind'"),
        ({"source": {"kind": "hypernet", "settings": {"rnk": 2}}}, "unknown key 'rnk'"),
    ],
)
def test_a_config_that_says_something_else(
    change: dict[str, Any],
    message: str,
    random_model_folder: Path,
    random_backbone: Backbone,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(random_model_folder, folder)
    head = {**json.loads((folder / "config.json").read_text()), **change}
    head = {key: value for key, value in head.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(head))
    with pytest.raises(ConfigError, match=message):
        HyperASR.from_pretrained(folder, backbone=random_backbone)


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_no_model_there(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=str(tmp_path)) as error:
        HyperASR.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)


def test_a_folder_of_somebody_else_is_not_replaced(
    random_backbone: Backbone, tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    model = HyperASR(random_backbone, SpeakerConfig(), SOURCES["global"])
    with pytest.raises(ConfigError, match="will not replace"):
        model.save_pretrained(tmp_path, backbone="tiny.en")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_the_seed_also_decides_a_trained_speaker_encoder(random_backbone: Backbone) -> None:
    def weights(seed: int) -> Tensor:
        model = HyperASR(random_backbone, ECAPA, SOURCES["hypernet"], seed=seed)
        return torch.cat([p.detach().flatten() for p in model.speaker.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_a_sampled_vocabulary_is_the_whole_one_where_all_are_drawn(
    random_backbone: Backbone, batch: Batch
) -> None:
    """With enough draws every token is there, and the loss is that of the whole vocabulary."""
    source = SOURCES["hypernet"]
    n_vocab = int(random_backbone.whisper.config.vocab_size)
    losses = {}
    for negatives in (0, 40, 100 * n_vocab):
        objective = ObjectiveConfig(negatives=negatives)
        model = HyperASR(random_backbone, SpeakerConfig(), source, objective=objective).train()
        torch.manual_seed(0)
        losses[negatives] = float(model(batch).nll)
        assert float(model.eval()(batch).nll) == pytest.approx(losses[0]), (
            "evaluation never samples"
        )
    assert losses[100 * n_vocab] == pytest.approx(losses[0], rel=1e-5)
    assert 0 < losses[40] < losses[0], "fewer tokens to tell apart"


def test_a_sampled_vocabulary_holds_all_that_the_batch_and_its_teacher_name(
    random_backbone: Backbone, batch: Batch
) -> None:
    """The slow twin normalises over the same tokens one place at a time."""
    assert batch.tokens is not None
    assert batch.n_tokens is not None
    g = torch.Generator().manual_seed(1)
    n_vocab = int(random_backbone.whisper.config.vocab_size)
    shape = (*batch.tokens.shape, 5)
    ids = torch.randint(n_vocab, shape, generator=g)
    chances = torch.randn(shape, generator=g).softmax(-1) * 0.9
    taught = replace(batch, teacher=TeacherTokens(ids, chances.log()))
    objective = ObjectiveConfig(teacher=0.7, negatives=10)
    model = HyperASR(random_backbone, SpeakerConfig(), SOURCES["hypernet"], objective=objective)
    model.train()
    torch.manual_seed(3)
    found = model(taught)
    torch.manual_seed(3)
    drawn = torch.randint(n_vocab, (10,))
    among = sorted({*drawn.tolist(), *batch.tokens.flatten().tolist(), *ids.flatten().tolist()})
    logits = random_backbone.logits(model.encode(batch), batch.tokens).detach()
    nll, divergence = [], []
    for row in range(batch.n_utt):
        for place in range(batch.n_prompt, int(batch.n_tokens[row])):
            own = logits[row, place - 1, among].log_softmax(-1)
            at = [among.index(int(i)) for i in ids[row, place]]
            nll.append(-float(own[among.index(int(batch.tokens[row, place]))]))
            p, q = chances[row, place], own[at].exp()
            rest, own_rest = 1 - p.sum(), (1 - q.sum()).clamp_min(1e-6)
            terms = (p * (p / q).log()).sum() + rest * (rest / own_rest).log()
            divergence.append(float(terms))
    assert float(found.nll) == pytest.approx(sum(nll) / len(nll), rel=1e-4)
    assert float(found.teacher) == pytest.approx(0.7 * sum(divergence) / len(nll), rel=1e-3)
