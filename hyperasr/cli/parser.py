"""The command line: what can be typed; what it does is in `hyperasr.cli.commands`, loaded late.

Nothing here imports torch, so that `--help` and a mistyped option answer at once.
"""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal, get_type_hints

from hyperasr import __version__
from hyperasr.errors import ConfigError
from hyperasr.export.config import ExportConfig
from hyperasr.service.config import ServeConfig
from hyperasr.transcription.options import TranscribeOptions
from hyperasr.util.closest import did_you_mean
from hyperasr.util.config import PARSE_ERRORS, explained
from hyperasr.util.program import FAILED, run
from hyperasr.util.startup import import_late

DESCRIPTION = (
    "Transcribe atypical speech (stuttering, dysarthria, Parkinson's) with one frozen Whisper "
    "whose weights are adapted to every utterance. Runs on this machine; not a medical device."
)
_MODEL_HELP = (
    "tiny.en or tiny.en-decoder (embedded; the second takes less time and errs more), "
    "base-decoder (adapters for base, which comes from the hub or the extra), a "
    "folder (of adapters, or of a Whisper as Hugging Face or faster-whisper have it), or a hub "
    "name; a plain Whisper transcribes unadapted"
)
_OFFLINE_HELP = "never touch the network"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status, which `hyperasr.util.program.run` lists."""
    return run(lambda: _run(sys.argv[1:] if argv is None else list(argv)), "hyperasr")


def build_parser() -> Any:
    """Build the parser of `hyperasr` and its subcommands (a `jsonargparse.ArgumentParser`)."""
    parser = _parser(DESCRIPTION, prog="hyperasr", version=__version__)
    commands = parser.add_subcommands(required=False, dest="command", metavar="COMMAND")
    for name, (build, _, help_text) in _COMMANDS.items():
        commands.add_subcommand(name, build(), help=help_text)
    return parser


def _transcribe() -> Any:
    parser = _parser("Transcribe recordings; texts go to standard output, in the order given.")
    _add_sources(
        parser,
        "SOURCE",
        "recordings, videos, folders (searched for them), manifests (.jsonl), - for a pipe",
        "stored file",
    )
    _add_model(parser)
    parser.add_argument(
        "--format",
        type=Literal[
            "txt", "json", "jsonl", "parquet", "srt", "vtt", "csv", "textgrid", "chat", "html"
        ]
        | None,
        default=None,
        help="of the output, txt without this option, jsonl with --cluster: one file of all, "
        "which an interrupted run goes on with, and parquet the same as a table beside it; json, "
        "csv, textgrid (Praat), chat (TalkBank), html hold word times, and html the sound as well: "
        "one page whose words play",
    )
    parser.add_argument(
        "--out",
        type=_name_of("stored file"),
        default=None,
        metavar="FOLDER",
        help="write a file for each recording there, replacing older ones but never what is read; "
        "- is standard output",
    )
    parser.add_argument(
        "--mark-doubtful",
        action="store_true",
        help="txt and srt: write doubtful words as [?word]; a terminal always shows them so, and "
        "the other formats mark them in their own way",
    )
    parser.add_argument(
        "--cluster",
        nargs="?",
        type=str,
        const="local",
        default=None,
        metavar="ADDRESS",
        help="transcribe by Ray: on the cluster at HOST:PORT, auto for the one that this machine "
        "is a node of, or without an address on this machine; needs the extra cluster",
    )
    # Nobody would change the seed here; Python takes it.
    _add_dataclass(parser, TranscribeOptions, leave_out=("seed",))
    return parser


def _inspect() -> Any:
    parser = _parser("Say what a model is: backbone, adapted matrices, budget, training.")
    parser.add_argument(
        "model", nargs="?", type=str, default="tiny.en", help="tiny.en, a folder or a hub name"
    )
    parser.add_argument("--offline", action="store_true", help=_OFFLINE_HELP)
    return parser


def _simulate() -> Any:
    parser = _parser(
        "Make simulated atypical speech of a typical recording, or of a whole manifest. A "
        "simulation after published clinical descriptions, not a patient."
    )
    parser.add_argument(
        "source",
        type=_name_of("file"),
        metavar="SOURCE",
        help="a recording, or a manifest (.jsonl) of many",
    )
    parser.add_argument(
        "--cohorts",
        "--cohort",
        nargs="+",
        type=str,
        required=True,
        metavar="COHORT",
        help="stuttering, dysarthria, parkinson, several joined by + for mixed traits, or all",
    )
    parser.add_argument(
        "--severity",
        nargs="+",
        type=float,
        default=None,
        metavar="S",
        help="0 (none) to 1; several are taken in turn; without: 0.5 for a recording, for a "
        "manifest one drawn for each simulated person",
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed is another moment")
    _add_folder(parser, "to write into")
    parser.add_argument("--text", type=str, default="", help="recording: what is said in it")
    parser.add_argument(
        "--person", type=str, default="0", help="recording: another name is another person"
    )
    parser.add_argument(
        "--people", type=int, default=1, help="manifest: simulated people of each speaker"
    )
    parser.add_argument("--workers", type=int, default=1, help="manifest: processes")
    return parser


def _corpora() -> Any:
    parser = _parser("List the corpora that can be read, with licence and status.")
    parser.add_argument("name", nargs="?", type=str, default=None, help="say more of this one")
    return parser


def _prepare() -> Any:
    parser = _parser(
        "Write the manifest of a corpus as it was distributed; the corpus itself is not changed."
    )
    parser.add_argument("corpus", type=str, metavar="CORPUS", help="see hyperasr corpora")
    parser.add_argument("root", type=_name_of("folder"), metavar="ROOT", help="the corpus's folder")
    parser.add_argument(
        "--out",
        type=_name_of("file"),
        required=True,
        metavar="FILE",
        help="manifest (.jsonl); - is standard output",
    )
    parser.add_argument(
        "--set",
        action="append",
        type=str,
        default=None,
        metavar="KEY=VALUE",
        help="an option of this corpus's reader; hyperasr corpora CORPUS lists them",
    )
    return parser


def _convert() -> Any:
    parser = _parser("Write a manifest for other programs.")
    parser.add_argument(
        "manifest", type=_name_of("file"), metavar="MANIFEST", help="a manifest (.jsonl)"
    )
    parser.add_argument(
        "--to",
        type=Literal["dataset", "lhotse"],
        required=True,
        help="a Hugging Face datasets folder, or lhotse manifests (`lhotse kaldi export` goes on)",
    )
    _add_folder(parser, "to write")
    return parser


def _export() -> Any:
    parser = _parser(
        "Write one static adapter, of a speaker or a cohort, for another program; made of a few "
        "clips without transcripts. What is written is checked against the model."
    )
    _add_sources(parser, "CLIP", "recordings of one speaker or cohort, folders, manifests (.jsonl)")
    _add_folder(parser, "to write")
    _add_model(parser, frozen=False)
    _add_dataclass(parser, ExportConfig)
    return parser


def _enrol() -> Any:
    parser = _parser(
        "Train a model of one person's voice from a few clips, each with what was said in a text "
        "file of its name where there is one. It is checked on clips held back, and not written "
        "where it is worth nothing. Of a few clips expect little. They stay on this machine."
    )
    _add_sources(
        parser,
        "CLIP",
        "recordings of one person of up to 30 s (what was said in a.wav is in a.txt), "
        "folders, manifests (.jsonl)",
    )
    _add_folder(parser, "of the model, for --model of the other commands")
    _add_model(parser, frozen=False)
    return parser


def _demo() -> Any:
    parser = _parser("Transcribe the bundled clips with the unadapted and the personalised model.")
    parser.add_argument(
        "--folder",
        type=_name_of("folder"),
        default=None,
        help="other clips, with a manifest.jsonl",
    )
    _add_model(parser)
    return parser


def _serve() -> Any:
    parser = _parser(
        "Serve a model to other programs of this machine: OpenAI's audio API, live transcription, "
        "Wyoming, and a page. Nothing that is sent here is kept, save voices with --voices."
    )
    _add_model(parser)
    _add_dataclass(parser, ServeConfig)
    return parser


def _doctor() -> Any:
    parser = _parser(
        "Print versions, device, model and memory for a bug report: no name of a person or a file."
    )
    _add_model(parser)
    return parser


# Parser, module in `hyperasr.cli`, help.
_COMMANDS = {
    "transcribe": (_transcribe, "commands", "transcribe recordings, folders and manifests"),
    "demo": (_demo, "commands", "transcribe the bundled clips, unadapted beside personalised"),
    "export": (_export, "export", "write a static adapter for another program"),
    "enrol": (_enrol, "enrol", "train a model of one person's voice from a few clips"),
    "serve": (_serve, "serve", "serve a model to other programs, and a page"),
    "simulate": (
        _simulate,
        "simulate",
        "make simulated atypical speech of a recording or manifest",
    ),
    "corpora": (_corpora, "corpora", "list the corpora that can be read"),
    "prepare": (_prepare, "corpora", "write the manifest of a corpus"),
    "convert": (_convert, "corpora", "write a manifest for other programs"),
    "inspect": (_inspect, "commands", "say what a model is"),
    "doctor": (_doctor, "doctor", "say what a bug report needs"),
}


def _run(argv: list[str]) -> int:
    from jsonargparse import ArgumentError

    command = next((word for word in argv if word in _COMMANDS), "")
    parser = build_parser()
    try:
        args = parser.parse_args(argv)
    except SystemExit as stop:  # after --help and --version
        return int(stop.code or 0)
    except (ArgumentError, *PARSE_ERRORS) as error:
        if found := re.match(r"argument COMMAND: invalid choice: '(.*)' \(", str(error), re.DOTALL):
            known = did_you_mean(found[1], _COMMANDS)
            raise ConfigError(f"no command {found[1]!r}{known}") from error
        # The parser of a command knows its options, the one above only its own.
        own = _COMMANDS[command][0]() if command else parser
        fault = explained(error, own, argv)
        raise ConfigError(f"{command}: {fault}" if command else fault) from error
    if args.command is None:
        parser.print_help(sys.stderr)
        return FAILED
    values = args[args.command]
    if values.get("offline"):
        # Read by Hugging Face's libraries when they are imported, which is from here on.
        os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    home = _COMMANDS[args.command][1]
    module = import_late(f"hyperasr.cli.{home}", transcribes=home in ("commands", "serve"))
    return int(getattr(module, args.command)(values))


@cache
def _name_of(what: Literal["file", "folder", "stored file"]) -> Any:
    """Return the type of an argument that names files or folders of this machine.

    A stored file may also be an address of object storage; the command says whether it may.
    """
    from jsonargparse.typing import extend_base_type

    noun = what.removeprefix("stored ")

    def check(_: type, text: str) -> None:
        if not text.strip():
            raise ConfigError(f"a name is empty; give a {noun}")
        allowed = what == "stored file" and not re.match("https?:", text, re.IGNORECASE)
        if re.match(r"[a-z][a-z0-9+.-]*://", text, re.IGNORECASE) and not allowed:
            raise ConfigError(f"{text} is an address, and nothing is fetched; give a {noun}")
        if what == "folder" and text == "-":
            raise ConfigError("- is standard output, but a folder is written; name one")

    return extend_base_type(what.replace(" ", "_"), str, check)


def _parser(description: str, **options: Any) -> Any:
    from jsonargparse import ArgumentParser

    return ArgumentParser(
        description=description,
        exit_on_error=False,
        allow_abbrev=False,
        print_config=None,
        **options,
    )


def _add_sources(
    parser: Any, metavar: str, help_text: str, what: Literal["file", "stored file"] = "file"
) -> None:
    kind = _name_of(what)
    parser.add_argument("sources", nargs="+", type=kind, metavar=metavar, help=help_text)


def _add_folder(parser: Any, help_text: str) -> None:
    kind = _name_of("folder")
    parser.add_argument("--out", type=kind, required=True, metavar="FOLDER", help=help_text)


def _add_model(parser: Any, *, frozen: bool = True) -> None:
    """Add what finds a model; `frozen` adds the options of its frozen Whisper."""
    parser.add_argument("--model", type=str, default="tiny.en", help=_MODEL_HELP)
    parser.add_argument("--offline", action="store_true", help=_OFFLINE_HELP)
    parser.add_argument("--device", type=str, default="cpu", help="to run on: cpu, cuda, cuda:1")
    if not frozen:
        return
    parser.add_argument(
        "--dtype",
        type=Literal["float32", "bfloat16", "float16", "int8"],
        default="float32",
        help="of the frozen weights; int8 runs on the CPU",
    )
    parser.add_argument(
        "--audio-context",
        type=Literal["full", "trimmed"] | None,
        default=None,
        help="of a plain Whisper: full is 30 s, as published; trimmed the real length and a margin "
        "of silence, several times faster; an adapter hears what it was trained for",
    )


def _add_dataclass(parser: Any, kind: type[Any], leave_out: Sequence[str] = ()) -> None:
    """Add an option for each field, with the docstring under it as its help, and ``--config``."""
    from docstring_parser import parse_from_object
    from jsonargparse import ActionYesNo

    parser.add_argument("--config", action="config", help="YAML file with values of these options")
    helps = {param.arg_name: param.description for param in parse_from_object(kind).params}
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if field.name in leave_out:
            continue
        flag = f"--{field.name.replace('_', '-')}"
        options = {"default": field.default, "help": " ".join((helps[field.name] or "").split())}
        if hints[field.name] is bool:
            parser.add_argument(flag, action=ActionYesNo(no_prefix="no-"), **options)
        else:
            parser.add_argument(flag, type=hints[field.name], **options)
