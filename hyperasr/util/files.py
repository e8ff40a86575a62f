"""Files and folders that are there whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from hyperasr.errors import ConfigError

try:
    import fcntl
except ImportError:  # a system without them
    fcntl = None  # type: ignore[assignment]

# What tells a folder that a program wrote from a folder that is somebody's own.
WRITTEN_BY_PROGRAMS = (
    "config.json",
    "adapter_config.json",
    "dataset_info.json",
    "state.json",
    "*.safetensors",
    "*.arrow",
)
_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{12}\.(tmp|old)")  # as `_sibling` names them
_FULL = ("No space left on device", "File too large", "Disk quota exceeded")


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
    with _replacing(path, "xb") as file:
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
def atomic_binary(path: str | Path) -> Iterator[BinaryIO]:
    """Give a file of bytes; otherwise as `atomic_text`."""
    with _replacing(path, "xb") as file:
        yield file


@contextmanager
def _replacing(path: str | Path, mode: str, **how: Any) -> Iterator[Any]:
    """Give a file under a temporary name, which takes the name `path` when the block ends well."""
    with writing(path):
        descriptor = _descriptor(path)
    if descriptor is not None:
        with writing(path), open(descriptor, mode.replace("x", "w"), **how) as file:
            yield file
        return
    target = Path(os.path.realpath(path))
    temporary = _sibling(target, "tmp")
    try:
        with writing(path, temporary):
            if target.is_dir():
                raise IsADirectoryError(21, "it is a folder", str(target))
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, mode, **how) as file:
                _lock(file.fileno())
                yield file
                file.flush()
                # Without it a power cut can leave the new name on an empty file.
                os.fsync(file.fileno())
            os.replace(temporary, target)
    finally:
        with suppress(OSError):
            temporary.unlink()


def _descriptor(path: str | Path) -> int | None:
    """Return what is written through, never replaced: a terminal, a pipe, a device; else None.

    A regular file that standard output goes to is one of them: opened anew, it would lose what was
    printed.
    """
    try:
        there = os.stat(path)
    except (OSError, ValueError):
        return None
    for stream in (sys.__stdout__, sys.__stderr__):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()  # type: ignore[union-attr]
            number = stream.fileno()  # type: ignore[union-attr]
            if os.path.samestat(there, os.fstat(number)):
                return os.dup(number)
    if stat.S_ISREG(there.st_mode) or stat.S_ISDIR(there.st_mode):
        return None
    return os.open(path, os.O_WRONLY)


def is_stdout(path: str | Path) -> bool:
    """Say whether a path is what standard output goes to, as ``/dev/stdout`` is."""
    with suppress(OSError, ValueError, AttributeError):
        return os.path.samestat(os.stat(path), os.fstat(sys.__stdout__.fileno()))  # type: ignore[union-attr]
    return False


def keep_inputs(
    outputs: Iterable[str | Path],
    inputs: Iterable[str | Path],
    advice: str = "choose another --out",
) -> None:
    """Refuse outputs that would replace an input; called before any work.

    Files are told apart as the disk does, so that another spelling, a link or a hard link is the
    same file. A folder that is to be replaced also must not hold an input.

    Args:
        outputs: files and folders to be written; those that are not there yet replace nothing.
        inputs: files and folders that are read.
        advice: what to do instead.
    Raises:
        ConfigError: one of the outputs is an input, or a folder that holds one.
    """
    kept: dict[tuple[int, int], str | Path] = {}
    for path in inputs:
        real = Path(os.path.realpath(path))
        for place in (real, *real.parents):
            identity = _identity(place)
            if identity in kept and place is not real:
                break  # and so are the folders above it
            if identity is not None:
                kept.setdefault(identity, path)
    for output in outputs:
        if (identity := _identity(output)) in kept:
            name = kept[identity]
            which = "is an input" if _identity(name) == identity else f"holds the input {name}"
            raise ConfigError(f"will not write {output}: it {which}; {advice}")


def _identity(path: str | Path) -> tuple[int, int] | None:
    """Return which file or folder this is, whatever its name; None where there is none to lose."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    lasting = stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)
    return (found.st_dev, found.st_ino) if lasting else None


def check_writable(path: str | Path, replaces: Sequence[str] = WRITTEN_BY_PROGRAMS) -> None:
    """Raise ConfigError where `atomic_folder` could not write; for who works long before it."""
    target = _replaceable(path, replaces)
    place = next(folder for folder in target.parents if folder.exists())
    trial = _sibling(place / target.name, "tmp")
    with writing(path, trial):
        trial.mkdir()
        trial.rmdir()


