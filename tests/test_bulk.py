"""Bulk transcription: shards that are whole or not there, split, interrupted, resumed, merged."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import soundfile

from hyperasr import command_bulk
from hyperasr.bulk import Outcome, Shards, model_digest
from hyperasr.cli import main
from hyperasr.errors import ConfigError
from hyperasr.metrics import EditCounts
from hyperasr.model import HyperASR
from hyperasr.recordings import find_recordings

ROOT = Path(__file__).parents[1]
RATE = 16_000
Voice = Callable[..., np.ndarray]


class World(NamedTuple):
    """A manifest of seven short recordings, and a model."""

    folder: Path
    manifest: Path
    model: Path

    def argv(self, out: Path, *more: Any) -> list[str]:
        argv = ["transcribe", self.manifest, "--model", self.model, "--offline", "--out", out]
        return [str(a) for a in (*argv, "--shards", "--shard-size", 2, *more)]

    def plain(self, capsys: pytest.CaptureFixture[str], *more: str) -> str:
        """Return what the same call writes without shards."""
        capsys.readouterr()
        argv = ["transcribe", str(self.manifest), "--model", str(self.model), "--offline", *more]
        main(argv)
        return capsys.readouterr().out


@pytest.fixture
def world(tmp_path: Path, voice: Voice, random_model_folder: Path) -> World:
    rows = []
    for number in range(7):
        soundfile.write(
            tmp_path / f"{number}.wav", voice(0.7 + 0.3 * number, 100 + 25 * number), RATE
        )
        row = {"id": f"r{6 - number}", "path": f"{number}.wav"}
        rows.append(row | ({"text": "turn on the light"} if number % 2 else {}))
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return World(tmp_path, manifest, random_model_folder)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the recordings that are transcribed."""
    seen: list[str] = []
    transcribe = command_bulk.transcribe

    def noting(model: Any, recordings: Sequence[Any], options: Any) -> Iterator[Any]:
        for result in transcribe(model, recordings, options):
            seen.append(result.id)
            yield result

    monkeypatch.setattr(command_bulk, "transcribe", noting)
    return seen


