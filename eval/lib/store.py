"""What was decoded, on disk: one file a system and test set, so that nothing is decoded twice."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyperasr.util.files import atomic_write_text

__all__ = ["Store"]

log = logging.getLogger(__name__)


class Store:
    """Values by row number, in ``root/TEST SET/KEY.json``.

    Args:
        root: folder of all test sets.
        plan: what identifies the test set, from `hyperasr.cohorts.views.plan_key`.
        n_rows: of the test set.
    """

    def __init__(self, root: Path, plan: str, n_rows: int) -> None:
        self.folder, self.n_rows = Path(root) / plan, n_rows

    def path(self, key: str) -> Path:
        """Return the file of a key."""
        return self.folder / f"{key}.json"

    def read(self, key: str) -> dict[int, Any]:
        """Return the values that are there; none where the file is missing or damaged."""
        path = self.path(key)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            rows = {int(row): value for row, value in content["rows"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s is damaged (%s); its rows are made again", path, error)
            return {}
        return {row: value for row, value in rows.items() if 0 <= row < self.n_rows}

    def write(self, key: str, rows: Mapping[int, Any], notes: Mapping[str, Any]) -> None:
        """Write the values whole or not at all; rows that another process added stay.

        Args:
            key: names the file.
            rows: a value of plain JSON for each row number.
            notes: further fields of the file, for a reader.
        """
        rows = self.read(key) | dict(rows)
        lines = [f'"{row}": {json.dumps(rows[row], ensure_ascii=False)}' for row in sorted(rows)]
        head = json.dumps(dict(notes), ensure_ascii=False)
        body = ",\n".join(lines)
        atomic_write_text(self.path(key), f'{{"notes": {head},\n"rows": {{\n{body}\n}}}}\n')
