"""No output replaces an input, and where nothing can be written the command says so in one line."""

from __future__ import annotations

import json
import os
import resource
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from hyperasr.cohorts.manifest import read_manifest
from hyperasr.transcription import enrolment
from tests.cli.calling import ROOT, Cli, Outcome, fails

Make = Callable[[Path, Path], list[str]]
STUTTERING = ["--cohort", "stuttering", "--severity", "0.5"]


def corpus(folder: Path, good: Path) -> Path:
    """Make a corpus of two utterances in LibriSpeech's layout."""
    chapter = folder / "84" / "1"
    chapter.mkdir(parents=True)
    for i in range(2):
        shutil.copy(good, chapter / f"84-1-000{i}.flac")
    (chapter / "84-1.trans.txt").write_text("84-1-0000 GO ON\n84-1-0001 STOP\n")
    return folder


def rows(path: Path, *names: str) -> Path:
    """Write a manifest of recordings beside it."""
    lines = [json.dumps({"id": n.split(".")[0], "path": n, "text": "go on"}) for n in names]
    path.write_text("\n".join(lines))
    return path


def manifest_into_its_folder(folder: Path, good: Path) -> list[str]:
    shutil.copy(good, folder / "a.wav")
    source = rows(folder / "manifest.jsonl", "a.wav")
    return ["simulate", str(source), *STUTTERING, "--out", f"{folder}/sub/.."]


def manifest_through_a_link(folder: Path, good: Path) -> list[str]:
    argv = manifest_into_its_folder(folder, good)
    (folder.parent / "link").symlink_to(folder)
    return [*argv[:-1], str(folder.parent / "link")]


def simulated_onto_a_hard_link(folder: Path, good: Path) -> list[str]:
    shutil.copy(good, folder / "a.wav")
    os.link(folder / "a.wav", folder / "a-stuttering-0.5-0.wav")
    return ["simulate", str(folder / "a.wav"), *STUTTERING, "--out", str(folder)]


def recording_called_txt(folder: Path, good: Path) -> list[str]:
    shutil.copy(good, folder / "snd.txt")
    return ["transcribe", str(folder / "snd.txt"), "--out", str(folder)]


def recording_called_json(folder: Path, good: Path) -> list[str]:
    shutil.copy(good, folder / "a.json")
    source = rows(folder / "t.jsonl", "a.json")
    return ["transcribe", str(source), "--format", "json", "--out", str(folder)]


def configuration_called_txt(folder: Path, good: Path) -> list[str]:
    (folder / "good.txt").write_text("beam_size: 1\n")
    return ["transcribe", str(good), "--config", str(folder / "good.txt"), "--out", str(folder)]


def onto_the_model(folder: Path, good: Path) -> list[str]:
    (folder / "config.json").write_text("{}")
    shutil.copy(good, folder.parent / "config.wav")
    given = ["--model", str(folder), "--format", "json", "--out", str(folder)]
    return ["transcribe", str(folder.parent / "config.wav"), *given]


def converted_onto_itself(folder: Path, good: Path) -> list[str]:
    shutil.copy(good, folder / "a.wav")
    (folder / "supervisions.jsonl").write_text("{}\n")  # marks a folder that may be replaced
    source = rows(folder / "t.jsonl", "a.wav")
    return ["convert", str(source), "--to", "lhotse", "--out", str(folder)]


def exported_onto_the_clips(folder: Path, good: Path) -> list[str]:
    shutil.copy(good, folder / "a.wav")
    (folder / "config.json").write_text("{}")
    return ["export", str(folder), "--to", "merged", "--out", str(folder)]


def enrolled_onto_the_clips(folder: Path, good: Path) -> list[str]:
    shutil.copy(good, folder / "a.wav")
    (folder / "config.json").write_text("{}")
    return ["enrol", str(folder), "--out", str(folder)]


