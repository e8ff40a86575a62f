"""Meta-training on a CUDA card at the shapes of published Whispers: speed, memory, share of peak.

    python -m eval.benchmarks.speed --config eval/configs/speed.yaml --benchmarks [gpu] \
        --out results/speed_gpu.json

Random weights, the embedded model's tokenizer, and encoder states of random numbers in the host's
memory: nothing is downloaded, and what is timed is what `train.meta` does in a step, with bf16:
bringing a batch to the card, hypernetwork, adapted decoder, backward, clipping and AdamW. Reading
the cache is not in it; its rate is measured by itself. A step that does not fit is written down as
such. Without a CUDA card the benchmark is left out with a note; with one it takes a few minutes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from hyperasr.adapters import SourceConfig
from hyperasr.hub import HyperASR
from hyperasr.speaker.encoder import SpeakerConfig
from hyperasr.types import Batch, EncoderOutput
from hyperasr.whisper.backbone import Backbone
from train.loop.batches import split_batch
from train.loop.step import Stepper
from train.loop.watchdog import Watchdog
from train.meta import Objective

__all__ = ["SHAPES", "Shape", "measured_peak", "meta_training", "random_model", "table"]

_GIB = 2**30
_CLIP = 1.0


@dataclass(frozen=True)
class Shape:
    """Sizes of a Whisper."""

    name: str
    d_model: int
    n_heads: int
    n_layers: int
    n_mels: int
    n_vocab: int


SHAPES = (
    Shape("whisper-small", 768, 12, 12, 80, 51_865),
    Shape("whisper-large-v3", 1280, 20, 32, 128, 51_866),
)
"""What is measured."""

CASES = (("trimmed", 150, 32), ("trimmed", 150, 128), ("full", 1_500, 32), ("full", 1_500, 128))
"""Audio context, encoder states of each utterance (20 ms each) and utterances a step."""


def random_model(shape: Shape, device: str, rank: int = 16) -> HyperASR:
    """Return a HyperASR of random weights, made on the device itself.

    Args:
        shape: of the Whisper.
        device: such as ``cuda``.
        rank: of the factors.
    """
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    embedded = Backbone.from_pretrained("tiny.en", offline=True)
    sizes: dict[str, Any] = {"vocab_size": shape.n_vocab, "num_mel_bins": shape.n_mels}
    for part in ("encoder", "decoder"):
        sizes[f"{part}_layers"] = shape.n_layers
        sizes[f"{part}_attention_heads"] = shape.n_heads
        sizes[f"{part}_ffn_dim"] = 4 * shape.d_model
    special = {
        name: getattr(embedded.whisper.config, name)
        for name in ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")
    }
    with torch.device(device):
        whisper = WhisperForConditionalGeneration(
            WhisperConfig(d_model=shape.d_model, **sizes, **special)
        )
    whisper.generation_config = embedded.whisper.generation_config
    backbone = Backbone(whisper, embedded.tokenizer, "trimmed")
    source = SourceConfig(settings={"rank": rank, "alpha": rank, "dropout": 0.1})
    return HyperASR(backbone, SpeakerConfig(), source).to(device)


def host_batch(model: HyperASR, n_utt: int, n_states: int, n_tokens: int) -> Batch:
    """Return a batch as the cache gives it, in the host's memory: states, embeddings, texts."""
    generator = torch.Generator().manual_seed(0)
    backbone = model.backbone
    prompt = torch.tensor(backbone.prompt_ids()).expand(n_utt, -1)
    text = torch.randint(backbone.eos, (n_utt, n_tokens), generator=generator)
    tokens = torch.cat([prompt, text, torch.full((n_utt, 1), backbone.eos)], dim=1)
    states = torch.randn(n_utt, n_states, backbone.d_model, generator=generator)
    return Batch(
        n_frames=torch.full((n_utt,), 2 * n_states),
        encoded=EncoderOutput(states, torch.full((n_utt,), n_states)),
        speaker_emb=torch.randn(n_utt, model.speaker.d_spk, generator=generator),
        tokens=tokens,
        n_tokens=torch.full((n_utt,), tokens.shape[1]),
        n_prompt=prompt.shape[1],
    )


