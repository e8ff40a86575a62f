"""The package as a program uses it: what is public, every kind of source, types, dtypes."""

from __future__ import annotations

import doctest
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import soundfile
import torch

import hyperasr
from hyperasr.errors import AudioError, ConfigError, HyperASRError
from hyperasr.hub import HyperASR, load
from hyperasr.transcription import recordings
from hyperasr.transcription.options import TranscribeKeywords, TranscribeOptions
from hyperasr.transcription.pipeline import Result, iter_transcribe
from hyperasr.transcription.transcript import Transcript
from hyperasr.types import Segment, Utterance, Word
from hyperasr.whisper.weights import ASSETS

ROOT = Path(__file__).parents[1]
RATE = 16_000
PROGRAM = ROOT / "tests" / "typed_program.py"


@pytest.fixture(scope="module")
def model(random_model_folder: Path) -> HyperASR:
    return load(random_model_folder, device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, voice: Callable[..., np.ndarray]) -> Path:
    """Three recordings, which the random model hears as different texts."""
    path = tmp_path_factory.mktemp("recordings")
    for index, (seconds, pitch_hz) in enumerate([(1.4, 190), (0.7, 130), (2.0, 220)]):
        soundfile.write(path / f"{index}.wav", voice(seconds, pitch_hz), RATE, "FLOAT")
    return path


@pytest.fixture(scope="module")
def texts(model: HyperASR, folder: Path) -> list[str]:
    found = [model.transcribe(path).text for path in sorted(folder.iterdir())]
    assert len(set(found)) == 3, "or nothing is told apart here"
    return found


def samples_of(path: Path) -> np.ndarray:
    return soundfile.read(path, dtype="float32")[0]


ONE: dict[str, Callable[[Path], Any]] = {
    "path": str,
    "Path": lambda path: path,
    "bytes": Path.read_bytes,
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "BytesIO": lambda path: io.BytesIO(path.read_bytes()),
    "open file": lambda path: open(path, "rb"),
    "samples and rate": lambda path: (samples_of(path), RATE),
    "rate and samples": lambda path: (RATE, samples_of(path)),
    "rate and list": lambda path: (RATE, samples_of(path).tolist()),
    "rate of NumPy": lambda path: (np.int64(RATE), samples_of(path)),
    "mapping": lambda path: {"array": samples_of(path), "sampling_rate": RATE, "path": None},
    "Utterance": lambda path: Utterance("a", str(path)),
}
ARRAYS: dict[str, Callable[[np.ndarray], Any]] = {
    "array": lambda samples: samples,
    "tensor": torch.from_numpy,
    "two channels": lambda samples: np.stack([samples, samples]),
}


@pytest.mark.parametrize("form", [*ONE, *ARRAYS])
def test_every_form_of_a_recording_gives_its_transcript(
    model: HyperASR, folder: Path, texts: list[str], form: str
) -> None:
    path = folder / "1.wav"
    if form in ONE:
        found = model.transcribe(ONE[form](path))
    else:
        found = model.transcribe(ARRAYS[form](samples_of(path)), sampling_rate=RATE)
    assert isinstance(found, Transcript)
    assert found.text == texts[1]
    assert found.duration_s == pytest.approx(0.7)


def manifest_of(folder: Path) -> Path:
    path = folder.parent / "manifest.jsonl"
    rows = [{"id": p.stem, "path": str(p)} for p in sorted(folder.iterdir())]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


MANY: dict[str, Callable[[list[Path]], Any]] = {
    "list": lambda paths: [(samples_of(paths[0]), RATE), paths[1], paths[2].read_bytes()],
    "mappings": lambda paths: [{"array": samples_of(p), "sampling_rate": RATE} for p in paths],
    "tuple": lambda paths: tuple(map(str, paths)),
    "generator": lambda paths: (path.open("rb") for path in paths),
    "folder": lambda paths: paths[0].parent,
    "manifest": lambda paths: str(manifest_of(paths[0].parent)),
    "list with a folder": lambda paths: [str(paths[0].parent)],
}


