"""One JSONL file of many recordings: the same by one process and by Ray, whatever is killed."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet
import pytest
import soundfile
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from hyperasr.errors import ConfigError, HyperASRError
from hyperasr.hub import HyperASR
from hyperasr.transcription import cluster
from hyperasr.transcription.cluster import TranscriptFolder
from hyperasr.transcription.options import TranscribeOptions
from tests.cli.calling import RATE, ROOT, Cli, Voice, fails

N_CLIPS = 24
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray")


def written_clips(folder: Path, voice: Voice, n: int) -> Path:
    """Write clips and their manifest, whose fourth row names a file that is not there."""
    rows = []
    for i in range(n):
        soundfile.write(folder / f"{i}.wav", voice(0.4 + 0.1 * (i % 5), 90.0 + 9 * i), RATE)
        rows.append({"id": f"clip-{i}", "path": f"{i}.wav", "text": "turn on the light"})
    rows.insert(3, {"id": "gone", "path": "gone.wav"})
    manifest = folder / "m.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


@pytest.fixture
def clips(tmp_path: Path, voice: Voice) -> Path:
    return written_clips(tmp_path, voice, 6)


def in_one(clips: Path, out: Path, *more: Any) -> list[Any]:
    return ["transcribe", clips, "--format", "jsonl", "--batch-size", "1", "--out", out, *more]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids that were handed on to be transcribed."""
    seen: list[str] = []
    real = cluster.transcribe

    def noting(model: Any, recordings: list[Any], *more: Any) -> Any:
        seen.extend(recording.id for recording in recordings)
        return real(model, recordings, *more)

    monkeypatch.setattr(cluster, "transcribe", noting)
    return seen


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_the_file_holds_a_row_each_in_the_order_of_the_manifest(
    cli: Cli, clips: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    outcome = cli(*in_one(clips, out))
    assert (outcome.status, outcome.out) == (1, "")
    assert any("gone.wav; check the name" in line for line in outcome.lines)
    assert any("(6 recordings with a reference)" in line for line in outcome.lines)
    lines = (out / "transcripts.jsonl").read_text().splitlines()
    printed = cli("transcribe", clips, "--format", "json").out.splitlines()
    assert [*lines[:3], *lines[4:]] == printed
    gone = json.loads(lines[3])
    assert gone["id"] == "gone"
    assert gone["error"].endswith("gone.wav; check the name")
    assert names(out) == {"transcripts.jsonl", "settings.json"}


def without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_none(v) for name, v in value.items() if v is not None}
    return [without_none(v) for v in value] if isinstance(value, list) else value


def test_parquet_has_the_rows_of_the_jsonl(
    cli: Cli, clips: Path, tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_ROW_GROUP", 2)
    out, more = tmp_path / "out", ("--mode", "both", "--compare")
    cli(*in_one(clips, out, *more))
    asked.clear()
    outcome = cli(*in_one(clips, out, *more, "--format", "parquet"))
    assert outcome.status == 1
    assert asked == ["gone"], "what is there is not transcribed again"
    assert names(out) == {"transcripts.jsonl", "transcripts.parquet", "settings.json"}
    rows = [json.loads(line) for line in (out / "transcripts.jsonl").open()]
    assert any("base" in row for row in rows)
    read = pyarrow.parquet.read_table(out / "transcripts.parquet")
    assert [without_none(row) for row in read.to_pylist()] == rows
    soundfile.write(tmp_path / "gone.wav", np.ones(RATE, np.float32) * 0.1, RATE)
    assert cli(*in_one(clips, out, *more)).status == 0
    read = pyarrow.parquet.read_table(out / "transcripts.parquet")
    assert not any(read["error"].to_pylist()), "a table that is there stays up to date"
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "transcripts.parquet").write_text("mine")
    fails(cli(*in_one(clips, theirs)), "will not replace", "transcripts.parquet")


