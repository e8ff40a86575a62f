"""Decoding on a GPU: adapted beside unadapted and peers, tokens a second beside what memory allows.

    python -m eval.benchmarks.gpu_decode --out results/gpu_decode.json

Random weights in the published shapes with the embedded tokenizer, so that nothing but this clone
is needed; every utterance decodes the same number of tokens. A step of the decoder reads all its
weights, the keys and values of every utterance, and its factors: at the bandwidth that a large
copy reaches on this device that takes a time, and the utterances over it are the bound. Takes a
few minutes on a large GPU.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eval.benchmarks import overhead, peers
from eval.benchmarks.speed import job
from eval.benchmarks.timing import interleaved, ratio_row
from eval.lib import results
from hyperasr.adapters import SourceConfig, lora
from hyperasr.errors import ConfigError
from hyperasr.hub import HyperASR
from hyperasr.speaker.encoder import SpeakerConfig
from hyperasr.types import Batch
from hyperasr.whisper.backbone import Backbone
from hyperasr.whisper.loading import checked_device
from hyperasr.whisper.search import SearchConfig
from train.loop.program import read_config, run_program

# d_model, heads, encoder layers, decoder layers, mel channels, vocabulary: openai/whisper-*.
SHAPES = {
    "tiny": (384, 6, 4, 4, 80, 51_865),
    "small": (768, 12, 12, 12, 80, 51_865),
    "large-v3-turbo": (1280, 20, 32, 4, 128, 51_866),
}
_MEBI = 2**20


@dataclass(frozen=True)
class GpuConfig:
    """What is timed, and where."""

    shapes: tuple[str, ...] = ("small", "large-v3-turbo")
    """Names of `SHAPES`."""
    batches: tuple[int, ...] = (1, 16, 64)
    """Utterances decoded together, each with an adapter of its own."""
    seconds: float = 10.0
    """Length of each utterance."""
    n_tokens: int = 64
    """Tokens of each utterance, forced."""
    rank: int = 16
    """Of the adapters."""
    device: str = "cuda"
    """Where to run."""
    dtype: str = "bfloat16"
    """Of the frozen weights; factors are float32."""
    rounds: int = 5
    """Timed rounds."""
    copy_mib: int = 1024
    """Size of the copy that measures the bandwidth, in MiB."""
    peers: bool = True
    """Time transformers, and PEFT where it is installed, as well."""
    out: Path = Path("results/gpu_decode.json")
    """Result file."""
    seed: int = 0
    """Of audio, random weights and bootstrap."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.shapes if name not in SHAPES]
        if unknown:
            raise ConfigError(f"no shape {unknown[0]!r}; there are {', '.join(SHAPES)}")
        if self.rounds < 2 or self.n_tokens < 4 or min(self.batches, default=0) < 1:
            raise ConfigError("rounds must be at least 2, n_tokens 4, and every batch 1")


