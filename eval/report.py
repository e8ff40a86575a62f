"""One page of everything that was measured: tables, figures, and where each number comes from.

    python -m eval.report --results results --out results/report.html
    python -m eval.report --config eval/configs/report.yaml --embeddings runs/hypernet/best

Reads the result files of a folder and writes a page that needs nothing else: figures are inside,
there are no scripts, and it opens without a network. Beside it a JSON of the same name says what
was read. A file that is not there yet leaves its section with the command that makes it; a damaged
or foreign file, and rows of different protocols in one table, stop the program.

The map of embeddings needs a model and the test set (`--embeddings`); it is left out without.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eval.bench import Bench, BenchConfig
from eval.report_blocks import Block
from eval.report_embeddings import embedding_blocks
from eval.report_names import names_block
from eval.report_sections import SECTIONS, Section, generic_blocks
from eval.scores import ATYPICAL, RECORDED, in_order
from hyperasr import results
from hyperasr.cohorts.views import TYPICAL
from hyperasr.errors import ConfigError, MissingExtra
from hyperasr.files import atomic_write_text
from train.program import read_config, run_program

TEMPLATES = Path(__file__).parent / "templates"
NUMBERS = ("value", "low", "high", "ratio", "p", "p_holm", "clipped", "macro", "null")
EMBEDDINGS = Section(
    "embeddings",
    "Map of embeddings",
    "What the hypernetwork hears of each test utterance, flattened to a plane. Near points sound "
    "alike to it; distances in a plane are only a hint. Speakers are unseen.",
    generic_blocks,
)


@dataclass(frozen=True)
class ReportConfig:
    """What to read, and where to write the page."""

    results: Path = Path("results")
    """Folder of result files."""
    out: Path = Path("results/report.html")
    """The page; its index is the JSON of the same name."""
    title: str = "Recognition of atypical speech"
    """Heading of the page."""
    embeddings: Path | None = None
    """Folder of a model that listens, for the map of embeddings; None leaves the map out."""
    bench: BenchConfig = field(default_factory=BenchConfig)
    """Test set of the map; its embeddings are computed once and kept."""

    def __post_init__(self) -> None:
        if self.out.suffix != ".html":
            raise ConfigError(f"out is {self.out}; the page is HTML, give it the ending .html")


@dataclass(frozen=True)
class Shown:
    """A section as the page shows it; attributes as in the template."""

    name: str
    title: str
    about: str
    blocks: tuple[Block, ...] = ()
    missing: str = ""
    command: str = ""
    made: str = ""


def check_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuse rows whose numbers are none.

    Raises:
        ConfigError: a measurement that is no finite number, with file and row.
    """
    for number, row in enumerate(rows, start=1):
        for name in NUMBERS:
            value = row.get(name)
            fine = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (fine and math.isfinite(value)):
                raise ConfigError(
                    f"{path}, row {number}: {name} is {value!r}, which is no finite number; "
                    "the file is damaged, make it again"
                )


def shown(section: Section, content: Mapping[str, Any] | None, folder: Path) -> Shown:
    """Return one section, or the command that would fill it.

    Raises:
        ConfigError: rows that do not belong together, or lack what the section shows.
    """
    names: dict[str, Any] = {"name": section.result, "title": section.title, "about": section.about}
    path = folder / f"{section.result}.json"
    if content is None:
        return Shown(**names, missing=f"{path} is not there yet. Made by", command=section.command)
    check_rows(path, content["rows"])
    if not content["rows"]:
        missing = f"{path} has no rows. Make it again with"
        return Shown(**names, missing=missing, command=section.command)
    try:
        blocks = section.build(content["rows"])
    except MissingExtra:
        raise
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"a row has no {error}" if isinstance(error, KeyError) else str(error)
        raise ConfigError(
            f"{path} does not hold what its program writes ({what}); make it again with "
            f"{section.command}"
        ) from error
    return Shown(**names, blocks=tuple(blocks), made=origin(content))


def origin(content: Mapping[str, Any]) -> str:
    """Return one line on where a file comes from."""
    norm = content["normaliser"]
    parts = [str(content["command"]).strip(), f"created {content['created']}"]
    parts += [f"code {content['git_commit']}", f"protocol: {content['protocol']}"]
    parts += [f"normaliser {norm['name']} ({norm['hash']})"] if isinstance(norm, Mapping) else []
    machine = content["machine"]
    if isinstance(machine, Mapping):
        accelerator = machine.get("accelerator") or "no accelerator"
        parts.append(f"{machine.get('cpu')}, {machine.get('cores')} cores, {accelerator}")
    return " · ".join(parts)


