"""Speaker encoders: what they compute, and that padding and batch mates never change it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from hyperasr.errors import ConfigError, ShapeError
from hyperasr.speaker.encoder import (
    PooledStates,
    SpeakerConfig,
    SpeakerEncoder,
    SpeechBrainEncoder,
    speaker_encoder,
)
from hyperasr.types import EncoderOutput

D_MODEL = 6


@dataclass(frozen=True)
class Dims:
    """A backbone's sizes without the backbone."""

    d_model: int = D_MODEL
    n_encoder_layers: int = 4


def encoder_output(lengths: list[int], generator: torch.Generator) -> EncoderOutput:
    """What an encoder of five hidden layers says of several utterances."""
    shape = (len(lengths), max(lengths), D_MODEL)
    rows = {i: torch.randn(len(lengths), 2 * D_MODEL, generator=generator) for i in range(5)}
    return EncoderOutput(torch.zeros(shape), torch.tensor(lengths), rows)


# --- pooled states


def test_pooled_states_are_the_moments_of_the_chosen_layers(generator: torch.Generator) -> None:
    encoded = encoder_output([9, 1], generator)
    emb = PooledStates([4, 0], D_MODEL)(encoded=encoded)
    assert torch.equal(emb, torch.cat([encoded.moments[4], encoded.moments[0]], dim=1))


def test_pooled_states_ask_for_their_layers(generator: torch.Generator) -> None:
    encoded = encoder_output([3], generator)
    with pytest.raises(ShapeError, match=r"pools layers \(2, 9\), but got \[0, 1, 2, 3, 4\]"):
        PooledStates([2, 9], D_MODEL)(encoded=encoded)
    with pytest.raises(ShapeError, match="but got none"):
        PooledStates([2], D_MODEL)()


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
        (SpeakerConfig(layers=(0,)), PooledStates, 12),
    ],
)
def test_factory_builds_what_it_is_told(config: SpeakerConfig, kind: type, d_spk: int) -> None:
    encoder = speaker_encoder(config, Dims())
    assert isinstance(encoder, kind)
    assert isinstance(encoder, SpeakerEncoder)
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
        ({"layers": ()}, "distinct layers"),
        ({"layers": [1, 1]}, "distinct layers"),
        ({"kind": "speechbrain"}, r"needs speaker\.folder"),
    ],
)
def test_impossible_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SpeakerConfig(**settings)