def prepared_onto_a_recording(folder: Path, good: Path) -> list[str]:
    root = corpus(folder / "LibriSpeech", good)
    return ["prepare", "librispeech", str(root), "--out", str(root / "84" / "1" / "84-1-0000.flac")]


def prepared_onto_a_table(folder: Path, good: Path) -> list[str]:
    root = corpus(folder / "LibriSpeech", good)
    (folder / "out.jsonl").symlink_to(root / "84" / "1" / "84-1.trans.txt")
    return ["prepare", "librispeech", str(root), "--out", str(folder / "out.jsonl")]


@pytest.mark.parametrize(
    "make",
    [
        manifest_into_its_folder,
        manifest_through_a_link,
        simulated_onto_a_hard_link,
        recording_called_txt,
        recording_called_json,
        configuration_called_txt,
        onto_the_model,
        converted_onto_itself,
        exported_onto_the_clips,
        enrolled_onto_the_clips,
        prepared_onto_a_recording,
        prepared_onto_a_table,
    ],
)
def test_no_output_replaces_an_input(cli: Cli, tmp_path: Path, good: Path, make: Make) -> None:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    argv = make(folder, good)
    before = contents(tmp_path)
    fails(cli(*argv), "will not write")
    assert contents(tmp_path) == before


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_an_older_output_is_replaced(cli: Cli, tmp_path: Path, good: Path) -> None:
    (tmp_path / "good.txt").write_text("of yesterday")
    assert cli("transcribe", good, "--out", tmp_path).status == 0
    assert (tmp_path / "good.txt").read_text() == cli("transcribe", good, "--out", "-").out


def test_special_files_are_written_through(cli: Cli, tmp_path: Path, good: Path) -> None:
    root, pipe = corpus(tmp_path / "LibriSpeech", good), tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()), daemon=True)
    reader.start()
    assert cli("prepare", "librispeech", root, "--out", pipe).status == 0
    reader.join(60)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert [json.loads(line)["text"] for line in got[0].splitlines()] == ["go on", "stop"]
    fails(cli("prepare", "librispeech", root, "--out", "/dev/full"), "No space left on device")
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


@pytest.mark.parametrize("out", ["-", "/dev/stdout"])
def test_a_manifest_on_standard_output(tmp_path: Path, good: Path, out: str) -> None:
    root, said = corpus(tmp_path / "LibriSpeech", good), tmp_path / "said.jsonl"
    argv = [sys.executable, "-m", "hyperasr.cli", "prepare", "librispeech", str(root), "--out", out]
    inode = said.touch() or said.stat().st_ino
    with said.open("w") as file:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            argv, stdout=file, stderr=subprocess.PIPE, env=environment, text=True, timeout=280
        )
    assert done.returncode == 0, done.stderr
    assert said.stat().st_ino == inode, "the very file that was opened"
    assert [row.text for row in read_manifest(said)] == ["go on", "stop"]
    assert "2 utterances" in done.stderr