def write_random(folder: Path, shape: str) -> Path:
    """Write a Whisper of random weights in a published shape, with the embedded tokenizer."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    embedded = Backbone.from_pretrained("tiny.en", offline=True)
    d_model, n_heads, n_encoder, n_decoder, n_mels, n_vocab = SHAPES[shape]
    known = embedded.whisper.generation_config
    ends = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), embedded.eos)
    config = WhisperConfig(
        vocab_size=n_vocab,
        num_mel_bins=n_mels,
        d_model=d_model,
        encoder_layers=n_encoder,
        decoder_layers=n_decoder,
        encoder_attention_heads=n_heads,
        decoder_attention_heads=n_heads,
        encoder_ffn_dim=4 * d_model,
        decoder_ffn_dim=4 * d_model,
        decoder_start_token_id=known.decoder_start_token_id,
        **ends,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        whisper = WhisperForConditionalGeneration(config)
    whisper.generation_config = known
    whisper.generation_config.suppress_tokens = None
    whisper.generation_config.begin_suppress_tokens = None
    whisper.generation_config.alignment_heads = None  # of another number of layers
    Backbone(whisper, embedded.tokenizer, "full").save_pretrained(folder)
    return folder


def adapted_model(folder: Path, context: str, config: GpuConfig) -> HyperASR:
    """Return the random Whisper with a hypernetwork that does adapt."""
    backbone = Backbone.from_pretrained(
        folder, offline=True, audio_context=context, device=config.device, dtype=config.dtype
    )
    settings = {"rank": config.rank}
    model = HyperASR(backbone, SpeakerConfig(), SourceConfig(settings=settings)).eval()
    generator = torch.Generator().manual_seed(config.seed)
    source: Any = model.source
    with torch.no_grad():
        for weight in [*source.heads.parameters(), *source.bias_B.parameters()]:
            weight.normal_(0, 0.02, generator=generator)
    return model.to(backbone.device)


def bandwidth(device: torch.device, mebibytes: int) -> float:
    """Return the bytes a second that a large copy reads and writes together."""
    source = torch.zeros(mebibytes * _MEBI, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = min(_seconds(lambda: target.copy_(source), device) for _ in range(8))
    return 2 * source.numel() / best


def step_bytes(model: HyperASR, n_utt: int, n_states: int, n_tokens: int) -> int:
    """Return the bytes that a step of the decoder must read, in the middle of a text."""
    whisper, source = model.backbone.whisper, model.source
    decoder, size = whisper.model.decoder, whisper.proj_out.weight.element_size()
    unread = [m for layer in decoder.layers for m in _only_first(layer)]
    weights = sum(p.numel() for layer in decoder.layers for p in layer.parameters())
    weights += whisper.proj_out.weight.numel() - sum(
        p.numel() for m in unread for p in m.parameters()
    )
    kept = 2 * len(decoder.layers) * model.backbone.d_model * (n_states + n_tokens // 2) * n_utt
    factors = sum(s.n_weights(source.rank) for s in source.targets.values()) * n_utt
    return size * (weights + kept) + 4 * factors


def _only_first(layer: Any) -> tuple[Any, Any]:
    return layer.encoder_attn.k_proj, layer.encoder_attn.v_proj


def _seconds(run: Callable[[], Any], device: torch.device) -> float:
    _wait(device)
    started = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Measured:
    """One shape and one batch: models, sound, and what both give the decoder."""

    def __init__(self, model: HyperASR, n_utt: int, config: GpuConfig) -> None:
        rng = np.random.default_rng(config.seed)
        self.waves = [overhead.voice_like(config.seconds, rng) for _ in range(n_utt)]
        self.model, self.config, self.n_utt = model, config, n_utt
        mel, n_frames = model.backbone.features(self.waves)
        with torch.no_grad():
            emb, self.encoded = model.embed(Batch(n_frames=n_frames, mel=mel))
            self.factors = model.factors(emb)
        # Nothing ends before the others.
        self.search = SearchConfig(max_tokens=config.n_tokens, suppress=(model.backbone.eos,))

    @property
    def n_states(self) -> int:
        return int(self.encoded.states.shape[1])

    def decode(self) -> Any:
        """Decode as `Backbone.generate` does."""
        backbone = self.model.backbone
        with lora.using(backbone.whisper, self.factors):
            return backbone.generate(self.encoded, self.search)

    def row(self, bytes_a_second: float) -> dict[str, Any]:
        """Return tokens a second beside the bound."""
        config, device = self.config, self.encoded.states.device
        tokens = self.n_utt * config.n_tokens
        needed = step_bytes(self.model, self.n_utt, self.n_states, config.n_tokens)
        bound = self.n_utt * bytes_a_second / needed
        self.decode()
        reached = tokens / min(_seconds(self.decode, device) for _ in range(config.rounds))
        return {
            "utterances": self.n_utt,
            "bytes_a_step": needed,
            "bound_tokens_per_s": bound,
            "tokens_per_s": reached,
            "share_of_bound": reached / bound,
        }


def ratio_rows(folder: Path, models: dict[str, HyperASR], n_utt: int, config: GpuConfig) -> Any:
    """Return rows of our throughput over others', one shape and one batch."""
    rng = np.random.default_rng(config.seed)
    waves = [overhead.voice_like(config.seconds, rng) for _ in range(n_utt)]
    work = (
        f"{folder.name}, {config.dtype}, {n_utt} utterances of {config.seconds:g} s, "
        f"{config.n_tokens} tokens, greedy, {_device_name(config.device)}"
    )
    rows = []

    def add(name: str, ours: Any, theirs: Any, peer: str, how: str) -> None:
        times = interleaved([ours, theirs], config.rounds)
        row = ratio_row(name, times, peer, f"{how}, {work}", config.seed)
        rows.append(row | {"seconds": np.median(times, axis=0).tolist()})

    for context, model in models.items():
        pair = [job(model, waves, config.n_tokens, adapt=adapt) for adapt in (True, False)]
        add("adapted_over_unadapted", *pair, "the unadapted backbone", f"{context} context")
    if not config.peers:
        return rows
    ours, full = job(models["trimmed"], waves, config.n_tokens, adapt=True), models["full"]
    mel, n_frames = full.backbone.features(waves)
    peer = peers.Transformers(folder, mel.cpu(), config.n_tokens)
    add("trimmed_adapted_over_unadapted", ours, _moved(peer, full), "transformers, 30 s", "trimmed")
    with torch.no_grad():
        factors = full.factors(full.embed(Batch(n_frames=n_frames, mel=mel))[0])
    try:
        other = peers.Peft(folder, mel.cpu(), config.n_tokens, factors.map(lambda t: t.cpu()))
    except peers.Missing as error:
        print(f"left out: {error}", flush=True)
        return rows
    add("over_peft_mixed_batch", ours, _moved(other, full), "peft, mixed batch, 30 s", "trimmed")
    return rows


def _moved(peer: Any, like: HyperASR) -> Any:
    weight = like.backbone.whisper.proj_out.weight
    peer.whisper.to(weight.device, weight.dtype)
    peer.mel = peer.mel.to(weight.device, weight.dtype)
    return peer


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def measure(config: GpuConfig) -> tuple[list[results.Row], dict[str, Any]]:
    """Return the ratios, and for each shape and batch tokens a second beside the bound."""
    device = checked_device(config.device)
    speed = bandwidth(device, config.copy_mib)
    found: dict[str, Any] = {"bandwidth_bytes_per_s": speed, "decode": []}
    rows: list[results.Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        for shape in config.shapes:
            folder = write_random(Path(scratch) / shape, shape)
            models = {c: adapted_model(folder, c, config) for c in ("trimmed", "full")}
            for n_utt in config.batches:
                started = time.perf_counter()
                for context, model in models.items():
                    made = Measured(model, n_utt, config).row(speed)
                    found["decode"].append({"shape": shape, "context": context, **made})
                rows += ratio_rows(folder, models, n_utt, config)
                taken = time.perf_counter() - started
                print(f"{shape}, {n_utt} utterances: {taken:.0f} s", flush=True)
    return rows, found


def main() -> None:
    """Measure, write the JSON, print the tables."""
    config = read_config(GpuConfig)
    rows, found = measure(config)
    command = results.command("eval.benchmarks.gpu_decode")
    head = results.head(command, config, config.seed, "speed", None)
    results.write(config.out, {**head, "measures": found}, rows)
    results.print_table(rows, title="decoding on a GPU")
    for row in found["decode"]:
        print(
            ", ".join(
                f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()
            )
        )


if __name__ == "__main__":
    run_program(main)
