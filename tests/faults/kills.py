"""Kill the commands that write, let them go on, and compare with runs that nobody killed.

    python -m tests.faults.kills --kills 50 --out tests/faults/kills.json

A command runs in a fork of this process, where everything is imported, as the leader of a process
group of its own, which SIGKILL ends: every other time at a random moment of the command's length,
else at a random one of its changes of a name. After each kill, whatever has a final name must
be what an uninterrupted run writes there. After at most three in a row the command is let go on to
its end, and all files must be those of the uninterrupted run, byte for byte, with nothing beside
them. Each start's clock is a day behind that of the start before.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import mmap
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hyperasr.util import files

IN_A_ROW = 3
_DAY_S = 86_400
_CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir")
# Lines that are added as a run goes on, with times in them.
_LOGS = ("log.txt", "log.jsonl", "events.out.tfevents.")

Digests = dict[str, list[str]]


@dataclass
class Tally:
    """What became of one command."""

    seconds: float = 0.0
    by_clock: int = 0
    at_a_change: int = 0
    compared: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return self.by_clock + self.at_a_change


def kill_command(
    run: Callable[[], object], kills: int, draw: random.Random, scratch: Path
) -> Tally:
    """Kill a command some times and compare.

    Args:
        run: the command; writes below the folder that it is called in.
        kills: that are to strike.
        draw: of the moments.
        scratch: an empty folder.
    """
    tally, whole = Tally(), scratch / "whole"
    wrote, n_changes, tally.seconds = _uninterrupted(run, whole, scratch / "wrote.json")
    wanted, n_rounds, n_misses = _final(whole), 0, 0
    while tally.kills < kills and not tally.failures and n_misses < 3 * kills + 10:
        n_rounds += 1
        folder = scratch / f"round-{n_rounds}"
        folder.mkdir()
        for attempt in range(IN_A_ROW + 1):
            last = attempt == IN_A_ROW or tally.kills == kills
            by_clock = bool(draw.randrange(2))
            after_s = draw.uniform(0, tally.seconds) if by_clock and not last else None
            at = draw.randrange(n_changes) if not by_clock and not last else None
            status = _start(run, folder, attempt, after_s=after_s, at_change=at)
            if last or status != -signal.SIGKILL:  # it came to its end
                n_misses += not last
                if status:
                    said = (folder / "said").read_text(errors="replace")[-1_000:]
                    tally.failures.append(f"going on ended with status {status}: {said}")
                elif difference := _difference(_final(folder), wanted):
                    tally.failures.append(f"after going on: {difference}")
                tally.compared += 1
                break
            tally.by_clock += by_clock
            tally.at_a_change += not by_clock
            for name, digest in _final(folder, finished=False).items():
                if digest not in (*wrote.get(name, ()), wanted.get(name)):
                    tally.failures.append(f"{name} is not whole after a kill")
        if not tally.failures:
            shutil.rmtree(folder)
    if tally.kills < kills and not tally.failures:
        tally.failures.append(f"only {tally.kills} of {kills} kills struck")
    return tally


def _uninterrupted(run: Callable[[], object], folder: Path, notes: Path) -> tuple[Any, int, float]:
    """Run to the end; returns all that it wrote by name, its changes and its seconds."""
    folder.mkdir()
    started = time.monotonic()
    status = _start(lambda: _noted(run, notes), folder, 0)
    seconds = time.monotonic() - started
    if status or not _final(folder):
        said = (folder / "said").read_text(errors="replace")[-3_000:]
        raise RuntimeError(f"uninterrupted, it ended with status {status}: {said}")
    wrote, n_changes = json.loads(notes.read_text())
    return wrote, n_changes, seconds


def _noted(run: Callable[[], object], notes: Path) -> object:
    """Run, and note every file that took a final name, and how many changes there were."""
    wrote: Digests = {}
    here, real_swap, real_replace = Path.cwd(), files._swap, os.replace
    changes = _Changes(None)

    def note(target: str | os.PathLike[str]) -> None:
        path = Path(target)
        for file in [path] if path.is_file() else path.rglob("*"):
            if file.is_file() and here in file.parents:
                wrote.setdefault(str(file.relative_to(here)), []).append(_digest(file))

    def swap(temporary: Path, target: Path) -> None:
        real_swap(temporary, target)
        note(target)

    def replace(source: Any, target: Any) -> None:
        real_replace(source, target)
        note(target)

    files._swap, os.replace = swap, replace  # type: ignore[assignment]
    result = run()
    notes.write_text(json.dumps([wrote, changes.n]))
    return result


class _Changes:
    """Counts changes of names, also those of forks, and kills the process group at one of them."""

    def __init__(self, at: int | None) -> None:
        self.at, self.shared = at, mmap.mmap(-1, 8)
        sys.addaudithook(self)

    @property
    def n(self) -> int:
        return int.from_bytes(self.shared[:], "little")

    def __call__(self, event: str, _: tuple[Any, ...]) -> None:
        if event in _CHANGES:
            if self.n == self.at:
                os.killpg(0, signal.SIGKILL)
            self.shared[:] = (self.n + 1).to_bytes(8, "little")


def _start(
    run: Callable[[], object],
    folder: Path,
    attempt: int,
    *,
    after_s: float | None = None,
    at_change: int | None = None,
) -> int:
    """Run in a fork, killed as it is said; returns the status as `subprocess` has it."""
    process = os.fork()
    if process == 0:
        os.setpgid(0, 0)
        status = 70
        try:
            os.chdir(folder)
            said = os.open("said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(said, 1)
            os.dup2(said, 2)
            now = time.time
            time.time = lambda: now() - _DAY_S * attempt
            if at_change is not None:
                _Changes(at_change)
            result = run()
            status = result if isinstance(result, int) else 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    try:
        os.setpgid(process, process)
    except (PermissionError, ProcessLookupError):  # it has done so itself
        pass
    end = None if after_s is None else time.monotonic() + after_s
    while True:
        done, status = os.waitpid(process, 0 if end is None else os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if end is not None and time.monotonic() >= end:
            os.killpg(process, signal.SIGKILL)
            end = None
        else:
            time.sleep(0.002)


def _final(folder: Path, finished: bool = True) -> dict[str, str]:
    """Return digests of the files that have a final name; of a finished run of all files."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        temporary = any(files._TEMPORARY.fullmatch(part) for part in name.parts)
        is_log = name.name == "said" or name.name.startswith(_LOGS)
        if path.is_file() and not is_log and (finished or not temporary):
            found[str(name)] = _digest(path)
    return found


