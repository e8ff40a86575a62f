"""Models of single voices, saved by name on the server: made of somebody's clips when asked.

This alone is kept of what clients send, and only where `--voices` names a folder: not the clips,
but the adapter trained on them, by ``hyperasr enrol`` in a process of its own, one at a time.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from hyperasr.errors import AudioError, ConfigError, HyperASRError
from hyperasr.hub import HyperASR
from hyperasr.service.config import OPENAI_NAME
from hyperasr.service.problems import Busy, UnknownModel

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_MOST_OPEN = 4  # voices in memory
_NICENESS = 10  # of a training beside those who wait for texts
_CONFIG = "config.json"


class Voices:
    """The voices of one folder.

    Args:
        folder: a folder for each voice is in it.
        model: the served model, which a new voice starts from, and whose Whisper all share.
        name: that it was opened by.
    Raises:
        ConfigError: the folder is none, or the model has no adapter.
    """

    def __init__(self, folder: Path, model: HyperASR, name: str) -> None:
        if not folder.is_dir():
            raise ConfigError(f"--voices {folder} is no folder; make it first")
        if not model.adapts:
            raise ConfigError(f"{name} is a plain Whisper and learns no voice; leave --voices out")
        self.folder, self.model, self.name = folder, model, name
        self._lock = threading.Lock()
        self._opened = lru_cache(_MOST_OPEN)(self._read)  # by name and time of the last change
        self._training = asyncio.Lock()

    def names(self) -> list[str]:
        """Return the names of the voices that are there."""
        return sorted(
            path.parent.name
            for path in self.folder.glob(f"*/{_CONFIG}")
            if _NAME.fullmatch(path.parent.name)
        )

    def open(self, name: str) -> HyperASR:
        """Return the model of a voice.

        Raises:
            UnknownModel: there is none of this name.
            HyperASRError: it cannot be opened, or is of another Whisper.
        """
        try:
            changed = os.stat(self._path(name) / _CONFIG).st_mtime_ns
        except OSError:
            raise UnknownModel(f"this server has no voice {name!r}") from None
        with self._lock:
            return self._opened(name, changed)

    def _read(self, name: str, _: int) -> HyperASR:
        return HyperASR.from_pretrained(
            self._path(name), backbone=self.model.backbone, offline=True
        )

    def remove(self, name: str) -> None:
        """Delete a voice for good.

        Raises:
            UnknownModel: there is none of this name.
        """
        path = self._path(name)
        if not (path / _CONFIG).is_file():
            raise UnknownModel(f"this server has no voice {name!r}")
        with self._lock:
            shutil.rmtree(path, ignore_errors=True)
            self._opened.cache_clear()

    async def train(self, name: str, clips: Sequence[tuple[bytes, str]]) -> dict[str, Any]:
        """Train a voice, or an old one of this name anew; who is cancelled here ends the training.

        Args:
            name: of the voice.
            clips: content of each recording, and what was said in it; it may be empty.
        Returns:
            ``written``, whether it is worth something and there now, and what the command said.
        Raises:
            Busy: another voice is being trained.
            AudioError: the clips cannot be used.
            ConfigError: the model itself has this name.
            HyperASRError: the training crashed.
        """
        out = self._path(name)
        if name in (self.name, OPENAI_NAME):
            raise ConfigError(f"{name!r} is the name of a model already; choose another")
        if self._training.locked():
            raise Busy("another voice is being trained; try again in some minutes")
        async with self._training:
            with tempfile.TemporaryDirectory(prefix="hyperasr-") as scratch:
                manifest = await asyncio.to_thread(_written, Path(scratch), clips)
                command = ["-m", "hyperasr.cli", "enrol", str(manifest), "--out", str(out)]
                command += ["--model", self.name, "--offline"]
                status, said, errors = await _run(command)
        # Of the clips here nobody else knows the names.
        errors = errors.replace(f"{manifest.parent}{os.sep}", "clip ")
        lines = [line.removeprefix("hyperasr: error: ") for line in errors.splitlines()]
        if status not in (0, 1):
            raise AudioError(lines[-1] if lines else "the voice could not be trained")
        told = said.splitlines()
        if not told:  # Python's status of an exception is that of a voice worth nothing
            raise HyperASRError(
                "the training crashed; hyperasr enrol shows why, with these clips in a terminal"
            )
        # The last line of a success, and of nothing else, says how the command line goes on.
        written = told[-1].startswith(f"{out}: ")
        return {"voice": name, "written": written, "told": told[:-1] if written else told}

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise UnknownModel(
                f"{name[:50]!r} is no name of a voice; use up to 40 of a-z, 0-9 and -"
            )
        return self.folder / name


def _written(folder: Path, clips: Sequence[tuple[bytes, str]]) -> Path:
    manifest = folder / "manifest.jsonl"
    rows = []
    for number, (content, text) in enumerate(clips, start=1):
        (folder / str(number)).write_bytes(content)
        rows.append({"id": f"clip {number}", "path": str(number), "text": text or None})
    manifest.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return manifest


async def _run(arguments: Sequence[str]) -> tuple[int, str, str]:
    """Run Python with these arguments; returns status, output and errors."""
    pipes: dict[str, Any] = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE}
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, **pipes)
    try:
        with suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, process.pid, _NICENESS)
        said, errors = await process.communicate()
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return process.returncode or 0, said.decode(), errors.decode()
