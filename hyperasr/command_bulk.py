"""What `hyperasr transcribe --shards` does; the shards themselves are in `hyperasr.bulk`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from hyperasr import __version__
from hyperasr.bulk import Outcome, Shards, merge, model_digest, processes, run_shards
from hyperasr.commands import blame, lines_of, open_for
from hyperasr.errors import ConfigError
from hyperasr.formats import file_names, render, to_dict
from hyperasr.opening import Opened
from hyperasr.options import TranscribeOptions
from hyperasr.recordings import Recording, find_recordings
from hyperasr.tally import Tally, counts_of
from hyperasr.terminal import Reporter
from hyperasr.transcribe import Result, transcribe

__all__ = ["transcribe_shards"]


def transcribe_shards(args: Any, options: TranscribeOptions) -> int:
    """Transcribe into shards with however many processes there are, and merge them.

    Returns:
        The exit status: 1 where recordings failed. It is the main process that says so; another
        one that ended with an error would have its launcher stop the main one.
    Raises:
        HyperASRError: the call or the model is wrong, or no recording could be transcribed.
    """
    if args.out is None:
        raise ConfigError("--shards writes into a folder; give --out FOLDER")
    if args.out.exists() and not args.out.is_dir():
        raise ConfigError(f"--out {args.out} is a file; give a folder")
    recordings = find_recordings(args.sources)
    state = processes()
    several = state.num_processes > 1
    try:
        by_process = several and args.device == "cuda"
        opened = open_for(args, f"cuda:{state.local_process_index}" if by_process else None)
        options = opened.suited(options)
        identity = _identity(args, opened, options)
        shards = Shards(args.out, recordings, args.shard_size, identity)
        with Reporter("shards") as reporter:
            maker = _Maker(opened, options, args.format, reporter)
            progress = maker.progress if state.is_main_process else None
            if state.is_main_process:
                reporter.say("warning", opened.warnings)
            n_known = run_shards(shards, maker, state, progress)
            if not state.is_main_process:
                return 0
            if n_known:
                reporter.say("note", [f"{n_known} of {len(shards)} shards were done before"])
            return _merged(args, options, shards, reporter)
    finally:
        if several:
            state.destroy_process_group()


class _Maker:
    """Make the outcomes of a shard's recordings, and know how much was heard."""

    def __init__(
        self, opened: Opened, options: TranscribeOptions, form: str, reporter: Reporter
    ) -> None:
        self.model, self.options, self.form = opened.model, options, form
        self.reporter, self.tally = reporter, Tally(options)
        self.heard_s = 0.0

    def __call__(self, recordings: Sequence[Recording]) -> Iterator[Outcome]:
        for result in transcribe(self.model, recordings, self.options):
            yield self._outcome(result)

    def progress(self, done: int, total: int) -> None:
        self.reporter.progress(done, total, self.heard_s)

    def _outcome(self, result: Result) -> Outcome:
        if result.transcript is None:
            return Outcome(result.id, error=blame(result))
        self.heard_s += result.transcript.duration_s
        counts = counts_of(result, self.options.mode)
        known = None if counts is None else tuple(counts)
        return Outcome(result.id, self._text(result), counts=known)

    def _text(self, result: Result) -> str:
        if self.form == "json":
            return json.dumps(to_dict(result), ensure_ascii=False) + "\n"
        if self.form != "txt":
            return render(result, self.form, self.options.mode)
        counts = counts_of(result, self.options.mode)
        line = None if counts is None else self.tally.line(counts)
        lines = lines_of(result, line, self.options.mode, several=True)
        return "".join(f"{text.plain}\n" for text in lines)


def _identity(args: Any, opened: Opened, options: TranscribeOptions) -> str:
    """Return what decides about a text besides the recording; batches and devices do not."""
    parts = [__version__, model_digest(opened.model), args.dtype, args.format]
    parts.append(repr(replace(options, batch_size=1)))
    return "/".join(parts)


def _merged(args: Any, options: TranscribeOptions, shards: Shards, reporter: Reporter) -> int:
    """Merge, say what failed, and return the exit status."""
    names = file_names(shards.recordings, args.format)
    failed, n_scored, sums = merge(shards, args.out, args.format, names)
    shards.remove_others()
    for _, reason in failed:
        reporter.say("error", [reason])
    tally = Tally(options)
    tally.add_up(n_scored, sums)
    if n_scored:
        print(tally.total(), file=sys.stderr if args.format != "txt" else sys.stdout)
    if len(failed) == len(shards.recordings):
        raise ConfigError(f"none of {len(failed)} recordings could be transcribed")
    return 1 if failed else 0