def _digest(path: Path) -> str:
    content = path.read_bytes()
    if path.name == "state.json" and b"_fingerprint" in content:
        # datasets' own mark of a table, which is another one each time.
        content = json.dumps({**json.loads(content), "_fingerprint": None}).encode()
    return hashlib.sha256(content).hexdigest()


def _difference(found: dict[str, str], wanted: dict[str, str]) -> str:
    names = sorted(n for n in found.keys() | wanted.keys() if found.get(n) != wanted.get(n))
    if not names:
        return ""
    how = "is missing" if names[0] not in found else "is too much"
    how = "has other content" if names[0] in found and names[0] in wanted else how
    return f"{names[0]} {how}, {len(names)} files in all"


# The commands


def speech(folder: Path, n_clips: int = 8) -> Path:
    """Write clips of buzz in syllables, of four speakers, and their manifest."""
    import numpy as np
    import soundfile

    from hyperasr.cohorts.manifest import write_manifest
    from hyperasr.types import Utterance

    rows = []
    for i in range(n_clips):
        t = np.arange(16_000 + 2_000 * i) / 16_000
        buzz = sum(np.sin(2 * np.pi * k * (100 + 10 * i) * t) / k for k in range(1, 15))
        path = folder / f"clip-{i}.wav"
        soundfile.write(path, 0.15 * buzz * (1 + np.sin(2 * np.pi * 3 * t + i)), 16_000)
        rows.append(Utterance(f"u{i}", str(path), f"go on {'at ' * i}ten", "abcd"[i % 4]))
    write_manifest(folder / "clips.jsonl", rows)
    return folder / "clips.jsonl"


