"""What adaptation costs, and how fast it is beside other ways to the same: all in one run.

    python -m eval.benchmarks.speed --config eval/configs/speed.yaml

Everybody decodes the same utterances of tiny.en, from log-mel made beforehand, greedily to the same
number of tokens; adapting (embedding, hypernetwork, factors) is counted on our side. transformers,
PEFT and CTranslate2 (the engine of faster-whisper) take 30 s of features, whatever was said: none
of them can run on less. PEFT's adapters hold the factors of ours and are registered beforehand.
A step of meta-training reads encoder states that were cached on disk, or encodes its batch anew.
Rounds are interleaved; a ratio is that of the medians' throughput, its interval a bootstrap over
rounds. Beside the rows the file has ``skipped``: benchmarks whose peer is not installed.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from eval.lib import results
from eval.lib.tables import print_rows
from hyperasr.adapters import SourceConfig, lora
from hyperasr.adapters.objective import ObjectiveConfig
from hyperasr.audio.mel import SAMPLE_RATE
from hyperasr.errors import ConfigError, MissingExtra
from hyperasr.hub import HyperASR, load
from hyperasr.model import decode
from hyperasr.speaker.encoder import SpeakerConfig
from hyperasr.types import Batch, EncoderOutput, LoRAFactors
from hyperasr.whisper.backbone import Backbone
from hyperasr.whisper.loading import load_whisper, quiet_transformers
from hyperasr.whisper.search import SearchConfig
from train.loop.program import read_config, run_program

WARM_UP = 2  # rounds that are not counted
FEWEST_ROUNDS = 6  # that give an interval
MODEL = "tiny.en-decoder"  # so that encoder states are the same for everybody
Job = Callable[[], Any]
Tokens = list[list[int]]


@dataclass(frozen=True)
class SpeedConfig:
    """What is timed, how often."""

    benchmarks: tuple[str, ...] = ()
    """Names of `BENCHMARKS`, in any order; none stands for all."""
    n_utt: int = 16
    """Utterances of the batch, each with an adapter of its own."""
    seconds: float = 3.0
    """Length of each utterance."""
    n_tokens: int = 20
    """Tokens of each utterance, forced, at least 4."""
    rounds: int = 40
    """Timed rounds, at least 2, of what takes less than a second; a quarter of them elsewhere."""
    threads: int = 2
    """Threads of torch and of CTranslate2."""
    out: Path = Path("results/speed.json")
    """Result file."""
    seed: int = 0
    """Of audio and bootstrap."""

    def __post_init__(self) -> None:
        if unknown := [name for name in self.benchmarks if name not in BENCHMARKS]:
            raise ConfigError(f"no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
        if self.n_tokens < 4 or self.rounds < 2:
            raise ConfigError("n_tokens must be at least 4, rounds at least 2")


def interleaved(jobs: Sequence[Job], rounds: int) -> np.ndarray:
    """Time jobs in turn; returns seconds (rounds, n_jobs). The order alternates."""
    times = np.zeros((rounds + WARM_UP, len(jobs)))
    for index, row in enumerate(times):
        order = range(len(jobs)) if index % 2 else reversed(range(len(jobs)))
        for number in order:
            started = time.perf_counter()
            jobs[number]()
            row[number] = time.perf_counter() - started
    return times[WARM_UP:]


def ratio_row(name: str, times: np.ndarray, peer: str, setting: str, seed: int) -> results.Row:
    """Return the row of our throughput over the peer's, from seconds (rounds, 2), ours first.

    With fewer than `FEWEST_ROUNDS` there is no interval: one of so few medians would hold the true
    ratio much more rarely than it says.
    """
    ratio = float(np.median(times[:, 1]) / np.median(times[:, 0]))
    if len(times) < FEWEST_ROUNDS:
        return results.speed_row(name, ratio, None, None, len(times), peer, setting)
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(times), size=(2_000, len(times)))
    medians = np.median(times[draws], axis=1)
    low, high = np.quantile(medians[:, 1] / medians[:, 0], [0.025, 0.975])
    return results.speed_row(name, ratio, float(low), float(high), len(times), peer, setting)


class Bench:
    """The models and utterances that benchmarks share, and the rows measured so far."""

    def __init__(self, config: SpeedConfig, scratch: Path) -> None:
        self.config, self.scratch = config, scratch
        self.rows: list[results.Row] = []
        rng = np.random.default_rng(config.seed)
        self.waves = [voice_like(config.seconds, rng) for _ in range(config.n_utt)]
        self.model = HyperASR.from_pretrained(MODEL).eval()
        embedded = self.model.backbone
        self.whole = Backbone(embedded.whisper, embedded.tokenizer, "full")
        self.folder = scratch / "whisper"  # for peers: on 30 s, as published
        self.whole.save_pretrained(self.folder)
        self.mel = self.whole.features(self.waves)[0]
        self.few = max(2, config.rounds // 4)  # rounds of what takes seconds
        self.work = f"{config.n_utt} utterances of {config.seconds:g} s, {config.n_tokens} tokens"

    def ours(self, dtype: str = "float32", n_utt: int | None = None, *, adapt: bool = True) -> Job:
        """Return the job of decoding the first n_utt utterances (None: all)."""
        model = self.model if dtype == "float32" else load(MODEL, device="cpu", dtype=dtype)
        mel, n_frames = model.backbone.features(self.waves[:n_utt])
        batch = Batch(n_frames=n_frames, mel=mel)
        search = fixed_search(model.backbone, self.config.n_tokens)
        return lambda: decode(model, batch, search, adapt=adapt)

    @torch.inference_mode()
    def factors(self) -> LoRAFactors:
        """Return the factors of every utterance."""
        mel, n_frames = self.model.backbone.features(self.waves)
        return self.model.factors(self.model.embed(Batch(n_frames=n_frames, mel=mel))[0])

    def compare(
        self, name: str, ours: Job, peers: Mapping[str, Job], setting: str, rounds: int
    ) -> None:
        """Time ours and the peers' jobs in turn, and add a row for each peer."""
        times = interleaved([ours, *peers.values()], rounds)
        text = f"{MODEL}, {setting}, {self.config.threads} threads"
        for index, peer in enumerate(peers, start=1):
            pair = times[:, [0, index]]
            row = ratio_row(name, pair, peer, text, self.config.seed)
            self.rows.append(row | {"seconds": np.median(pair, axis=0).tolist()})


