"""A conversation: each utterance is adapted with what is known of the voice by then."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from hyperasr import guard, recognise
from hyperasr.audio import load
from hyperasr.caution import Cloud
from hyperasr.cli import main
from hyperasr.errors import ConfigError, ShapeError
from hyperasr.loudness import normalise_loudness
from hyperasr.model import HyperASR, SourceConfig
from hyperasr.options import TranscribeOptions
from hyperasr.recognise import Heard, Recogniser
from hyperasr.recordings import Recording
from hyperasr.session import Session, SessionConfig
from hyperasr.speaker import SpeakerConfig
from hyperasr.transcribe import iter_transcribe, transcribe
from hyperasr.types import Batch

RATE = 16_000
Voice = Callable[..., np.ndarray]
LENGTHS = (2.0, 0.7, 3.1, 1.4, 1.0, 2.6)


@pytest.fixture(scope="module")
def model(random_model_folder: Path) -> HyperASR:
    return HyperASR.from_pretrained(random_model_folder, offline=True)


@pytest.fixture(scope="module")
def talk(voice: Voice, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Recordings of very different lengths: decoding sorts them, the conversation does not."""
    folder = tmp_path_factory.mktemp("talk")
    paths = []
    for number, seconds in enumerate(LENGTHS):
        paths.append(folder / f"{number}.wav")
        soundfile.write(paths[-1], voice(seconds, 100 + 40 * number), RATE)
    return paths


def texts(model: HyperASR, sources: Any, session: Any = None, **options: Any) -> list[str]:
    """Transcribe; `session` is one to go on with, or True for a new one."""
    if session is True:
        options, session = {**options, "session": True}, None
    made = transcribe(model, sources, TranscribeOptions(**options), session=session)
    return [r.transcript.text if r.transcript else str(r.error) for r in made]


def one_by_one(model: HyperASR, paths: list[Path], session: Session) -> list[str]:
    """The slow twin: embed, smooth and decode each recording alone, in the order spoken."""
    recogniser = Recogniser(model, TranscribeOptions())
    said = []
    for path in paths:
        waveform = normalise_loudness(load(path))
        heard = Heard(Recording(str(path)), 0.0, waveform)
        batch = recogniser.batch_of([heard])
        assert batch.speaker_emb is not None
        emb = session.smooth(batch.speaker_emb, torch.tensor([len(waveform) / RATE]))
        found = recogniser([heard], batch=replace(batch, speaker_emb=emb))
        said.append(found[0][0].segment.text)
    return said


@pytest.mark.parametrize("restarts", [False, True])
def test_like_one_by_one(model: HyperASR, talk: list[Path], restarts: bool) -> None:
    config = SessionConfig(new_voice=1e9)
    if restarts:  # at the utterance that lies furthest from those before it
        config = SessionConfig(new_voice=0.99 * max(_distances(model, talk)))
    slow = Session.of(model, config)
    expected = one_by_one(model, talk, slow)
    assert (slow.n_voices > 1) == restarts
    if not restarts:
        assert expected != texts(model, talk), "it changes something, else this cannot fail"
    for batch_size in (1, 2, 16):
        session = Session.of(model, config)
        assert texts(model, talk, session, batch_size=batch_size) == expected
        assert session.n_voices == slow.n_voices
        torch.testing.assert_close(session.mean, slow.mean, rtol=1e-4, atol=1e-4)


def _distances(model: HyperASR, paths: list[Path]) -> list[float]:
    """How far each utterance but the first lies from those before it."""
    session, found = Session.of(model, SessionConfig(new_voice=1e9)), []
    for path in paths:
        heard = Heard(Recording("x"), 0.0, normalise_loudness(load(path)))
        own = Recogniser(model, TranscribeOptions()).batch_of([heard]).speaker_emb
        assert own is not None
        if session.mean is not None:
            found.append(session.distance(own[0]))
        session.smooth(own, torch.tensor([heard.end_s]))
    return found


def test_calls_go_on(model: HyperASR, talk: list[Path]) -> None:
    config = SessionConfig(new_voice=1e9)
    whole = texts(model, talk, Session.of(model, config))
    session = Session.of(model, config)
    assert [model.transcribe(path, session=session).text for path in talk] == whole
    session = Session.of(model, config)
    first = texts(model, talk[:4], session)
    assert [*first, *texts(model, talk[4:], session)] == whole
    assert texts(model, talk, session=True) == texts(model, talk, Session.of(model))


def test_segments_of_one_recording_are_a_conversation(model: HyperASR, voice: Voice) -> None:
    parts = [voice(s, 100 + 40 * i) for i, s in enumerate((4.5, 2.0, 3.5, 4.0))]
    silence = np.zeros(3 * RATE, "f4")
    recording = (np.concatenate([p for part in parts for p in (part, silence)]), RATE)
    config = SessionConfig(new_voice=1e9)
    session = Session.of(model, config)
    (result,) = transcribe(model, recording, TranscribeOptions(max_segment_s=5.0), session=session)
    assert result.transcript is not None
    assert len(result.transcript.segments) >= 4
    again = Session.of(model, config)
    options = TranscribeOptions(max_segment_s=5.0, batch_size=1)
    *segments, last = iter_transcribe(model, recording, options, session=again)
    assert tuple(segments) == last.transcript.segments
    assert [s.text for s in segments] == [s.text for s in result.transcript.segments]
    torch.testing.assert_close(session.mean, again.mean)
    assert session.heard_s == pytest.approx(sum(s.end_s - s.start_s for s in segments))


