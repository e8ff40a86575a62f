"""The command line: every kind of bad input in one clear line, exit statuses, clean output."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from hyperasr.cli import commands
from hyperasr.cli.parser import _COMMANDS, build_parser
from hyperasr.cohorts import corpora
from hyperasr.cohorts.manifest import read_manifest, write_manifest
from hyperasr.cohorts.simulate import COHORTS
from hyperasr.hub import HyperASR
from hyperasr.transcription import recogniser as recognise
from hyperasr.types import Utterance
from hyperasr.util.closest import closest
from tests.cli.calling import RATE, ROOT, Cli, Voice, fails


def bad_file(kind: str, folder: Path) -> Path:
    path = folder / f"{kind}.wav"
    sound = 0.1 * np.sin(np.arange(RATE) / 5)
    if kind == "text":
        path.write_text("this is a letter, not a recording\n" * 20)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "header":
        soundfile.write(path, sound, RATE)
        path.write_bytes(path.read_bytes()[:20])
    elif kind == "no_samples":
        soundfile.write(path, sound[:0], RATE)
    elif kind in ("nan", "inf"):
        sound[700] = float(kind)
        soundfile.write(path, sound, RATE, subtype="FLOAT")
    return path


BAD = {
    "missing": "there is no file",
    "text": "is text, whatever its name says",
    "empty": "is empty (0 bytes)",
    "header": "header is damaged or cut short",
    "no_samples": "holds no samples",
    "nan": "NaN, infinite",
    "inf": "NaN, infinite",
}


@pytest.mark.parametrize("kind", ["missing", "text"])
def test_a_bad_recording_alone(cli: Cli, tmp_path: Path, kind: str) -> None:
    path = bad_file(kind, tmp_path)
    fails(cli("transcribe", path), str(path), BAD[kind])


def test_bad_recordings_in_a_folder_do_not_stop_the_rest(
    cli: Cli, tmp_path: Path, good: Path
) -> None:
    kinds = [kind for kind in BAD if kind != "missing"]
    for kind in kinds:
        bad_file(kind, tmp_path)
    status, out, lines = cli("transcribe", tmp_path)
    assert status == 1
    assert [row.split("\t")[0] for row in out.splitlines()] == [str(good)]
    errors = [line for line in lines if line.startswith("hyperasr: error: ")]
    assert len(errors) == len(kinds)
    for kind in kinds:
        (line,) = (line for line in errors if f"{kind}.wav" in line)
        assert BAD[kind] in line


def test_nothing_could_be_transcribed(cli: Cli, tmp_path: Path) -> None:
    status, out, lines = cli("transcribe", tmp_path / "a.wav", tmp_path / "b.wav")
    assert (status, out, len(lines)) == (2, "", 3)
    assert "none of 2 recordings" in lines[-1]


def test_silence_is_an_empty_transcript(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "silence.wav"
    soundfile.write(path, np.zeros(2 * RATE), RATE)
    status, out, lines = cli("transcribe", path)
    assert (status, out) == (0, "\n")
    assert lines == [f"hyperasr: warning: {path}: nobody speaks in it: empty transcript"]


@pytest.mark.parametrize(
    ("name", "samples", "rate", "warning"),
    [
        ("ten_ms", lambda v: v(1.0)[:160], RATE, "too short for speech"),
        ("clipped", lambda v: np.clip(9 * v(1.5), -1, 1), RATE, "is clipped"),
        ("narrow", lambda v: v(1.5)[::4], 4_000, "recorded at 4,000 Hz"),
        ("eight", lambda v: np.repeat(v(1.5)[:, None], 8, axis=1), RATE, None),
        ("Größe und Maß 日本 [1]", lambda v: v(1.5), RATE, None),
    ],
)
def test_odd_but_usable(
    cli: Cli, tmp_path: Path, voice: Voice, name: str, samples: Any, rate: int, warning: str | None
) -> None:
    path = tmp_path / f"{name}.wav"
    soundfile.write(path, samples(voice), rate)
    out_folder = tmp_path / "out"
    status, out, lines = cli("transcribe", path, "--out", out_folder)
    assert (status, out) == (0, "")
    assert (out_folder / f"{name}.txt").is_file()
    lines = [line for line in lines if "it is unclear" not in line]
    assert len(lines) == (warning is not None)
    assert warning is None or warning in lines[0]


@pytest.mark.parametrize(("suffix", "said"), [("flac", "is damaged after"), ("wav", "breaks off")])
def test_a_file_that_breaks_off(
    cli: Cli, tmp_path: Path, voice: Voice, suffix: str, said: str
) -> None:
    path = tmp_path / f"torn.{suffix}"
    soundfile.write(path, voice(3.0), RATE)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    status, out, lines = cli("transcribe", path)
    assert status == 0
    assert out.strip()
    assert sum(said in line and str(path) in line for line in lines) == 1


def test_a_checkpoint_for_another_backbone(
    cli: Cli, good: Path, tmp_path: Path, random_model_folder: Path
) -> None:
    head = json.loads((random_model_folder / "config.json").read_text())
    head["backbone"] = str((random_model_folder / head["backbone"]).resolve())
    head["backbone_fingerprint"] = "0123456789abcdef"
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps(head))
    (other / "model.safetensors").write_bytes(
        (random_model_folder / "model.safetensors").read_bytes()
    )
    fails(cli("transcribe", good, "--model", other), "0123456789abcdef", "belongs to the backbone")


def test_an_unknown_key_in_a_model(
    cli: Cli, good: Path, tmp_path: Path, random_model_folder: Path
) -> None:
    head = json.loads((random_model_folder / "config.json").read_text())
    head["backbone"] = str((random_model_folder / head["backbone"]).resolve())
    head["speaker"]["layer"] = [1]
    (tmp_path / "config.json").write_text(json.dumps(head))
    fails(cli("transcribe", good, "--model", tmp_path), "unknown key 'layer'", "'layers'")


def test_mistakes_in_files(cli: Cli, good: Path, tmp_path: Path) -> None:
    config, manifest, folder = (tmp_path / name for name in ("c.yaml", "m.jsonl", "empty"))
    config.write_text("format: json\nadapt: false\n")
    assert json.loads(cli("transcribe", good, "--config", config).out)["id"] == str(good)
    config.write_text("bath_size: 3\n")
    fails(cli("transcribe", good, "--config", config), "'bath_size'; did you mean 'batch_size'?")
    manifest.write_text('{"id": "a", "pth": "a.wav"}\n')
    fails(cli("transcribe", manifest), "line 1", "pth")
    folder.mkdir()
    fails(cli("transcribe", folder), "no recording in")
    fails(cli("transcribe", good, "--model", tmp_path / "none"), "no model folder at")


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["transcribe", "a.wav", "--fromat", "json"], "--fromat; did you mean --format?"),
        (["transcribe", "a.wav", "--no-adpat"], "--no-adpat; did you mean --no-adapt?"),
        (["transcribe", "a.wav", "--form", "json"], "--form; did you mean --format?"),
        (["transcribe", "a.wav", "--modle", "x"], "--modle; did you mean --model?"),
        (["transcribe"], "transcribe: it needs SOURCES"),
        (
            ["transcribe", "a.wav", "--format", "doc"],
            "it must be one of 'txt', 'json'",
        ),
        (
            ["transcribe", "a.wav", "--batch-size", "many"],
            "batch_size is 'many'; it must be",
        ),
        (["transcribe", "a.wav", "--config"], "--config: expected one argument"),
        (["transcribe", "a.wav", "--max-segment-s", "x"], "must be a number or null"),
        (["transcribe", "a.wav", "--temperatures", "x"], "temperatures is 'x'; it must be a list"),
        (["transcribe", ""], "a name is empty"),
        (["transcribe", "a.wav", "--out", " "], "a name is empty"),
        (["transcribe", "https://host.example/a.wav"], "https://host.example/a.wav is an address"),
        (["transcribe", "a\n\x1b[2Jb.wav"], "there is no file a\\n\\x1b[2Jb.wav;"),
        (["demo", "--folder", ""], "a name is empty"),
        (["simulate", "a.wav", "--cohort", "stuttering", "--out", "-"], "a folder is written"),
        (["convert", "m.jsonl", "--to", "lhotse", "--out", "-"], "a folder is written"),
        (["export", "a.wav", "--out", ""], "a name is empty"),
        (["transcribe", "a.wav", "--batch-size", "0"], "batch_size is 0"),
        (["transcribe", "a.wav", "--config", "none.yaml"], "none.yaml"),
        (["transcribe", "a.wav", "--compare", "--no-adapt"], "needs adapt"),
        (
            ["transcribe", "a.wav", "--mode", "cleen"],
            "'cleen'; it must be one of 'verbatim'",
        ),
        (["transcribe", "a.wav", "--pauses", "x"], "pauses is 'x'; it must be one of 'typical'"),
        (["transcribe", "a.wav", "--temperatures", "[0]"], "each must be above 0"),
        (["transcribe", "a.wav", "--language", "xx"], "xx"),
        (["transcrib", "a.wav"], "no command 'transcrib'; did you mean 'transcribe'?"),
        (["demo", "more"], "'more' is one argument too many"),
        (["demo", "--folder", "none"], "no clips in none"),
        (["simulate", "a.wav"], "simulate: it needs --cohorts, --out"),
        (["--verson"], "--verson; did you mean --version?"),
    ],
)
def test_mistakes_in_a_call(cli: Cli, argv: list[str], part: str) -> None:
    fails(cli(*argv), part)


def test_slips_of_the_finger_find_their_option() -> None:
    missed = []
    for build, _, _ in _COMMANDS.values():
        known = sorted(name for name in build()._option_string_actions if len(name) > 4)
        for name in known:
            at = range(3, len(name))
            swapped = {name[: i - 1] + name[i] + name[i - 1] + name[i + 1 :] for i in at}
            typos = swapped | {name[:i] + name[i + 1 :] for i in at} | {name + name[-1]}
            missed += [t for t in typos - {*known} if closest(t, known) != name]
    assert not missed


def test_no_command_shows_help(cli: Cli) -> None:
    status, _, lines = cli()
    assert status == 2
    assert any("transcribe" in line for line in lines)


def test_version_and_help(cli: Cli) -> None:
    assert cli("--version") == (0, "hyperasr 0.1.0\n", [])
    for command in _COMMANDS:
        status, out, lines = cli(command, "--help")
        assert (status, lines) == (0, [])
        assert command in out
    assert "not a medical device" in " ".join(build_parser().format_help().split())
    for command, (build, _, _) in _COMMANDS.items():
        for action in build()._actions:
            assert len((action.help or "").split()) > 1, (command, action.dest)


def test_help_is_quick() -> None:
    code = """