def meta_training(
    model: HyperASR,
    accelerator: Accelerator,
    n_utt: int,
    n_states: int,
    *,
    n_tokens: int = 20,
    seconds: float = 6.0,
) -> dict[str, Any]:
    """Time steps of meta-training.

    Args:
        model: on the accelerator's device.
        accelerator: of the process; its precision is that of the step.
        n_utt, n_states, n_tokens: of a batch.
        seconds: about how long to measure; at least three steps are timed.
    Returns:
        Utterances a second, floating-point operations a step (those of matrix products and
        attention, counted by torch), TFLOP/s, and the largest memory in GiB on CUDA; or ``fault``
        where memory does not suffice.
    """
    device = accelerator.device
    host = host_batch(model, n_utt, n_states, n_tokens)
    objective = Objective(model).train()
    named = {n: p for n, p in objective.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(named.values(), lr=1e-6)
    stepper = Stepper(
        accelerator.prepare(objective),
        named,
        lambda number: host.to(device),
        split_batch,
        accelerator,
        Watchdog(0, Path(), 0, 1),
        accumulate=1,
        parts=1,
        seed=0,
    )

    def step(number: int) -> None:
        stepper.gradient(number, _CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    found: dict[str, Any] = {"n_utt": n_utt, "n_states": n_states, "n_tokens": n_tokens}
    counter = FlopCounterMode(display=False)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with counter:
        step(0)
    if stepper.parts > 1:  # the step went through in pieces, so this is another measurement
        return found | {"fault": "out of memory"}
    step(1)
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        _wait(device)
        started = time.perf_counter()
        step(2 + len(times))
        _wait(device)
        times.append(time.perf_counter() - started)
    step_s = float(torch.tensor(times).median())
    flops = float(counter.get_total_flops())
    if device.type == "cuda":
        found["peak_gib"] = torch.cuda.max_memory_allocated() / _GIB
    rates = {"utterances_per_s": n_utt / step_s, "flops_per_step": flops}
    return found | rates | {"tflops": flops / step_s / 1e12, "steps": len(times)}


def measured_peak(device: str, sizes: tuple[int, ...] = (4_096, 8_192, 16_384)) -> float:
    """Return the TFLOP/s of the best of several square bf16 matrix products, best of ten each."""
    best = 0.0
    for n in sizes:
        a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
        out: Tensor = a @ b
        for _ in range(10):
            _wait(a.device)
            started = time.perf_counter()
            torch.mm(a, b, out=out)
            _wait(a.device)
            best = max(best, 2 * n**3 / (time.perf_counter() - started) / 1e12)
    return best


def table(
    device: str = "cuda",
    shapes: tuple[Shape, ...] = SHAPES,
    cases: tuple[tuple[str, int, int], ...] = CASES,
    *,
    peak_sizes: tuple[int, ...] = (4_096, 8_192, 16_384),
    seconds: float = 6.0,
) -> dict[str, Any]:
    """Return the card, its measured bf16 peak, and a row for each shape and case.

    Args:
        device: ``cuda``, or ``cpu`` to try it out with small shapes.
        shapes, cases: what is measured.
        peak_sizes: of the square matrices that tell the peak.
        seconds: of each measurement.
    """
    cuda = device.startswith("cuda")
    accelerator = Accelerator(cpu=not cuda, mixed_precision="bf16")
    peak = measured_peak(device, peak_sizes)
    rows = []
    for shape in shapes:
        model = random_model(shape, device)
        for context, n_states, n_utt in cases:
            found = meta_training(model, accelerator, n_utt, n_states, seconds=seconds)
            if "tflops" in found:
                found["share_of_peak"] = found["tflops"] / peak
            rows.append({"shape": shape.name, "audio_context": context} | found)
            print(rows[-1], flush=True)
            accelerator.free_memory()
        del model
        if cuda:
            torch.cuda.empty_cache()
    card = torch.cuda.get_device_name() if cuda else "cpu"
    return {"card": card, "precision": "bf16", "peak_bf16_tflops": peak, "rows": rows}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
