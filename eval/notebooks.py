"""Run the notebooks from top to bottom and keep what they show.

    python -m eval.notebooks
    python -m eval.notebooks notebooks/02_leave_one_cohort_out.ipynb

Each runs in its own folder, with the Python of this environment. A cell that fails ends the program
with its traceback, and nothing is written of its notebook.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hyperasr.errors import MissingExtra
from hyperasr.util.files import atomic_write_text
from train.loop.program import run_program

TIMEOUT_S = 600  # of one cell


def run_notebook(path: Path) -> None:
    """Run one notebook and write its outputs, but for the error stream, in place of the old ones.

    Raises:
        MissingExtra: nbclient is not installed.
    """
    try:
        import nbformat
        from nbclient import NotebookClient
    except ImportError as error:
        raise MissingExtra(
            "notebooks need nbclient; install it with pip install -e .[notebooks]"
        ) from error
    notebook = nbformat.read(path, as_version=4)
    # Times of cells would change the file at every run.
    about = {"kernel_name": "python3", "record_timing": False}
    where = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=TIMEOUT_S, resources=where, **about).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            # Warnings and progress are of this machine, and name its folders.
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    atomic_write_text(path, nbformat.writes(notebook) + "\n")


def main() -> None:
    """Run them one after the other."""
    for path in map(Path, sys.argv[1:] or sorted(Path("notebooks").glob("*.ipynb"))):
        print(path, flush=True)
        run_notebook(path)


if __name__ == "__main__":
    run_program(main)
