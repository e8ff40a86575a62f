"""`hyperasr corpora`, `prepare` and `convert`: corpora in, manifests out, manifests for others."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table

from hyperasr.cli.terminal import output
from hyperasr.cohorts import corpora as readers
from hyperasr.cohorts.exchange import to_dataset, to_lhotse
from hyperasr.cohorts.manifest import read_manifest, write_manifest
from hyperasr.errors import ConfigError
from hyperasr.types import Utterance
from hyperasr.util.files import atomic_folder, is_stdout, keep_inputs
from hyperasr.util.program import one_line


def corpora(args: Any) -> int:
    """Print every corpus that can be read, or all that is known of one."""
    if args.name is not None:
        d = readers.corpus(args.name).ABOUT
        rows = {
            "name": d.name,
            "corpus": d.title,
            "cohorts": ", ".join(d.cohorts),
            "languages": ", ".join(d.languages),
            "speakers": "unknown" if d.n_speakers is None else d.n_speakers,
            "transcripts": "yes" if d.has_text else "no",
            "licence": d.licence,
            "how to get it": d.how_to_get,
            "citation": d.citation,
            "status": d.status,
            "options": ", ".join(readers.options(args.name)) or "none",
        }
        print("\n".join(f"{key}: {value}" for key, value in rows.items()))
        return 0
    table = Table(title="corpora that hyperasr prepare reads")
    for title in ("name", "corpus", "cohorts", "languages", "text", "licence", "status"):
        table.add_column(title, overflow="fold")
    described = {name: reader.ABOUT for name, reader in readers.corpora().items()}
    for name, d in described.items():
        text = "yes" if d.has_text else "no"
        cohorts, languages = ", ".join(d.cohorts), ", ".join(d.languages)
        table.add_row(name, d.title, cohorts, languages, text, d.licence, d.status)
    output().print(table, soft_wrap=False)
    print("More of one: hyperasr corpora NAME")
    return 0


def prepare(args: Any) -> int:
    """Write a corpus's manifest, and print what was found and skipped, with reasons.

    Raises:
        ConfigError: no such corpus, folder or option.
        ManifestError: nothing usable below the folder; no manifest is written.
    """
    out = Path("/dev/stdout" if args.out == "-" else args.out)
    options = _options(args.corpus, args.set or [])
    keep_inputs([out], map(str, options.values()))
    prepared = readers.prepare(args.corpus, args.root, **options)
    replaces = out.is_file() and not is_stdout(out)
    if replaces and Path(args.root).resolve() in out.resolve().parents:
        # It may be one of the corpus's tables, also where it looks like a manifest.
        raise ConfigError(f"will not write {out}: it is a file of the corpus; choose another --out")

    def rows() -> Iterator[Utterance]:
        for row in prepared:
            if replaces:
                keep_inputs([out], [row.path])
            # Absolute, so that paths do not depend on where the manifest lies.
            yield dataclasses.replace(row, path=str(Path(row.path).absolute()))

    write_manifest(out, rows())
    report = sys.stderr if is_stdout(out) else sys.stdout
    print("\n".join(map(one_line, prepared.report.lines())), file=report)
    print(one_line(args.out), file=report)
    return 0


def _options(corpus: str, pairs: list[str]) -> dict[str, Any]:
    """Read KEY=VALUE pairs: switches and mappings as in YAML, all else is text."""
    options: dict[str, Any] = {}
    known = inspect.signature(readers.corpus(corpus).prepare).parameters
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise ConfigError(f"--set {pair!r} is not KEY=VALUE, such as mic=1")
        key = key.replace("-", "_")
        switch = key in known and isinstance(known[key].default, bool)
        try:
            parsed = switch or value.startswith("{")
            options[key] = yaml.safe_load(value) if parsed else value
        except yaml.YAMLError as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"--set {pair!r} is no YAML ({reason})") from error
    return options


def convert(args: Any) -> int:
    """Write a manifest as a `datasets` folder or as lhotse manifests."""
    rows = read_manifest(args.manifest)
    out = Path(args.out)
    keep_inputs([out], [args.manifest, *(row.path for row in rows)])
    if args.to == "dataset":
        from datasets import disable_progress_bars

        disable_progress_bars()
        with atomic_folder(out) as temporary:
            to_dataset(rows).save_to_disk(str(temporary))
    else:
        to_lhotse(rows, out)
    print(f"{one_line(out)}: {len(rows)} utterances")
    return 0