def test_a_bad_recording_changes_nothing_with_the_batch(
    model: HyperASR, talk: list[Path], tmp_path: Path, voice: Voice
) -> None:
    long = np.tile(voice(3.0, 300), 6)
    long[-1] = np.nan  # found after its first segments were heard
    bad = tmp_path / "bad.wav"
    soundfile.write(bad, long, RATE, subtype="FLOAT")
    config = SessionConfig(new_voice=1e9)
    first, *others = (
        texts(model, [talk[0], bad, *talk[1:3]], Session.of(model, config), batch_size=size)
        for size in (1, 2, 16)
    )
    assert "NaN" in first[1]
    assert others == [first, first]


def test_everything_goes_by_the_smoothed_embedding(
    model: HyperASR, talk: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoding, drawing again, judging loops and finding times must not mix embeddings."""
    seen: dict[str, list[Tensor]] = {}

    def spy(room: Any, name: str) -> None:
        plain = getattr(room, name)

        def noting(model: HyperASR, batch: Batch, *args: Any, **kw: Any) -> Any:
            assert batch.speaker_emb is not None
            seen.setdefault(f"{room.__name__}.{name}", []).extend(batch.speaker_emb)
            return plain(model, batch, *args, **kw)

        monkeypatch.setattr(room, name, noting)

    spy(recognise, "decode")
    spy(recognise, "attend")
    spy(guard, "attend")
    monkeypatch.setattr(recognise, "_UNSURE", 0.0)  # draw all of them again
    session = Session.of(model, SessionConfig(new_voice=1e9))
    texts(model, talk, session, word_times=True, temperatures=(0.4,))
    reference = Session.of(model, SessionConfig(new_voice=1e9))
    embs = []
    for path in talk:
        heard = Heard(Recording("x"), 0.0, normalise_loudness(load(path)))
        own = Recogniser(model, TranscribeOptions()).batch_of([heard]).speaker_emb
        assert own is not None
        embs.append(reference.smooth(own, torch.tensor([heard.end_s]))[0])
    known = torch.stack(embs)
    assert len(seen["hyperasr.recognise.decode"]) == 2 * len(talk)
    assert sum(map(len, seen.values())) > 2 * len(talk), "times or loops were looked at"
    for name, rows in seen.items():
        nearest = torch.cdist(torch.stack(rows), known).min(1).values
        assert float(nearest.max()) < 1e-2, name


def test_models_and_options_that_have_no_session(
    model: HyperASR, random_backbone: Any, talk: list[Path]
) -> None:
    static = HyperASR(random_backbone, SpeakerConfig(), SourceConfig("static", settings={}))
    with pytest.raises(ConfigError, match="listens to the voice"):
        texts(static, talk, session=True)
    with pytest.raises(ConfigError, match="it needs adapt"):
        texts(model, talk, Session.of(model), adapt=False)
    with pytest.raises(ConfigError, match="it needs adapt"):
        TranscribeOptions(session=True, adapt=False)
    session = Session.of(model)
    session.smooth(torch.zeros(1, model.speaker.d_spk), torch.ones(1))
    with pytest.raises(ShapeError, match="a session of its own"):
        session.smooth(torch.zeros(1, 3), torch.ones(1))


class Call:
    """The command line on recordings, with a folder of its own for the model."""

    def __init__(self, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.model, self.capsys = model, capsys

    def __call__(self, *argv: Any) -> tuple[int, str, str]:
        self.capsys.readouterr()
        more = ("--model", self.model, "--offline")
        status = main(["transcribe", *(str(a) for a in (*argv, *more))])
        seen = self.capsys.readouterr()
        return status, seen.out, seen.err


@pytest.fixture
def call(
    random_model_folder: Path,
    random_backbone_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Call:
    folder = tmp_path / "model"
    shutil.copytree(random_model_folder, folder)
    head = json.loads((folder / "config.json").read_text())
    head["backbone"] = str(random_backbone_folder)
    (folder / "config.json").write_text(json.dumps(head))
    return Call(folder, capsys)


def test_session_on_the_command_line(call: Call, model: HyperASR, talk: list[Path]) -> None:
    status, out, err = call(*talk, "--session")
    assert status == 0
    assert [row.split("\t")[1] for row in out.splitlines()] == texts(model, talk, session=True)
    session = Session.of(model)
    texts(model, talk, session)
    changes = session.n_voices - 1
    assert (f"taken for a new one {changes} time" in err) == (changes > 0)


def test_caution_on_the_command_line(call: Call, model: HyperASR, talk: list[Path]) -> None:
    adapted, plain = call(*talk)[1], call(*talk, "--no-adapt")[1]
    assert adapted != plain
    status, out, err = call(*talk, "--caution")
    assert (status, out) == (2, "")
    assert "has no cloud of its training" in err
    generator = torch.Generator().manual_seed(0)
    d_spk = model.speaker.d_spk
    names = [f"s{i % 6}" for i in range(60)]
    for centre, expected in ((1e4, plain), (0.0, adapted)):
        spread = 1.0 if centre else 100.0
        embs = centre + spread * torch.randn(60, d_spk, generator=generator)
        Cloud.fit(embs, names).save(call.model, model.backbone.fingerprint())
        assert call(*talk, "--caution")[1] == expected
        assert call(*talk)[1] == adapted, "caution is off unless asked for"


def test_a_plain_whisper_has_neither(
    call: Call, talk: list[Path], random_backbone_folder: Path
) -> None:
    for option in ("--session", "--caution"):
        call.model = random_backbone_folder
        status, out, err = call(talk[0], option)
        assert (status, out) == (2, "")
        assert f"{option} is about adapting to a voice" in err
