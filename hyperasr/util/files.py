"""Files and folders that are there whole or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from hyperasr.errors import ConfigError

__all__ = ["atomic_folder", "atomic_text", "atomic_write_bytes", "atomic_write_text"]

# What tells a folder that a program wrote from a folder that is somebody's own.
WRITTEN_BY_PROGRAMS = (
    "config.json",
    "adapter_config.json",
    "dataset_info.json",
    "state.json",
    "*.safetensors",
    "*.arrow",
)


def atomic_write_text(path: str | Path, text: str) -> Path:
    """Write UTF-8 text, with line ends as given; see `atomic_write_bytes`."""
    return atomic_write_bytes(path, text.encode("utf-8"))


def atomic_write_bytes(path: str | Path, data: bytes) -> Path:
    """Write a file under a temporary name beside it, then rename it over the old one.

    A reader sees the old content or the new one, never a part; a failure leaves the old file.
    Missing parent folders are made; a link stays a link and its target is replaced.

    Returns:
        The path as given.
    Raises:
        ConfigError: the file cannot be written there.
    """
    with _told(path), _replacing(path, "xb") as file:
        file.write(data)
    return Path(path)


@contextmanager
def atomic_text(path: str | Path) -> Iterator[TextIO]:
    """Give a UTF-8 file to write to, which takes the name `path` when the block ends well.

    For what is too large to hold; otherwise as `atomic_write_bytes`.

    Raises:
        ConfigError: the file cannot be written there.
    """
    with _replacing(path, "x", encoding="utf-8", newline="\n") as file:
        yield file


@contextmanager
def _replacing(path: str | Path, mode: str, **how: Any) -> Iterator[Any]:
    """Give a file under a temporary name, which takes the name `path` when the block ends well."""
    target = Path(os.path.realpath(path))
    temporary = _sibling(target, "tmp")
    try:
        with _told(path):
            if target.is_dir():
                raise IsADirectoryError(21, "it is a folder")
            target.parent.mkdir(parents=True, exist_ok=True)
            file = open(temporary, mode, **how)
        with file:
            yield file
            file.flush()
            # Without it a power cut can leave the new name on an empty file.
            os.fsync(file.fileno())
        with _told(path):
            os.replace(temporary, target)
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def atomic_folder(
    path: str | Path, *, replaces: Sequence[str] = WRITTEN_BY_PROGRAMS
) -> Iterator[Path]:
    """Give an empty folder to fill; it takes the place of `path` when the block ends well.

    If the block raises, the new folder is removed and an old one stays as it was. An old folder
    is replaced as a whole, so one is accepted only if it is empty or holds a file that matches
    `replaces`: `with atomic_folder("/home/me")` must not be the end of a home. This is checked
    before the block, so that no work is lost. Between the two renames that swap the folders there
    is an instant with none; killed there, the old one is left beside as ``.NAME.*.old``.

    Args:
        path: the folder to be.
        replaces: file names or patterns (glob) that mark a folder as replaceable.
    Raises:
        ConfigError: the folder cannot be written there, or what is there is not to be replaced.
    """
    target = Path(os.path.realpath(path))
    if target.exists():
        if not target.is_dir():
            raise ConfigError(
                f"cannot write the folder {path}: a file has this name; choose another"
            )
        if any(target.iterdir()) and not any(any(target.glob(pattern)) for pattern in replaces):
            raise ConfigError(
                f"will not replace {path}: it holds files that this program did not write; "
                "choose a new or an empty folder"
            )
    temporary = _sibling(target, "tmp")
    with _told(path):
        temporary.mkdir(parents=True)
    try:
        yield temporary
        with _told(path):
            _swap(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _swap(temporary: Path, target: Path) -> None:
    """Put `temporary` in the place of `target`; on failure put the old folder back."""
    if not target.exists():
        os.rename(temporary, target)
        return
    old = _sibling(target, "old")
    os.rename(target, old)
    try:
        os.rename(temporary, target)
    except OSError:
        os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sibling(target: Path, ending: str) -> Path:
    """Return a hidden, unused name in the same folder, so that renaming stays on one disk.

    The mode of the file is left to the umask, which `tempfile` would not do.
    """
    # A name may have 255 bytes; the cut leaves room for what is added.
    stem = os.fsdecode(os.fsencode(target.name)[:200].decode("utf-8", "ignore").encode())
    return target.with_name(f".{stem}.{uuid.uuid4().hex[:12]}.{ending}")


@contextmanager
def _told(path: str | Path) -> Iterator[None]:
    """Raise what the system refuses as a `ConfigError` in one line."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError(
            f"cannot write {path}: {reason}; choose a place where you may write"
        ) from error
