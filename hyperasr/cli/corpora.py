"""`hyperasr corpora`, `prepare` and `convert`: corpora in, manifests out, manifests for others."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table

from hyperasr.cli.terminal import output
from hyperasr.cohorts import corpora as readers
from hyperasr.cohorts.exchange import to_dataset, to_lhotse
from hyperasr.cohorts.manifest import read_manifest, write_manifest
from hyperasr.errors import ConfigError
from hyperasr.util.files import atomic_folder

__all__ = ["convert", "corpora", "prepare"]


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
    for title in ("name", "corpus", "cohorts", "languages", "text", "licence"):
        table.add_column(title, overflow="fold")
    described = {name: reader.ABOUT for name, reader in readers.corpora().items()}
    for name, d in described.items():
        text = "yes" if d.has_text else "no"
        table.add_row(name, d.title, ", ".join(d.cohorts), ", ".join(d.languages), text, d.licence)
    output().print(table, soft_wrap=False)
    statuses = sorted({d.status for d in described.values()})
    print(f"Status: {'; '.join(statuses)}. More of one: hyperasr corpora NAME")
    return 0


def prepare(args: Any) -> int:
    """Write a corpus's manifest, and print what was found and skipped, with reasons.

    Raises:
        ConfigError: no such corpus, folder or option.
        ManifestError: nothing usable below the folder; no manifest is written.
    """
    prepared = readers.prepare(args.corpus, args.root, **_options(args.set or []))
    # Absolute, so that paths do not depend on where the manifest lies.
    rows = (dataclasses.replace(row, path=str(Path(row.path).absolute())) for row in prepared)
    write_manifest(args.out, rows)
    print("\n".join(prepared.report.lines()))
    print(args.out)
    return 0


def _options(pairs: list[str]) -> dict[str, Any]:
    """Read KEY=VALUE pairs; values as in YAML."""
    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise ConfigError(f"--set {pair!r} is not KEY=VALUE, such as mic=1")
        options[key.replace("-", "_")] = yaml.safe_load(value)
    return options


def convert(args: Any) -> int:
    """Write a manifest as a `datasets` folder or as lhotse manifests."""
    rows = read_manifest(args.manifest)
    if args.to == "dataset":
        with atomic_folder(args.out) as temporary:
            to_dataset(rows).save_to_disk(str(temporary))
    else:
        to_lhotse(rows, args.out)
    print(f"{args.out}: {len(rows)} utterances")
    return 0
