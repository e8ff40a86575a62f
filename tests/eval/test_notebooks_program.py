"""Running notebooks again: outputs are kept, a failing cell leaves the file as it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval.notebooks import NotebooksConfig, run_notebook
from hyperasr.errors import ConfigError


def notebook(folder: Path, name: str, code: str) -> Path:
    cell = {
        "cell_type": "code",
        "execution_count": None,
        "id": "a",
        "metadata": {},
        "outputs": [{"output_type": "stream", "name": "stdout", "text": ["old\n"]}],
        "source": [code],
    }
    content = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    path = folder / f"{name}.ipynb"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.slow
def test_outputs_are_made_anew_in_the_folder_of_the_notebook(tmp_path) -> None:
    path = notebook(tmp_path, "where", "import os; print(os.getcwd())")
    run_notebook(path, 60)
    first = path.read_bytes()
    (output,) = json.loads(first)["cells"][0]["outputs"]
    assert "".join(output["text"]).strip() == str(tmp_path)
    run_notebook(path, 60)
    assert path.read_bytes() == first, "nothing in the file depends on when it was run"


@pytest.mark.slow
def test_warnings_of_one_machine_are_not_kept(tmp_path) -> None:
    code = "import sys; print('shown'); print('/somebody/site-packages: warning', file=sys.stderr)"
    path = notebook(tmp_path, "loud", code)
    run_notebook(path, 60)
    (output,) = json.loads(path.read_text())["cells"][0]["outputs"]
    assert output["name"] == "stdout"
    assert "".join(output["text"]) == "shown\n"


def test_committed_notebooks_name_no_place_of_one_machine() -> None:
    committed = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
    assert committed
    for path in committed:
        text = path.read_text(encoding="utf-8")
        for place in ("site-packages", str(Path(__file__).parents[2])):
            assert place not in text, f"{path.name} names {place}"


@pytest.mark.slow
def test_a_failing_cell_is_one_line_and_leaves_the_file(tmp_path) -> None:
    path = notebook(tmp_path, "broken", "print('new')\nraise ValueError('no luck\\ntoday')")
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"broken.ipynb: a cell failed with ValueError: no luck$"):
        run_notebook(path, 60)
    assert path.read_bytes() == before


def test_what_is_no_notebook_says_so(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"does not hold any notebook; there are: none"):
        NotebooksConfig(tmp_path).paths()
    path = tmp_path / "notes.ipynb"
    path.write_text("shopping")
    with pytest.raises(ConfigError, match=r"notes.ipynb is not a notebook"):
        run_notebook(path, 60)
    with pytest.raises(ConfigError, match=r"does not hold other; there are: notes"):
        NotebooksConfig(tmp_path, only=("other",)).paths()
    assert NotebooksConfig(tmp_path, only=("notes",)).paths() == [path]
