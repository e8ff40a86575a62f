"""Speaker encoders: what they compute, and that padding and batch mates never change it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from hyperasr.errors import ConfigError, ShapeError
from hyperasr.speaker.encoder import (
    PooledStates,
    SmallEcapa,
    SpeakerConfig,
    SpeechBrainEncoder,
    speaker_encoder,
)
from hyperasr.types import EncoderOutput

D_MODEL, N_MELS = 6, 16


@dataclass(frozen=True)
class Dims:
    """A backbone's sizes without the backbone."""

    d_model: int = D_MODEL
    n_encoder_layers: int = 4
    n_mels: int = N_MELS


def encoder_output(lengths: list[int], generator: torch.Generator) -> EncoderOutput:
    """What an encoder of five hidden layers says of several utterances."""
    shape = (len(lengths), max(lengths), D_MODEL)
    rows = {i: torch.randn(len(lengths), 2 * D_MODEL, generator=generator) for i in range(5)}
    return EncoderOutput(torch.zeros(shape), torch.tensor(lengths), rows)


def random_mel(lengths: list[int], generator: torch.Generator, extra: int = 0) -> Tensor:
    """Log-mel-like frames with garbage as padding."""
    mel = torch.full((len(lengths), N_MELS, max(lengths) + extra), 5.0)
    for row, n in zip(mel, lengths, strict=True):
        row[:, :n] = torch.randn(N_MELS, n, generator=generator)
    return mel


# --- pooled states


def test_pooled_states_are_the_moments_of_the_chosen_layers(generator: torch.Generator) -> None:
    encoded = encoder_output([9, 1], generator)
    emb = PooledStates([4, 0], D_MODEL)(encoded=encoded)
    assert torch.equal(emb, torch.cat([encoded.moments[4], encoded.moments[0]], dim=1))


def test_the_duration_leaves_out_the_silence_of_a_full_context(generator: torch.Generator) -> None:
    full = encoder_output([30, 30], generator)
    encoder = PooledStates([2], D_MODEL, log_duration=True)
    assert encoder.d_spk == 2 * D_MODEL + 1
    emb = encoder(encoded=full, n_frames=torch.tensor([19, 60]))
    assert emb[:, -1].tolist() == pytest.approx([np.log(10), np.log(30)])
    assert encoder(encoded=full)[:, -1].tolist() == pytest.approx([np.log(30)] * 2)


def test_pooled_states_ask_for_their_layers(generator: torch.Generator) -> None:
    encoded = encoder_output([3], generator)
    with pytest.raises(ShapeError, match=r"pools layers \(2, 9\), but got \[0, 1, 2, 3, 4\]"):
        PooledStates([2, 9], D_MODEL)(encoded=encoded)
    with pytest.raises(ShapeError, match="but got none"):
        PooledStates([2], D_MODEL)()


@pytest.mark.parametrize("lengths", [[0, 3], [1]])
def test_impossible_lengths_are_refused(lengths: list[int]) -> None:
    with pytest.raises(ShapeError, match="2 utterances of up to 3 frames"):
        small_ecapa()(mel=torch.zeros(2, N_MELS, 3), n_frames=torch.tensor(lengths))


# --- the small ECAPA-TDNN


