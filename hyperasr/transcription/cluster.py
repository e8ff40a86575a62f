"""Many recordings into one file: by this process, or by Ray on this machine or a cluster.

Both write the same files into one folder. Blocks of rows are written whole as they are finished and
merged in the order of the recordings at the end, so that a run that was killed goes on where it
stopped. A row is what `--format json` prints for a recording, or ``id`` and ``error``. The merged
file is JSONL; Parquet is made of it when it is complete.

Ray Data reads and decodes, and the driver writes: a folder of one machine is as good as object
storage, a block is there whole or not at all, and what a lost worker had begun is never seen. Texts
are small beside sound, so that one writer is enough.
"""

from __future__ import annotations

import atexit
import io
import json
import logging
import os
import pickle
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hyperasr.audio.mel import SAMPLE_RATE
from hyperasr.cohorts.manifest import is_address, parse_manifest
from hyperasr.errors import AudioError, ConfigError, HyperASRError, MissingExtra
from hyperasr.model import AdaptedWhisper
from hyperasr.transcription.options import TranscribeOptions
from hyperasr.transcription.pipeline import BatchDecoder, transcribe
from hyperasr.transcription.recordings import Recording, find_recordings, samples_of
from hyperasr.transcription.transcript import SCHEMA_VERSION, Result, to_dict
from hyperasr.util.files import atomic_binary
from hyperasr.whisper.weights import ASSETS

if TYPE_CHECKING:
    import psutil

HERE = "local"
"""As an address: start Ray on this machine."""
TRANSCRIPTS, PARQUET = "transcripts.jsonl", "transcripts.parquet"
SCHEMA = ASSETS / "transcript.schema.json"
_BLOCKS, _SETTINGS = "blocks", "settings.json"
FILES = (TRANSCRIPTS, PARQUET, _SETTINGS, _BLOCKS)
"""What a folder holds; blocks only until they are merged."""
_WINDOW_BATCHES = 4  # batches sorted by length together, as `transcribe` does
_ROW_GROUP = 1000  # rows of Parquet written at once
_LONG_S = 600.0  # of speech; longer recordings are read by who decodes them, piece by piece
_ANSWER_S = 10.0
# Ray's sockets lie 64 characters below its folder, and their names may have 107.
_LONGEST_FOLDER = 40

Row = dict[str, Any]
"""A line of the file: `hyperasr.transcription.transcript.to_dict`, or ``id`` and ``error``."""


