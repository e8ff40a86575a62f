"""Every notebook runs from top to bottom on the embedded model, and its outputs are committed."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def kernel() -> Iterator[AsyncKernelManager]:
    """One process for all notebooks, that torch is imported once."""
    manager = AsyncKernelManager(kernel_name="python3")
    yield manager
    if manager.has_kernel:
        run_sync(manager.shutdown_kernel)(now=True)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs_and_says_what_it_said(path, kernel) -> None:
    committed = nbformat.read(path, as_version=4)
    fresh = nbformat.read(path, as_version=4)
    # Nothing of another notebook is there: what this one does not import fails.
    fresh.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))
    where = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(fresh, km=kernel, timeout=300, resources=where)
    try:
        client.execute()
    finally:
        if client.kc is not None:
            client.kc.stop_channels()
    del fresh.cells[0]
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