def test_merged_is_what_a_plain_call_writes(
    world: World, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert main(world.argv(out, "--format", "json")) == 0
    merged = (out / "transcripts.jsonl").read_text()
    assert len({json.loads(line)["text"] for line in merged.splitlines()}) >= 5
    assert merged == world.plain(capsys, "--format", "json")
    assert [json.loads(line)["id"] for line in merged.splitlines()][:2] == ["r6", "r5"]
    assert main(world.argv(out, "--format", "txt")) == 0
    *_, total = capsys.readouterr().out.splitlines()
    assert (out / "transcripts.txt").read_text() + total + "\n" == world.plain(capsys)
    assert total.endswith("(3 recordings with a reference)")
    assert not (out / "errors.jsonl").exists()
    assert not list(out.rglob(".*")), "no temporary file is left"


def test_one_table_and_one_file_each(world: World, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(world.argv(out, "--format", "csv")) == 0
    table = (out / "transcripts.csv").read_text().splitlines()
    assert sum(line.startswith("recording,segment") for line in table) == 1
    seen = list(dict.fromkeys(line.split(",")[0] for line in table[1:]))
    assert seen == [f"r{6 - i}" for i in range(7)]
    assert main(world.argv(out, "--format", "srt")) == 0
    assert {p.name for p in out.glob("*.srt")} == {f"r{i}.srt" for i in range(7)}


def test_an_interruption_costs_one_shard(
    world: World,
    made: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert main(world.argv(whole)) == 0
    made.clear()
    with monkeypatch.context() as patch:
        to_line = Outcome.to_line

        def breaking(outcome: Outcome) -> str:
            if outcome.id == "r3":
                raise KeyboardInterrupt
            return to_line(outcome)

        patch.setattr(Outcome, "to_line", breaking)
        assert main(world.argv(out)) == 130
    assert [p.name for p in (out / "shards").iterdir()] == ["000000.jsonl"]
    assert not (out / "transcripts.txt").exists()
    made.clear()
    capsys.readouterr()
    assert main(world.argv(out)) == 0
    assert made == ["r4", "r3", "r2", "r1", "r0"]
    assert "1 of 4 shards were done before" in capsys.readouterr().err
    assert (out / "transcripts.txt").read_bytes() == (whole / "transcripts.txt").read_bytes()


def test_only_what_changed_is_made_again(world: World, made: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(world.argv(out)) == 0
    made.clear()
    assert main(world.argv(out, "--batch-size", 3)) == 0
    assert made == [], "the text does not depend on the batch"
    os.utime(world.folder / "2.wav", ns=(1, 1))
    assert main(world.argv(out)) == 0
    assert made == ["r4", "r3"]
    made.clear()
    lines = world.manifest.read_text().splitlines()
    world.manifest.write_text("\n".join([*lines, '{"id": "new", "path": "0.wav"}']) + "\n")
    assert main(world.argv(out)) == 0
    assert made == ["r0", "new"]
    made.clear()
    world.manifest.write_text("\n".join(lines[:2]) + "\n")
    assert main(world.argv(out)) == 0
    assert made == []
    assert len(list((out / "shards").iterdir())) == 1
    assert len((out / "transcripts.txt").read_text().splitlines()) == 2
    assert main(world.argv(out, "--no-adapt")) == 0
    assert made == ["r6", "r5"]


def test_bad_recordings_are_reported_and_can_be_mended(
    world: World, made: list[str], tmp_path: Path, voice: Voice, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (world.folder / "3.wav").write_bytes(b"")
    assert main(world.argv(out)) == 1
    assert any("is empty (0 bytes)" in line for line in capsys.readouterr().err.splitlines())
    (error,) = map(json.loads, (out / "errors.jsonl").read_text().splitlines())
    assert error["id"] == "r3"
    assert "is empty" in error["error"]
    ids = [row.split("\t")[0] for row in (out / "transcripts.txt").read_text().splitlines()]
    assert ids == ["r6", "r5", "r4", "r2", "r1", "r0"]
    made.clear()
    soundfile.write(world.folder / "3.wav", voice(1.6, 175), RATE)
    assert main(world.argv(out)) == 0
    assert made == ["r4", "r3"]
    assert not (out / "errors.jsonl").exists()
    for number in range(7):
        (world.folder / f"{number}.wav").unlink()
    capsys.readouterr()
    assert main(world.argv(out)) == 2
    assert "none of 7 recordings" in capsys.readouterr().err


def test_mistakes_in_a_call(
    world: World,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def says(argv: list[str], part: str) -> None:
        capsys.readouterr()
        assert main(argv) == 2
        assert part in capsys.readouterr().err

    out = tmp_path / "out"
    says([a for a in world.argv(out) if a not in ("--out", str(out))], "give --out FOLDER")
    says(world.argv(world.manifest), "is a file; give a folder")
    says(world.argv(out, "--shard-size", 0), "give at least 1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    argv = [a for a in world.argv(out) if a not in ("--shards", "--shard-size", "2")]
    says(argv, "2 processes would each do the same work; add --shards")


@pytest.fixture
def shards(world: World, tmp_path: Path) -> Shards:
    return Shards(tmp_path / "out", find_recordings([world.manifest]), 3, "model and options")


def outcomes() -> list[Outcome]:
    counts = (EditCounts(3, 1, 0, 2),)
    return [Outcome("a", "one\u2028\n", counts=counts), Outcome("b", error="bad"), Outcome("c", "")]


def test_a_shard_is_read_as_it_was_written(shards: Shards) -> None:
    assert len(shards) == 3
    assert [len(shards.part(i)) for i in range(3)] == [3, 3, 1]
    assert not shards.is_whole(0)
    shards.write(0, iter(outcomes()))
    assert shards.is_whole(0)
    assert list(shards.read(0)) == outcomes()
    with pytest.raises(ConfigError, match="run the same command again"):
        next(shards.read(1))


@pytest.mark.parametrize("damage", ["cut", "byte", "row", "foot", "empty", "other place"])
def test_a_damaged_shard_is_not_believed(shards: Shards, damage: str) -> None:
    shards.write(0, iter(outcomes()))
    path, index = shards.path(0), 0
    data = path.read_bytes()
    lines = data.splitlines(keepends=True)
    if damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "byte":
        path.write_bytes(data.replace(b"one", b"two"))
    elif damage == "row":
        path.write_bytes(b"".join([*lines[:2], *lines[3:]]))
    elif damage == "foot":
        path.write_bytes(b"".join(lines[:-1]))
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        path.rename(shards.path(1))
        index = 1
    assert not shards.is_whole(index)


def test_another_identity_is_another_shard(shards: Shards, world: World, tmp_path: Path) -> None:
    shards.write(0, iter(outcomes()))
    again = Shards(tmp_path / "out", find_recordings([world.manifest]), 3, "model and options")
    other = Shards(tmp_path / "out", find_recordings([world.manifest]), 3, "another model")
    assert again.is_whole(0)
    assert not other.is_whole(0)


def test_a_model_is_known_by_its_weights(random_model_folder: Path) -> None:
    model = HyperASR.from_pretrained(random_model_folder, offline=True)
    known = model_digest(model)
    assert model_digest(HyperASR.from_pretrained(random_model_folder, offline=True)) == known
    next(model.source.heads.parameters()).data[0, 0] += 1e-3
    assert model_digest(model) != known


def launch(world: World, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, "--standalone", "-m", "hyperasr", *world.argv(out, "--shard-size", "1")],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def kill(process: subprocess.Popen[str]) -> None:
    """End the launcher and its processes, whatever they do."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_killed_and_started_again(world: World, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(world.argv(one)) == 0
    (world.folder / "6.wav").write_bytes(b"")
    first = launch(world, two)
    try:
        while not list(two.glob("shards/0*.jsonl")):
            assert first.poll() is None, first.communicate()[1]
            time.sleep(0.02)
    finally:
        kill(first)
    known = {p: p.stat().st_mtime_ns for p in two.glob("shards/0*.jsonl")}
    second = launch(world, two)
    try:
        _, err = second.communicate(timeout=240)
    finally:
        if second.poll() is None:
            kill(second)
    assert second.returncode == 1, err
    assert "6.wav" in (two / "errors.jsonl").read_text()
    lines = (one / "transcripts.txt").read_text().splitlines()
    assert (two / "transcripts.txt").read_text().splitlines() == lines[:-1]
    assert len(list(two.glob("shards/0*.jsonl"))) == 7
    kept = {p for p, t in known.items() if p.stat().st_mtime_ns == t}
    assert kept == set(known), "what was whole is not made again"
