"""What each subcommand does; `hyperasr.cli` parses, this runs."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from rich.table import Table
from rich.text import Text

from hyperasr.backbone import ASSETS
from hyperasr.errors import ConfigError
from hyperasr.files import atomic_write_text
from hyperasr.formats import TIMED_FORMATS, file_names, render, shown_text, to_dict
from hyperasr.metrics import EditCounts, score
from hyperasr.model import HyperASR
from hyperasr.opening import Opened, open_model
from hyperasr.options import TranscribeOptions
from hyperasr.recordings import Recording, find_recordings
from hyperasr.terminal import (
    UNCERTAIN,
    UNCERTAIN_STYLE,
    Reporter,
    marked,
    marked_segment,
    output,
)
from hyperasr.text import normaliser
from hyperasr.transcribe import Result, iter_transcribe
from hyperasr.transcribe import transcribe as results_of
from hyperasr.types import Segment

__all__ = ["demo", "inspect", "transcribe"]

NOT_A_MEDICAL_DEVICE = (
    "The atypical cohorts are simulated, not recorded. This is not a medical device and "
    "states nothing about a person's health."
)


def transcribe(args: Any) -> int:
    """Transcribe, print or write each result, and return 0, or 1 where some failed.

    Raises:
        HyperASRError: the call or the model is wrong, or no recording could be transcribed.
    """
    options = _options(args)
    recordings = find_recordings(args.sources)
    if args.out is None and args.format not in ("txt", "json") and len(recordings) > 1:
        raise ConfigError(
            f"{len(recordings)} recordings do not fit into one {args.format}; give --out FOLDER"
        )
    names = file_names(recordings, args.format)
    if args.out is not None and args.out.exists() and not args.out.is_dir():
        raise ConfigError(f"--out {args.out} is a file; give a folder")
    if len(recordings) == 1 and recordings[0].error is not None:
        raise recordings[0].error
    opened = _open(args)
    model, options = opened.model, opened.suited(options)
    tally, errors = _Tally(options), []
    with Reporter() as reporter:
        reporter.say("warning", opened.warnings)
        shower = _Shower(options, args.format, len(recordings), reporter)
        streams = len(recordings) == 1 and args.out is None and shower.streams
        if streams:
            results = _streamed(model, recordings[0], options, shower)
        else:
            results = results_of(model, recordings, options, progress=reporter.progress)
        for name, result in zip(names, results, strict=True):
            if result.transcript is None:
                assert result.error is not None
                errors.append(result.error)
                if len(recordings) > 1:
                    reporter.say("error", [_blame(result)])
                continue
            reporter.say("warning", [f"{result.id}: {w}" for w in result.transcript.warnings])
            reporter.say("note", _notes(result))
            line = tally.add(result)
            if args.out is not None:
                atomic_write_text(args.out / name, _file(result, args.format, line, options))
            elif not streams:
                with reporter.paused():
                    shower.result(result, line)
    if tally.n_scored:
        print(tally.total(), file=sys.stderr if args.format != "txt" else sys.stdout)
    if len(errors) == len(recordings):
        if len(recordings) == 1:
            raise errors[0]
        raise ConfigError(f"none of {len(recordings)} recordings could be transcribed")
    return 1 if errors else 0


def demo(args: Any) -> int:
    """Transcribe the bundled clips, unadapted beside personalised, as one table."""
    folder = args.folder or ASSETS / "demo"
    manifest = folder / "manifest.jsonl"
    if not manifest.is_file():
        raise ConfigError(f"no clips in {folder}: it has no manifest.jsonl")
    opened = _open(args)
    model, options = opened.model, opened.suited(TranscribeOptions(compare=True))
    tally, failed = _Tally(options), 0
    table = Table(title="Unadapted and personalised transcripts", show_lines=True)
    for name in ("clip", "cohort (simulated), severity", "reference", "unadapted", "personalised"):
        table.add_column(name, overflow="fold")
    for name in ("WER, %", "WER, %"):
        table.add_column(name, justify="right")
    with Reporter("clips") as reporter:
        for result in results_of(model, [manifest], options, progress=reporter.progress):
            if result.transcript is None or result.base is None:
                reporter.say("error", [_blame(result)])
                failed += 1
                continue
            tally.add(result)
            table.add_row(*_demo_row(result))
    console = output()
    table.add_row("all", "", "", "", "", *(_percent(c) for c in tally.sums()))
    console.print(table, soft_wrap=False)
    console.print(tally.total())
    console.print(
        Text.assemble(("Marked words", UNCERTAIN_STYLE), f" are less than {UNCERTAIN:.0%} sure.")
    )
    console.print(NOT_A_MEDICAL_DEVICE)
    return 1 if failed else 0


def inspect(args: Any) -> int:
    """Print what a model is made of and how it was trained."""
    opened = open_model(args.model, offline=args.offline)
    model = opened.model
    backbone, source = model.backbone, model.source
    shapes = ", ".join(
        f"{name} ({s.n_layer} layers, {s.d_in} to {s.d_out})" for name, s in source.targets.items()
    )
    whisper = backbone.whisper.config
    rows = {
        "model": args.model,
        "backbone": f"{backbone.n_parameters:,} parameters, {whisper.encoder_layers} encoder and "
        f"{whisper.decoder_layers} decoder layers of width {backbone.d_model}",
        "fingerprint": backbone.fingerprint(),
        "audio context": backbone.audio_context,
    }
    adapter = {
        "speaker encoder": f"{model.speaker_config.kind}, {model.speaker.d_spk} values",
        "source": model.source_config.kind,
        "targets": shapes,
        "rank": f"{source.rank}, alpha {source.alpha:g}",
        "budget": model.budget().removeprefix("budget: "),
    }
    if opened.folder is None:
        rows["adapter"] = "none: it transcribes unadapted"
    else:
        rows |= adapter
        head = json.loads((opened.folder / "config.json").read_text(encoding="utf-8"))
        rows |= {f"training, {key}": json.dumps(v) for key, v in head["training"].items()}
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:<{width}}  {value}")
    return 0


class _Tally:
    """Word edits of the results with a reference: of the base where compared, then of the model."""

    def __init__(self, options: TranscribeOptions) -> None:
        adapted = "personalised" if options.adapt else "unadapted"
        self.systems = ["unadapted", adapted] if options.compare else [adapted]
        self.mode = options.mode
        self._counts: list[list[EditCounts]] = []

    @property
    def n_scored(self) -> int:
        return len(self._counts)

    def add(self, result: Result) -> str | None:
        """Count one result and return its line of error rates; None without a reference."""
        counts = counts_of(result, self.mode)
        if counts is None:
            return None
        self._counts.append(counts)
        return self._line(counts)

    def sums(self) -> list[EditCounts]:
        if not self._counts:
            return [EditCounts() for _ in self.systems]
        return [sum(column, EditCounts()) for column in zip(*self._counts, strict=True)]

    def total(self) -> str:
        plural = "" if self.n_scored == 1 else "s"
        return f"{self._line(self.sums())} ({self.n_scored} recording{plural} with a reference)"

    def _line(self, counts: Iterable[EditCounts]) -> str:
        rates = zip(self.systems, counts, strict=True)
        return "WER " + ", ".join(f"{name} {_percent(c)} %" for name, c in rates)


def counts_of(result: Result, mode: str = "verbatim") -> list[EditCounts] | None:
    """Return the word edits of base (where there is one) and transcript; None without reference.

    Scored is the text that the mode shows.
    """
    if result.reference is None or result.transcript is None:
        return None
    systems = [result.base, result.transcript] if result.base is not None else [result.transcript]
    hypotheses = [shown_text(transcript, mode) for transcript in systems]
    return score([result.reference] * len(systems), hypotheses, normaliser("spoken"))


def _open(args: Any) -> Opened:
    return open_model(args.model, offline=args.offline, device=args.device, dtype=args.dtype)


def _options(args: Any) -> TranscribeOptions:
    names = [field.name for field in dataclasses.fields(TranscribeOptions)]
    options = TranscribeOptions(**{name: args[name] for name in names})
    timed = options.word_times or args.format in TIMED_FORMATS
    return dataclasses.replace(options, word_times=timed)


def _percent(counts: EditCounts) -> str:
    return f"{100 * counts.rate:.1f}" if counts.n_reference else "n/a"


def _notes(result: Result) -> list[str]:
    """Say how much was not decoded; of silence alone a warning has said so."""
    transcript = result.transcript
    if transcript is None or not transcript.segments or transcript.discarded_s < 1:
        return []
    return [f"{result.id}: {transcript.discarded_s:.1f} s of silence were not decoded"]


def _file(result: Result, form: str, line: str | None, options: TranscribeOptions) -> str:
    text = render(result, form, options.mode, options.language)
    return f"{text}{line}\n" if form == "txt" and line and result.base is not None else text


def _streamed(
    model: HyperASR, recording: Recording, options: TranscribeOptions, shower: _Shower
) -> Iterator[Result]:
    """Show each segment of a recording as soon as it is decoded, then yield the result."""
    shown = 0
    progress = shower.reporter.progress
    try:
        for event in iter_transcribe(model, recording, options, progress=progress):
            if isinstance(event, Result):
                if shown or event.transcript is not None:
                    shower.end_of_line()
                shown = 0
                yield event
            else:
                shown += shower.segment(event, first=not shown)
    except BaseException:
        if shown:
            shower.end_of_line()
        raise


class _Shower:
    """Put results on standard output, uncertain words marked where it is a terminal."""

    def __init__(
        self, options: TranscribeOptions, form: str, n_recordings: int, reporter: Reporter
    ) -> None:
        self.options, self.form, self.n_recordings = options, form, n_recordings
        self.reporter = reporter
        self.streams = form == "txt" and not options.compare and options.mode != "both"

    def segment(self, segment: Segment, first: bool) -> bool:
        """Show a segment on the line of those before it, and say whether it had any text."""
        text = marked_segment(segment, self.options.mode)
        if text:
            with self.reporter.paused():
                self._print(text if first else Text.assemble(" ", text), end="")
                sys.stdout.flush()
        return bool(text)

    def end_of_line(self) -> None:
        """End the line of the segments."""
        with self.reporter.paused():
            print(flush=True)

    def result(self, result: Result, line: str | None) -> None:
        """Show a result; `line` are its error rates."""
        assert result.transcript is not None
        if self.form == "json":  # one object a line, so that many can be told apart
            print(json.dumps(to_dict(result), ensure_ascii=False), flush=True)
        elif self.form != "txt":
            text = render(result, self.form, self.options.mode, self.options.language)
            print(text, end="", flush=True)
        else:
            for shown in self._lines(result, line):
                self._print(shown)
            sys.stdout.flush()

    def _lines(self, result: Result, line: str | None) -> list[Text]:
        mode, transcript = self.options.mode, result.transcript
        assert transcript is not None
        several = self.n_recordings > 1
        if result.base is None and mode != "both":
            text = marked(transcript, mode)
            return [Text.assemble(f"{result.id}\t", text) if several else text]
        modes = ("verbatim", "clean") if mode == "both" else (mode,)
        systems = {"": transcript}
        if result.base is not None:
            systems = {"unadapted": result.base, "personalised": transcript}
        lines = [Text(result.id, style="bold")] if several or result.base is not None else []
        if result.base is not None and result.reference is not None:
            lines.append(Text(f"  reference:    {result.reference}"))
        for name, system in systems.items():
            for shown in modes:
                title = ", ".join(part for part in (name, shown if mode == "both" else "") if part)
                indent = "  " if lines else ""
                lines.append(Text.assemble(f"{indent}{title + ':':<13} ", marked(system, shown)))
        if result.base is not None and line is not None:
            lines.append(Text(f"  {line}"))
        return lines

    def _print(self, text: Text, end: str = "\n") -> None:
        if sys.stdout.isatty():
            output().print(text, end=end)
        else:
            print(text.plain, end=end)


def _blame(result: Result) -> str:
    """Return the error of a result, with the recording's name where the message lacks it."""
    reason = str(result.error)
    return reason if str(result.recording.path) in reason else f"{result.id}: {reason}"


def _demo_row(result: Result) -> list[Text]:
    assert result.transcript is not None
    assert result.base is not None
    r = result.recording
    cohort = r.cohort if r.severity is None else f"{r.cohort} {r.severity:.2f}"
    counts = counts_of(result)
    rates = ["", ""] if counts is None else [_percent(c) for c in counts]
    cells = [Text(r.id), Text(cohort), Text(r.reference or "")]
    return [*cells, marked(result.base), marked(result.transcript), *map(Text, rates)]