import sys, time
before = time.process_time()
from hyperasr.cli.parser import main
status = main(["transcribe", "--help"])
cost = time.process_time() - before
heavy = [name for name in ("torch", "transformers", "numpy", "soundfile") if name in sys.modules]
print(status, cost < 1.0, heavy, cost)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.splitlines()[-1].startswith("0 True []"), done.stdout[-300:] + done.stderr


def test_text_of_one_and_of_several(cli: Cli, good: Path, tmp_path: Path, voice: Voice) -> None:
    one = cli("transcribe", good).out
    assert one.endswith("\n")
    assert one.count("\n") == 1
    assert one.strip()
    soundfile.write(tmp_path / "other.wav", voice(0.8, 200), RATE)
    rows = cli("transcribe", tmp_path / "other.wav", good).out.splitlines()
    assert [row.split("\t")[0] for row in rows] == [str(tmp_path / "other.wav"), str(good)]
    assert rows[1].split("\t")[1] == one.strip()


def test_json_is_one_object_a_line(cli: Cli, good: Path) -> None:
    rows = [
        json.loads(row)
        for row in cli("transcribe", good, good, "--format", "json", "--compare").out.splitlines()
    ]
    assert len(rows) == 2
    assert rows[0] == rows[1]
    assert {"schema_version", "id", "text", "segments", "base", "warnings"} <= set(rows[0])


