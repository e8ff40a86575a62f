"""One model, many threads: factors belong to a call, and no thread hears another's."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from hyperasr.adapters import lora
from hyperasr.hub import HyperASR
from hyperasr.speaker.encoder import SpeakerConfig, speaker_encoder
from hyperasr.transcription.words import attend

N_THREADS, N_CALLS = 8, 64  # four times each


@pytest.mark.slow
def test_texts_are_those_of_one_thread(model: HyperASR, voice: Callable[..., np.ndarray]) -> None:
    """Adapted and unadapted mixed, with and without a look at attention."""
    waves = [voice(0.35 + 0.1 * i, 90.0 + 35 * i) for i in range(4)]
    jobs: list[dict[str, Any]] = [
        {"source": wave, "sampling_rate": 16_000, "adapt": adapt, "loop_guard": guard}
        for wave in waves
        for adapt, guard in ((True, False), (False, False), (True, True), (False, True))
    ]

    def said(number: int) -> tuple[str, Any]:
        found = model.transcribe(**jobs[number % len(jobs)])
        return found.text, found.segments

    alone = [said(number) for number in range(len(jobs))]
    assert len({text for text, _ in alone}) > len(waves), "adaptation changes nothing here"
    with ThreadPoolExecutor(N_THREADS) as pool:
        together = list(pool.map(said, range(N_CALLS)))
    assert together == [alone[number % len(alone)] for number in range(N_CALLS)]


def test_a_block_adapts_the_thread_that_entered_it(model: HyperASR) -> None:
    whisper = model.backbone.whisper
    linear = whisper.model.decoder.layers[0].fc1
    x = torch.randn(1, 3, linear.in_features, generator=torch.Generator().manual_seed(0))
    factors = model.factors(torch.zeros(1, model.speaker.d_spk))
    with torch.no_grad(), ThreadPoolExecutor(1) as pool:
        plain = linear(x)
        with lora.using(whisper, factors):
            adapted = linear(x)
            elsewhere = pool.submit(linear, x).result()
    assert not torch.allclose(adapted, plain)
    assert torch.equal(elsewhere, plain)


def test_attention_is_read_in_the_thread_that_asks(
    model: HyperASR, voice: Callable[..., np.ndarray]
) -> None:
    from hyperasr.types import Batch

    batches = []
    for i in range(4):
        mel, n_frames = model.backbone.features([voice(0.7 + 0.3 * i, 100.0 + 40 * i)])
        batches.append(Batch(n_frames=n_frames, mel=mel))
    tokens = [[100 + i, 101, 102 + i] for i in range(4)]

    def seen(number: int) -> np.ndarray:
        i = number % 4
        return attend(model, batches[i], [tokens[i]])[0].mean

    alone = [seen(i) for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for number, found in enumerate(pool.map(seen, range(40))):
            np.testing.assert_array_equal(found, alone[number % 4])


@pytest.mark.slow
def test_a_speaker_encoder_masks_the_padding_of_its_own_call() -> None:
    class Dims:
        n_mels, d_model, n_encoder_layers, device = 80, 32, 2, torch.device("cpu")

    config = SpeakerConfig(kind="ecapa", d_spk=8, channels=8)
    encoder = speaker_encoder(config, Dims()).eval()  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    inputs = [
        (
            torch.randn(2, 80, 60 + 20 * i, generator=generator),
            torch.tensor([40 + 10 * i, 60 + 20 * i]),
        )
        for i in range(4)
    ]

    @torch.inference_mode()
    def embedded(number: int) -> torch.Tensor:
        mel, n_frames = inputs[number % 4]
        return encoder(mel=mel, n_frames=n_frames)

    alone = [embedded(i) for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for number, found in enumerate(pool.map(embedded, range(40))):
            torch.testing.assert_close(found, alone[number % 4])
