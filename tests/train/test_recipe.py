"""A recipe from a corpus as it was distributed to its page: every step, in bash, on a tiny Whisper.

The corpus is synthesised in TORGO's own layout. What the recipe must never do is looked for in what
it left: a recorded person's speech that was simulated on.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

from eval.zero_shot import ZeroShotConfig
from hyperasr.audio.reading import load
from hyperasr.cohorts.cache import Cache
from hyperasr.cohorts.manifest import read_manifest, write_manifest
from hyperasr.types import Utterance
from hyperasr.util.config import parse
from hyperasr.whisper.backbone import Backbone
from tests.train.warm_python import write_client
from train.config import MetaConfig

ROOT = Path(__file__).parents[2]
PARTS = ("train.jsonl", "dev.jsonl", "test.jsonl")
RECIPES = sorted((ROOT / "train" / "recipes").glob("*.sh"))
OWN = ("train_and_test", "comparison")  # which take no corpus
PATIENTS, CONTROLS = ("F01", "F03", "M01", "M04"), ("FC01", "FC02", "MC01", "MC02")
PROMPTS = ("yes", "Stop the car.", "[relax]", "open the window", "the quick fox")
PROGRAMS = (
    *("hyperasr.cli.parser", "train.data.split", "train.meta", "eval.zero_shot", "eval.report"),
    *("eval.leave_one_cohort_out", "eval.subspace_angles"),
    # What they import on their way.
    *("datasets", "jsonargparse", "torch._dynamo", "torch.utils.tensorboard"),
    *("matplotlib.figure", "matplotlib.backends.backend_svg"),
    "transformers.models.whisper.modeling_whisper",
    "transformers.models.whisper.tokenization_whisper",
)
ATYPICAL = {("dysarthria", "recorded"), ("stuttering", "simulated"), ("parkinson", "simulated")}


@pytest.fixture(scope="module")
def torgo(tmp_path_factory: pytest.TempPathFactory, voice: Callable[..., np.ndarray]) -> Path:
    """A corpus in TORGO's layout: a session each, two microphones, a prompt that is no speech."""
    root = tmp_path_factory.mktemp("corpora") / "TORGO"
    for number, speaker in enumerate((*PATIENTS, *CONTROLS)):
        session = root / speaker / "Session1"
        for mic in ("headMic", "arrayMic"):
            (session / f"wav_{mic}").mkdir(parents=True)
        (session / "prompts").mkdir()
        for take, prompt in enumerate(PROMPTS, start=1):
            (session / "prompts" / f"{take:04d}.txt").write_text(f"{prompt}\n")
            wave = voice(0.6 + 0.1 * take, pitch_hz=100 + 10 * number + take)
            sf.write(session / "wav_headMic" / f"{take:04d}.wav", wave, 16_000)
            if take == 1:
                sf.write(session / "wav_arrayMic" / f"{take:04d}.wav", 0.5 * wave, 16_000)
    return root


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Python whose commands do not spend six seconds each on the same imports."""
    folder = tmp_path_factory.mktemp("warm")
    address, client = folder / "socket", folder / "python"
    write_client(client, address)
    here = "tests.train.warm_python"
    command = [sys.executable, "-m", here, str(address), str(client), *PROGRAMS]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, **ENVIRONMENT}
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        yield client
        server.terminate()


ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def run(
    recipe: str, *arguments: Path | str, python: Path, **settings: object
) -> subprocess.CompletedProcess[str]:
    """Run a recipe as a user does, from the repository's root."""
    variables = {name: str(value) for name, value in settings.items()}
    return subprocess.run(
        ["bash", f"train/recipes/{recipe}", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **ENVIRONMENT, "PYTHON": str(python), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def passing(path: Path, python: Path, modules: str) -> Path:
    """Write a Python that runs some modules (a shell pattern), and prints the names of others."""
    case = f'case $2 in {modules}) exec {python} "$@";; *) echo $2;; esac'
    path.write_text(f"#!/bin/sh\n{case}\n")
    path.chmod(0o755)
    return path


# In one test, so that it is run once wherever tests are spread over processes.
def test_torgo_from_the_corpus_to_the_page(
    torgo: Path,
    python: Path,
    random_backbone_folder: Path,
    random_backbone: Backbone,
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    tiny = {"BACKBONE": random_backbone_folder, "STEPS": 2, "BATCH_SIZE": 4, "WORKERS": 1}
    tiny["MUST_HELP"] = "false"  # a random Whisper is never helped in two steps
    done = run("torgo.sh", torgo, out, python=python, **tiny)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "dysarthria, recorded: 10 recordings of 2 speakers" in done.stderr
    assert "simulated on: stuttering, parkinson" in done.stderr
    nobody_is_in_two_parts(out)
    no_recorded_row_was_ever_simulated_on(out, random_backbone)
    results_are_there(out)
    # Run again, neither the corpus nor a training is made twice. What is decoded is kept by the
    # evaluation programs, whose tests see to it.
    made = [out / "corpus.jsonl", *out.glob("cache/*/part-*"), *out.glob("*/best")]
    before = [path.stat().st_mtime_ns for path in made]
    again = passing(tmp_path / "python", python, "hyperasr.cli|train.*")
    assert run("torgo.sh", torgo, out, python=again, **tiny).returncode == 0
    assert [path.stat().st_mtime_ns for path in made] == before
    assert len(made) == 6, "a corpus, caches of three parts, two models"


def nobody_is_in_two_parts(out: Path) -> None:
    parts = [read_manifest(out / name) for name in PARTS]
    speakers = [{row.speaker for row in rows} for rows in parts]
    assert sorted(name for own in speakers for name in own) == sorted((*PATIENTS, *CONTROLS))
    for rows in parts:
        assert {row.cohort for row in rows} == {"dysarthria", "typical"}
        assert {(row.extra or {})["mic"] for row in rows} == {"head", "array"}
        assert not any("relax" in (row.text or "") for row in rows)


def no_recorded_row_was_ever_simulated_on(out: Path, backbone: Backbone) -> None:
    path_of = {row.id: row.path for row in read_manifest(out / "corpus.jsonl")}
    found = set()
    for folder in (out / "cache").iterdir():
        cache = Cache([folder], backbone)
        for row in range(len(cache)):
            speaker, cohort, domain = (cache.meta[c][row] for c in ("speaker", "cohort", "domain"))
            found.add((cohort, domain))
            if domain == "simulated":
                assert speaker in CONTROLS, "a patient was simulated on"
            if cohort != "dysarthria":
                continue
            assert (speaker in PATIENTS, domain) == (True, "recorded")
            # What the backbone hears is the file as it is.
            wave = load(path_of[cache.meta["id"][row].removesuffix(f"/{speaker}/unknown/0")])
            mel, n_frames = backbone.features([wave])
            with torch.no_grad():
                heard = backbone.encode(mel, n_frames)
            kept = cache.batch([row]).encoded
            assert kept is not None
            torch.testing.assert_close(kept.states, heard.states, atol=2e-2, rtol=2e-2)
    assert found == {*ATYPICAL, ("typical", "recorded")}


def results_are_there(out: Path) -> None:
    def rows(name: str) -> list[dict]:
        return json.loads((out / "results" / f"{name}.json").read_text())["rows"]

    found = {(row["cohort"], row["domain"]) for row in rows("zero_shot")}
    assert found >= {*ATYPICAL, ("typical", "recorded")}
    held_out = rows("leave_one_cohort_out")
    assert {(row["held_out"], row["cohort"], row["domain"]) for row in held_out} == {
        ("dysarthria", "dysarthria", "recorded"),
        ("dysarthria", "typical", "recorded"),
    }
    assert {row["system"] for row in held_out} >= {"backbone", "global_lora", "hypernet"}
    cohorts = {row["cohort"] for row in rows("subspace_angles") if row.get("cohort")}
    assert cohorts >= {"dysarthria", "stuttering", "parkinson", "typical"}
    assert "dysarthria" in (out / "report.html").read_text()
    looks = (out / "results" / "test_looks.jsonl").read_text().splitlines()
    assert len(looks) == 3, "one for each program that looks at the test"


# The other recipes, up to where all of them go on alike


def ua_speech(root: Path, wave: np.ndarray) -> None:
    """Three words by two microphones in three blocks; words are capitals in the corpus."""
    for speaker in ("F02", "F03", "M01", "M04", "CF02", "CM01", "CM04"):
        folder = root / "audio" / "original" / speaker
        folder.mkdir(parents=True)
        (root / "mlf" / speaker).mkdir(parents=True)
        labels = ["#!MLF!#"]
        for name in (f"{speaker}_B{block}_C{word}" for block in (1, 2, 3) for word in (1, 2)):
            labels += [f'"*/{name}_M5.lab"', "COMMAND", "."]
            for mic in ("M3", "M5"):
                sf.write(folder / f"{name}_{mic}.wav", wave, 16_000)
        (root / "mlf" / speaker / f"{speaker}_word.mlf").write_text("\n".join(labels))


def sap(root: Path, wave: np.ndarray) -> None:
    """Three contributors with ALS and three after a stroke in the train part, one each in dev."""
    causes = ("ALS", "Stroke") * 4
    for number, cause in enumerate(causes):
        name = f"{number:04x}-aaaa"
        folder = root / ("Dev" if number >= 6 else "Train") / name
        folder.mkdir(parents=True)
        files = []
        for take in (1, 2):
            sf.write(folder / f"{name}_1_{take}.wav", wave, 16_000)
            prompt = {"Transcript": "turn it on"}
            files.append({"Filename": f"{name}_1_{take}.wav", "Prompt": prompt, "Ratings": []})
        (folder / f"{name}.json").write_text(json.dumps({"Etiology": cause, "Files": files}))


def generic(root: Path, wave: np.ndarray) -> None:
    """Recordings beside their texts, a folder a speaker."""
    for speaker in ("ann", "ben", "cem"):
        (root / speaker).mkdir(parents=True)
        sf.write(root / speaker / "1.wav", wave, 16_000)
        (root / speaker / "1.txt").write_text("my own words")


@pytest.mark.parametrize(
    ("recipe", "make", "options", "cohorts"),
    [
        ("ua_speech", ua_speech, [], {"dysarthria": [2, 1, 1], "typical": [1, 1, 1]}),
        ("sap", sap, ["--set", "salt=x"], {"als": [2, 1, 1], "stroke": [2, 1, 1]}),
        ("generic", generic, ["--set", "cohort=my_own"], {"my_own": [1, 1, 1]}),
    ],
)
def test_other_recipes_prepare_split_and_configure(
    recipe: str,
    make: Callable[[Path, np.ndarray], None],
    options: list[str],
    cohorts: dict[str, list[int]],
    tmp_path: Path,
    python: Path,
    voice: Callable[..., np.ndarray],
) -> None:
    make(tmp_path / "corpus", voice(0.2))
    typical = tmp_path / "typical.jsonl"
    wave = tmp_path / "typical.wav"
    sf.write(wave, voice(0.2), 16_000)
    row = Utterance("t", str(wave), "some words", split="train", source="libri")
    write_manifest(typical, [replace(row, id=f"t{i}", speaker=f"t{i}") for i in range(3)])
    # What comes after the split is TORGO's business above.
    only = passing(tmp_path / "python", python, "hyperasr.cli|train.data.split")
    out = tmp_path / "out"
    settings = {} if recipe == "ua_speech" else {"TYPICAL": typical}
    done = run(f"{recipe}.sh", tmp_path / "corpus", out, *options, python=only, **settings)
    assert done.returncode == 0, done.stderr
    programs = ["train.meta", "train.meta", "eval.zero_shot", "eval.leave_one_cohort_out"]
    assert done.stdout.split()[-6:] == [*programs, "eval.subspace_angles", "eval.report"]
    parts = [read_manifest(out / name) for name in PARTS]
    expected = cohorts | ({"typical": [1, 1, 1]} if settings else {})
    for cohort, counts in expected.items():
        own = [{row.speaker for row in rows if row.cohort == cohort} for rows in parts]
        assert list(map(len, own)) == counts
        assert len(set().union(*own)) == sum(counts), "somebody is in two parts"
    assert not any((row.text or "").isupper() for rows in parts for row in rows)
    if recipe == "ua_speech":
        blocks = [{(row.extra or {})["session"] for row in rows} for rows in parts]
        assert blocks == [{"B1", "B3"}, {"B1", "B3"}, {"B2"}]
        assert {(row.extra or {})["mic"] for rows in parts for row in rows} == {"M5"}
    if recipe == "sap":
        assert {row.split for row in read_manifest(out / "corpus.jsonl")} == {"train", "dev"}
    for name in ("global_lora", "hypernet"):
        config = parse(MetaConfig, ["--config", str(out / f"{name}.yaml")])
        assert (config.train, config.out) == (out / "train.jsonl", out / name)
        assert not set(config.simulate) & set(cohorts)
    tested = parse(ZeroShotConfig, ["--config", str(out / "test.yaml")]).bench
    assert tested.simulate == config.simulate
    assert tested.train == (out / "train.jsonl", out / "dev.jsonl")


@pytest.mark.parametrize("recipe", [p.name for p in RECIPES if p.stem not in OWN])
def test_an_empty_folder_ends_in_one_line(recipe: str, tmp_path: Path, python: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for corpus in (empty, tmp_path / "nowhere"):
        done = run(recipe, corpus, tmp_path / "out", python=python)
        assert done.returncode != 0
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert str(corpus) in done.stderr
        assert not list((tmp_path / "out").glob("*"))
    done = run(recipe, python=python)
    assert done.returncode != 0
    assert "usage: bash train/recipes/" in done.stderr
