"""What adaptation costs, and how fast it is beside other ways to the same: all in one run.

    python -m eval.benchmarks.speed --config eval/configs/speed.yaml

Peers and ours get the same random Whisper of tiny's shape, the same utterances as features made
beforehand, and decode the same number of tokens greedily, so that all do the same work; adapting
(embedding, hypernetwork, factors) is counted on our side. Rounds are interleaved; a ratio is that
of the medians' throughput, its interval a bootstrap over rounds. Beside the rows the file has
``measures``, which are no ratios, and ``skipped``: benchmarks whose peer or data is not there.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eval.benchmarks import large_corpora, overhead, peers, variational_cost
from eval.benchmarks.timing import OwnProcess, interleaved, ratio_row
from eval.lib import results
from hyperasr.adapters import SourceConfig
from hyperasr.decode import decode
from hyperasr.errors import ConfigError
from hyperasr.hub import EMBEDDED, HyperASR
from hyperasr.speaker.encoder import SpeakerConfig
from hyperasr.types import Batch
from hyperasr.whisper.backbone import Backbone
from hyperasr.whisper.search import SearchConfig
from train.loop.program import read_config, run_program

_VOCABULARY = 51_865


@dataclass(frozen=True)
class SpeedConfig:
    """What is timed, how often."""

    benchmarks: tuple[str, ...] = ()
    """Names of `BENCHMARKS`, in any order; none stands for all."""
    model: str = "tiny.en"
    """``tiny.en``, or a model folder, for what is measured on a trained model."""
    tokenizer: Path = Path("../shared/whisper-assets/whisper-multilingual")
    """Folder of the published multilingual tokenizer, for the random Whisper."""
    d_model: int = 384
    """Width of the random Whisper; Whisper-tiny has 384."""
    n_layers: int = 4
    """Its layers, in the encoder and in the decoder."""
    n_utt: int = 16
    """Utterances of the batch, each with an adapter of its own."""
    seconds: float = 3.0
    """Length of each utterance."""
    n_tokens: int = 20
    """Tokens of each utterance, forced, at least 4."""
    rank: int = 16
    """Of the adapters."""
    rounds: int = 40
    """Timed rounds of what takes less than a second."""
    peer_rounds: int = 7
    """Timed rounds of what takes seconds."""
    threads: int = 2
    """Threads of torch and of CTranslate2."""
    n_recordings: int = 100_000
    """Recordings of the corpus that is prepared, at least 10."""
    cache_gib: float = 20.0
    """Size of the cache that is larger than memory should be, in GiB, above 0."""
    out: Path = Path("results/speed.json")
    """Result file."""
    seed: int = 0
    """Of audio, random weights and bootstrap."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.benchmarks if name not in BENCHMARKS]
        if unknown:
            raise ConfigError(f"no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
        if self.n_tokens < 4 or min(self.rounds, self.peer_rounds) < 2:
            raise ConfigError("n_tokens must be at least 4, rounds and peer_rounds at least 2")
        if self.n_recordings < 10 or not self.cache_gib > 0:
            raise ConfigError("n_recordings must be at least 10, cache_gib above 0")


@dataclass
class Found:
    """What was measured so far."""

    rows: list[results.Row] = field(default_factory=list)
    measures: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


class Bench:
    """The models and utterances that benchmarks share, each made when it is first asked for."""

    def __init__(self, config: SpeedConfig, scratch: Path) -> None:
        self.config, self.scratch, self.found = config, scratch, Found()
        rng = np.random.default_rng(config.seed)
        self.waves = [overhead.voice_like(config.seconds, rng) for _ in range(config.n_utt)]
        self._models: dict[tuple[str, str], HyperASR] = {}

    @property
    def work(self) -> str:
        """The work of one round in words."""
        c = self.config
        return f"{c.n_utt} utterances of {c.seconds:g} s, {c.n_tokens} tokens, greedy"

    @property
    def folder(self) -> Path:
        """Folder of the random Whisper."""
        folder, c = self.scratch / "whisper", self.config
        if not folder.exists():
            shape = {"d_model": c.d_model, "n_heads": c.d_model // 64, "n_layers": c.n_layers}
            peers.write_random_whisper(folder, c.tokenizer, **shape)
        return folder

    def model(self, audio_context: str, dtype: str = "float32") -> HyperASR:
        """Return the random Whisper with a hypernetwork that does adapt."""
        key = (audio_context, dtype)
        if key not in self._models:
            backbone = Backbone.from_pretrained(
                self.folder, offline=True, audio_context=audio_context, dtype=dtype
            )
            settings = {"rank": self.config.rank}
            model = HyperASR(backbone, SpeakerConfig(), SourceConfig(settings=settings)).eval()
            generator = torch.Generator().manual_seed(self.config.seed)
            source: Any = model.source
            with torch.no_grad():
                for weight in [*source.heads.parameters(), *source.bias_B.parameters()]:
                    weight.normal_(0, 0.02, generator=generator)
            self._models[key] = model
        return self._models[key]

    def ours(
        self, audio_context: str, dtype: str = "float32", n_utt: int = 0, *, adapt: bool = True
    ) -> Callable[[], Any]:
        """Return the job of decoding the first n_utt utterances (0: all) with the random model."""
        model = self.model(audio_context, dtype)
        return job(model, self.waves[: n_utt or None], self.config.n_tokens, adapt=adapt)

    def mel(self) -> torch.Tensor:
        """Return features of 30 s (n_utt, n_mels, 3000) for the peers."""
        return self.model("full").backbone.features(self.waves)[0]

    def compare(
        self, name: str, jobs: Mapping[tuple[str, str], Callable[[], Any]], rounds: int
    ) -> None:
        """Time the jobs in turn and add a row for each but the first, which is ours.

        Args:
            name: of the row, one of `eval.lib.results.BENCHMARKS`.
            jobs: by peer and setting.
            rounds: timed ones.
        """
        times = interleaved(list(jobs.values()), rounds)
        for index, (peer, setting) in enumerate(jobs):
            if index:
                pair = times[:, [0, index]]
                text = f"{setting}, {self.config.threads} threads"
                row = ratio_row(name, pair, peer, text, self.config.seed)
                seconds = np.median(pair, axis=0).tolist()
                self.found.rows.append(row | {"seconds": seconds})


def job(
    model: HyperASR, waves: list[np.ndarray], n_tokens: int, *, adapt: bool, beam_size: int = 1
) -> Any:
    """Return a function that decodes the utterances, every one to n_tokens tokens."""
    mel, n_frames = model.backbone.features(waves)
    batch = Batch(n_frames=n_frames, mel=mel)
    n_vocab = int(model.backbone.whisper.config.vocab_size)
    eos = model.backbone.eos
    # Of a random Whisper markers and times too.
    ends = range(eos, n_vocab) if n_vocab == _VOCABULARY else [eos]
    search = SearchConfig(beam_size=beam_size, max_tokens=n_tokens, suppress=tuple(ends))
    return lambda: decode(model, batch, search, adapt=adapt)


def embedded(bench: Bench) -> None:
    """Adapted against unadapted, on the trained models: the batch and one utterance."""
    for name in dict.fromkeys((bench.config.model, *EMBEDDED)):
        model = HyperASR.from_pretrained(name).eval()
        for waves, work in ((bench.waves, bench.work), (bench.waves[:1], "one of the utterances")):
            setting = f"{name} model, {work}"
            jobs = {
                (key, setting): job(model, waves, bench.config.n_tokens, adapt=key == "ours")
                for key in ("ours", "the unadapted backbone")
            }
            # A few percent are in question, and rounds differ by more.
            bench.compare("adapted_over_unadapted", jobs, 4 * bench.config.rounds)


def beam(bench: Bench) -> None:
    """A beam of five against greedy search, both adapted, on the trained model."""
    model, c = HyperASR.from_pretrained(bench.config.model).eval(), bench.config
    setting = f"{c.model} model, beam of 5, {c.n_utt} utterances of {c.seconds:g} s, "
    setting += f"{c.n_tokens} tokens"
    jobs = {
        (peer, setting): job(model, bench.waves, c.n_tokens, adapt=True, beam_size=size)
        for peer, size in (("ours", 5), ("greedy search", 1))
    }
    bench.compare("beam_over_greedy", jobs, c.rounds)


def adaptation(bench: Bench) -> None:
    """Adapted against unadapted, on the random Whisper: full and trimmed context, and int8."""
    for context, dtype, rounds in (
        ("full", "float32", bench.config.peer_rounds),
        ("trimmed", "float32", bench.config.rounds),
        ("trimmed", "int8", bench.config.rounds),
    ):
        setting = f"random tiny, {context} context, {dtype}, {bench.work}"
        jobs = {
            (key, setting): bench.ours(context, dtype, adapt=key == "ours")
            for key in ("ours", "the unadapted backbone")
        }
        bench.compare("adapted_over_unadapted", jobs, rounds)


def transformers(bench: Bench) -> None:
    """Trimmed and adapted against transformers unadapted, which takes 30 s."""
    peer = f"transformers {version('transformers')}, unadapted, 30 s"
    jobs: dict[tuple[str, str], Callable[[], Any]] = {
        ("ours", ""): bench.ours("trimmed"),
        (peer, f"float32, {bench.work}"): peers.Transformers(
            bench.folder, bench.mel(), bench.config.n_tokens
        ),
    }
    bench.compare("trimmed_adapted_over_unadapted", jobs, bench.config.peer_rounds)


def peft(bench: Bench) -> None:
    """Trimmed and adapted against PEFT: a mixed batch, adapters swapped, adapters merged."""
    full, n_tokens = bench.model("full"), bench.config.n_tokens
    mel = bench.mel()
    n_frames = torch.full((len(mel),), mel.shape[-1])
    with torch.inference_mode():
        factors = full.factors(full.embed(Batch(n_frames=n_frames, mel=mel))[0])
    name = _peer("peft")
    for benchmark, kinds in (
        ("over_peft_mixed_batch", {"mixed": "mixed batch"}),
        ("over_peft_swap", {"swap": "set_adapter", "merge": "merge_adapter"}),
    ):
        jobs: dict[tuple[str, str], Callable[[], Any]] = {("ours", ""): bench.ours("trimmed")}
        for how, words in kinds.items():
            made = peers.Peft(bench.folder, mel, n_tokens, factors, how)
            setting = f"float32, {len(mel)} adapters, {bench.work}"
            jobs[f"{name}, {words}, 30 s", setting] = made
        bench.compare(benchmark, jobs, bench.config.peer_rounds)


def faster_whisper(bench: Bench) -> None:
    """Trimmed, adapted and int8 against the engine of faster-whisper in int8, unadapted.

    The engine has a process of its own, as it would have in use.
    """
    name, mel, c = _peer("ctranslate2"), bench.mel(), bench.config
    folders = (bench.folder, bench.scratch / "ctranslate2")

    def engine(n_utt: int, batch_size: int) -> OwnProcess:
        made = OwnProcess(
            peers.CTranslate2, *folders, mel[:n_utt], c.n_tokens, batch_size, threads=c.threads
        )
        lengths = {len(tokens) for tokens in made()}
        if lengths != {c.n_tokens}:
            raise ConfigError(f"{name} decoded {lengths} tokens instead of {c.n_tokens}")
        return made

    for dtype in ("int8", "float32"):
        setting = f"ours {dtype}, theirs int8, {bench.work}"
        batch: dict[tuple[str, str], Callable[[], Any]] = {
            ("ours", ""): bench.ours("trimmed", dtype),
            (f"{name}, batched, 30 s", setting): engine(c.n_utt, peers.ALL_AT_ONCE),
            (f"{name}, one by one, 30 s", setting): engine(c.n_utt, 1),
        }
        bench.compare("over_faster_whisper_int8", batch, c.peer_rounds)
        one = f"ours {dtype}, theirs int8, one of the utterances"
        single: dict[tuple[str, str], Callable[[], Any]] = {
            ("ours", ""): bench.ours("trimmed", dtype, n_utt=1),
            (f"{name}, 30 s", one): engine(1, 1),
        }
        bench.compare("over_faster_whisper_int8", single, c.rounds)


def training(bench: Bench) -> None:
    """Steps of meta-training from the cache on disk against log-mel and encoder in every step."""
    for context in ("full", "trimmed"):
        setting = f"random tiny, {context} context, {bench.config.n_utt} utterances a step"
        model = bench.model(context)
        names = ("from the cache", "log-mel and encoder in every step")
        made = overhead.training_steps(
            model, bench.waves, bench.config.n_tokens, bench.folder, bench.scratch
        )
        jobs = {(key, setting): step for key, step in zip(names, made, strict=True)}
        bench.compare("cached_over_uncached_training", jobs, bench.config.peer_rounds)
        model.eval().requires_grad_(False)


def variational(bench: Bench) -> None:
    """Steps of a LoRA against those of variational LoRAs on the same matrices."""
    c = bench.config
    for group in variational_cost.groups(c.seconds, c.n_tokens, c.seed):
        jobs = {(name, group.setting): step for name, step in group.steps.items()}
        bench.compare("lora_over_variational_training", jobs, c.rounds)


def simulation(bench: Bench) -> None:
    """Simulation against real time, cohort by cohort, on one core."""
    bench.found.rows += overhead.simulation_rows(
        bench.config.seconds, bench.config.rounds, bench.config.seed
    )


MEASURES: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "cache": lambda b: overhead.cache_rate(b.config.model, b.waves, b.scratch, b.config.rounds),
    "large_cache": lambda b: large_corpora.train_large(
        b.scratch, b.folder, b.waves[0], int(b.config.cache_gib * 2**30), b.config.threads
    ),
    "prepare": lambda b: large_corpora.prepare_large(b.scratch, b.config.n_recordings),
    "start": lambda b: overhead.start_seconds(b.waves[0], b.config.model, b.scratch),
}
"""What is no ratio, by the name under which it stands in ``measures``."""


def _measure(name: str) -> Callable[[Bench], None]:
    def run(bench: Bench) -> None:
        bench.found.measures[name] = MEASURES[name](bench)

    return run


BENCHMARKS: dict[str, Callable[[Bench], None]] = {
    "embedded": embedded,
    "beam": beam,
    "adaptation": adaptation,
    "transformers": transformers,
    "peft": peft,
    "faster_whisper": faster_whisper,
    "training": training,
    "variational": variational,
    "simulation": simulation,
    **{name: _measure(name) for name in MEASURES},
}
"""What can be measured, by the name that a configuration gives."""


def _peer(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except ImportError as error:
        raise peers.Missing(f"{package} is not installed: pip install 'hyperasr[dev]'") from error


def measure(config: SpeedConfig) -> Found:
    """Run the chosen benchmarks; one whose peer or tokenizer is missing is noted and left out."""
    torch.set_num_threads(config.threads)
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(config, Path(scratch))
        for name in config.benchmarks or BENCHMARKS:
            started = time.perf_counter()
            try:
                BENCHMARKS[name](bench)
            except peers.Missing as error:
                bench.found.skipped[name] = str(error)
            note = bench.found.skipped.get(name, f"{time.perf_counter() - started:.0f} s")
            print(f"{name}: {note}", flush=True)
    return bench.found


def main() -> None:
    """Measure, write the JSON, print the table."""
    config = read_config(SpeedConfig)
    found = measure(config)
    extra = {"measures": found.measures, "skipped": found.skipped}
    results.save(
        "eval.benchmarks.speed", config, found.rows, seed=config.seed, protocol="speed", **extra
    )
    if found.rows:
        results.print_table(found.rows, title="speed")
    for name, values in found.measures.items():
        print(f"{name}: {values}")


if __name__ == "__main__":
    run_program(main)
