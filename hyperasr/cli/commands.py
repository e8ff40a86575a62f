"""What each subcommand does; `hyperasr.cli.parser` parses, this runs."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from hyperasr.cli.terminal import (
    DOUBTFUL_STYLE,
    Reporter,
    marked,
    marked_segment,
    output,
    print_rows,
)
from hyperasr.cohorts.manifest import is_address
from hyperasr.errors import ConfigError
from hyperasr.hub import HyperASR, load, model_folder
from hyperasr.transcription import cluster
from hyperasr.transcription.options import TranscribeOptions
from hyperasr.transcription.pipeline import Result, iter_transcribe, resolved
from hyperasr.transcription.pipeline import transcribe as results_of
from hyperasr.transcription.recordings import Recording, find_recordings
from hyperasr.transcription.transcript import (
    TIMED_FORMATS,
    file_names,
    from_dict,
    labelled,
    render,
    to_dict,
)
from hyperasr.transcription.wer_summary import WERSummary, counts_of, percent
from hyperasr.types import DOUBTFUL
from hyperasr.util.files import alone_in, atomic_write_text, keep_inputs
from hyperasr.util.program import one_line
from hyperasr.whisper.weights import ASSETS

NOT_A_MEDICAL_DEVICE = (
    "The atypical cohorts are simulated, not recorded. This is not a medical device and "
    "states nothing about a person's health."
)


def transcribe(args: Any) -> int:
    """Transcribe, print or write each result, and return 0, or 1 where some failed.

    Raises:
        HyperASRError: the call or the model is wrong, or no recording could be transcribed.
    """
    if args.format is None:
        args.format = "txt" if args.cluster is None else "jsonl"
    options = _options(args)
    if args.cluster is None:
        for name in (*args.sources, args.out or ""):
            if is_address(name):
                raise ConfigError(f"{name} is an address; only --cluster reads and writes those")
    out = None if args.out in (None, "-") or is_address(args.out) else Path(args.out)
    if out is not None and out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file; give a folder")
    if args.format in ("jsonl", "parquet") or args.cluster is not None:
        return _transcribe_into_one(args, options)
    passed_over: list[str] = []
    recordings = find_recordings(args.sources, passed_over.append)
    if out is None and args.format not in ("txt", "json") and len(recordings) > 1:
        raise ConfigError(
            f"{len(recordings)} recordings do not fit into one {args.format}; give --out FOLDER"
        )
    names = file_names(recordings, args.format)
    if out is not None:
        keep_inputs((out / name for name in names), inputs_of(args, recordings))
    if len(recordings) == 1 and recordings[0].error is not None:
        raise recordings[0].error
    model = open_for(args)
    options = resolved(model, options)
    tally, errors = WERSummary(options), []
    with nullcontext() if out is None else alone_in(out), Reporter() as reporter:
        reporter.say("warning", model.warnings)
        reporter.say("note", passed_over)
        several = len(recordings) > 1
        streams = args.format == "txt" and not options.compare and options.mode != "both"
        streams = streams and not several and out is None
        results: Iterable[Result]
        if streams:
            results = [_streamed(model, recordings[0], options, reporter, args.mark_doubtful)]
        else:
            results = results_of(model, recordings, options, progress=reporter.progress)
        for name, result in zip(names, results, strict=True):
            if result.transcript is None:
                assert result.error is not None
                errors.append(result.error)
                if several:
                    reporter.say("error", [_blame(result)])
                continue
            reporter.say("warning", [f"{result.id}: {w}" for w in result.transcript.warnings])
            reporter.say("note", _notes(result))
            line = tally.add(result)
            if out is not None:
                atomic_write_text(out / name, _file(result, args, name, line, options.mode))
            elif not streams:
                with reporter.paused():
                    _print_result(result, args, line, options.mode, several)
    if tally.n_scored:
        print(tally.total(), file=sys.stderr if args.format != "txt" else sys.stdout)
    if len(errors) == len(recordings):
        if not several:
            raise errors[0]
        raise ConfigError(f"none of {len(recordings)} recordings could be transcribed")
    return 1 if errors else 0


def _transcribe_into_one(args: Any, options: TranscribeOptions) -> int:
    """Transcribe into one file, and return as `transcribe` does; goes on with an earlier run.

    Raises:
        HyperASRError: as `transcribe`, and where Ray cannot be used.
    """
    if args.format not in ("jsonl", "parquet"):
        raise ConfigError(f"--cluster writes jsonl or parquet, not {args.format}")
    if args.out in (None, "-"):
        raise ConfigError("one file of all and its blocks go into a folder; give --out FOLDER")
    recordings = cluster.recordings_of(args.sources)
    if len(recordings) == 1 and recordings[0].error is not None:
        raise recordings[0].error
    if not is_address(args.out):
        written = [Path(args.out) / name for name in cluster.FILES]
        keep_inputs(written, inputs_of(args, recordings))
    with nullcontext() if is_address(args.out) else alone_in(args.out):
        return _go_on(args, options, recordings)


def _go_on(args: Any, options: TranscribeOptions, recordings: list[Recording]) -> int:
    """Transcribe what the folder `args.out` has no transcript of, and merge."""
    settings = {name: args[name] for name in ("model", "dtype", "audio_context")}
    settings |= dataclasses.asdict(options)
    del settings["batch_size"]  # no text depends on it
    folder = cluster.TranscriptFolder(args.out, settings)
    done = folder.done()
    waiting = [recording for recording in recordings if recording.id not in done]
    with Reporter() as reporter:
        if len(waiting) < len(recordings):
            there = len(recordings) - len(waiting)
            reporter.say("note", [f"{there} of {len(recordings)} were transcribed before"])
        if waiting:
            opened = partial(load, args.model, offline=args.offline, dtype=args.dtype)
            opened = partial(opened, audio_context=args.audio_context)
            model = opened(device="cpu" if args.cluster is not None else args.device)
            reporter.say("warning", model.warnings)
            options = resolved(model, options)
            blocks = cluster.in_this_process(model, waiting, options)
            if args.cluster is not None:
                where = {"address": args.cluster, "device": args.device}
                blocks = cluster.on_ray(model, opened, waiting, options, **where)
            n_done, heard_s = 0, 0.0
            for rows in blocks:
                folder.add(rows)
                n_done += len(rows)
                heard_s += sum(row.get("duration_s", 0.0) for row in rows)
                reporter.progress(n_done, len(waiting), heard_s)
        elif model_folder(args.model, offline=args.offline)[1] == "whisper":
            options = dataclasses.replace(options, adapt=False)  # as `resolved`
        if waiting or folder.blocks():  # a run that was killed may have left them all
            folder.merge([recording.id for recording in recordings])
        if args.format == "parquet" or folder.has_parquet:
            folder.write_parquet()
        tally, failed = WERSummary(options), []
        known = {recording.id: recording for recording in recordings}
        for row in folder.rows():
            recording = known.get(row["id"])
            if recording is not None and "error" in row:
                failed.append(f"{row['id']}: {row['error']}")
            elif recording is not None:
                tally.add(from_dict(row, recording))
        reporter.say("error", failed)
    if tally.n_scored:
        print(tally.total(), file=sys.stderr)
    if len(failed) == len(recordings):
        raise ConfigError(f"none of {len(recordings)} recordings could be transcribed")
    return 1 if failed else 0


def demo(args: Any) -> int:
    """Transcribe the bundled clips as one table; unadapted beside personalised, with an adapter."""
    folder = Path(args.folder or ASSETS / "demo")
    manifest = folder / "manifest.jsonl"
    if not manifest.is_file():
        raise ConfigError(f"no clips in {folder}: it has no manifest.jsonl")
    model = open_for(args)
    options = TranscribeOptions(adapt=model.adapts, compare=model.adapts)
    tally, failed = WERSummary(options), 0
    systems = ("unadapted", "personalised") if model.adapts else (f"{args.model}, unadapted",)
    table = Table(title=f"Clips in {folder.name}, transcribed by {args.model}", show_lines=True)
    for name in ("clip", "cohort", "reference", *systems):
        table.add_column(name, overflow="fold")
    for _ in systems:
        table.add_column("WER, %", justify="right")
    with Reporter("clips") as reporter:
        clips = find_recordings(manifest)
        for result in results_of(model, clips, options, progress=reporter.progress):
            if result.transcript is None:
                reporter.say("error", [_blame(result)])
                failed += 1
                continue
            tally.add(result)
            table.add_row(*_demo_row(result))
    console = output()
    table.add_row("all", "", "", *("" for _ in systems), *(percent(c) for c in tally.sums))
    console.print(table, soft_wrap=False)
    console.print(tally.total())
    console.print(
        Text.assemble(("[?words]", DOUBTFUL_STYLE), f" are less than {DOUBTFUL:.0%} sure.")
    )
    console.print(NOT_A_MEDICAL_DEVICE)
    return 1 if failed else 0


def inspect(args: Any) -> int:
    """Print what a model is made of and how it was trained."""
    model = load(args.model, offline=args.offline, device="cpu")
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
        "audio context": f"{backbone.audio_context}, margin {backbone.margin_s:g} s",
    }
    adapter = {
        "speaker encoder": f"{model.speaker_config.kind}, {model.speaker.d_spk} values",
        "source": model.source_config.kind,
        "targets": shapes,
        "rank": f"{source.rank}, alpha {source.alpha:g}",
        "budget": model.budget().removeprefix("budget: "),
    }
    if model.folder is None:
        rows["adapter"] = "none: it transcribes unadapted"
    else:
        rows |= adapter
        head = json.loads((model.folder / "config.json").read_text(encoding="utf-8"))
        rows |= {f"training, {key}": json.dumps(v) for key, v in head["training"].items()}
    print_rows(rows)
    return 0


def inputs_of(args: Any, recordings: Sequence[Recording]) -> list[str | Path]:
    """Return every file that a command reads: `recordings`, their sources, model and config."""
    model = Path(args.model)
    config = [str(getattr(path, "absolute", path)) for path in args.get("config") or []]
    sources = [source for source in args.sources if not Path(source).is_dir()]
    audio = [r.path for r in recordings if r.path is not None]
    return [*sources, *audio, *config, *(model.iterdir() if model.is_dir() else [])]


def open_for(args: Any) -> HyperASR:
    """Open the model that the options of a command name."""
    return load(
        args.model,
        offline=args.offline,
        device=args.device,
        dtype=args.dtype,
        audio_context=args.audio_context,
    )


def _options(args: Any) -> TranscribeOptions:
    names = [field.name for field in dataclasses.fields(TranscribeOptions)]
    options = TranscribeOptions(**{name: args[name] for name in names if name in args})
    timed = options.word_times or args.format in (*TIMED_FORMATS, "jsonl", "parquet")
    return dataclasses.replace(options, word_times=timed)


def _notes(result: Result) -> list[str]:
    """Say how much was not decoded; of silence alone a warning has said so."""
    transcript = result.transcript
    if transcript is None or not transcript.segments or transcript.discarded_s < 1:
        return []
    return [f"{result.id}: {transcript.discarded_s:.1f} s of silence were not decoded"]


def _file(result: Result, args: Any, name: str, line: str | None, mode: str) -> str:
    text = render(result, args.format, mode, name=name, marks=args.mark_doubtful)
    ends = args.format == "txt" and line and result.base is not None
    return f"{text}{line}\n" if ends else text


def _streamed(
    model: HyperASR,
    recording: Recording,
    options: TranscribeOptions,
    reporter: Reporter,
    marks: bool,
) -> Result:
    """Show each segment of a recording as soon as it is decoded, and return the result."""
    shown = False
    try:
        for event in iter_transcribe(model, recording, options, progress=reporter.progress):
            if isinstance(event, Result):
                result = event
            elif text := marked_segment(event, options.mode, marks or sys.stdout.isatty()):
                with reporter.paused():
                    _print(Text.assemble(" ", text) if shown else text, end="")
                    sys.stdout.flush()
                shown = True
        shown = shown or result.transcript is not None  # silence is an empty line
    finally:
        if shown:
            with reporter.paused():
                print(flush=True)
    return result


def _print_result(result: Result, args: Any, line: str | None, mode: str, several: bool) -> None:
    """Put a result on standard output; `line` are its error rates, `several` adds its name."""
    if args.format == "json":  # one object a line, so that many can be told apart
        print(json.dumps(to_dict(result), ensure_ascii=False))
    elif args.format != "txt":
        print(render(result, args.format, mode, marks=args.mark_doubtful), end="")
    else:
        marks = args.mark_doubtful or sys.stdout.isatty()
        for shown in _lines_of(result, line, mode, several, marks):
            _print(shown)
    sys.stdout.flush()


def _print(text: Text, end: str = "\n") -> None:
    """Print text, in colour where standard output is a terminal."""
    if sys.stdout.isatty():
        output().print(text, end=end)
    else:
        print(text.plain, end=end)


def _lines_of(
    result: Result, line: str | None, mode: str, several: bool, marks: bool
) -> list[Text]:
    """Return the lines that show a result as text."""
    shown = [
        Text(label).append(what if isinstance(what, str) else marked(what, own, marks))
        for label, what, own in labelled(result, mode)
    ]
    if result.base is not None and line is not None:
        shown.append(Text(line))
    if len(shown) == 1:
        return [Text(f"{result.id}\t").append(shown[0]) if several else shown[0]]
    if not several and result.base is None:
        return shown
    return [Text(result.id, style="bold"), *(Text("  ").append(text) for text in shown)]


def _blame(result: Result) -> str:
    """Return the error of a result, with the recording's name where the message lacks it."""
    reason = str(result.error)
    return reason if str(result.recording.path) in reason else f"{result.id}: {reason}"


def _demo_row(result: Result) -> list[Text]:
    assert result.transcript is not None
    r = result.recording
    cohort = r.cohort if r.severity is None else f"{r.cohort} {r.severity:.2f}"
    if r.cohort != "typical":
        cohort += f", {r.domain}"
    transcripts = [t for t in (result.base, result.transcript) if t is not None]
    counts = counts_of(result)
    rates = [""] * len(transcripts) if counts is None else [percent(c) for c in counts]
    cells = [Text(one_line(part)) for part in (r.id, cohort, r.reference or "")]
    return [*cells, *map(marked, transcripts), *map(Text, rates)]