@pytest.fixture
def calls(tmp_path: Path, good: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """A call of each command that succeeds, and ends with its --out where it has one."""
    monkeypatch.setattr(enrolment, "STEPS", (1,))
    monkeypatch.setattr(enrolment, "_BEAMS", 1)
    root, source = corpus(tmp_path / "LibriSpeech", good), rows(tmp_path / "t.jsonl", "good.wav")
    out = str(tmp_path / "out")
    return {
        "transcribe": ["transcribe", str(good), "--out", out],
        "simulate": ["simulate", str(good), *STUTTERING, "--out", out],
        "corpus": ["simulate", str(source), *STUTTERING, "--out", out],
        "prepare": ["prepare", "librispeech", str(root), "--out", f"{out}/m.jsonl"],
        "dataset": ["convert", str(source), "--to", "dataset", "--out", out],
        "lhotse": ["convert", str(source), "--to", "lhotse", "--out", out],
        "export": ["export", str(good), "--to", "merged", "--out", out],
        "enrol": ["enrol", str(good), "--out", out],
        "corpora": ["corpora"],
        "inspect": ["inspect"],
        "doctor": ["doctor"],
    }


WRITING = ["transcribe", "simulate", "corpus", "prepare", "dataset", "lhotse", "export", "enrol"]


def refused(outcome: Outcome, *parts: str) -> None:
    """As `fails`, after what was said about the recording."""
    fails(
        outcome._replace(lines=[line for line in outcome.lines if ": warning: " not in line]),
        *parts,
    )


@pytest.mark.parametrize("command", WRITING)
def test_a_place_where_nothing_can_be_written(
    cli: Cli, calls: dict[str, list[str]], command: str
) -> None:
    argv = calls[command]
    where = "/proc/none" + argv[-1][argv[-1].rindex("/out") :]
    refused(cli(*argv[:-1], where), "cannot write /proc/none/out")


@pytest.mark.parametrize("command", WRITING)
def test_a_full_disk(cli: Cli, calls: dict[str, list[str]], tmp_path: Path, command: str) -> None:
    # A limit on the size of files fails where a full disk does: in the middle of writing.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 if command == "transcribe" else 16, hard))
    try:
        outcome = cli(*calls[command])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    refused(outcome, "cannot write", "File too large")
    assert not [p for p in (tmp_path / "out").rglob("*") if p.is_file()], "no half file is left"


@contextmanager
def standard_output(kind: str) -> Iterator[IO[str] | None]:
    if kind == "closed":
        yield None
        return
    reading, writing = os.pipe()
    if kind == "full":
        os.dup2(os.open("/dev/full", os.O_WRONLY), writing)
    os.close(reading)
    with open(writing, "w") as file:
        yield file


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        *(("full", name) for name in ("prepare", "lhotse", "corpora", "inspect", "doctor", "text")),
        *((kind, name) for kind in ("closed", "broken") for name in ("corpora", "text")),
    ],
)
def test_standard_output_that_takes_nothing(
    cli: Cli,
    calls: dict[str, list[str]],
    good: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    command: str,
) -> None:
    argv = ["transcribe", str(good)] if command == "text" else calls[command]
    with standard_output(kind) as file:
        monkeypatch.setattr(sys, "stdout", file)
        outcome = cli(*argv)
        monkeypatch.undo()
    if kind == "broken":
        assert (outcome.status, outcome.lines) == (141, [])
    else:
        fails(outcome, "No space left on device" if kind == "full" else "output is closed")


@pytest.mark.parametrize(
    ("redirected", "status", "said"),
    [
        (">&-", 2, "output is closed"),
        (">/dev/full", 2, "No space left"),
        (">/dev/null 2>&-", 0, ""),
    ],
)
def test_streams_that_the_shell_closed(redirected: str, status: int, said: str) -> None:
    call = ["sh", "-c", f'"$0" -m hyperasr.cli --version {redirected}', sys.executable]
    # Unbuffered, argparse itself takes note of what cannot be written, and says nothing.
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}
    done = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=280)
    assert (done.returncode, done.stdout) == (status, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == (status != 0)


def test_a_programs_out_replaces_nothing_that_it_reads(tmp_path: Path) -> None:
    from hyperasr.errors import ConfigError
    from train.config import MetaConfig
    from train.loop.program import read_config

    best, config = tmp_path / "run" / "best", tmp_path / "c.yaml"
    best.mkdir(parents=True)
    config.write_text(f"init_from: {best}\n")
    for out in ("run", "run/../run", "c.yaml", "."):
        argv: list[Any] = ["--config", str(config), "--out", f"{tmp_path}/{out}"]
        with pytest.raises(ConfigError, match="choose another out"):
            read_config(MetaConfig, argv if out != "." else [*argv, "--cache", str(tmp_path)])
    assert read_config(MetaConfig, ["--config", str(config), "--out", f"{tmp_path}/new"])