def small_ecapa(d_spk: int = 12) -> SmallEcapa:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = SmallEcapa(N_MELS, d_spk, channels=16)
        for module in encoder.modules():
            # Fresh statistics are 0 and 1 and would hide a normalisation of the wrong frames.
            if isinstance(module, torch.nn.BatchNorm1d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                module.bias.data.normal_()
    return encoder.eval()


LENGTHS = [50, 1, 3, 23, 37]


def test_ecapa_does_not_see_padding(generator: torch.Generator) -> None:
    encoder = small_ecapa()
    mel = random_mel(LENGTHS, generator, extra=14)
    together = encoder(mel=mel, n_frames=torch.tensor(LENGTHS))
    assert together.shape == (5, encoder.d_spk)
    for i, n in enumerate(LENGTHS):
        alone = encoder(mel=mel[i : i + 1, :, :n], n_frames=torch.tensor([n]))
        torch.testing.assert_close(together[i], alone[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("n", "n_padded"), [(11, 41), (27, 41), (12, 43)])
def test_ecapa_counts_frames_exactly(n: int, n_padded: int, generator: torch.Generator) -> None:
    # In float32 n / n_padded * n_padded is above n: SpeechBrain's mask would let in one frame more.
    assert float(torch.tensor([n]) / n_padded * n_padded) > n
    encoder, mel = small_ecapa(), random_mel([n], generator, extra=n_padded - n)
    padded = encoder(mel=mel, n_frames=torch.tensor([n]))
    alone = encoder(mel=mel[:, :, :n], n_frames=torch.tensor([n]))
    torch.testing.assert_close(padded, alone, atol=1e-5, rtol=0)


def test_ecapa_inside_an_utterance_is_the_one_of_speechbrain(generator: torch.Generator) -> None:
    # With the same weights and zero padding in SpeechBrain's own convolutions, no mask at all.
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN, Conv1d

    encoder = small_ecapa()
    plain = ECAPA_TDNN(
        N_MELS,
        lin_neurons=12,
        channels=[16] * 4 + [48],
        attention_channels=16,
        se_channels=16,
    )
    plain.load_state_dict(encoder.ecapa.state_dict())
    for module in plain.modules():
        if isinstance(module, Conv1d):
            module.padding_mode = "constant"
    mel = random_mel([31, 31], generator)
    emb = encoder(mel=mel, n_frames=torch.tensor([31, 31]))
    torch.testing.assert_close(emb, plain.eval()(mel.transpose(1, 2))[:, 0], atol=1e-5, rtol=1e-5)


def test_ecapa_in_training_sees_real_frames_only(generator: torch.Generator) -> None:
    short, long = small_ecapa().train(), small_ecapa().train()
    mel, n_frames = random_mel(LENGTHS, generator, extra=30), torch.tensor(LENGTHS)
    a = short(mel=mel[:, :, :50], n_frames=n_frames)
    b = long(mel=mel, n_frames=n_frames)
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    for (name, x), (_, y) in zip(short.named_buffers(), long.named_buffers(), strict=True):
        torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5, msg=name)


def test_ecapa_normalises_with_the_statistics_of_real_frames(generator: torch.Generator) -> None:
    encoder = small_ecapa().train()
    first = encoder.ecapa.blocks[0].norm.norm
    seen: list[tuple[Tensor, Tensor]] = []
    first.register_forward_hook(lambda _, args, out: seen.append((args[0], out)))
    encoder(mel=random_mel(LENGTHS, generator, 9), n_frames=torch.tensor(LENGTHS))
    ((x, out),) = seen
    rows = torch.cat([x[i, :, :n].T for i, n in enumerate(LENGTHS)])
    slow = (rows - rows.mean(0)) / (rows.var(0, correction=0) + first.eps).sqrt() + first.bias
    fast = torch.cat([out[i, :, :n].T for i, n in enumerate(LENGTHS)])
    torch.testing.assert_close(fast, slow, atol=1e-4, rtol=1e-4)


def test_gradients_reach_every_parameter_of_ecapa(generator: torch.Generator) -> None:
    encoder = small_ecapa().train()
    emb = encoder(mel=random_mel(LENGTHS, generator, 5), n_frames=torch.tensor(LENGTHS))
    emb.square().sum().backward()
    # A bias right before a softmax over time cannot matter.
    names = {n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.any()}
    assert names <= {"ecapa.asp.conv.conv.bias"}
    assert all(p.grad.isfinite().all() for p in encoder.parameters() if p.grad is not None)


def test_no_gradient_reaches_padding_of_ecapa(generator: torch.Generator) -> None:
    mel = random_mel([20, 9], generator).requires_grad_()
    small_ecapa().train()(mel=mel, n_frames=torch.tensor([20, 9])).sum().backward()
    assert mel.grad is not None
    assert not mel.grad[1, :, 9:].any()
    assert mel.grad[1, :, :9].any()


def test_ecapa_trains_on_one_utterance(generator: torch.Generator) -> None:
    mel = random_mel([20], generator)
    assert small_ecapa().train()(mel=mel, n_frames=torch.tensor([20])).isfinite().all()


def test_a_copy_of_ecapa_is_independent(generator: torch.Generator) -> None:
    encoder = small_ecapa()
    twin = copy.deepcopy(encoder)
    mel, n_frames = random_mel([20, 9], generator), torch.tensor([20, 9])
    assert torch.equal(encoder(mel=mel, n_frames=n_frames), twin(mel=mel, n_frames=n_frames))
    assert twin._real is not encoder._real
    fresh = SmallEcapa(N_MELS, 12, channels=16).eval()
    fresh.load_state_dict(encoder.state_dict())
    assert torch.equal(encoder(mel=mel, n_frames=n_frames), fresh(mel=mel, n_frames=n_frames))


def test_ecapa_starts_from_its_own_seed() -> None:
    before = torch.get_rng_state()
    first, second, other = (SmallEcapa(N_MELS, 12, channels=8, seed=s) for s in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    weights = [e.ecapa.fc.conv.weight for e in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_ecapa_names_what_it_lacks() -> None:
    with pytest.raises(ShapeError, match="needs mel and n_frames"):
        small_ecapa()(mel=torch.zeros(1, N_MELS, 4))


# --- published folders in SpeechBrain's layout

HEAD = """
n_mels: 8
pretrained_path: nobody/spkrec-of-a-hub
compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: !ref <n_mels>
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False
mean_var_norm_emb: !new:speechbrain.processing.features.InputNormalization
    norm_type: global
    std_norm: False
"""
EMBEDDERS = {
    "ecapa": """
embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: !ref <n_mels>
    channels: [8, 8, 8, 8, 24]
    kernel_sizes: [5, 3, 3, 3, 1]
    dilations: [1, 2, 3, 4, 1]
    attention_channels: 8
    se_channels: 8
    lin_neurons: 10
""",
    "xvector": """
embedding_model: !new:speechbrain.lobes.models.Xvector.Xvector
    in_channels: !ref <n_mels>
    tdnn_blocks: 5
    tdnn_channels: [8, 8, 8, 8, 24]
    tdnn_kernel_sizes: [5, 3, 3, 1, 1]
    tdnn_dilations: [1, 2, 3, 1, 1]
    lin_neurons: 10
""",
}
TAIL = """
classifier: !new:speechbrain.lobes.models.ECAPA_TDNN.Classifier
    input_size: 10
    out_neurons: 5
modules:
    compute_features: !ref <compute_features>
    mean_var_norm: !ref <mean_var_norm>
    embedding_model: !ref <embedding_model>
    mean_var_norm_emb: !ref <mean_var_norm_emb>
    classifier: !ref <classifier>
label_encoder: !new:speechbrain.dataio.encoder.CategoricalEncoder
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        embedding_model: !ref <embedding_model>
        mean_var_norm_emb: !ref <mean_var_norm_emb>
        classifier: !ref <classifier>
        label_encoder: !ref <label_encoder>
    paths:
        embedding_model: !ref <pretrained_path>/embedding_model.ckpt
        mean_var_norm_emb: !ref <pretrained_path>/mean_var_norm_emb.ckpt
        classifier: !ref <pretrained_path>/classifier.ckpt
        label_encoder: !ref <pretrained_path>/label_encoder.txt
"""


def write_folder(folder: Path, kind: str, seed: int = 0) -> Path:
    """Write a random small model in the layout of the published ones, hub address and all."""
    from hyperpyyaml import load_hyperpyyaml

    text = HEAD + EMBEDDERS[kind] + TAIL
    folder.mkdir()
    (folder / "hyperparams.yaml").write_text(text, encoding="utf-8")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hparams = load_hyperpyyaml(text)
        torch.save(hparams["embedding_model"].state_dict(), folder / "embedding_model.ckpt")
    stats = {"count": 1, "glob_mean": torch.zeros(10), "glob_std": torch.ones(10)}
    torch.save(stats, folder / "mean_var_norm_emb.ckpt")
    return folder


@pytest.fixture(scope="module", params=sorted(EMBEDDERS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("published") / request.param, request.param)


def random_waveforms(n_samples: list[int]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [(0.1 * rng.standard_normal(n)).astype(np.float32) for n in n_samples]


N_SAMPLES = [16000, 400, 9001, 16000, 1]


def test_published_folder_gives_its_embeddings(folder: Path) -> None:
    encoder = SpeechBrainEncoder.from_folder(folder)
    waveforms = random_waveforms(N_SAMPLES)
    emb = encoder(waveforms=waveforms)
    assert emb.shape == (5, encoder.d_spk) == (5, 10)
    assert emb.isfinite().all()
    assert not torch.allclose(emb[0], emb[3])
    assert not emb.requires_grad
    for i, waveform in enumerate(waveforms):
        assert torch.equal(encoder(waveforms=[torch.from_numpy(waveform)])[0], emb[i])


def test_published_embedding_is_speechbrains_own(folder: Path, tmp_path: Path) -> None:
    # The same modules by hand: features, mean per utterance, embedding.
    from hyperpyyaml import load_hyperpyyaml

    encoder = SpeechBrainEncoder.from_folder(folder)
    (waveform,) = random_waveforms([12000])
    hparams = load_hyperpyyaml((folder / "hyperparams.yaml").read_text(encoding="utf-8"))
    model = hparams["embedding_model"].eval()
    model.load_state_dict(torch.load(folder / "embedding_model.ckpt"))
    with torch.no_grad():
        features = hparams["compute_features"](torch.from_numpy(waveform)[None])
        expected = model(features - features.mean(dim=1, keepdim=True))[0, 0]
    # SpeechBrain's x-vector adds noise of up to 9e-5 to its statistics.
    torch.testing.assert_close(encoder(waveforms=[waveform])[0], expected, atol=5e-4, rtol=1e-3)


def test_published_embedding_draws_no_random_numbers(folder: Path) -> None:
    encoder = SpeechBrainEncoder.from_folder(folder)
    before = torch.get_rng_state()
    a, b = (encoder(waveforms=random_waveforms([8000])) for _ in range(2))
    assert torch.equal(a, b)
    assert torch.equal(before, torch.get_rng_state())


def test_published_encoder_stays_frozen_in_float32_and_out_of_the_state(folder: Path) -> None:
    encoder = SpeechBrainEncoder.from_folder(folder)
    before = encoder(waveforms=random_waveforms([8000]))
    encoder.train().to(torch.bfloat16).to("cpu")
    assert torch.equal(encoder(waveforms=random_waveforms([8000])), before)
    assert not encoder.state_dict()
    assert not list(encoder.parameters())


def test_loading_leaves_no_files_behind(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(folder.iterdir())
    SpeechBrainEncoder.from_folder(folder)
    assert sorted(folder.iterdir()) == before
    assert not list(tmp_path.iterdir())


def test_bad_folders_give_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must hold hyperparams\.yaml"):
        SpeechBrainEncoder.from_folder(tmp_path / "nowhere")
    lacking = write_folder(tmp_path / "lacking", "ecapa")
    (lacking / "embedding_model.ckpt").unlink()
    with pytest.raises(ConfigError, match=r"lacking lacks embedding_model\.ckpt"):
        SpeechBrainEncoder.from_folder(lacking)
    damaged = write_folder(tmp_path / "damaged", "ecapa")
    (damaged / "embedding_model.ckpt").write_bytes(b"not a checkpoint")
    foreign = write_folder(tmp_path / "foreign", "ecapa")
    (foreign / "embedding_model.ckpt").write_bytes(
        (write_folder(tmp_path / "other", "xvector") / "embedding_model.ckpt").read_bytes()
    )
    garbled = write_folder(tmp_path / "garbled", "ecapa")
    (garbled / "hyperparams.yaml").write_text("a: [1\nb: {", encoding="utf-8")
    for bad in (damaged, foreign, garbled):
        with pytest.raises(ConfigError, match="cannot load the speaker encoder") as caught:
            SpeechBrainEncoder.from_folder(bad)
        assert "\n" not in str(caught.value)
    empty = write_folder(tmp_path / "empty", "ecapa")
    (empty / "hyperparams.yaml").write_text("a: 1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="describes no speaker encoder"):
        SpeechBrainEncoder.from_folder(empty)
    slow = write_folder(tmp_path / "slow", "ecapa")
    with (slow / "hyperparams.yaml").open("a", encoding="utf-8") as file:
        file.write("sample_rate: 8000\n")
    with pytest.raises(ConfigError, match="for 8000 Hz, not 16000 Hz"):
        SpeechBrainEncoder.from_folder(slow)


@pytest.mark.parametrize(
    "line",
    [
        "x: !apply:os.system ['touch ran']",
        "x: !new:speechbrain.utils.superpowers.subprocess.Popen [[touch, ran]]",
        "x: !name:os.system",
        "x: !include:other.yaml",
        "x: !!python/object/apply:os.system ['touch ran']",
        "x: !<!apply:os.system> ['touch ran']",
        "x: !new:speechbrain.lobes.features.Fbank.os.system",
        "x: {y: !apply:os.system ['touch ran']}",
        "x: [!ref <n_mels>,!apply:os.system ['touch ran']]",
    ],
)
def test_a_yaml_that_could_run_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write_folder(tmp_path / "foreign", "ecapa")
    with (folder / "hyperparams.yaml").open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")
    with pytest.raises(ConfigError, match="could run code") as error:
        SpeechBrainEncoder.from_folder(folder)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()


def test_waveforms_are_checked(folder: Path) -> None:
    encoder = SpeechBrainEncoder.from_folder(folder)
    with pytest.raises(ShapeError, match="needs the waveforms"):
        encoder(mel=torch.zeros(1, 80, 10))
    for bad in (np.zeros(0, np.float32), np.zeros((1, 800), np.float32)):
        with pytest.raises(ShapeError, match="must be"):
            encoder(waveforms=[bad])


# --- the factory


@pytest.mark.parametrize(
    ("config", "kind", "d_spk"),
    [
        (SpeakerConfig(), PooledStates, 4 * D_MODEL),
        (SpeakerConfig(layers=(0,), log_duration=True), PooledStates, 13),
        (SpeakerConfig(kind="ecapa", d_spk=9, channels=8), SmallEcapa, 9),
    ],
)
def test_factory_builds_what_it_is_told(config: SpeakerConfig, kind: type, d_spk: int) -> None:
    encoder = speaker_encoder(config, Dims())
    assert isinstance(encoder, kind)
    assert encoder.d_spk == d_spk


def test_factory_chooses_the_middle_and_the_last_layer() -> None:
    assert speaker_encoder(SpeakerConfig(), Dims()).layers == (2, 4)
    assert speaker_encoder(SpeakerConfig(), Dims(n_encoder_layers=1)).layers == (0, 1)


def test_factory_loads_a_folder(folder: Path) -> None:
    encoder = speaker_encoder(SpeakerConfig(kind="speechbrain", folder=str(folder)), Dims())
    assert isinstance(encoder, SpeechBrainEncoder)
    assert encoder.layers == ()


def test_factory_refuses_layers_the_backbone_lacks() -> None:
    with pytest.raises(ConfigError, match=r"\(3, 5\) do not exist: this backbone has layers 0 to"):
        speaker_encoder(SpeakerConfig(layers=(3, 5)), Dims())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "poled"}, "did you mean 'pooled'"),
        ({"kind": "ecapa-tdnn"}, "did you mean 'ecapa'"),
        ({"layers": ()}, "distinct layers"),
        ({"layers": [1, 1]}, "distinct layers"),
        ({"kind": "speechbrain"}, r"needs speaker\.folder"),
        ({"d_spk": 0}, "at least 1, not 0"),
        ({"channels": 12}, "multiple of 8, not 12"),
        ({"dropout": 1.0}, r"in \[0, 1\), not 1\.0"),
    ],
)
def test_impossible_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SpeakerConfig(**settings)