@contextmanager
def atomic_folder(
    path: str | Path, *, replaces: Sequence[str] = WRITTEN_BY_PROGRAMS
) -> Iterator[Path]:
    """Give an empty folder to fill; it takes the place of `path` when the block ends well.

    If the block raises, the new folder is removed and an old one stays as it was. An old folder
    is replaced as a whole, so one is accepted only if it is empty or holds a file that matches
    `replaces`: `with atomic_folder("/home/me")` must not be the end of a home. This is checked
    before the block, so that no work is lost. Between the two renames that swap the folders there
    is an instant with none; killed there, the old one is left beside as ``.NAME.*.old``, and who
    writes there next puts it back and clears up.

    Args:
        path: the folder to be.
        replaces: file names or patterns (glob) that mark a folder as replaceable.
    Raises:
        ConfigError: the folder cannot be written there, another process is writing it, or what is
            there is not to be replaced.
    """
    target = _replaceable(path, replaces)
    temporary = _sibling(target, "tmp")
    try:
        with writing(path, temporary):
            temporary.mkdir(parents=True)
            with _held(temporary):
                others = _clear(target.parent, _stem(target))
                if any(other != temporary for other in others):
                    raise ConfigError(
                        f"another process is writing {path}; wait for its end, or choose another"
                    )
                yield temporary
                _swap(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replaceable(path: str | Path, replaces: Sequence[str]) -> Path:
    """Return where a folder is to be; refuse a file, and what this program did not write."""
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
    return target


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
    return target.with_name(f".{_stem(target)}.{uuid.uuid4().hex[:12]}.{ending}")


def _stem(target: Path) -> str:
    # A name may have 255 bytes; the cut leaves room for what is added.
    return os.fsdecode(os.fsencode(target.name)[:200].decode("utf-8", "ignore").encode())


@contextmanager
def alone_in(folder: str | Path) -> Iterator[None]:
    """Let no other run write into a folder during the block; the folder is made where it is not.

    The lock is the system's (flock), on the folder itself: it leaves no file and ends with the
    process, also with one that is killed. What killed writers left in the folder is cleared up.
    On a disk that knows no such locks, as some of a network do not, nobody is refused.

    Raises:
        ConfigError: another run writes there, or the folder cannot be made.
    """
    with writing(folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
    with _held(Path(folder)) as free:
        if free is False:
            raise ConfigError(
                f"another run is writing into {folder}; wait for its end, or choose another folder"
            )
        _clear(Path(folder))
        yield


@contextmanager
def _held(path: Path) -> Iterator[bool | None]:
    """Lock a file or folder for the block; gives what `_lock` says."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # gone meanwhile, or a system that opens no folders
        yield None
        return
    try:
        yield _lock(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool | None:
    """Lock what is open until it is closed; False: somebody else has, None: there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _clear(folder: Path, stem: str | None = None) -> list[Path]:
    """Remove what killed writers left, putting back an old folder that has no successor.

    Args:
        folder: where they wrote.
        stem: of the name they wrote to; None takes any.
    Returns:
        What others are writing.
    """
    others = []
    for path in folder.glob(".*"):
        found = _TEMPORARY.fullmatch(path.name)
        if found is None or stem not in (None, found[1]):
            continue
        with _held(path) as free, suppress(OSError):
            if free is False:
                others.append(path)
            elif free and path.is_dir():
                if found[2] == "old" and not path.with_name(found[1]).exists():
                    os.rename(path, path.with_name(found[1]))
                else:
                    shutil.rmtree(path, ignore_errors=True)
            elif free:
                path.unlink()
    return others


@contextmanager
def writing(path: str | Path, temporary: Path | None = None) -> Iterator[None]:
    """Raise what the system refuses as a `ConfigError` in one line.

    Errors about other files than these pass: they arose in the block of whoever writes.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.filename is not None and not _concerns(Path(str(error.filename)), path, temporary):
            raise
        reason = error.strerror or str(error) or type(error).__name__
        advice = "choose a place where you may write"
        if any(sign in reason for sign in _FULL):
            advice = "make room, or choose another"
        raise ConfigError(f"cannot write {path}: {reason}; {advice}") from error
    except Exception as error:
        # Libraries that write have errors of their own, or none but RuntimeError.
        said = [sign for sign in _FULL if sign in str(error)]
        if not said:
            raise
        raise ConfigError(
            f"cannot write {path}: {said[0]}; make room, or choose another"
        ) from error


def _concerns(named: Path, path: str | Path, temporary: Path | None) -> bool:
    target = Path(os.path.realpath(path))
    if temporary in (named, *named.parents):
        return True
    return named in (Path(path), target, *target.parents)