@contextmanager
def commands() -> Iterator[dict[str, Callable[[], object]]]:
    """Give the commands by name, with small models and recordings to work on."""
    import datasets
    import torch

    import hyperasr.cohorts.cache as cache
    from hyperasr.cli import commands, enrol, export  # noqa: F401  (imported before the forks)
    from hyperasr.cli.parser import main
    from hyperasr.cohorts.manifest import read_manifest
    from hyperasr.cohorts.views import plan_views
    from hyperasr.speaker.encoder import SpeakerConfig
    from tests.random_whisper import write_backbone, write_hypernet
    from train import meta

    datasets.disable_progress_bars()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        backbone, model, clips = root / "backbone", root / "hypernet", root / "clips"
        clips.mkdir()
        write_backbone(backbone)
        write_hypernet(model, backbone)
        manifest = speech(clips)
        (root / "few").mkdir()
        few = speech(root / "few", n_clips=3)  # too few for a check, which they would not pass
        with_model = ["--model", str(model), "--offline"]

        def train() -> None:
            config = {
                "backbone": str(backbone),
                "train": str(manifest),
                "dev": str(manifest),
                "simulate": [],
                "must_help": False,
                "cache": str(root / "cache"),
                "batch_size": 3,
                "workers": 1,
                "out": "run",
                "source": {"kind": "hypernet", "settings": {"rank": 2, "d_hidden": 16}},
                "loop": {
                    **{"steps": 20, "save_every": 3, "eval_every": 4, "log_every": 1},
                    **{"ema": 0.9, "lr": 0.01, "tracker": "none"},
                },
            }
            (root / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
            sys.argv = ["meta", "--config", str(root / "config.yaml")]
            meta.main()

        def build_cache() -> None:
            views = plan_views(read_manifest(manifest), seed=3, cohorts=("stuttering", "typical"))
            kept = cache.CacheConfig(SpeakerConfig())
            cache.build_cache(Path("cache"), views, backbone, kept, workers=2)

        def forked(workers: int, initializer: Any, initargs: Any) -> ProcessPoolExecutor:
            # A fresh interpreter would be killed while it imports, most of the time.
            context = multiprocessing.get_context("fork")
            return ProcessPoolExecutor(workers, context, initializer, initargs)

        cache._PART, cache.WorkerPool = 2, forked  # type: ignore[assignment,misc]

        def transcribe() -> int:
            how = ["--format", "json", "--out", "texts", "--batch-size", "2"]
            return main(["transcribe", str(manifest), *with_model, *how])

        def write_export() -> int:
            how = ["--max-word-difference", "null", "--out"]
            return max(
                main(["export", str(clips), *with_model, "--to", to, *how, to])
                for to in ("peft", "ctranslate2")
            )

        def enrol_voice() -> int:
            return main(["enrol", str(few), *with_model, "--out", "voice"])

        made: dict[str, Callable[[], object]] = {
            "training": train,
            "caching": build_cache,
            "transcription": transcribe,
            "export": write_export,
            "enrolment": enrol_voice,
        }
        (root / "warm").mkdir()
        _start(train, root / "warm", 0)  # what trainings share, a cache, is none of theirs
        yield made


def main() -> int:
    """Kill, write the counts, print the failures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=2, help="of each command")
    parser.add_argument("--commands", nargs="*", help="some of them; all without")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, required=True, help="result file")
    args = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    import hyperasr  # noqa: F401  (before transformers: it makes torchaudio importable)
    from eval.lib import results

    rows: list[dict[str, Any]] = []
    with commands() as made:
        for name in args.commands or made:
            with tempfile.TemporaryDirectory() as scratch:
                draw = random.Random(f"{args.seed}-{name}")
                tally = kill_command(made[name], args.kills, draw, Path(scratch))
            row = {"command": name, "kills": tally.kills, "by_clock": tally.by_clock}
            row |= {"at_a_change": tally.at_a_change, "compared": tally.compared}
            rows.append(row | {"seconds": round(tally.seconds, 2), "failures": tally.failures})
            print(rows[-1], flush=True)
    head = results.head("tests.faults.kills", vars(args), args.seed, "SIGKILL and going on", None)
    results.write(args.out, head, rows)
    return 1 if any(row["failures"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