def voice_like(seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Return a pulse train of syllables: what is timed is arithmetic, not recognition."""
    t = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    wave = np.sign(np.sin(2 * np.pi * rng.uniform(90, 220) * t)) * (np.sin(2 * np.pi * 3 * t) > 0)
    return (0.2 * wave + 0.01 * rng.standard_normal(len(t))).astype(np.float32)


def fixed_search(backbone: Backbone, n_tokens: int) -> SearchConfig:
    """Return a search in which no text ends before it has n_tokens tokens."""
    ends = tuple(range(backbone.eos, int(backbone.whisper.config.vocab_size)))
    return SearchConfig(max_tokens=n_tokens, suppress=ends, stop=False)


# Peers


def generating(whisper: Any, mel: Tensor, n_tokens: int) -> Callable[..., Tokens]:
    """Return a function that lets transformers' own `generate` write.

    Args:
        whisper: of transformers.
        mel: features of 30 s each (n_utt, n_mels, 3000).
        n_tokens: written for each utterance, no more and no less.
    """
    known = whisper.generation_config
    # Also end of text, markers and times: all rows are as long, in a single window.
    ends = range(int(known.eos_token_id), whisper.config.vocab_size)
    suppress = [*(known.suppress_tokens or ()), *ends]

    @torch.inference_mode()
    def run(mel: Tensor = mel, **options: Any) -> Tokens:
        with quiet_transformers():
            found = whisper.generate(
                mel,
                num_beams=1,
                do_sample=False,
                max_new_tokens=n_tokens,
                suppress_tokens=suppress,
                **options,
            )
        return [row[-n_tokens:] for row in found.tolist()]

    return run


def peft_jobs(
    folder: Path, mel: Tensor, n_tokens: int, factors: LoRAFactors
) -> dict[str, Callable[[], Tokens]]:
    """Return PEFT with an adapter for each utterance, by how it is put in.

    Args:
        folder: of the Whisper.
        mel, n_tokens: as `generating`.
        factors: of each utterance.
    Returns:
        ``mixed batch`` with `adapter_names`; ``set_adapter``, utterance after utterance; and
        ``merge_adapter``, utterance after utterance with the adapter merged and unmerged.
    """
    from peft import LoraConfig, get_peft_model

    whisper = load_whisper(folder, offline=True)[0].eval()
    linears = lora.find_targets(whisper, factors)
    paths = {module: path for path, module in whisper.named_modules()}
    rank = next(iter(factors.targets.values())).A.shape[2]
    targets = [paths[module] for modules in linears.values() for module in modules]
    config = LoraConfig(r=rank, lora_alpha=factors.scaling * rank, target_modules=targets)
    names = [f"utt{i}" for i in range(len(mel))]
    model: Any = get_peft_model(whisper, config, adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, config)
    modules = dict(whisper.named_modules())
    with torch.no_grad():
        for target, layers in linears.items():
            for layer, linear in enumerate(layers):
                module: Any = modules[paths[linear]]
                for utt, name in enumerate(names):
                    module.lora_A[name].weight.copy_(factors[target].A[layer, utt])
                    module.lora_B[name].weight.copy_(factors[target].B[layer, utt])
    generate = generating(model.eval(), mel, n_tokens)

    def one_by_one(merge: bool) -> Tokens:
        tokens = []
        for name, row in zip(names, mel, strict=True):
            model.set_adapter(name)
            if merge:
                model.merge_adapter()
            tokens += generate(row[None])
            if merge:
                model.unmerge_adapter()
        return tokens

    return {
        "mixed batch": lambda: generate(adapter_names=names),
        "set_adapter": lambda: one_by_one(False),
        "merge_adapter": lambda: one_by_one(True),
    }


def ctranslate2_job(
    folder: Path, mel: Tensor, n_tokens: int, *, at_once: bool, threads: int, compute: str = "int8"
) -> Callable[[], Tokens]:
    """Return a function that lets CTranslate2, the engine of faster-whisper, decode unadapted.

    Args:
        folder: of the Whisper; the engine's own layout is written beside it.
        mel, n_tokens: as `generating`.
        at_once: all utterances in one batch, or one by one.
        threads: of the decoding.
        compute: number format of weights and products: ``int8``, ``float32``.
    """
    whisper = load_whisper(folder, offline=True)[0]
    known = whisper.generation_config
    prompt = [known.decoder_start_token_id, known.no_timestamps_token_id]
    options = {
        "beam_size": 1,
        # The engine takes half of it for what came before, whether there is any or not.
        "max_length": 2 * max(n_tokens, len(prompt)),
        "suppress_blank": True,
        # What the model suppresses itself, and what ends a text.
        "suppress_tokens": [-1, *range(known.eos_token_id, whisper.config.vocab_size)],
    }
    converted = str(ctranslate2_folder(folder, compute))
    how = {"device": "cpu", "compute_type": compute, "intra_threads": threads}
    batches = mel.split(len(mel) if at_once else 1)
    return in_own_process(_ctranslate2, converted, how, batches, prompt, options)


def ctranslate2_folder(folder: Path, compute: str) -> Path:
    """Write a Whisper in CTranslate2's layout beside its folder, once; returns the new folder."""
    converted = folder.with_name(f"ctranslate2-{compute}")
    if not (converted / "model.bin").exists():
        from ctranslate2.converters import TransformersConverter

        # The engine does without a tokenizer, faster-whisper does not.
        converter = TransformersConverter(str(folder), copy_files=["tokenizer.json"])
        with quiet_transformers():
            converter.convert(str(converted), quantization=compute)
    return converted


def _ctranslate2(
    folder: str,
    how: dict[str, Any],
    batches: Sequence[Tensor],
    prompt: list[int],
    options: dict[str, Any],
) -> Callable[[], Tokens]:
    import ctranslate2

    model = ctranslate2.models.Whisper(folder, **how)
    # The engine reads the very memory, so the arrays must stay.
    arrays = [batch.contiguous().numpy() for batch in batches]
    views = [ctranslate2.StorageView.from_array(array) for array in arrays]

    def run() -> Tokens:
        tokens: Tokens = []
        for array, view in zip(arrays, views, strict=True):
            found = model.generate(view, [prompt] * len(array), **options)
            tokens += [row.sequences_ids[0] for row in found]
        return tokens

    return run


def in_own_process(make: Callable[..., Callable[..., Any]], *given: Any) -> Callable[..., Any]:
    """Return a function that calls, in a process of its own, what `make` of `given` returns there.

    With CTranslate2 in our process, our decoding of one utterance took twice as long from its first
    call on; in use the two are not in one process either. The process ends with the function.
    """
    pool = ProcessPoolExecutor(1, get_context("spawn"))
    pool.submit(_make, make, given).result()
    return lambda *arguments: pool.submit(_call, arguments).result()


_made: list[Callable[..., Any]] = []  # in the process of its own


def _make(make: Callable[..., Callable[..., Any]], given: tuple[Any, ...]) -> None:
    _made.append(make(*given))


def _call(arguments: tuple[Any, ...]) -> Any:
    return _made[0](*arguments)


# Benchmarks


def adaptation(bench: Bench) -> None:
    """Adapted against unadapted: the batch, in float32 and int8, and one utterance."""
    one = "one of the utterances"
    for dtype, n_utt, work in (
        ("float32", None, bench.work),
        ("int8", None, bench.work),
        ("float32", 1, one),
    ):
        ours, peer = (bench.ours(dtype, n_utt, adapt=adapt) for adapt in (True, False))
        peers = {"the unadapted backbone": peer}
        # A few percent are in question, and rounds differ by more.
        rounds = 4 * bench.config.rounds
        bench.compare("adapted_over_unadapted", ours, peers, f"{dtype}, {work}", rounds)


def transformers(bench: Bench) -> None:
    """Trimmed and adapted against transformers unadapted, which takes 30 s."""
    name = f"{peer_version('transformers')}, unadapted, 30 s"
    whisper = load_whisper(bench.folder, offline=True)[0].eval()
    peers = {name: generating(whisper, bench.mel, bench.config.n_tokens)}
    setting = f"float32, {bench.work}"
    bench.compare("trimmed_adapted_over_unadapted", bench.ours(), peers, setting, bench.few)


def peft(bench: Bench) -> None:
    """Trimmed and adapted against PEFT: a mixed batch, adapters swapped, adapters merged."""
    name = peer_version("peft")
    made = peft_jobs(bench.folder, bench.mel, bench.config.n_tokens, bench.factors())
    setting = f"float32, {bench.config.n_utt} adapters, {bench.work}"
    for benchmark, kinds in (
        ("over_peft_mixed_batch", ["mixed batch"]),
        ("over_peft_swap", ["set_adapter", "merge_adapter"]),
    ):
        peers = {f"{name}, {kind}, 30 s": made[kind] for kind in kinds}
        bench.compare(benchmark, bench.ours(), peers, setting, bench.few)


def faster_whisper(bench: Bench) -> None:
    """Trimmed, adapted and int8 against the engine of faster-whisper in int8, unadapted."""
    name, c = peer_version("ctranslate2"), bench.config
    all_of, one_of = bench.mel, bench.mel[:1]
    for dtype in ("int8", "float32"):
        for work, n_utt, kinds in (
            (bench.work, None, {"batched, ": (all_of, True), "one by one, ": (all_of, False)}),
            ("one of the utterances", 1, {"": (one_of, True)}),
        ):
            ours, peers = bench.ours(dtype, n_utt), {}
            for kind, (mel, at_once) in kinds.items():
                job = ctranslate2_job(
                    bench.folder, mel, c.n_tokens, at_once=at_once, threads=c.threads
                )
                if (lengths := {len(tokens) for tokens in job()}) != {c.n_tokens}:
                    raise ConfigError(f"{name} decoded {lengths} tokens instead of {c.n_tokens}")
                peers[f"{name}, {kind}30 s"] = job
            setting, rounds = f"ours {dtype}, theirs int8, {work}", c.rounds if n_utt else bench.few
            bench.compare("over_faster_whisper_int8", ours, peers, setting, rounds)


def training(bench: Bench) -> None:
    """A step with the decoder's W1 as target: states from the cache, and encoded anew."""
    c = bench.config
    for backbone in (bench.whole, bench.model.backbone):
        source = SourceConfig("hypernet", settings={"rank": 8})
        objective = ObjectiveConfig(negatives=4_096)
        model = HyperASR(backbone, SpeakerConfig(), source, objective=objective).train()
        mel, n_frames = backbone.features(bench.waves)
        prompt = torch.tensor(backbone.prompt_ids())
        drawn = torch.Generator().manual_seed(c.seed)
        text = torch.randint(1_000, (c.n_utt, c.n_tokens), generator=drawn)
        tokens = torch.cat([prompt.expand(c.n_utt, -1), text], dim=1)
        batch = Batch(
            n_frames=n_frames,
            mel=mel,
            tokens=tokens,
            n_tokens=torch.full((c.n_utt,), tokens.shape[1]),
            n_prompt=len(prompt),
        )
        emb, encoded = model.embed(batch)
        path = bench.scratch / f"{backbone.audio_context}.safetensors"
        save_file({"states": encoded.states.half(), "emb": emb}, path)
        from_cache = training_step(model, partial(cached, batch, encoded, path))
        peers = {"encoding each batch anew": training_step(model, lambda batch=batch: batch)}
        setting = f"{backbone.audio_context} context, float32, {bench.work}, decoder W1"
        bench.compare("cached_over_uncached_training", from_cache, peers, setting, bench.few)


def cached(batch: Batch, encoded: EncoderOutput, path: Path) -> Batch:
    """Return a batch as a training reads it: float16 states and embeddings from a file."""
    read = load_file(path)
    states = replace(encoded, states=read["states"].float())
    return replace(batch, mel=None, encoded=states, speaker_emb=read["emb"])


def training_step(model: HyperASR, read: Callable[[], Batch]) -> Job:
    """Return a function that trains for one step."""
    optimiser = torch.optim.AdamW(model.source.parameters(), lr=1e-4)

    def step() -> None:
        optimiser.zero_grad()
        model(read()).total.backward()
        optimiser.step()

    return step


BENCHMARKS: dict[str, Callable[[Bench], None]] = {
    "adaptation": adaptation,
    "training": training,
    "transformers": transformers,
    "peft": peft,
    "faster_whisper": faster_whisper,
}
"""What can be measured, by the name that a configuration gives."""


def peer_version(package: str) -> str:
    """Return name and version of a package that is compared with.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        return f"{package} {version(package)}"
    except ImportError as error:
        raise MissingExtra(f"{package} is not installed: pip install 'hyperasr[dev]'") from error


def measure(config: SpeedConfig) -> tuple[list[results.Row], dict[str, str]]:
    """Run the chosen benchmarks; returns the rows, and which were left out, with the reason."""
    torch.set_num_threads(config.threads)
    skipped: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(config, Path(scratch))
        for name in config.benchmarks or BENCHMARKS:
            started = time.perf_counter()
            try:
                BENCHMARKS[name](bench)
            except MissingExtra as error:
                skipped[name] = str(error)
            print(f"{name}: {skipped.get(name, f'{time.perf_counter() - started:.0f} s')}")
    return bench.rows, skipped


def main() -> None:
    """Measure, write the JSON, print the table."""
    config = read_config(SpeedConfig)
    rows, skipped = measure(config)
    about = {"seed": config.seed, "protocol": "speed", "skipped": skipped}
    results.save("eval.benchmarks.speed", config, rows, **about)
    print_rows(rows, title="speed")


if __name__ == "__main__":
    run_program(main)
