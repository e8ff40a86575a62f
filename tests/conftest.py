"""Fixtures for every test: no network, a tiny random Whisper, the shared corpora where present."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hyperasr  # noqa: F401  (before transformers: it makes torchaudio importable)
from tests.random_whisper import write_backbone, write_hypernet

LOCAL_HOSTS = {"", "localhost"}


def _is_local(address: Any) -> bool:
    """True for unix sockets and this machine, which tests of several processes need."""
    if not isinstance(address, tuple):
        return True
    host = address[0]
    try:
        return host in LOCAL_HOSTS or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every attempt to reach another machine fail at once."""
    resolve = socket.getaddrinfo

    def guard(name: str) -> Callable[..., Any]:
        original = getattr(socket.socket, name)

        def call(self: socket.socket, address: Any) -> Any:
            if not _is_local(address):
                raise RuntimeError(f"a test tried to reach the network: {address}")
            return original(self, address)

        return call

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host is not None and not _is_local((host,)):
            raise RuntimeError(f"a test tried to resolve a name on the network: {host}")
        return resolve(host, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", guard("connect"))
    monkeypatch.setattr(socket.socket, "connect_ex", guard("connect_ex"))
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.fixture
def generator() -> torch.Generator:
    """A seeded source of random numbers of the test's own."""
    return torch.Generator().manual_seed(0)


@pytest.fixture
def tiny_whisper() -> Any:
    """A random Whisper: 2 + 2 layers, d_model 32, 4 heads, d_ff 128, 200 tokens; new each test."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    config = WhisperConfig(
        vocab_size=200,
        num_mel_bins=80,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        max_source_positions=1500,
        max_target_positions=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=3,
        suppress_tokens=None,
        begin_suppress_tokens=None,
        init_std=0.2,  # large enough that logits depend on the audio
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return WhisperForConditionalGeneration(config).eval()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the shared corpora, beside the repository; skips where it is absent."""
    path = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not path.is_dir():
        pytest.skip("needs the corpora in ../shared/data")
    return path


@pytest.fixture(scope="session")
def random_backbone_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random backbone with a tokenizer: 2 + 2 layers, d_model 32, trimmed context."""
    folder = tmp_path_factory.mktemp("models") / "backbone"
    write_backbone(folder)
    return folder


@pytest.fixture(scope="session")
def random_backbone(random_backbone_folder: Path) -> Any:
    """The `hyperasr.whisper.backbone.Backbone` of `random_backbone_folder`; frozen, do not change
    it."""
    from hyperasr.whisper.backbone import Backbone

    return Backbone.from_pretrained(random_backbone_folder, offline=True)


@pytest.fixture(scope="session")
def random_model_folder(random_backbone_folder: Path) -> Path:
    """Folder of a `HyperASR` on `random_backbone` whose random hypernetwork does adapt."""
    folder = random_backbone_folder.parent / "hypernet"
    write_hypernet(folder, random_backbone_folder)
    return folder


@pytest.fixture(scope="session")
def model(random_model_folder: Path) -> Any:
    """The `HyperASR` of `random_model_folder`, with a backbone of its own; do not change it."""
    from hyperasr.hub import HyperASR

    return HyperASR.from_pretrained(random_model_folder, offline=True)


@pytest.fixture(scope="session")
def voice() -> Callable[..., np.ndarray]:
    """Make speech-like sound: harmonics in syllables; (n_samples,) float32, 16 kHz.

    Call it with seconds, pitch (Hz) and level (peak).
    """

    def make(seconds: float, pitch_hz: float = 120.0, level: float = 0.3) -> np.ndarray:
        t = np.arange(round(seconds * 16_000)) / 16_000
        buzz = sum(np.sin(2 * np.pi * k * pitch_hz * t) / k for k in range(1, 15))
        syllables = 0.55 + 0.45 * np.sin(2 * np.pi * 3.0 * t + pitch_hz)
        noise = np.random.default_rng(round(pitch_hz)).normal(0, 0.01, len(t))
        return (level * (0.5 * buzz * syllables + noise)).astype(np.float32)

    return make
