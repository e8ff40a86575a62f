"""Uploads become recordings: small ones in memory, others in a temporary file, both for a while."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import BinaryIO

from starlette.datastructures import UploadFile

from hyperasr.errors import HyperASRError
from hyperasr.transcription.recordings import Recording
from hyperasr.util.program import one_line

_IN_MEMORY = 4_000_000  # bytes
_LONGEST_NAME = 120  # characters


def shown_name(name: str | None) -> str:
    """Return the name of an upload without folders; it is shown and never opened."""
    last = (name or "").replace("\\", "/").rpartition("/")[2]
    return one_line(last)[:_LONGEST_NAME] or "upload"


@asynccontextmanager
async def recording_of(upload: UploadFile) -> AsyncIterator[Recording]:
    """Give an upload as a recording, whose temporary file is gone after the block.

    Errors in the block that name the file name the upload instead.
    """
    name = shown_name(upload.filename)
    if (upload.size or 0) <= _IN_MEMORY:
        yield Recording(name, content=await upload.read())
        return
    path = await asyncio.to_thread(_saved, upload.file)
    try:
        yield Recording(name, path)
    except HyperASRError as error:
        error.args = tuple(str(arg).replace(path, name) for arg in error.args)
        raise
    finally:
        with suppress(OSError):
            os.unlink(path)


def _saved(file: BinaryIO) -> str:
    descriptor, path = tempfile.mkstemp(prefix="hyperasr-")  # readable by its owner alone
    try:
        with open(descriptor, "wb") as copy:
            shutil.copyfileobj(file, copy, 1 << 20)
    except BaseException:
        os.unlink(path)
        raise
    return path
