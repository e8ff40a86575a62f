"""The README: its tables are those of the committed results, its commands and names exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from eval.readme import MARKER, rendered
from hyperasr import results
from hyperasr.cli import build_parser

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_table_is_the_one_of_its_result_file() -> None:
    assert MARKER.search(README)
    assert rendered(README) == README, "run: python -m eval.readme"


@pytest.mark.parametrize("path", sorted((ROOT / "results").glob("*.json")), ids=lambda p: p.name)
def test_result_files_say_where_they_come_from(path) -> None:
    content = results.read(path)
    for name in ("command", "git_commit", "created", "versions", "machine", "config", "seed"):
        assert content.get(name) is not None, name
    assert content["rows"]


def test_modules_and_files_that_commands_name_exist() -> None:
    for module in re.findall(r"(?:python -m|-m) ((?:train|eval)(?:\.\w+)+)", README):
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), module
    for path in re.findall(r"(?:train|eval)/configs/\w+\.(?:yaml|json)", README):
        assert (ROOT / path).is_file(), path


@pytest.mark.parametrize("line", re.findall(r"^\.venv/bin/hyperasr (.*)$", README, re.MULTILINE))
def test_commands_have_the_options_that_they_are_given(line: str) -> None:
    words = shlex.split(line, comments=True)
    found = build_parser().parse_args(words)  # an unknown option would end the program
    assert found.command == words[0]
