"""README and docs: tables are those of the committed results, commands and names exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from eval.docs import MARKER, pages, rendered
from eval.lib import results
from hyperasr.cli.parser import build_parser

ROOT = Path(__file__).parents[2]
PAGES = [*pages(), ROOT / "CONTRIBUTING.md"]
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_table_is_the_one_of_its_result_file(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert rendered(text) == text, "run: python -m eval.docs"


def test_there_are_tables() -> None:
    assert len(MARKER.findall(TEXT)) > 10


@pytest.mark.parametrize("path", sorted((ROOT / "results").glob("*.json")), ids=lambda p: p.name)
def test_result_files_say_where_they_come_from(path: Path) -> None:
    content = results.read(path)
    for name in ("command", "git_commit", "created", "versions", "machine", "config", "seed"):
        assert content.get(name) is not None, name
    assert content["rows"]


def test_modules_and_files_that_commands_name_exist() -> None:
    # The results of a recogniser that is gone name commands of its git tag.
    text = re.sub(r"^## micro$.*?(?=^## |\Z)", "", TEXT, flags=re.MULTILINE | re.DOTALL)
    # So does a result file whose program has moved since.
    text = re.sub(r"^`.*` → `results/.*$", "", text, flags=re.MULTILINE)
    for module in re.findall(r"(?:python -m|-m) ((?:train|eval)(?:\.\w+)+)", text):
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), module
    for path in re.findall(r"(?:train|eval|hyperasr)/[\w/]+\.(?:yaml|json|py|sh|sbatch)", text):
        assert (ROOT / path).is_file(), path


@pytest.mark.parametrize(
    "line", sorted(set(re.findall(r"^(?:\.venv/bin/)?hyperasr (\w.*)$", TEXT, re.MULTILINE)))
)
def test_commands_have_the_options_that_they_are_given(line: str) -> None:
    words = shlex.split(line, comments=True)
    found = build_parser().parse_args(words)  # an unknown option would end the program
    assert found.command == words[0]


def test_the_readme_is_read_in_an_evening() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


def test_every_page_is_in_the_navigation_and_every_link_leads_somewhere() -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    named = {page for entry in config["nav"] for page in entry.values()}
    assert named == {path.name for path in (ROOT / "docs").glob("*.md")}
    for page in PAGES:
        for link in re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
