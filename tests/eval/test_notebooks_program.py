"""Running notebooks again: outputs are kept, a failing cell leaves the file as it was."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from eval.notebooks import run_notebook


def notebook(folder: Path, code: str) -> Path:
    cell = {
        "cell_type": "code",
        "execution_count": None,
        "id": "a",
        "metadata": {},
        "outputs": [{"output_type": "stream", "name": "stdout", "text": ["old\n"]}],
        "source": [code],
    }
    content = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    path = folder / "a.ipynb"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.slow
def test_outputs_are_made_anew_without_what_is_of_one_machine(tmp_path) -> None:
    code = "import os, sys; print(os.getcwd()); print('/site-packages: warning', file=sys.stderr)"
    path = notebook(tmp_path, code)
    run_notebook(path)
    first = path.read_bytes()
    (output,) = json.loads(first)["cells"][0]["outputs"]
    assert output["name"] == "stdout"
    assert "".join(output["text"]) == f"{tmp_path}\n"
    run_notebook(path)
    assert path.read_bytes() == first, "nothing in the file depends on when it was run"


def test_committed_notebooks_name_no_place_of_one_machine() -> None:
    committed = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
    assert committed
    for path in committed:
        text = path.read_text(encoding="utf-8")
        place = re.search(r"/home/|/root/|/Users/|site-packages", text)
        assert place is None, f"{path.name} names {place}"


@pytest.mark.slow
def test_what_fails_leaves_the_file(tmp_path) -> None:
    path = notebook(tmp_path, "print('new')\nraise ValueError('no luck')")
    before = path.read_bytes()
    with pytest.raises(Exception, match="no luck"):
        run_notebook(path)
    assert path.read_bytes() == before