@pytest.mark.parametrize("form", MANY)
def test_many_give_results_in_order(
    model: HyperASR, folder: Path, texts: list[str], form: str
) -> None:
    results: Any = model.transcribe(MANY[form](sorted(folder.iterdir())))
    assert [result.transcript.text for result in results] == texts


def test_a_list_of_arrays_is_never_taken_for_channels(
    model: HyperASR, folder: Path, texts: list[str]
) -> None:
    paths = sorted(folder.iterdir())
    results = model.transcribe([samples_of(path) for path in paths], RATE)
    assert [r.transcript.text for r in results if r.transcript] == texts
    alike = model.transcribe([samples_of(paths[1])] * 2, sampling_rate=RATE)  # of one length
    assert [r.transcript.text for r in alike if r.transcript] == [texts[1]] * 2


def test_many_are_read_one_by_one_and_what_is_broken_does_not_stop_the_rest(
    model: HyperASR, folder: Path, texts: list[str]
) -> None:
    asked = []

    def clips() -> Iterator[Any]:
        for path in [folder / "0.wav", b"no audio", folder / "absent.wav", folder / "2.wav"]:
            asked.append(path)
            yield path

    results = model.transcribe(clips(), batch_size=1)
    assert asked == [], "nothing is read before it is asked for"
    found = list(results)
    assert [r.transcript and r.transcript.text for r in found] == [texts[0], None, None, texts[2]]
    assert str(found[1].error).startswith("recording 2 ")
    assert "absent.wav" in str(found[2].error)


