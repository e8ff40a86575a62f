"""Training and decoding on a CUDA card at the shapes of published Whispers.

    python -m eval.benchmarks.gpu --out results/gpu.json

Random weights and the embedded tokenizer: nothing is downloaded. Rows of the result file are
adapted over unadapted decoding, every utterance to the same number of tokens. Its ``measures`` are,
for each shape, context and batch: ``training``, utterances a second of meta-training in bf16 from
encoder states in the host's memory (bringing the batch to the card, hypernetwork, adapted decoder,
backward, clipping, AdamW); ``decoding``, tokens a second. Takes a few minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from eval.benchmarks.speed import fixed_search, interleaved, ratio_row
from eval.lib import results
from eval.lib.tables import print_rows
from hyperasr.adapters import SourceConfig
from hyperasr.errors import ConfigError
from hyperasr.hub import HyperASR
from hyperasr.model import decode
from hyperasr.speaker.encoder import SpeakerConfig
from hyperasr.types import Batch, EncoderOutput
from hyperasr.whisper.backbone import Backbone
from hyperasr.whisper.loading import checked_device
from train.loop.program import read_config, run_program

# d_model, heads, layers of the encoder and of the decoder, mel channels, vocabulary.
SHAPES = {
    "small": (768, 12, 12, 12, 80, 51_865),
    "large-v3": (1280, 20, 32, 32, 128, 51_866),
    "large-v3-turbo": (1280, 20, 32, 4, 128, 51_866),
}
STATES = {"trimmed": 150, "full": 1_500}  # encoder states of each utterance, 20 ms each


@dataclass(frozen=True)
class GpuConfig:
    """What is timed, and where."""

    shapes: tuple[str, ...] = tuple(SHAPES)
    """Names of `SHAPES`."""
    batches: tuple[int, ...] = (1, 32, 128)
    """Utterances of a batch, each with an adapter of its own."""
    n_tokens: int = 64
    """Tokens of each utterance."""
    rank: int = 16
    """Of the adapters."""
    device: str = "cuda"
    """Where to run; ``cpu`` to try it out."""
    rounds: int = 5
    """Timed rounds, at least 2."""
    out: Path = Path("results/gpu.json")
    """Result file."""

    def __post_init__(self) -> None:
        if unknown := [name for name in self.shapes if name not in SHAPES]:
            raise ConfigError(f"no shape {unknown[0]!r}; there are {', '.join(SHAPES)}")


def random_model(shape: str, context: str, config: GpuConfig) -> HyperASR:
    """Return a random Whisper on the device, with a hypernetwork that does adapt."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    embedded = Backbone.from_pretrained("tiny.en", offline=True)
    d_model, n_heads, n_encoder, n_decoder, n_mels, n_vocab = SHAPES[shape]
    known = embedded.whisper.generation_config
    sizes: dict[str, Any] = {"d_model": d_model, "num_mel_bins": n_mels, "vocab_size": n_vocab}
    for part, n_layers in (("encoder", n_encoder), ("decoder", n_decoder)):
        sizes |= {f"{part}_layers": n_layers, f"{part}_attention_heads": n_heads}
        sizes[f"{part}_ffn_dim"] = 4 * d_model
    ends = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), embedded.eos)
    start = known.decoder_start_token_id
    with torch.device(config.device):
        whisper = WhisperForConditionalGeneration(
            WhisperConfig(**sizes, **ends, decoder_start_token_id=start)
        )
    known.suppress_tokens = known.begin_suppress_tokens = None
    known.alignment_heads = None  # of another number of layers
    whisper.generation_config = known
    settings = {"rank": config.rank, "alpha": config.rank}
    backbone = Backbone(whisper, embedded.tokenizer, context)
    model = HyperASR(backbone, SpeakerConfig(), SourceConfig(settings=settings))
    source: Any = model.source
    with torch.no_grad():
        for weight in [*source.heads.parameters(), *source.bias_B.parameters()]:
            weight.normal_(0, 0.02)
    return model.eval().to(config.device)


def host_batch(model: HyperASR, n_utt: int, n_states: int, n_tokens: int) -> Batch:
    """Return a batch as the cache gives it, in the host's memory: states, embeddings, texts."""
    backbone, generator = model.backbone, torch.Generator().manual_seed(0)
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


def training_row(model: HyperASR, host: Batch, rounds: int) -> dict[str, Any]:
    """Time a step of meta-training in bf16.

    Returns:
        Utterances a second, and on CUDA the largest memory in GiB.
    """
    device = model.backbone.device
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="bf16")
    model.train()
    model.source.requires_grad_(True)
    wrapped = accelerator.prepare(model)
    parameters = list(model.source.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-6)

    def step() -> None:
        accelerator.backward(wrapped(host.to(device)).total)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        wait(device)

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    row = {"utterances_per_s": host.n_utt / interleaved([step], rounds).min()}
    model.eval()
    if device.type == "cuda":
        row["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return row


def decoding_jobs(model: HyperASR, host: Batch, n_tokens: int) -> list[Callable[[], Any]]:
    """Return functions that decode a batch, adapted and unadapted, every row to n_tokens tokens."""
    device = model.backbone.device
    batch, search = host.to(device), fixed_search(model.backbone, n_tokens)

    def job(adapt: bool) -> Any:
        found = decode(model, batch, search, adapt=adapt)
        wait(device)
        return found

    return [partial(job, True), partial(job, False)]


def wait(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(config: GpuConfig) -> tuple[list[results.Row], dict[str, Any]]:
    """Return the ratios, and what was measured of the device, of training and of decoding."""
    device = checked_device(config.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    found: dict[str, Any] = {}
    rows: list[results.Row] = []
    for shape in config.shapes:
        for context, n_states in STATES.items():
            model = random_model(shape, context, config)
            for n_utt in config.batches:
                host = host_batch(model, n_utt, n_states, config.n_tokens)
                work = f"{shape}, {context} context, {n_utt} utterances"
                try:
                    found[f"training, {work}"] = training_row(model, host, config.rounds)
                    jobs = decoding_jobs(model, host, config.n_tokens)
                    times = interleaved(jobs, config.rounds)
                except torch.OutOfMemoryError:
                    found[f"out of memory, {work}"] = {}
                    continue
                setting = f"{work}, {config.n_tokens} tokens, float32, greedy, {name}"
                benchmark, peer = "adapted_over_unadapted", "the unadapted backbone"
                rows.append(ratio_row(benchmark, times, peer, setting, 0))
                tokens_per_s = n_utt * config.n_tokens / times[:, 0].min()
                found[f"decoding, {work}"] = {"tokens_per_s": tokens_per_s}
                print(f"{work}: {tokens_per_s:.0f} tokens a second", flush=True)
    return rows, found


def main() -> None:
    """Measure, write the JSON, print the ratios."""
    config = read_config(GpuConfig)
    rows, found = measure(config)
    results.save("eval.benchmarks.gpu", config, rows, protocol="speed", measures=found)
    print_rows(rows, title="decoding on a GPU")


if __name__ == "__main__":
    run_program(main)