def test_formats_of_subtitles_and_annotators(cli: Cli, good: Path, tmp_path: Path) -> None:
    for form, beginning in (
        ("vtt", "WEBVTT\n\n00:00:00.000 --> "),
        ("srt", "1\n00:00:00,000 --> "),
        ("csv", "recording,segment,word,"),
        ("chat", "@UTF8\n@Begin\n"),
        ("html", "<!doctype html>\n"),
    ):
        assert cli("transcribe", good, "--format", form).out.startswith(beginning)
        fails(cli("transcribe", good, good, "--format", form), "give --out FOLDER")
    assert cli("transcribe", good, "--format", "textgrid", "--out", tmp_path / "o").status == 0
    grid = (tmp_path / "o" / "good.TextGrid").read_text()
    assert 'name = "words"' in grid
    (row,) = map(json.loads, cli("transcribe", good, "--format", "json").out.splitlines())
    words = [word for segment in row["segments"] for word in segment["words"]]
    assert all("start_s" in word for word in words), "JSON holds word times"
    assert words


def test_modes(cli: Cli, good: Path, monkeypatch: pytest.MonkeyPatch, model: HyperASR) -> None:
    said = model.backbone.text_ids("um turn on the the l- light")
    decode = recognise.decode

    def stuttering(*args: Any, **kw: Any) -> Any:
        found = decode(*args, **kw)
        logprobs = ((-0.1,) * len(said),)
        return replace(found, tokens=(tuple(said),), logprobs=logprobs, finished=(True,))

    monkeypatch.setattr(recognise, "decode", stuttering)
    assert cli("transcribe", good).out == "um turn on the the l- light\n"
    assert cli("transcribe", good, "--mode", "clean").out == "turn on the light\n"
    both = cli("transcribe", good, "--mode", "both").out.splitlines()
    assert both == ["verbatim: um turn on the the l- light", "clean:    turn on the light"]
    chat = cli("transcribe", good, "--format", "chat").out
    assert "*PAR:\t&-um turn on the [/] the &+l light . \x150_1200\x15\n" in chat
    manifest = good.parent / "m.jsonl"
    manifest.write_text(json.dumps({"id": "a", "path": good.name, "text": "turn on the light"}))
    assert "personalised 0.0 %" in cli("transcribe", manifest, "--mode", "clean").out
    # Whisper's normaliser drops "um".
    assert "personalised 50.0 %" in cli("transcribe", manifest).out