def test_segments_come_as_they_are_decoded(
    model: HyperASR, folder: Path, voice: Callable[..., np.ndarray]
) -> None:
    long = (np.concatenate([voice(3.0, 90 + 20 * i) for i in range(8)]), RATE)
    heard = []
    encode = model.backbone.encode
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.backbone, "encode", lambda *a, **k: heard.append(1) or encode(*a, **k))
        stream = model.transcribe(long, stream=True, batch_size=1)
        first = next(stream)
        assert len(heard) == 1
        found = (first, *stream)
    assert len(heard) > 1
    assert all(isinstance(segment, Segment) for segment in found)
    *streamed, last = iter_transcribe(model, long)
    assert isinstance(last, Result)
    assert last.transcript is not None
    assert last.transcript.segments == tuple(streamed)
    assert [s.text for s in found] == [s.text for s in last.transcript.segments]
    with pytest.raises(AudioError, match=r"absent\.wav"):
        list(model.transcribe(folder / "absent.wav", stream=True))


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("", {}, "an empty name is no recording"),
        (7, {}, "a int is no recording; give a path or samples"),
        (np.zeros(RATE), {}, r"samples need their rate; give sampling_rate"),
        (np.zeros(0), {"sampling_rate": RATE}, "shape"),
        ((np.zeros(RATE), 0), {}, "sample rate"),
        ({"array": np.zeros(9), "sampling_rate": None}, {}, "sampling rate None; give a number"),
        ((RATE, 1), {}, "two numbers; give samples and their rate"),
        ([0.0] * RATE, {"sampling_rate": RATE}, "a list is several recordings; give samples as"),
        ((0.0, 0.1, 0.2), {}, "a tuple is several recordings"),
        (b"RIFF", {"sampling_rate": RATE}, "states its own rate; leave sampling_rate out"),
        ({"array": np.zeros(9)}, {}, "without 'sampling_rate', with \\['array'\\]; give one with"),
        (
            {"audio": {}, "text": ""},
            {},
            "without 'array', .* such as row\\['audio'\\] of a dataset",
        ),
        (io.StringIO("text"), {}, "does not give bytes; open it with mode 'rb'"),
        (b"no audio at all", {}, "^recording 1 "),
        ("http://localhost/a.wav", {}, "the network is switched off here; give a file"),
        ("a.wav", {"beam": 2}, "no option 'beam'; did you mean 'beam_size'"),
        ("a.wav", {"language": "xx"}, "language"),
        ("a.wav", {"compare": True}, "compare gives two transcripts; give a list"),
        (["a.wav"], {"stream": True}, "stream is for one recording at a time"),
    ],
)
def test_mistakes_are_one_line(
    model: HyperASR, source: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(HyperASRError, match=message) as error:
        model.transcribe(source, **options)
    assert "\n" not in str(error.value)


def test_a_nested_list_is_refused_where_it_stands(model: HyperASR) -> None:
    (result,) = model.transcribe([["a.wav", "b.wav"]])
    assert str(result.error) == "recording 1 is a list; give a path, bytes or samples"


def test_addresses_are_fetched_where_the_network_is_allowed(
    model: HyperASR, folder: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *args: None)
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        found = model.transcribe(f"{host}/1.wav")
        assert (found.text, found.id) == (texts[1], f"{host}/1.wav")
        with pytest.raises(AudioError, match=r"absent\.wav cannot be fetched: .*404"):
            model.transcribe(f"{host}/absent.wav")
        monkeypatch.setattr(recordings, "MOST_BYTES", 1 << 10)
        with pytest.raises(AudioError, match=r"1\.wav has more than 1.* GB"):
            model.transcribe(f"{host}/1.wav")
        monkeypatch.setattr(model, "offline", True)
        with pytest.raises(ConfigError, match="the network is switched off"):
            model.transcribe(f"{host}/1.wav")
    finally:
        server.shutdown()


def test_a_transcript_writes_itself() -> None:
    words = (Word("turn", 0.9, 0.0, 0.4), Word("of", 0.2, 0.5, 0.6))
    segment = Segment(0.0, 1.0, "turn of", -0.2, words, clean="turn")
    transcript = Transcript("a.wav", "turn of", (segment,), 1.0, clean="turn")
    assert transcript.words == words
    assert transcript.to_text() == "turn of"
    assert transcript.to_text(marks=True) == "turn [?of]"
    assert transcript.to_text("clean", marks=True) == "turn"
    assert transcript.to_srt() == "1\n00:00:00,000 --> 00:00:01,000\nturn of\n"
    assert transcript.to_vtt("clean").splitlines()[-1] == "turn"
    values = json.loads(transcript.to_json(indent=None))
    assert values["segments"][0]["words"][1]["start_s"] == 0.5


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16", "float16", "int8"])
def test_every_dtype_does_what_it_says(random_model_folder: Path, folder: Path, dtype: str) -> None:
    model = load(random_model_folder, device="cpu", dtype=dtype)
    expected = "float32" if dtype == "auto" else dtype
    assert model.backbone.dtype == expected
    weights = model.backbone.whisper.model.decoder.layers[0].self_attn.q_proj
    if expected == "int8":
        assert type(weights) is not torch.nn.Linear
    else:
        assert weights.weight.dtype == getattr(torch, expected)
    assert {p.dtype for p in model.source.parameters()} == {torch.float32}
    brought = load(random_model_folder, device="cpu").to(dtype=expected)
    assert model.transcribe(folder / "0.wav") == brought.transcribe(folder / "0.wav")
    if expected != "float32":
        with pytest.raises(ConfigError, match=f"weights in {dtype} cannot become float32"):
            model.to(torch.float32)


def test_half_is_of_the_frozen_weights_alone(random_model_folder: Path, folder: Path) -> None:
    half, brain = load(random_model_folder, device="cpu").half(), load(random_model_folder)
    assert (half.backbone.dtype, brain.bfloat16().backbone.dtype) == ("float16", "bfloat16")
    assert half.to("cpu").transcribe(folder / "0.wav").text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float64"}, "dtype is 'float64'; it must be one of float32, float16"),
        ({"device": "abacus"}, "device 'abacus' cannot be used here"),
        ({"device": "cuda:99"}, "device 'cuda:99' cannot be used here"),
        ({"device": "cuda", "dtype": "int8"}, "int8 runs on the CPU only; on cuda give float16"),
        ({"audio_context": "full"}, "was trained for audio context 'trimmed', not 'full'"),
    ],
)
def test_what_cannot_be_loaded_so(
    model: HyperASR, random_model_folder: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        load(random_model_folder, **options)
    assert "\n" not in str(error.value)
    if "audio_context" not in options and options.get("device") != "cuda":
        with pytest.raises(ConfigError, match=message):
            model.to(**options)


def test_a_plain_whisper_opens_alike(
    random_backbone_folder: Path, folder: Path, tmp_path: Path
) -> None:
    plain = load(random_backbone_folder, device="cpu")
    assert not plain.adapts
    assert (plain.folder, plain.backbone_name) == (None, str(random_backbone_folder))
    text = plain.transcribe(folder / "0.wav").text
    assert text == plain.transcribe(folder / "0.wav", adapt=False).text
    again = HyperASR.from_pretrained(random_backbone_folder, offline=True)
    assert text == again.transcribe(folder / "0.wav").text
    with pytest.raises(ConfigError, match="plain Whisper without an adapter"):
        plain.transcribe([folder], compare=True)
    (tmp_path / "config.json").write_text('{"model_type": "wav2vec2"}')
    for opened in (load, HyperASR.from_pretrained):
        with pytest.raises(ConfigError, match="a model of type 'wav2vec2', not a Whisper"):
            opened(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="is a PEFT adapter; merge it into its Whisper"):
        HyperASR.from_pretrained(tmp_path)


def test_keywords_are_the_fields_of_the_options() -> None:
    assert get_type_hints(TranscribeKeywords) == get_type_hints(TranscribeOptions)


def checked(program: Path) -> str:
    """Return what mypy says of a user's program, and not of hyperasr, from whose public modules it
    has the types. Of torch and the rest, which take it a minute, it takes none."""
    config = program.parent / "mypy.ini"
    config.write_text(
        "[mypy]\nstrict = true\nfollow_imports = skip\n"
        "[mypy-hyperasr,hyperasr.errors,hyperasr.hub,hyperasr.transcription.*,hyperasr.types,numpy.*]\n"
        "follow_imports = silent\n"
    )
    cache = f"--cache-dir={program.parent / 'cache'}"
    command = [sys.executable, "-m", "mypy", f"--config-file={config}", cache, str(program)]
    environment = os.environ | {"MYPYPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.slow
def test_a_program_is_checked_strictly_and_a_misspelt_option_is_found(tmp_path: Path) -> None:
    assert (ROOT / "hyperasr" / "py.typed").is_file()
    program, text = tmp_path / "program.py", PROGRAM.read_text()
    program.write_text(text)
    assert checked(program).startswith("Success")
    for right, mistake in (
        ("beam_size=5", "beam_sise=5"),
        ('pauses="stuttering"', 'pauses="stutering"'),
        ("word.doubtful", "word.doubted"),
    ):
        assert right in text
        text = text.replace(right, mistake)
    program.write_text(text)
    found = checked(program)
    for fault in ('argument "beam_sise"', 'types "BytesIO", "str"', 'attribute "doubted"'):
        assert fault in found, found


@pytest.mark.slow
@pytest.mark.parametrize("name", hyperasr.__all__)
def test_the_example_of_every_public_name_runs(name: str, examples: dict[str, Any]) -> None:
    thing = getattr(hyperasr, name)
    finder = doctest.DocTestFinder(recurse=False)
    (example,) = finder.find(thing, name, globs=dict(examples))
    assert example.examples, "every public name has one"
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    failed, _ = runner.run(example, out=said.append)
    assert not failed, "".join(said)


@pytest.fixture(scope="module")
def examples() -> dict[str, Any]:
    """What the examples in the docstrings take as given."""
    clip = ASSETS / "demo" / "10-typical.ogg"
    model = load("tiny.en", offline=True, device="cpu")
    return {"hyperasr": hyperasr, "model": model, "clip": clip, "torch": torch, "np": np}


def test_what_is_public() -> None:
    assert len(hyperasr.__all__) <= 25
    assert set(hyperasr.__all__) <= set(dir(hyperasr))
    with pytest.raises(AttributeError, match="no attribute 'Transcripts'"):
        hyperasr.Transcripts  # noqa: B018