class TranscriptFolder:
    """A folder, of a disk or of object storage, that gathers the rows of one JSONL file.

    Args:
        out: path or address (``s3://bucket/folder``).
        settings: that texts depend on, plain JSON values; rows of others are not added.
    Raises:
        ConfigError: it cannot be read or written, or holds rows of other settings.
    """

    def __init__(self, out: str, settings: Mapping[str, Any]) -> None:
        from pyarrow.fs import LocalFileSystem

        self.name = out
        self._storage, self._root = storage(out)
        self._is_local = isinstance(self._storage, LocalFileSystem)
        settings = json.loads(json.dumps(settings))
        found = "".join(self._lines(_SETTINGS)) or None
        for name in (TRANSCRIPTS, PARQUET):
            if found is None and self._exists(name):
                raise ConfigError(
                    f"will not replace {out}/{name}: this program did not write it; "
                    "choose another --out"
                )
        earlier = settings if found is None else _json(found, f"{out}/{_SETTINGS}")
        for name in sorted({*settings, *earlier}):
            was, asked = earlier.get(name), settings.get(name)
            if was != asked:
                raise ConfigError(
                    f"{out} was begun with {name} {was!r}, not {asked!r}; give the same, or "
                    "another --out"
                )
        # Before any work: a folder in which nothing can be written is found out here.
        self._write(_SETTINGS, [json.dumps(settings, indent=1, ensure_ascii=False) + "\n"])

    def rows(self) -> Iterator[Row]:
        """Yield every row, those of the merged file first, an id perhaps several times."""
        for name in [TRANSCRIPTS, *self.blocks()]:
            for line in self._lines(name):
                yield _json(line, f"{self.name}/{name}")

    def done(self) -> set[str]:
        """Return the ids that have a transcript; what failed is to be tried again."""
        return {row["id"] for row in self.rows() if "error" not in row}

    def add(self, rows: Sequence[Row]) -> None:
        """Write rows as a block of their own, whole or not at all."""
        self._write(f"{_BLOCKS}/{uuid.uuid4().hex}.jsonl", map(_line, rows))

    def merge(self, ids: Sequence[str]) -> None:
        """Write all rows as one file in this order, once each, and remove the blocks.

        Rows of other ids stay behind them. A transcript wins over an earlier or later error.

        Raises:
            HyperASRError: an id has no row.
        """
        blocks = self.blocks()
        at: dict[str, int] = {}
        # On the disk, since all texts together need not fit into memory.
        with tempfile.TemporaryFile() as spool:
            for row in self.rows():
                if "error" not in row or row["id"] not in at:
                    at[row["id"]] = spool.seek(0, os.SEEK_END)
                    spool.write(_line(row).encode())
            if lost := sum(id not in at for id in ids):
                raise HyperASRError(f"{lost} of {len(ids)} recordings have no row; call again")

            def lines() -> Iterator[str]:
                for id in dict.fromkeys([*ids, *at]):
                    spool.seek(at[id])
                    yield spool.readline().decode()

            self._write(TRANSCRIPTS, lines())
        for name in blocks:
            with suppress(FileNotFoundError):  # another run has just merged it as well
                self._storage.delete_file(f"{self._root}/{name}")
        if self._is_local:
            with suppress(OSError):  # it holds blocks of another run
                os.rmdir(f"{self._root}/{_BLOCKS}")

    @property
    def has_parquet(self) -> bool:
        """Whether an earlier run wrote the rows as Parquet, which are to stay the same."""
        return self._exists(PARQUET)

    def write_parquet(self) -> None:
        """Write the rows as Parquet too, nested as in `assets/transcript.schema.json`."""
        import pyarrow as pa
        from pyarrow.parquet import ParquetWriter

        schema, rows = parquet_schema(), self.rows()
        with self._stream(PARQUET) as stream, ParquetWriter(stream, schema) as writer:
            while group := list(islice(rows, _ROW_GROUP)):
                writer.write_table(pa.Table.from_pylist(group, schema=schema))

    def blocks(self) -> list[str]:
        """Return the names of the blocks that are not merged yet."""
        from pyarrow.fs import FileSelector

        selector = FileSelector(f"{self._root}/{_BLOCKS}", allow_not_found=True)
        found = [info.base_name for info in self._storage.get_file_info(selector)]
        return [f"{_BLOCKS}/{name}" for name in sorted(found) if name.endswith(".jsonl")]

    def _exists(self, name: str) -> bool:
        from pyarrow.fs import FileType

        return bool(self._storage.get_file_info(f"{self._root}/{name}").type == FileType.File)

    def _lines(self, name: str) -> Iterator[str]:
        if not self._exists(name):
            return
        try:
            with self._storage.open_input_file(f"{self._root}/{name}") as file:
                yield from io.TextIOWrapper(file, encoding="utf-8", newline="\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read {self.name}/{name}: {error}") from error

    def _write(self, name: str, lines: Iterable[str]) -> None:
        with self._stream(name) as stream:
            for line in lines:
                stream.write(line.encode())

    @contextmanager
    def _stream(self, name: str) -> Iterator[Any]:
        """Give a file of bytes, which has its name only when all of it was written."""
        path = f"{self._root}/{name}"
        if self._is_local:
            with atomic_binary(path) as file:
                yield file
            return
        try:
            self._storage.create_dir(path.rpartition("/")[0], recursive=True)
            # An object has its name only when all of it was sent.
            with self._storage.open_output_stream(path) as stream:
                yield stream
        except OSError as error:
            raise ConfigError(f"cannot write {self.name}/{name}: {error}") from error