def test_text_comes_as_it_is_decoded(
    cli: Cli, tmp_path: Path, voice: Voice, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "long.wav"
    soundfile.write(path, np.concatenate([voice(4.0, 90 + 20 * i) for i in range(8)]), RATE)
    at_once = cli("transcribe", path, path, "--max-segment-s", "5", "--no-loop-guard")
    seen: list[str] = []
    marked = commands.marked_segment

    def noting(segment: Any, *how: Any) -> Any:
        seen.append(segment.text)
        return marked(segment, *how)

    monkeypatch.setattr(commands, "marked_segment", noting)
    argv = ("transcribe", path, "--max-segment-s", "5", "--no-loop-guard", "--batch-size", "2")
    outcome = cli(*argv)
    assert len(seen) >= 7
    assert outcome.status == 0
    assert outcome.out == at_once.out.splitlines()[0].split("\t")[1] + "\n"


def test_what_breaks_off_in_the_middle_ends_its_line(
    cli: Cli, tmp_path: Path, voice: Voice
) -> None:
    path = tmp_path / "spoilt.wav"
    samples = np.concatenate([voice(4.0, 90 + 20 * i) for i in range(12)])
    samples[-5] = np.nan
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    status, out, lines = cli("transcribe", path, "--max-segment-s", "5", "--batch-size", "1")
    assert status == 2
    assert lines[-1].startswith("hyperasr: error: ")
    assert out.endswith("\n")
    assert out.strip(), "what was decoded before the error"


def test_discarded_silence_is_a_note(cli: Cli, tmp_path: Path, voice: Voice) -> None:
    path = tmp_path / "pause.wav"
    soundfile.write(path, np.concatenate([voice(2.0), np.zeros(20 * RATE), voice(2.0)]), RATE)
    _, _, lines = cli("transcribe", path)
    (note,) = [line for line in lines if line.startswith("hyperasr: note: ")]
    assert "s of silence were not decoded" in note


def test_files_do_not_overwrite_each_other(
    cli: Cli, good: Path, tmp_path: Path, voice: Voice
) -> None:
    other = tmp_path / "sub" / "good.wav"
    other.parent.mkdir()
    soundfile.write(other, voice(0.8, 220), RATE)
    out = tmp_path / "out"
    outcome = cli("transcribe", good, other, "--out", out)
    assert (outcome.status, outcome.out) == (0, "")
    first, second = (out / "good.wav.txt").read_text(), (out / "sub" / "good.wav.txt").read_text()
    assert first == cli("transcribe", good).out
    assert second == cli("transcribe", other).out
    assert len([path for path in out.rglob("*") if path.is_file()]) == 2
    fails(cli("transcribe", good, "--out", good), "is a file")


@pytest.fixture
def manifest(tmp_path: Path, voice: Voice, model: HyperASR) -> Path:
    """Three clips; the reference of the second is just what the adapted model says."""
    rows = []
    for index, (cohort, severity) in enumerate(
        [("stuttering", 0.5), ("parkinson", 0.9), ("typical", None)]
    ):
        waveform = voice(1.0 + 0.3 * index, 110 + 40 * index)
        soundfile.write(tmp_path / f"{index}.flac", waveform, RATE)
        text = "turn on the light"
        if index == 1:
            text = model.transcribe(tmp_path / "1.flac").text
        row = {"id": f"clip-{index}", "path": f"{index}.flac", "text": text, "cohort": cohort}
        rows.append(row | ({} if severity is None else {"severity": severity}))
    path = tmp_path / "manifest.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_compare_with_references_prints_error_rates(cli: Cli, manifest: Path) -> None:
    status, out, _ = cli("transcribe", manifest, "--compare")
    assert status == 0
    lines = out.splitlines()
    assert [line for line in lines if not line.startswith(" ")][:3] == [
        "clip-0",
        "clip-1",
        "clip-2",
    ]
    rates = [line.strip() for line in lines if "WER" in line]
    assert len(rates) == 4
    assert rates[1].endswith("personalised 0.0 %")
    assert rates[3].endswith("(3 recordings with a reference)")
    assert "unadapted" in rates[3]
    _, out, errors = cli("transcribe", manifest, "--compare", "--format", "json")
    assert [json.loads(row)["id"] for row in out.splitlines()] == ["clip-0", "clip-1", "clip-2"]
    assert sum("WER unadapted" in line for line in errors) == 1


def test_demo(cli: Cli, manifest: Path) -> None:
    status, out, _ = cli("demo", "--folder", manifest.parent)
    assert status == 0
    for part in ("clip-0", "stuttering 0.50,", "turn on the light", "unadapted", "personalised"):
        assert part in out
    assert "simulated" in out
    assert "not a medical device" in out
    assert "WER unadapted" in out


def test_inspect(cli: Cli, model: HyperASR, random_model_folder: Path) -> None:
    status, out, _ = cli("inspect", random_model_folder)
    assert status == 0
    assert model.backbone.fingerprint() in out
    for part in ("decoder.fc1 (2 layers, 32 to 128)", "2, alpha 8", "random weights", "trimmed"):
        assert part in out


def test_doctor_tells_no_name(cli: Cli, model: HyperASR, random_model_folder: Path) -> None:
    status, out, lines = cli("doctor", "--model", random_model_folder)
    assert (status, lines) == (0, [])
    assert model.backbone.fingerprint() in out
    for part in ("hyperasr 0.1.0", "torch ", "av ", "threads ", "GiB free"):
        assert part in " ".join(out.split())
    assert len(out.splitlines()) <= 12
    for name in (random_model_folder.parent.name, str(Path.home()), os.sep + "tmp"):
        assert name not in out
    status, out, _ = cli("doctor", "--model", random_model_folder / "none")
    assert (status, "cannot be opened (ConfigError)" in out) == (1, True)


def test_simulate(cli: Cli, good: Path, tmp_path: Path) -> None:
    def make(folder: str, *more: str) -> Path:
        options = ["--cohort", "stuttering", "--severity", "0.8", "--text", "turn on the light"]
        outcome = cli("simulate", good, *options, *more, "--out", tmp_path / folder)
        assert outcome.status == 0, outcome.lines
        return Path(outcome.out.splitlines()[0])

    wav = make("a")
    notes = json.loads(wav.with_suffix(".json").read_text())
    assert notes["simulated"] is True
    assert notes["events"]
    assert notes["text_clean"] == "turn on the light"
    assert (tmp_path / "a" / f"{wav.stem}.clean.txt").read_text() == "turn on the light\n"
    verbatim = (tmp_path / "a" / f"{wav.stem}.verbatim.txt").read_text()
    assert verbatim == notes["text_verbatim"] + "\n"
    assert soundfile.info(wav).samplerate == RATE
    assert make("b").read_bytes() == wav.read_bytes()
    assert make("c", "--seed", "1").read_bytes() != wav.read_bytes()
    assert make("d", "--person", "anna").read_bytes() != wav.read_bytes()
    mixed = make("e", "--cohort", "dysarthria+stuttering")
    assert mixed.stem.split("-")[1] == "dysarthria+stuttering"
    assert mixed.read_bytes() != wav.read_bytes()


def test_simulate_refuses(cli: Cli, good: Path, tmp_path: Path) -> None:
    fails(cli("simulate", good, "--cohort", "shouting", "--out", tmp_path), ", ".join(COHORTS))
    fails(
        cli("simulate", good, "--cohort", "parkinson", "--severity", "2", "--out", tmp_path),
        "severity",
    )


def test_simulate_a_corpus(cli: Cli, good: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "typical.jsonl"
    rows = [Utterance(f"u{i}", str(good), "turn on the light", f"s{i}") for i in range(2)]
    write_manifest(manifest, rows)
    options = ["--cohorts", "all", "--severity", "0.4", "0.8", "--out", tmp_path / "corpus"]
    outcome = cli("simulate", manifest, *options)
    assert outcome.status == 0, outcome.lines
    assert "6 recordings written, 0 were there" in outcome.out
    made = read_manifest(tmp_path / "corpus" / "manifest.jsonl")
    assert Counter(row.cohort for row in made) == dict.fromkeys(COHORTS, 2)
    assert {row.severity for row in made} <= {0.4, 0.8}
    assert "0 recordings written, 6 were there" in cli("simulate", manifest, *options).out
    write_manifest(manifest, [*rows, Utterance("lost", str(tmp_path / "none.wav"), "a", "s")])
    outcome = cli("simulate", manifest, *options)
    assert outcome.status == 1, "the rest is done"
    assert "lost: " in outcome.lines[0]


def test_prepare_and_convert(cli: Cli, good: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "LibriSpeech" / "dev-clean" / "84" / "121123"
    corpus.mkdir(parents=True)
    audio, rate = soundfile.read(good)
    for i in range(3):
        soundfile.write(corpus / f"84-121123-000{i}.flac", audio, rate)
    (corpus / "84-121123.trans.txt").write_text(
        "84-121123-0000 GO ON\n84-121123-0001 STOP\n84-121123-0009 NOBODY\n"
    )
    out = tmp_path / "m" / "libri.jsonl"
    outcome = cli("prepare", "librispeech", tmp_path / "LibriSpeech", "--out", out)
    assert outcome.status == 0, outcome.lines
    assert "2 utterances" in outcome.out
    assert "skipped" in outcome.out
    rows = read_manifest(out)
    assert [row.text for row in rows] == ["go on", "stop"]
    for form, file in (
        ("lhotse", "recordings.jsonl"),
        ("dataset", "state.json"),
    ):
        outcome = cli("convert", out, "--to", form, "--out", tmp_path / form)
        assert outcome.status == 0, outcome.lines
        assert (tmp_path / form / file).is_file()
    fails(cli("prepare", "librispeach", tmp_path, "--out", out), "did you mean 'librispeech'?")
    fails(cli("prepare", "librispeech", tmp_path / "none", "--out", out), "none")
    bad = cli("prepare", "torgo", tmp_path, "--out", out, "--set", "miks=1")
    fails(bad, "has no option 'miks'; did you mean 'mics'?")


def test_prepare_takes_texts_as_they_are_given(cli: Cli, good: Path, tmp_path: Path) -> None:
    root, out = tmp_path / "own", tmp_path / "m.jsonl"
    root.mkdir()
    shutil.copy(good, root / "a.wav")
    given = ["language=no", "speaker=007", "untranscribed=yes"]
    settings = [part for pair in given for part in ("--set", pair)]
    outcome = cli("prepare", "generic", root, "--out", out, *settings)
    assert outcome.status == 0, outcome.lines
    (row,) = read_manifest(out)
    assert (row.language, row.speaker, row.text) == ("no", "007", None)
    fails(cli("prepare", "ua_speech", root, "--out", out, "--set", "mics=5"), "no usable utterance")
    fails(cli("prepare", "ipvs", root, "--out", out, "--set", "salt=12345"), "no usable utterance")
    bad = cli("prepare", "torgo", root, "--out", out, "--set", "severity={F01: bad}")
    fails(bad, "severity of F01 is 'bad'")
    bad = cli("prepare", "torgo", root, "--out", out, "--set", "severity={F01: ")
    fails(bad, "--set 'severity={F01: ' is no YAML")


def test_corpora(cli: Cli) -> None:
    outcome = cli("corpora")
    assert outcome.status == 0
    for name in corpora.names():
        assert name in outcome.out
    assert outcome.out.count("tested on") >= len(corpora.names()), "each row has a status"
    one = cli("corpora", "torgo").out
    for part in ("licence: ", "how to get it: ", "citation: ", "options: "):
        assert part in one
    fails(cli("corpora", "torgoo"), "did you mean 'torgo'?")


def test_interrupted(cli: Cli, good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(args: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "transcribe", interrupt)
    assert cli("transcribe", good) == (130, "", ["hyperasr: interrupted"])


def test_a_reader_that_goes_away() -> None:
    code = """
import os, sys
reading, writing = os.pipe()
os.close(reading)
os.dup2(writing, 1)
from hyperasr.cli.parser import main
sys.exit(main(["corpora"]))
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 141
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_offline_reaches_hugging_face(cli: Cli, good: Path, monkeypatch: Any) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    seen = []
    monkeypatch.setattr(
        commands, "transcribe", lambda args: seen.append(os.environ.get("HF_HUB_OFFLINE")) or 0
    )
    cli("transcribe", good)
    cli("transcribe", good, "--offline")
    assert seen == [None, "1"]