def test_an_interrupted_run_goes_on_and_ends_in_the_same_file(
    cli: Cli, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    cli(*in_one(clips, whole))
    add = TranscriptFolder.add

    def interrupted(self: TranscriptFolder, rows: Any) -> None:
        add(self, rows)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TranscriptFolder, "add", interrupted)
        assert cli(*in_one(clips, out)).status == 130
    assert "transcripts.jsonl" not in names(out)
    asked.clear()
    outcome = cli(*in_one(clips, out, "--batch-size", "3"))
    assert asked == ["gone", "clip-3", "clip-4", "clip-5"]  # what failed is tried again
    assert "hyperasr: note: 3 of 7 were transcribed before" in outcome.lines
    read = (out / "transcripts.jsonl").read_bytes()
    assert read == (whole / "transcripts.jsonl").read_bytes()


def test_a_run_killed_before_the_merge_is_merged_by_the_next(
    cli: Cli, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    clips.write_text("".join(row for row in clips.open() if "gone" not in row))
    out = tmp_path / "out"

    def killed(self: TranscriptFolder, ids: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TranscriptFolder, "merge", killed)
        assert cli(*in_one(clips, out)).status == 130
    asked.clear()
    assert cli(*in_one(clips, out)).status == 0
    assert asked == []
    assert names(out) == {"transcripts.jsonl", "settings.json"}
    merged = (out / "transcripts.jsonl").stat()
    assert cli(*in_one(clips, out)).status == 0
    assert (out / "transcripts.jsonl").stat().st_ino == merged.st_ino, "it is not written again"


def test_texts_of_a_plain_whisper_are_called_unadapted(
    cli: Cli, model: HyperASR, clips: Path, tmp_path: Path
) -> None:
    plain = in_one(clips, tmp_path / "out", "--model", model.backbone_name)
    clips.write_text(clips.read_text().splitlines()[0])
    for _ in range(2):  # the second run transcribes nothing
        outcome = cli(*plain)
        assert any(line.startswith("WER unadapted ") for line in outcome.lines), outcome.lines


def test_what_failed_is_tried_again_and_nothing_else(
    cli: Cli, clips: Path, tmp_path: Path, asked: list[str]
) -> None:
    out = tmp_path / "out"
    cli(*in_one(clips, out))
    before = (out / "transcripts.jsonl").read_text().splitlines()
    soundfile.write(tmp_path / "gone.wav", soundfile.read(tmp_path / "0.wav")[0], RATE)
    asked.clear()
    assert cli(*in_one(clips, out)).status == 0
    assert asked == ["gone"]
    after = (out / "transcripts.jsonl").read_text().splitlines()
    assert [*after[:3], *after[4:]] == [*before[:3], *before[4:]]
    assert json.loads(after[3])["text"] == json.loads(after[0])["text"]
    asked.clear()
    assert cli(*in_one(clips, out)).status == 0
    assert asked == []


def test_rows_of_other_settings_and_of_others_are_not_mixed(
    cli: Cli, clips: Path, tmp_path: Path
) -> None:
    out, foreign = tmp_path / "out", tmp_path / "foreign"
    cli(*in_one(clips, out))
    said = "was begun with beam_size 1, not 2; give the same, or another --out"
    fails(cli(*in_one(clips, out, "--beam-size", "2")), said)
    foreign.mkdir()
    (foreign / "transcripts.jsonl").write_text("mine\n")
    fails(cli(*in_one(clips, foreign)), "this program did not write it")
    assert (foreign / "transcripts.jsonl").read_text() == "mine\n"
    (out / "transcripts.jsonl").write_text("{cut")
    fails(cli(*in_one(clips, out)), "transcripts.jsonl holds a line that is no JSON")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (
            ["a.wav", "--out", "o", "--cluster", "--format", "srt"],
            "--cluster writes jsonl or parquet, not srt",
        ),
        (["a.wav", "--cluster"], "give --out FOLDER"),
        (["a.wav", "--format", "jsonl", "--out", "-"], "give --out FOLDER"),
        (["s3://b/m.jsonl", "--format", "jsonl", "--out", "o"], "only --cluster reads and writes"),
        (["a.wav", "--out", "gs://b/o"], "gs://b/o is an address; only --cluster"),
        (["http://h/m.jsonl", "--out", "o", "--cluster"], "is an address, and nothing is fetched"),
        (["nowhere://b/m.jsonl", "--out", "o", "--cluster"], "cannot be used as object storage"),
        (["--cluster", "a.wav", "--out", "o"], "it needs SOURCES"),
    ],
)
def test_options_that_do_not_go_together(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    fails(cli("transcribe", *argv), said)
    assert names(tmp_path) == set()


def test_mistakes_in_what_is_read_and_written(cli: Cli, clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    row = clips.read_text().splitlines()[0] + "\n"
    (tmp_path / "twice.jsonl").write_text(row * 2)
    fails(cli(*in_one(tmp_path / "twice.jsonl", out)), "line 2: id 'clip-0' was already used")
    both = ["transcribe", clips, clips, "--format", "jsonl", "--out", out]
    fails(cli(*both), "the id clip-0 comes twice")
    fails(cli(*in_one(clips, clips)), "is a file; give a folder")
    fails(cli(*in_one(clips, Path("/proc/none/out"))), "cannot write /proc/none/out")
    fails(cli(*in_one(clips, out, "--cluster", "--device", "cuda:1")), "give cpu or cuda")
    out.mkdir(exist_ok=True)
    own = out / "transcripts.jsonl"
    own.write_text(json.dumps({"id": "a", "path": "../0.wav"}) + "\n")
    fails(cli(*in_one(own, out)), "will not write", "it is an input")


def test_without_the_extra_one_line_names_it(
    cli: Cli, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    fails(
        cli(*in_one(clips, tmp_path / "out", "--cluster")),
        'a cluster needs Ray; install it with: pip install "hyperasr[cluster]"',
    )


@needs_ray
@pytest.mark.parametrize("address", ["127.0.0.1:1", "localhost", "a:b", "127.0.0.1:99999"])
def test_an_address_where_no_ray_answers(
    cli: Cli, clips: Path, tmp_path: Path, address: str
) -> None:
    cli("inspect", "nowhere")  # the first command in a process sets variables of its own
    before = dict(os.environ)
    outcome = cli(*in_one(clips, tmp_path / "out", "--cluster", address))
    fails(outcome, f"no Ray answers at {address}; give the HOST:PORT that ray start printed")
    assert dict(os.environ) == before


@pytest.mark.parametrize("long_s", [600.0, 0.55])
def test_what_ray_calls_gives_the_rows_of_one_process(
    clips: Path, model: HyperASR, monkeypatch: pytest.MonkeyPatch, long_s: float
) -> None:
    # Under 0.55 s only some are read beforehand; the others are left to who decodes.
    monkeypatch.setattr(cluster, "_LONG_S", long_s)
    recordings, options = cluster.recordings_of([str(clips)]), TranscribeOptions(word_times=True)
    expected = [row for rows in cluster.in_this_process(model, recordings, options) for row in rows]
    packed = pa.table({"recording": [pickle.dumps(one) for one in recordings]})
    read = list(cluster._read(packed))
    left = [pickle.loads(one["read"][0].as_py())[0].waveform is None for one in read]
    assert sum(left) - 1 == (3 if long_s < 600 else 0)  # one file is not there
    worker = cluster._Worker(lambda device: model, "cuda", options)  # which leaves threads alone
    rows = worker(pa.concat_tables(read))["row"].to_pylist()
    found = {row["id"]: row for row in map(json.loads, rows)}
    assert len(rows) == len(recordings)
    assert found == {row["id"]: row for row in expected}


def test_object_storage_is_read_and_written(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = cluster.storage
    bucket = SubTreeFileSystem(str(tmp_path), LocalFileSystem())

    def storage(name: str) -> tuple[Any, str]:
        return (bucket, name.removeprefix("s3://b/")) if name.startswith("s3://") else real(name)

    monkeypatch.setattr(cluster, "storage", storage)
    recordings = cluster.recordings_of(["s3://b/m.jsonl"])
    assert [r.path for r in recordings[:2]] == ["s3://b/0.wav", "s3://b/1.wav"]
    stored, _ = cluster._with_samples(recordings[0])
    here, _ = cluster._with_samples(cluster.recordings_of([str(clips)])[0])
    assert stored.waveform is not None
    assert here.waveform is not None
    assert len(stored.waveform) > 0
    assert np.array_equal(stored.waveform, here.waveform)
    assert stored.content is None, "sound does not travel twice"
    gone, _ = cluster._with_samples(recordings[3])
    assert "s3://b/gone.wav cannot be read" in str(gone.error)
    folder = TranscriptFolder("s3://b/out", {"beam_size": 1})
    folder.add([{"id": "b", "text": "two"}, {"id": "a", "error": "lost"}])
    folder.add([{"id": "a", "text": "one"}])
    with pytest.raises(HyperASRError, match="1 of 3 recordings have no row; call again"):
        folder.merge(["a", "b", "c"])
    folder.merge(["a", "b"])
    lines = (tmp_path / "out" / "transcripts.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["one", "two"]
    assert TranscriptFolder("s3://b/out", {"beam_size": 1}).done() == {"a", "b"}
    with pytest.raises(ConfigError, match="begun with beam_size 1, not 5"):
        TranscriptFolder("s3://b/out", {"beam_size": 5})


def test_a_private_folder_is_removed_also_after_a_kill(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(short_folder))
    code = (
        "import signal, tempfile; from hyperasr.transcription import cluster\n"
        "with cluster._private_folder() as folder: print(folder, flush=True); signal.pause()"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(short_folder)}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        left = Path(other.stdout.readline().strip())
        with cluster._private_folder() as mine:
            assert mine.stat().st_mode & 0o777 == 0o700
            assert left.is_dir(), "of a process that lives"
        assert not mine.exists()
        other.kill()
    assert left.is_dir()
    with cluster._private_folder() as mine:
        assert list(short_folder.iterdir()) == [mine]


def test_what_outlives_ray_is_ended_and_nothing_else(tmp_path: Path) -> None:
    # A shell whose child, as a worker of Ray, does not know the folder; both ignore SIGTERM.
    shell = ["sh", "-c", "trap '' TERM; sleep 100 & echo; wait", str(tmp_path)]
    with (
        subprocess.Popen(shell, stdout=subprocess.PIPE) as of_ray,
        subprocess.Popen(["sleep", "100"]) as other,
    ):
        assert of_ray.stdout is not None
        of_ray.stdout.readline()
        processes = cluster._processes_in(tmp_path)
        assert [process.name() for process in processes] == ["sh", "sleep"]
        cluster._end(processes, grace_s=0.1)
        assert not [process for process in processes if is_running(process)]
        assert other.poll() is None
        other.kill()


# Ray, killed twice: first the driver, in the run that goes on a worker.


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A temporary folder whose name leaves room for Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="hx", dir="/tmp") as folder:
        yield Path(folder)


@dataclass
class Seen:
    """What a run in one process that was killed, and one on Ray after it, let be seen."""

    manifest: Path
    out: Path
    kept: set[str] = field(default_factory=set)  # ids after the first run was killed
    processes: list[psutil.Process] = field(default_factory=list)  # of Ray
    killed: int = 0
    modes: set[int] = field(default_factory=set)
    logs: dict[Path, bytes] = field(default_factory=dict)
    status: int | None = None
    said: str = ""
    temporary: list[Path] = field(default_factory=list)  # at the end


def ids_in(out: Path) -> set[str]:
    lines = [line for path in out.rglob("*.jsonl") for line in path.read_text().splitlines()]
    return {row["id"] for row in map(json.loads, lines) if "error" not in row}


def look_into(folder: Path, seen: Seen) -> None:
    """Keep what stands in Ray's files, which go as they came."""
    for path in folder.rglob("*"):
        try:
            if path.is_file() and not path.is_symlink():
                seen.logs[path] = path.read_bytes()
        except OSError:
            continue


def until(condition: Callable[[], Any], run: subprocess.Popen[str]) -> None:
    """Wait for it; fails where the run ends before."""
    while not condition():
        assert run.poll() is None, run.communicate()
        time.sleep(0.02)


def family(run: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(run.pid).children(recursive=True)


def is_running(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@pytest.fixture(scope="module")
def seen(
    tmp_path_factory: pytest.TempPathFactory, random_model_folder: Path, voice: Voice
) -> Iterator[Seen]:
    folder = tmp_path_factory.mktemp("clips")
    found = Seen(written_clips(folder, voice, N_CLIPS), folder / "out")
    short = Path(tempfile.mkdtemp(prefix="hx", dir="/tmp"))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(short)}
    argv = [sys.executable, "-m", "hyperasr.cli", "transcribe", found.manifest, "--out", found.out]
    argv += ["--model", random_model_folder, "--batch-size", "1", "--offline"]

    def started(*more: str) -> subprocess.Popen[str]:
        command = [*map(str, argv), *more]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(command, env=environment, text=True, cwd=folder, **pipes)

    runs = []
    try:
        runs.append(run := started("--format", "jsonl"))
        until(lambda: ids_in(found.out), run)
        run.kill()
        run.wait()
        found.kept = ids_in(found.out)

        runs.append(run := started("--cluster"))  # Ray takes most of a minute to start
        until(lambda: len(ids_in(found.out)) > len(found.kept), run)
        found.processes = family(run)
        workers = [p for p in found.processes if p.name().startswith("ray::MapWorker")]
        workers[0].kill()
        found.killed = len(workers)
        while run.poll() is None:
            for private in short.glob("hyperasr-ray-*"):
                found.modes.add(private.stat().st_mode & 0o777)
                look_into(private, found)
            time.sleep(1.0)
        found.status, found.said = run.returncode, run.communicate()[0]
        found.temporary = list(short.iterdir())
        yield found
    finally:
        for run in runs:
            if run.poll() is None:
                children = family(run)
                run.kill()
                for process in children:
                    if process.is_running():
                        process.kill()
        subprocess.run(["rm", "-rf", str(short)], check=True)


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(500)  # on a busy machine Ray takes minutes to start
def test_ray_writes_what_one_process_writes_whatever_was_killed(
    seen: Seen, cli: Cli, tmp_path: Path, random_model_folder: Path
) -> None:
    assert seen.killed >= 1
    assert seen.status == 1, seen.said  # one file is not there
    alone = tmp_path / "alone"
    cli(*in_one(seen.manifest, alone, "--model", random_model_folder))
    assert names(seen.out) == names(alone) == {"transcripts.jsonl", "settings.json"}
    for name in ("transcripts.jsonl", "settings.json"):
        assert (seen.out / name).read_bytes() == (alone / name).read_bytes()
    assert len(ids_in(alone)) == N_CLIPS


@needs_ray
@pytest.mark.slow
def test_nothing_is_done_twice_and_nothing_of_ray_is_left(seen: Seen) -> None:
    assert 0 < len(seen.kept) < N_CLIPS
    assert f"note: {len(seen.kept)} of {N_CLIPS + 1} were transcribed before" in seen.said
    assert len(seen.processes) > 3
    assert not [process for process in seen.processes if is_running(process)]
    assert seen.temporary == []


@needs_ray
@pytest.mark.slow
def test_rays_files_hold_no_text_path_or_name_and_nobody_else_reads_them(seen: Seen) -> None:
    assert seen.modes == {0o700}
    assert any(path.name.startswith("raylet") for path in seen.logs)
    assert not [path for path in seen.logs if "usage_stats" in path.name]
    rows = [json.loads(line) for line in (seen.out / "transcripts.jsonl").open()]
    texts = [row["text"] for row in rows if len(row.get("text", "")) > 3]
    assert len(texts) > N_CLIPS // 2
    secrets = [str(seen.manifest.parent), "clip-1", "gone.wav", "turn on the light", *texts]
    lines = seen.said.splitlines()
    # A few lines of Ray's C++ come through whatever it is told.
    rays = [line for line in lines if not line.startswith(("hyperasr: ", "WER "))]
    assert len(rays) < 20, rays
    seen.logs[Path("stderr")] = "\n".join(rays).encode()
    for path, content in seen.logs.items():
        found = [secret for secret in secrets if secret.encode() in content]
        assert not found, (path.name, found)


@needs_ray
@pytest.mark.slow
def test_ray_starts_again_in_a_process_that_has_had_one(short_folder: Path) -> None:
    # Ray keeps the first token that it reads, and turned a second one away.
    code = (
        "from hyperasr.transcription.cluster import HERE, _ray\n"
        "for _ in range(2):\n"
        "    with _ray(HERE) as ray: print(ray.is_initialized())"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(short_folder)}
    said = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert said.stdout.split() == ["True", "True"], said.stderr[-500:]