def parquet_schema() -> Any:
    """Return the columns of Parquet (`pyarrow.Schema`): those of a transcript, and ``error``."""
    import pyarrow as pa

    whole = json.loads(SCHEMA.read_text(encoding="utf-8"))
    plain = {"number": pa.float64(), "integer": pa.int64(), "boolean": pa.bool_()}

    def kind(of: Mapping[str, Any]) -> Any:
        if "$ref" in of:
            of = whole["$defs"][of["$ref"].rpartition("/")[2]]
        if of.get("type") == "object":
            return pa.struct(fields(of))
        if of.get("type") == "array":
            return pa.list_(kind(of["items"]))
        return pa.int64() if "const" in of else plain.get(of.get("type", ""), pa.string())

    def fields(of: Mapping[str, Any]) -> list[tuple[str, Any]]:
        return [(name, kind(value)) for name, value in of["properties"].items()]

    return pa.schema([*fields(whole), ("error", pa.string())])


def recordings_of(sources: Sequence[str]) -> list[Recording]:
    """List the recordings of sources, which other processes and machines find as well.

    Args:
        sources: as `hyperasr.transcription.recordings.find_recordings` takes them, and addresses
            of recordings and manifests in object storage.
    Raises:
        HyperASRError: a manifest in object storage cannot be read, or an id comes twice.
    """
    recordings: list[Recording] = []
    for source in sources:
        if is_address(source) and source.lower().endswith(".jsonl"):
            rows = parse_manifest(_content(source), source, source.rpartition("/")[0])
            recordings += find_recordings(rows)
        elif is_address(source):
            recordings.append(Recording(source, source))
        else:
            recordings += find_recordings(source)
    seen: set[str] = set()
    for index, one in enumerate(recordings):
        if one.id in seen:
            raise ConfigError(f"the id {one.id} comes twice; in one file each may be there once")
        seen.add(one.id)
        if one.path is not None and not is_address(one.path):
            recordings[index] = replace(one, path=os.path.abspath(one.path))
    return recordings


def in_this_process(
    model: AdaptedWhisper,
    recordings: list[Recording],
    options: TranscribeOptions,
) -> Iterator[list[Row]]:
    """Transcribe, and yield rows as they are finished, some at a time."""
    rows: list[Row] = []
    for result in transcribe(model, recordings, options):
        rows.append(_row(result))
        if len(rows) >= _WINDOW_BATCHES * options.batch_size:
            yield rows
            rows = []
    if rows:
        yield rows


def on_ray(
    model: AdaptedWhisper,
    open_model: Callable[..., AdaptedWhisper],
    recordings: Sequence[Recording],
    options: TranscribeOptions,
    *,
    address: str = HERE,
    device: str = "cpu",
    workers: int | None = None,
) -> Iterator[list[Row]]:
    """Transcribe by Ray Data, and yield the rows of each block when it is finished.

    Reading and resampling are tasks of the CPU; beside them one actor for each device holds a
    model, cuts at pauses and decodes, segments of like length together. A block whose worker was
    lost is done again elsewhere.

    Args:
        model: the same as `open_model` opens; says what the options can be.
        open_model: called in each worker with the keyword `device`; has to be found there by name.
        recordings: each of an id of its own.
        options: how.
        address: ``HOST:PORT`` of a cluster, ``auto`` for the one of this machine, or `HERE`. Where
            Ray runs in this process already, that is used.
        device: ``cuda``, or ``cpu``, where a device is a core and one thread works on it.
        workers: actors at most; None is as many as there are devices.
    Raises:
        MissingExtra: Ray is not installed.
        ConfigError: no Ray answers, it has no such device, or the options are impossible.
        HyperASRError: Ray gave up.
    """
    if device not in ("cpu", "cuda"):
        raise ConfigError(f"device is {device!r}; Ray finds the devices itself: give cpu or cuda")
    BatchDecoder(model, options)  # raises before Ray is started
    with _ray(address) as ray:
        import pyarrow as pa

        devices = int(ray.cluster_resources().get("GPU" if device == "cuda" else "CPU", 0))
        if not devices:
            raise ConfigError(f"Ray has no {device} there; give another --device")
        size = min(workers or devices, devices, len(recordings))
        # Small enough that the last workers do not wait long for each other.
        n = min(_WINDOW_BATCHES * options.batch_size, -(-len(recordings) // (4 * size)))
        # Like lengths together as far as they are known, the longest first.
        waiting = sorted(recordings, key=lambda r: r.start_s - (r.end_s or r.start_s))
        blocks = [waiting[i : i + n] for i in range(0, len(waiting), n)]
        tables = [pa.table({"recording": [pickle.dumps(r) for r in block]}) for block in blocks]
        data = ray.data.from_arrow(tables)
        data.context.enable_progress_bars = False
        data.context.target_max_block_size = round(_LONG_S * SAMPLE_RATE * 4)
        # Not a whole core for who decodes, or none would be left for reading.
        reads: dict[str, Any] = {"num_cpus": 1}
        decodes: dict[str, Any] = {"num_cpus": 0, "num_gpus": 1}
        if device == "cpu":
            reads, decodes = {"num_cpus": 0.1}, {"num_cpus": 0.9}
        how = {"batch_size": None, "batch_format": "pyarrow"}
        data = data.map_batches(_read, **how, **reads)
        data = data.map_batches(
            _Worker,
            fn_constructor_args=(open_model, device, options),
            compute=ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=2),
            **how,
            **decodes,
        )
        try:
            for table in data.iter_batches(**how, prefetch_batches=0):
                yield [json.loads(line) for line in table["row"].to_pylist()]
        except Exception as error:
            # Of an exception in a worker Ray's own holds a traceback; the cause is its last line.
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            reason = lines[-1] if lines else type(error).__name__
            raise HyperASRError(f"Ray gave up: {reason}; call again to go on") from error


def _read(table: Any) -> Iterator[Any]:
    """Read the recordings of a block, in a task of the CPU: each with its samples, and warnings.

    One that is long stays as it is: who decodes it reads it, piece by piece.
    """
    import pyarrow as pa

    for packed in table["recording"].to_pylist():
        yield pa.table({"read": [pickle.dumps(_with_samples(pickle.loads(packed)))]})


def _with_samples(recording: Recording) -> tuple[Recording, list[str]]:
    """Return a recording with its samples, or why it has none, and what its reader should know."""
    warnings: list[str] = []
    pieces, n_samples = [np.zeros(0, np.float32)], 0
    try:
        for piece in samples_of(_fetched(recording), warnings.append):
            pieces.append(piece)
            n_samples += len(piece)
            if n_samples > _LONG_S * SAMPLE_RATE:
                return recording, []
    except HyperASRError as error:
        return replace(recording, error=error), warnings
    return replace(recording, waveform=np.concatenate(pieces)), warnings


class _Worker:
    """An actor: one model on one device, loaded once."""

    def __init__(
        self, open_model: Callable[..., AdaptedWhisper], device: str, options: TranscribeOptions
    ) -> None:
        import torch

        if device == "cpu":
            torch.set_num_threads(1)
        self.model, self.options = open_model(device=device), options

    def __call__(self, table: Any) -> Any:
        import pyarrow as pa

        read = [pickle.loads(packed) for packed in table["read"].to_pylist()]
        recordings = [_fetched(recording) for recording, _ in read]
        rows = []
        results = transcribe(self.model, recordings, self.options)
        for result, (_, warnings) in zip(results, read, strict=True):
            row = _row(result)
            if "error" not in row:
                row["warnings"] = list(dict.fromkeys([*warnings, *row["warnings"]]))
            rows.append(_line(row))
        return pa.table({"row": pa.array(rows, pa.string())})


def storage(name: str) -> tuple[Any, str]:
    """Return the file system (of `pyarrow.fs`, which Ray uses) and the path in it.

    Raises:
        ConfigError: an address of a kind that is not known, or that does not answer.
    """
    from pyarrow.fs import FileSystem, LocalFileSystem

    if not is_address(name):
        return LocalFileSystem(), os.path.abspath(name)
    try:
        found: tuple[Any, str] = FileSystem.from_uri(name)
    except (ValueError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{name} cannot be used as object storage: {reason}") from error
    return found


def _content(address: str) -> bytes:
    files, path = storage(address)
    try:
        with files.open_input_stream(path) as stream:
            return bytes(stream.read())
    except OSError as error:
        raise AudioError(f"{address} cannot be read: {error}; check the name") from error


def _fetched(recording: Recording) -> Recording:
    """Return a recording of object storage with its bytes, or why there are none."""
    r, address = recording, recording.path or ""
    if r.error is not None or r.waveform is not None or not is_address(address):
        return recording
    try:
        return replace(recording, content=_content(address))
    except HyperASRError as error:
        return replace(recording, error=error)


def _row(result: Result) -> Row:
    if result.transcript is not None:
        return to_dict(result)
    return {"schema_version": SCHEMA_VERSION, "id": result.id, "error": str(result.error)}


def _line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _json(line: str, where: str) -> Row:
    with suppress(ValueError):
        row = json.loads(line)
        if isinstance(row, dict):
            return row
    raise ConfigError(f"{where} holds a line that is no JSON object; remove it")


@contextmanager
def _ray(address: str) -> Iterator[Any]:
    """Give Ray, connected, and leave nothing of one that was started for it.

    It says nothing, sends nothing and has no dashboard. Its folder is readable for this user alone
    and removed; that of a process that was killed goes when the next one starts.
    """
    environment, on_term = dict(os.environ), signal.getsignal(signal.SIGTERM)
    in_main = threading.current_thread() is threading.main_thread()
    # Before the import, which reads some of it.
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
    if address == HERE:
        # It listens to other machines as well, and obeys whoever knows this.
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": _token()}
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtra(
            'a cluster needs Ray; install it with: pip install "hyperasr[cluster]"'
        ) from error
    if ray.is_initialized():
        yield ray
        return
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    how: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    try:
        with _private_folder() as folder:
            if address == HERE:
                how |= {"include_dashboard": False, "_temp_dir": str(folder / "r")}
                how |= {"num_cpus": _cores(), "_node_ip_address": "127.0.0.1"}
            else:
                _check_answer(address)
            try:
                ray.init(address=address, **how)
            except Exception as error:  # some of Ray's are no more than that
                if address != HERE:
                    raise _no_answer(address) from error
                raise ConfigError(
                    f"Ray cannot be started here: {str(error).splitlines()[0]} Try again when the "
                    "machine is less busy, or go on without --cluster"
                ) from error
            if in_main:
                # Ended by SIGTERM it cleans up as after Ctrl-C. Ray has just set its own.
                signal.signal(signal.SIGTERM, signal.default_int_handler)
            try:
                yield ray
            finally:
                # Before their parents, by whom they are found, have gone.
                processes = _processes_in(folder)
                ray.shutdown()
                _end(processes)
    finally:
        if in_main:
            signal.signal(signal.SIGTERM, on_term)
        os.environ.clear()
        os.environ.update(environment)


def _processes_in(folder: Path) -> list[psutil.Process]:
    """Return the processes started by this one with a folder among their arguments, and theirs."""
    import psutil

    found: list[psutil.Process] = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if any(str(folder) in argument for argument in child.cmdline()):
                found += [child, *child.children(recursive=True)]
    return found


def _end(processes: Sequence[psutil.Process], grace_s: float = 5.0) -> None:
    """Wait until processes have ended; those that take longer than this are killed."""
    import psutil

    _, left = psutil.wait_procs(processes, timeout=grace_s)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=grace_s)


@cache
def _token() -> str:
    """Return the secret of every Ray that this process starts: Ray reads the first and no other."""
    return secrets.token_hex(32)


@contextmanager
def _private_folder() -> Iterator[Path]:
    """Give a temporary folder; those whose process is gone are removed."""
    import fcntl

    base = tempfile.gettempdir()
    base = base if len(base) + len("/hyperasr-ray-12345678/r") <= _LONGEST_FOLDER else "/tmp"
    for other in Path(base).glob("hyperasr-ray-*"):
        with suppress(OSError), open(other / "lock", "rb") as lock:
            # The system lets go of a lock when its process ends, however that was.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(other, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix="hyperasr-ray-", dir=base))
    # And at the end once more: processes of a start that failed write on until Ray ends them
    # there, and what was named first is called last.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    try:
        with open(folder / "lock", "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Ray opens its own folder to everybody, but not this one above it.
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_answer(address: str) -> None:
    """Ask whether anything is there: Ray itself would wait a minute, and end the process."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _no_answer(address) from error


def _no_answer(address: str) -> ConfigError:
    return ConfigError(
        f"no Ray answers at {address}; give the HOST:PORT that ray start printed, auto on a node "
        "of the cluster, or no address to use this machine"
    )
