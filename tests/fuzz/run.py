"""Give the command line bad inputs, and count how it ends.

    python -m tests.fuzz.run --n 10000 --out tests/fuzz/fuzz.json

Every input is made of the seed and its number. They run in processes of 100, each with 2 GiB of
memory and 10 s of computing an input, and every file that is opened to write, renamed or removed is
noted. The command succeeds (0), does a part (1) or refuses in one line (2); all else is a failure.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from tests.fuzz.inputs import KINDS, Case, recordings

A_PROCESS = 100  # inputs
SECONDS = 10
MEMORY = 2 * 2**30
_CHANGES = (
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.symlink",
    "os.link",
    "os.truncate",
)
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

Found = tuple[int, str, str, list[str]]
"""Number, kind, outcome, arguments."""


class Watch:
    """Notes every change of a file that is not below the output folder."""

    def __init__(self) -> None:
        self.outside: list[str] = []
        self.out: Path | None = None
        sys.addaudithook(self)

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        changes = event.startswith("os.") and event[3:] in _CHANGES
        opens = event == "open" and isinstance(args[2], int) and args[2] & _WRITES
        if self.out is None or not (changes or opens):
            return
        # A folder is made under a temporary name beside its own.
        allowed = (f"{self.out}{os.sep}", f"{self.out.parent}{os.sep}.{self.out.name}.")
        for name in args[:2] if event in ("os.rename", "os.link") else args[:1]:
            if isinstance(name, str | bytes) and os.fsdecode(name) != os.devnull:
                path = os.path.realpath(os.fsdecode(name))
                if path != str(self.out) and not path.startswith(allowed):
                    self.outside.append(f"{event} {name!r}")


def outcome_of(case: Case, kind: str, watch: Watch) -> tuple[str, list[str]]:
    """Run one input in this process and return how it ended, with its arguments."""
    from hyperasr.cli.parser import main

    argv = KINDS[kind](case)
    before = {p: p.read_bytes() for p in sorted(case.folder.rglob("*")) if p.is_file()}
    errors = io.StringIO()
    watch.outside, watch.out = [], case.folder / "out"
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(errors):
            status = main(argv)
    except BaseException as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} in {Path(frame.filename).name}:{frame.lineno}", argv
    finally:
        watch.out = None
    lines = errors.getvalue().splitlines()
    if watch.outside:
        return f"wrote elsewhere: {watch.outside[0]}", argv
    if any(not path.is_file() or path.read_bytes() != old for path, old in before.items()):
        return "changed an input", argv
    if status not in (0, 1, 2) or "Traceback" in errors.getvalue():
        return f"status {status}", argv
    if status == 2 and not (
        lines and (lines[-1].startswith("hyperasr: error: ") or argv[1:] == [])
    ):
        return "refused without a word", argv
    return str(status), argv


def _child(numbers: range, seed: int, pipe: int, base: dict[str, bytes], model: Path) -> None:
    """Run some inputs and write a line of JSON before and after each."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 2**20, 64 * 2**20))
    watch = Watch()
    for number in numbers:
        kind = list(KINDS)[number % len(KINDS)]
        folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        os.chdir(folder)
        os.write(pipe, json.dumps([number, kind]).encode() + b"\n")
        # Either ends this process, also where it hangs outside of Python; the second is for what
        # waits without computing, and long enough for a busy machine.
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.alarm(12 * SECONDS)
        case = Case(base, model, folder.resolve(), random.Random(f"{seed}-{number}"))
        outcome, argv = outcome_of(case, kind, watch)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        os.write(pipe, json.dumps([number, kind, outcome, argv]).encode() + b"\n")
        os.chdir("/")
        shutil.rmtree(folder, ignore_errors=True)


def run(n: int, seed: int, model: Path) -> Iterator[Found]:
    """Yield how each of the inputs 0 to n ends.

    Args:
        n: inputs.
        seed: of all of them.
        model: folder of a small adapter model, which stands for ``tiny.en``.
    """
    from hyperasr.cli import commands, corpora, doctor, enrol, export, simulate  # noqa: F401
    from hyperasr.hub import load
    from hyperasr.transcription import enrolment

    opened = load(model, offline=True)

    def open_once(name: Any, **options: Any) -> Any:
        return opened if name == "tiny.en" else load(name, **options)

    def open_anew(name: Any, **options: Any) -> Any:
        return load(model if name == "tiny.en" else name, **options)

    commands.load = export.load = open_once  # type: ignore[assignment]
    enrol.load, enrolment.STEPS = open_anew, (2,)  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as scratch:
        base = recordings(Path(scratch))
    start = 0
    while start < n:
        reading, writing = os.pipe()
        process = os.fork()
        if process == 0:
            try:
                os.close(reading)
                _child(range(start, min(n, start + A_PROCESS)), seed, writing, base, model)
            finally:
                os._exit(0)
        os.close(writing)
        pending: tuple[int, str] | None = None
        with open(reading) as lines:
            for line in map(json.loads, lines):
                if len(line) == 2:
                    pending = line[0], line[1]
                    continue
                pending, start = None, line[0] + 1
                yield line[0], line[1], line[2], line[3]
        status = os.waitpid(process, 0)[1]
        if pending is not None:
            by = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else "its end"
            yield *pending, "hang" if by in ("SIGPROF", "SIGALRM") else f"killed by {by}", []
            start = pending[0] + 1


def random_model(folder: Path) -> Path:
    """Write a tiny random Whisper with a random hypernetwork, and return the latter's folder."""
    from hyperasr.adapters import SourceConfig
    from hyperasr.hub import HyperASR
    from hyperasr.speaker.encoder import SpeakerConfig
    from tests.random_whisper import random_whisper

    backbone = random_whisper()
    backbone.save_pretrained(folder / "backbone")
    settings = {"rank": 2, "d_hidden": 16, "d_layer_emb": 4, "n_hidden": 1}
    model = HyperASR(backbone, SpeakerConfig(), SourceConfig(settings=settings))
    model.save_pretrained(folder / "hypernet", backbone="../backbone")
    return folder / "hypernet"


def main() -> int:
    """Run, write the counts, print the failures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--n", type=int, default=1_000, help="inputs")
    parser.add_argument("--seed", type=int, default=0, help="of all inputs")
    parser.add_argument("--out", type=Path, required=True, help="result file")
    args = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    sys.dont_write_bytecode = True
    import hyperasr  # noqa: F401  (before transformers: it makes torchaudio importable)
    from eval.lib import results

    counts: Counter[tuple[str, str]] = Counter()
    failures: list[dict[str, Any]] = []

    def save() -> None:
        rows = [{"kind": k, "outcome": o, "n": n} for (k, o), n in sorted(counts.items())]
        done = {"n": counts.total(), "seed": args.seed, "seconds": SECONDS, "memory_bytes": MEMORY}
        about = "bad inputs to the command line"
        head = results.head("tests.fuzz.run", done, args.seed, about, None)
        results.write(args.out, head | {"failures": failures}, rows)

    with tempfile.TemporaryDirectory() as folder:
        for number, kind, outcome, argv in run(args.n, args.seed, random_model(Path(folder))):
            counts[kind, outcome] += 1
            if outcome not in ("0", "1", "2"):
                failures.append({"number": number, "kind": kind, "outcome": outcome})
                print(number, kind, outcome, [str(word)[:80] for word in argv], flush=True)
            if counts.total() % A_PROCESS == 0 or counts.total() == args.n:
                save()  # of an interrupted run, what it had done
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
