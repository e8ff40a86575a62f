"""Run the notebooks from top to bottom and keep what they show.

    python -m eval.notebooks
    python -m eval.notebooks --only "[02_leave_one_cohort_out]"

Each runs in its own folder, with the Python of this environment. Nothing is written of a notebook
in which a cell fails.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from hyperasr.errors import ConfigError, MissingExtra
from hyperasr.util.files import atomic_write_text
from train.loop.program import read_config, run_program


@dataclass(frozen=True)
class NotebooksConfig:
    """Which notebooks."""

    folder: Path = Path("notebooks")
    """Where they lie."""
    only: tuple[str, ...] = ()
    """Names without ending; empty for all."""
    timeout_s: int = 600
    """Longest time of one cell, in seconds."""

    def paths(self) -> list[Path]:
        """Return the notebooks to run.

        Raises:
            ConfigError: there are none, or one of the names is none of them.
        """
        found = {path.stem: path for path in sorted(self.folder.glob("*.ipynb"))}
        missing = [name for name in self.only if name not in found]
        if missing or not found:
            what = missing[0] if missing else "any notebook"
            there = ", ".join(found) or "none"
            raise ConfigError(f"{self.folder} does not hold {what}; there are: {there}")
        return [path for name, path in found.items() if not self.only or name in self.only]


def run_notebook(path: Path, timeout_s: int) -> None:
    """Run one notebook and write its outputs, but for the error stream, in place of the old ones.

    Raises:
        ConfigError: it is no notebook, or a cell failed.
        MissingExtra: nbclient is not installed.
    """
    try:
        import nbformat
        from nbclient import NotebookClient
        from nbclient.exceptions import CellExecutionError, CellTimeoutError
    except ImportError as error:
        raise MissingExtra(
            "notebooks need nbclient; install it with pip install -e .[notebooks]"
        ) from error
    try:
        notebook = nbformat.read(path, as_version=4)
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"{path} is not a notebook ({type(error).__name__})") from error
    client = NotebookClient(
        notebook,
        timeout=timeout_s,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        # Times of cells would change the file at every run.
        record_timing=False,
    )
    try:
        client.execute()
    except CellExecutionError as error:
        why = str(error.evalue).partition("\n")[0]
        raise ConfigError(f"{path}: a cell failed with {error.ename}: {why}") from error
    except CellTimeoutError as error:
        raise ConfigError(
            f"{path}: a cell took more than {timeout_s} s; raise timeout_s"
        ) from error
    for cell in notebook.cells:
        if cell.cell_type == "code":
            # Warnings and progress are of this machine, and name its folders.
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    atomic_write_text(path, nbformat.writes(notebook) + "\n")


def main() -> None:
    """Run them one after the other."""
    config = read_config(NotebooksConfig)
    for path in config.paths():
        started = time.monotonic()
        run_notebook(path, config.timeout_s)
        print(f"{path}: {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    run_program(main)
