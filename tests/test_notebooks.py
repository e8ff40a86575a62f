"""Every notebook runs from top to bottom on the embedded model, and its outputs are committed."""

from __future__ import annotations

from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from hyperasr.hub import EMBEDDED

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.skipif(not EMBEDDED["tiny.en"].is_dir(), reason="no adapters are embedded")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs_and_says_what_it_said(path) -> None:
    committed = nbformat.read(path, as_version=4)
    fresh = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(path.parent)}}
    NotebookClient(fresh, timeout=300, kernel_name="python3", resources=where).execute()
    for old, new in zip(committed.cells, fresh.cells, strict=True):
        if old.cell_type != "code":
            continue
        assert old.outputs, f"not executed: {old.source[:60]!r}"
        assert {o.output_type for o in old.outputs} <= {o.output_type for o in new.outputs}
        texts = [texts_of(old), texts_of(new)]
        # Digits may differ between machines.
        assert SequenceMatcher(None, *texts).ratio() > 0.9, "run: python -m eval.notebooks"


def texts_of(cell: Any) -> str:
    return "".join(o.text for o in cell.outputs if o.get("name") == "stdout")


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS
