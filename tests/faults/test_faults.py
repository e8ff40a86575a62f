"""A full disk, a disk that takes nothing, two runs in one folder, names that lead elsewhere."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from accelerate.state import AcceleratorState

import hyperasr.cohorts.cache as cache_module
from hyperasr.cohorts.cache import Cache, CacheConfig, build_cache
from hyperasr.cohorts.manifest import read_manifest
from hyperasr.cohorts.views import plan_views
from hyperasr.errors import ConfigError
from hyperasr.speaker.encoder import SpeakerConfig
from hyperasr.util.files import alone_in, atomic_folder, atomic_write_text
from tests.cli.calling import RATE, Cli, fails
from tests.cli.conftest import cli  # noqa: F401  (fixture)
from tests.in_this_process import InThisProcess
from tests.train.loop.test_loop import LONG, assert_equal, draw, train, weights
from train.config import LoopConfig
from train.loop.program import start


def manifest_of(folder: Path, voice: Callable[..., np.ndarray], *ids: str) -> Path:
    for i, _ in enumerate(ids):
        soundfile.write(folder / f"{i}.wav", voice(0.6 + 0.1 * i), RATE)
    rows = [{"id": name, "path": f"{i}.wav", "text": "go on"} for i, name in enumerate(ids)]
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


# Two runs in one folder


@pytest.mark.parametrize("command", ["transcribe", "simulate", "export", "cache", "train"])
def test_the_second_run_in_a_folder_is_refused(
    cli: Cli,  # noqa: F811
    tmp_path: Path,
    voice: Callable[..., np.ndarray],
    random_backbone_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    rows, out = manifest_of(tmp_path, voice, "a"), tmp_path / "out"
    calls = {
        "transcribe": ["transcribe", rows, "--out", out],
        "simulate": ["simulate", rows, "--cohort", "stuttering", "--out", out],
        "export": ["export", rows, "--to", "merged", "--max-word-difference", "null", "--out", out],
    }
    if command in calls:
        with atomic_folder(out) if command == "export" else alone_in(out):
            outcome = cli(*calls[command])
            lines = [line for line in outcome.lines if ": warning: " not in line]
            fails(outcome._replace(lines=lines), "another", f"{out}; wait for its end")
        assert not [path for path in out.rglob("*") if path.is_file()]
        assert cli(*calls[command]).status == 0
        return
    if command == "train":

        def run() -> object:
            AcceleratorState._reset_state(reset_partial_state=True)
            return start("second", out, LoopConfig(tracker="none"))

    else:
        monkeypatch.setattr(cache_module, "WorkerPool", InThisProcess)
        views, kept = plan_views(read_manifest(rows), seed=0), CacheConfig(SpeakerConfig())

        def run() -> object:
            return build_cache(tmp_path, views, random_backbone_folder, kept)

        monkeypatch.setattr(cache_module, "cache_folder", lambda *_: out)
    with (
        alone_in(out),
        pytest.raises(ConfigError, match=r"another run is writing into .*out; wait"),
    ):
        run()
    run()


def test_a_lock_ends_with_its_process_and_what_it_left_is_cleared_up(tmp_path: Path) -> None:
    folder, reading = tmp_path / "run", os.pipe()
    (folder / "best").mkdir(parents=True)
    (folder / "best" / "config.json").write_text("old")
    process = os.fork()
    if process == 0:
        rename = os.rename

        def rename_once(source: Any, target: Any) -> None:
            rename(source, target)
            os.write(reading[1], b"ready")
            signal.pause()  # between the two renames that swap the folders

        os.rename = rename_once
        with alone_in(folder), atomic_folder(folder / "best") as new:
            (new / "config.json").write_text("new")
        os._exit(0)
    os.read(reading[0], 5)
    (folder / ".file.0123456789ab.tmp").write_text("half")
    (folder / ".of somebody else.tmp").write_text("")
    with pytest.raises(ConfigError, match="another run"), alone_in(folder):
        pass
    with pytest.raises(ConfigError, match="another process"), atomic_folder(folder / "best"):
        pass
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    with alone_in(folder):
        pass
    assert (folder / "best" / "config.json").read_text() == "old"
    assert sorted(p.name for p in folder.iterdir()) == [".of somebody else.tmp", "best"]


def test_disks_without_locks_refuse_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", none)
    (tmp_path / ".a.0123456789ab.tmp").write_text("of somebody who may still write it")
    with alone_in(tmp_path), alone_in(tmp_path), atomic_folder(tmp_path / "a") as new:
        atomic_write_text(new / "b", "text")
    assert (tmp_path / "a" / "b").read_text() == "text"
    assert (tmp_path / ".a.0123456789ab.tmp").exists()


# Disks


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a disk in memory; skips where that is not allowed."""
    folder.mkdir(exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder])
    if mounted.returncode:
        pytest.skip("needs the right to mount a disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("kind", ["disk", "file size"])
def test_a_training_goes_on_after_a_full_disk(tmp_path: Path, kind: str) -> None:
    whole, *_ = train(tmp_path / "whole", LONG)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(folder: Path) -> None:
        if kind == "file size":
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
            return
        with (folder / "full").open("wb", 0) as file, suppress(OSError):
            while file.write(bytes(4096)):
                pass

    def until_full(folder: Path) -> None:
        def filling(number: int) -> Any:
            if number == 21:
                fill(folder)
            return draw(number)

        with pytest.raises(ConfigError, match=r"cannot write .*state-0\d+: .*; make room") as error:
            train(folder, LONG, draw=filling)
        assert "\n" not in str(error.value)

    def goes_on(folder: Path) -> None:
        try:
            until_full(folder)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            (folder / "full").unlink(missing_ok=True)
        (left,) = (path.name for path in folder.iterdir())
        assert left == "state-00000009"
        again, *_ = train(folder, LONG)
        assert_equal(weights(again), weights(whole))

    if kind == "disk":
        with small_disk(tmp_path / "run", "200k") as folder:
            goes_on(folder)
    else:
        goes_on(tmp_path / "run")


def test_a_whole_cache_serves_from_a_disk_that_takes_nothing(
    tmp_path: Path,
    voice: Callable[..., np.ndarray],
    random_backbone: Any,
    random_backbone_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    cli: Cli,  # noqa: F811
) -> None:
    monkeypatch.setattr(cache_module, "WorkerPool", InThisProcess)
    rows = manifest_of(tmp_path, voice, "a", "b")
    views, kept = plan_views(read_manifest(rows), seed=0), CacheConfig(SpeakerConfig())
    with small_disk(tmp_path / "disk", "20m") as disk:

        def build(count: int) -> Path:
            return build_cache(disk, views[:count], random_backbone_folder, kept)

        build(len(views))
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        assert len(Cache([build(len(views))], random_backbone)) == len(views)
        with pytest.raises(ConfigError, match=r"cannot write .*: Read-only file system"):
            build(1)
        fails(cli("transcribe", rows, "--out", disk / "out"), "Read-only file system")
        with pytest.raises(OSError, match="Read-only file system"):
            start("read-only", disk / "run", LoopConfig(tracker="none"))


# Names that lead elsewhere

ELSEWHERE = ("../../up", "..", "a/../../b", "..\\..\\c", "~/d", "\u2025/e")


@pytest.mark.parametrize(
    "command",
    [
        ["transcribe", "ROWS", "--format", "json"],
        ["simulate", "ROWS", "--cohort", "stuttering"],
        ["convert", "ROWS", "--to", "dataset"],
        ["convert", "ROWS", "--to", "lhotse"],
    ],
)
def test_ids_of_a_manifest_write_nothing_elsewhere(
    cli: Cli,  # noqa: F811
    tmp_path: Path,
    voice: Callable[..., np.ndarray],
    command: list[str],
) -> None:
    deep = tmp_path / "a" / "b" / "c"
    deep.mkdir(parents=True)
    ids = (*ELSEWHERE, str(tmp_path / "absolute"))
    rows = manifest_of(deep, voice, *ids)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    argv = [str(rows) if word == "ROWS" else word for word in command]
    assert cli(*argv, "--out", deep / "out").status == 0
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    new = {path for path in after if after[path] != before.get(path)}
    assert new
    assert all(deep / "out" in path.parents for path in new)
    if command[0] == "transcribe":
        assert len(new) == len(ids)