def sections_of(contents: Mapping[str, dict[str, Any]], folder: Path) -> list[Shown]:
    """Return every known section, and one for each file that none is about."""
    made = [shown(section, contents.get(section.result), folder) for section in SECTIONS]
    known = {section.result for section in SECTIONS}
    for name in contents:
        if name not in known:
            about = "A result file that has no section of its own."
            made.append(shown(Section(name, name, about, generic_blocks), contents[name], folder))
    return made


def map_section(config: ReportConfig) -> Shown:
    """Return the map of embeddings, or how to get it."""
    names: dict[str, Any] = {
        "name": EMBEDDINGS.result,
        "title": EMBEDDINGS.title,
        "about": EMBEDDINGS.about,
    }
    if config.embeddings is None:
        command = "python -m eval.report --embeddings runs/hypernet/best"
        return Shown(**names, missing="No model was given to compute it with:", command=command)
    systems = {"mapped": config.embeddings}
    bench = Bench(replace(config.bench, systems=systems, controls_of=()))
    made = f"computed with {config.embeddings} on {config.bench.test}"
    return Shown(**names, blocks=tuple(embedding_blocks(bench, "mapped")), made=made)


def warnings_of(contents: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return what a reader should know before comparing sections."""
    found = []
    for field_, what in (("git_commit", "states of the code"), ("seed", "seeds")):
        values = sorted({str(content[field_]) for content in contents.values()})
        if len(values) > 1:
            found.append(f"These results come from {len(values)} {what}: {', '.join(values)}.")
    dirty = [n for n, c in contents.items() if str(c["git_commit"]).endswith("-dirty")]
    if dirty:
        found.append(
            f"The code had changes that were not committed when these were made: "
            f"{', '.join(dirty)}."
        )
    return found


def lead_of(contents: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what the page says first: whose speech was measured."""
    lead = "Everything that was measured, on speakers nobody trained on. "
    recorded = {
        str(row["cohort"])
        for content in contents.values()
        for row in content["rows"]
        if row.get("domain") == RECORDED and row.get("cohort") not in (None, ATYPICAL, TYPICAL)
    }
    if not recorded:
        return lead + (
            "All atypical speech is simulated: nothing here says anything about real patients."
        )
    return lead + (
        f"Recorded cohorts: {', '.join(in_order(recorded))}. What is called simulated is made from "
        "typical speech, and says nothing about real patients."
    )


def page(
    title: str,
    lead: str,
    sections: Sequence[Shown],
    warnings: Sequence[str],
    names: Block | None = None,
) -> str:
    """Return the page as HTML.

    Args:
        title: heading.
        lead: below it.
        sections: in their order.
        warnings: above everything.
        names: what the names in the tables mean.
    Raises:
        MissingExtra: Jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise MissingExtra(
            "the page needs Jinja2; install it with pip install -e .[report]"
        ) from error
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    stars = any(
        rest.endswith("]*")
        for section in sections
        for block in section.blocks
        for line in block.lines
        for _, rest in line
    )
    template = environment.get_template("report.html.j2")
    return template.render(
        title=title, lead=lead, sections=sections, warnings=warnings, stars=stars, names=names
    )


def index_of(
    config: ReportConfig, contents: Mapping[str, dict[str, Any]], sections: Sequence[Shown]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return head and rows of the index: what was read, and what the page shows of it."""
    command = results.command("eval.report")
    head = results.head(command, config, config.bench.seed, "index of a report", None)
    read = {}
    for name, content in contents.items():
        path = config.results / f"{name}.json"
        about = {key: value for key, value in content.items() if key != "rows"}
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        read[name] = {"sha256": digest, "n_rows": len(content["rows"]), "head": about}
    rows = [
        {
            "section": section.name,
            "shown": not section.missing,
            "n_tables": sum(block.kind == "table" for block in section.blocks),
            "n_figures": sum(block.kind == "figure" for block in section.blocks),
            **({"make_it_with": section.command} if section.missing else {}),
        }
        for section in sections
    ]
    return {**head, "read": read}, rows


def main() -> None:
    """Read the results, write the page and its index."""
    config = read_config(ReportConfig)
    contents = results.read_folder(config.results)
    # An index that this program wrote is no result.
    contents = {name: content for name, content in contents.items() if "read" not in content}
    sections = [*sections_of(contents, config.results), map_section(config)]
    warnings, names = warnings_of(contents), names_block(contents)
    html = page(config.title, lead_of(contents), sections, warnings, names)
    atomic_write_text(config.out, html)
    results.write(config.out.with_suffix(".json"), *index_of(config, contents, sections))
    missing = [section.name for section in sections if section.missing]
    print(f"{config.out}: {len(sections) - len(missing)} sections, {len(html) / 1e6:.1f} MB")
    if missing:
        print(f"not made yet: {', '.join(missing)}")


if __name__ == "__main__":
    run_program(main)
