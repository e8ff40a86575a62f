"""The cache of encoder states: the rows of the plan, the losses of no cache, resumable."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from torch import Tensor

import hyperasr.cohorts.cache as module
from hyperasr.adapters import SourceConfig
from hyperasr.cohorts.cache import Cache, CacheConfig, build_cache, cache_folder, estimate_bytes
from hyperasr.cohorts.views import View, plan_views, render_view
from hyperasr.errors import AudioError, CheckpointMismatch, ConfigError, HyperASRError
from hyperasr.hub import HyperASR
from hyperasr.speaker.encoder import SpeakerConfig
from hyperasr.types import Batch, Utterance
from hyperasr.whisper.backbone import Backbone
from tests.in_this_process import InThisProcess

POOLED = CacheConfig(SpeakerConfig())
WITH_MEL = CacheConfig(SpeakerConfig(layers=(0, 1)), keep_mel=True)
ECAPA = CacheConfig(SpeakerConfig(kind="ecapa", d_spk=8, channels=8), keep_mel=True)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WorkerPool", InThisProcess)
    monkeypatch.setattr(module, "_PART", 3)
    monkeypatch.setattr(module, "_BATCH", 2)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Utterance]:
    """Recordings of two people: syllables of a buzz, each of another length."""
    folder = tmp_path_factory.mktemp("recordings")
    numbers = np.random.default_rng(0)
    rows = []
    for i, (speaker, text) in enumerate([("anna", "go"), ("ben", "stop it"), ("anna", "seven")]):
        time_s = np.arange(8_000 + 1_500 * i) / 16_000
        wave = 0.3 * np.sign(np.sin(2 * np.pi * (110 + 40 * i) * time_s))
        wave = wave * (np.sin(2 * np.pi * 4 * time_s) > 0) + numbers.normal(0, 0.01, len(time_s))
        path = folder / f"{i}.wav"
        sf.write(path, wave, 16_000)
        rows.append(Utterance(f"u{i}", str(path), text, speaker, source="buzz"))
    return rows


@pytest.fixture(scope="module")
def views(recordings: list[Utterance]) -> list[View]:
    return plan_views(recordings, seed=3, cohorts=("stuttering", "parkinson", "typical"))


@pytest.fixture
def build(
    in_this_process: None, tmp_path: Path, random_backbone_folder: Path
) -> Callable[..., Path]:
    def build_one(views: list[View], config: CacheConfig = POOLED, **options: Any) -> Path:
        return build_cache(tmp_path / "cache", views, random_backbone_folder, config, **options)

    return build_one


def uncached(backbone: Backbone, view: View) -> tuple[Tensor, Tensor, str]:
    """Return log-mel, its real frames and the text of one view, with no cache."""
    waveform, text = render_view(view)
    mel, n_frames = backbone.features([waveform])
    return mel, n_frames, text


@torch.no_grad()
def test_rows_are_the_plan(
    build: Callable[..., Path], views: list[View], random_backbone: Backbone
) -> None:
    cache = Cache([build(views, WITH_MEL)], random_backbone)
    assert cache.meta["id"] == [view.id for view in views]
    assert cache.meta["cohort"] == [view.cohort for view in views]
    assert cache.meta["speaker"] == [view.utterance.speaker for view in views]
    assert cache.meta["severity"] == [view.severity for view in views]
    assert cache.meta["source"] == ["buzz"] * len(views)
    assert len(cache) == len(views) == 9
    embs = cache.embeddings()
    order = [7, 0, 4]
    batch = cache.batch(order)
    assert batch.ids == tuple(views[i].id for i in order)
    assert batch.cohorts == tuple(views[i].cohort for i in order)
    assert batch.speakers == tuple(views[i].utterance.speaker for i in order)
    for k, i in enumerate(order):
        # The slow twin: this view, encoded alone; states are stored in fp16.
        mel, n_frames, text = uncached(random_backbone, views[i])
        encoded = random_backbone.encode(mel, n_frames, (0, 1))
        n = int(encoded.lengths[0])
        assert batch.n_frames[k] == n_frames[0] == cache.n_frames[i]
        assert batch.encoded.lengths[k] == n
        close = {"rtol": 2**-11, "atol": 2e-5}  # half a unit of fp16's last place
        torch.testing.assert_close(batch.encoded.states[k, :n], encoded.states[0], **close)
        assert not batch.encoded.states[k, n:].any()
        torch.testing.assert_close(batch.mel[k, :, : int(n_frames[0])], mel[0], **close)
        assert not batch.mel[k, :, int(n_frames[0]) :].any()
        assert torch.equal(embs[i], batch.speaker_emb[k])
        tokens = batch.tokens[k, : int(batch.n_tokens[k])].tolist()
        prompt = random_backbone.prompt_ids()
        assert batch.n_prompt == len(prompt)
        assert tokens == [*prompt, *random_backbone.text_ids(text), random_backbone.eos]
        assert set(batch.tokens[k, int(batch.n_tokens[k]) :].tolist()) <= {random_backbone.eos}


@torch.no_grad()
def test_cached_losses_are_the_uncached_ones(
    build: Callable[..., Path], views: list[View], random_model_folder: Path
) -> None:
    model = HyperASR.from_pretrained(random_model_folder, offline=True)
    cache = Cache([build(views)], model.backbone)
    for i, view in enumerate(views):
        cached = cache.batch([i])
        mel, n_frames, _ = uncached(model.backbone, view)
        fresh = replace(cached, encoded=None, speaker_emb=None, mel=mel, n_frames=n_frames)
        emb, encoded = model.embed(fresh)
        torch.testing.assert_close(cached.speaker_emb, emb, rtol=1e-5, atol=1e-4)
        # With the same rounding of the states the losses are equal up to float32 ...
        rounded = replace(encoded, states=encoded.states.half().float())
        same = model(replace(fresh, encoded=rounded, speaker_emb=emb)).nll
        assert float(model(cached).nll) == pytest.approx(float(same), rel=1e-4)
        # ... and fp16 itself (11 bits) moves this model's loss by less than a hundredth.
        assert float(same) == pytest.approx(float(model(fresh).nll), rel=1e-2)


def test_batches_do_not_depend_on_the_parts(
    build: Callable[..., Path], views: list[View], random_backbone: Backbone, monkeypatch: Any
) -> None:
    in_parts = build(views)
    parts = sorted(in_parts.glob("part-*"))
    assert [p.name for p in parts] == [f"part-{i:05d}" for i in range(3)]
    parted = Cache([in_parts], random_backbone).batch(range(9))
    for part in parts:
        part.rename(in_parts.parent / f"old-{part.name}")
    monkeypatch.setattr(module, "_PART", 100)
    monkeypatch.setattr(module, "_BATCH", 100)
    whole = Cache([build(views)], random_backbone).batch(range(9))
    torch.testing.assert_close(parted.encoded.states, whole.encoded.states, rtol=2**-10, atol=1e-4)
    torch.testing.assert_close(parted.speaker_emb, whole.speaker_emb, rtol=1e-5, atol=1e-4)


def test_an_interrupted_build_goes_on(build: Callable[..., Path], views: list[View]) -> None:
    seen: list[tuple[int, int]] = []
    folder = build(views, progress=lambda *counts: seen.append(counts))
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]
    parts = [folder / f"part-{i:05d}" for i in range(3)]
    content = (parts[1] / "data-00000-of-00001.arrow").read_bytes()
    for path in parts[1].iterdir():
        path.unlink()
    parts[1].rmdir()
    for part in (parts[0], parts[2]):
        os.utime(part, (1, 1))
    seen.clear()
    assert build(views, progress=lambda *counts: seen.append(counts)) == folder
    assert seen == [(2, 3), (3, 3)]
    assert [p.stat().st_mtime == 1 for p in parts] == [True, False, True]
    assert (parts[1] / "data-00000-of-00001.arrow").read_bytes() == content
    seen.clear()
    build(views, progress=lambda *counts: seen.append(counts))
    assert seen == [(3, 3)], "what is complete is not built again"


def test_a_part_that_fails_leaves_no_part(
    build: Callable[..., Path], views: list[View], recordings: list[Utterance], tmp_path: Path
) -> None:
    empty = tmp_path / "empty.wav"
    sf.write(empty, np.zeros(0), 16_000)
    bad = View(replace(recordings[0], path=str(empty)), "typical", 0.0, "anna", 0)
    with pytest.raises(AudioError, match=r"empty\.wav"):
        build([*views[:3], bad])
    assert not (tmp_path / "cache").exists(), "its header says so before any work is done"
    bad = replace(bad, utterance=replace(bad.utterance, end_s=0.4))
    with pytest.raises(AudioError, match=r"empty\.wav"):
        build([*views[:3], bad])
    (folder,) = (tmp_path / "cache").iterdir()
    assert [p.name for p in folder.glob("part-*")] == ["part-00000"]


def test_each_content_has_its_own_folder(
    views: list[View], random_backbone: Backbone, random_backbone_folder: Path, tmp_path: Path
) -> None:
    def folder(views: list[View], backbone: Backbone = random_backbone, config: Any = POOLED):
        return cache_folder(tmp_path, views, backbone, config)

    first = views[0]
    other = Backbone.from_pretrained(random_backbone_folder, offline=True)
    other.whisper.model.encoder.conv1.bias.data[0] += 0.1
    moved = tmp_path / "elsewhere.wav"
    moved.write_bytes(Path(first.utterance.path).read_bytes())
    again = [replace(first, utterance=replace(first.utterance, path=str(moved))), *views[1:]]
    assert folder(views) == folder(list(views)) == folder(again)
    moved.write_bytes(moved.read_bytes()[:-2])  # one sample less
    different = {
        "plan": folder(views),
        "a view less": folder(views[:-1]),
        "order": folder(views[::-1]),
        "backbone": folder(views, other),
        "mel": folder(views, config=replace(POOLED, keep_mel=True)),
        "speaker encoder": folder(views, config=CacheConfig(SpeakerConfig(layers=(1,)))),
        "recording": folder(again),
    }
    changes = {"text": "other", "text_clean": "clean", "start_s": 0.1, "speaker": "zoe"}
    for name, value in changes.items():
        changed = replace(first, utterance=replace(first.utterance, **{name: value}))
        different[name] = folder([changed, *views[1:]])
    for name, value in (("severity", 0.2), ("seed", 99), ("person", "zoe"), ("cohort", "typical")):
        different[f"view {name}"] = folder([replace(first, **{name: value}), *views[1:]])
    assert len(set(different.values())) == len(different), different


def test_a_missing_recording_is_named(
    views: list[View], random_backbone: Backbone, tmp_path: Path
) -> None:
    lost = replace(views[0], utterance=replace(views[0].utterance, path="/nowhere/x.wav"))
    with pytest.raises(AudioError, match=r"/nowhere/x\.wav: cannot be read"):
        cache_folder(tmp_path, [lost], random_backbone, POOLED)


def test_several_caches_are_one(
    build: Callable[..., Path], views: list[View], recordings: list[Utterance], random_backbone: Any
) -> None:
    others = plan_views(recordings[:1], seed=4, cohorts=("stuttering",))
    cache = Cache([build(views), build(others)], random_backbone)
    assert cache.meta["id"] == [view.id for view in [*views, *others]]
    assert cache.batch([9]).ids == (others[0].id,)


def test_no_views_are_no_cache(build: Callable[..., Path], random_backbone: Backbone) -> None:
    with pytest.raises(ConfigError, match="no views"):
        Cache([build([])], random_backbone)


def test_a_speaker_encoder_that_is_trained_is_not_cached(
    build: Callable[..., Path], views: list[View], random_backbone: Backbone
) -> None:
    cache = Cache([build(views[:3], ECAPA)], random_backbone)
    assert not cache.keeps_embeddings
    with pytest.raises(ConfigError, match="no embeddings"):
        cache.embeddings()
    batch = cache.batch([0, 2])
    assert batch.speaker_emb is None
    settings = {"rank": 1, "d_hidden": 8, "d_layer_emb": 2, "n_hidden": 0}
    model = HyperASR(random_backbone, ECAPA.speaker, SourceConfig(settings=settings)).train()
    for head in model.source.heads.parameters():
        head.data.normal_()
    model(batch).total.backward()
    assert any(p.grad is not None and p.grad.any() for p in model.speaker.parameters())


def test_a_part_of_the_rows_is_a_cache(
    build: Callable[..., Path], views: list[View], random_backbone: Backbone
) -> None:
    whole = Cache([build(views)], random_backbone)
    chosen = [i for i, view in enumerate(views) if view.cohort != "stuttering"]
    part = whole.where(lambda row: whole.meta["cohort"][row] != "stuttering")
    assert part.meta["id"] == [views[i].id for i in chosen]
    assert part.n_frames == [whole.n_frames[i] for i in chosen]
    assert torch.equal(part.embeddings(), whole.embeddings()[chosen])
    assert part.batch([2]).ids == whole.batch([chosen[2]]).ids
    twice = part.where(lambda row: part.meta["cohort"][row] == "typical")
    assert {twice.meta["cohort"][row] for row in range(len(twice))} == {"typical"}
    assert twice.batch([0]).cohorts == ("typical",)
    with pytest.raises(ConfigError, match="no row"):
        whole.where(lambda row: False)


def test_states_of_another_backbone_are_refused(
    build: Callable[..., Path],
    views: list[View],
    random_backbone: Backbone,
    random_backbone_folder: Path,
) -> None:
    folder = build(views)
    other = Backbone.from_pretrained(random_backbone_folder, offline=True)
    other.whisper.model.encoder.conv1.bias.data[0] += 0.1
    with pytest.raises(CheckpointMismatch, match="build the cache again"):
        Cache([folder], other)
    (folder / "cache.json").unlink()
    with pytest.raises(ConfigError, match=r"no cache\.json"):
        Cache([folder], random_backbone)


def test_damaged_parts_are_refused(
    build: Callable[..., Path], views: list[View], random_backbone: Backbone
) -> None:
    folder = build(views)
    file = folder / "part-00001" / "data-00000-of-00001.arrow"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ConfigError, match="is not what was written"):
        Cache([folder], random_backbone)
    file.unlink()
    with pytest.raises(ConfigError, match="is damaged"):
        Cache([folder], random_backbone)


@pytest.mark.parametrize("config", [POOLED, WITH_MEL], ids=["states", "with mel"])
def test_the_size_is_estimated_before(
    build: Callable[..., Path], views: list[View], random_backbone: Backbone, config: CacheConfig
) -> None:
    folder = build(views, config)
    written = sum(p.stat().st_size for p in folder.rglob("*.arrow"))
    # Nine rows of half a second: the columns' own frame of some kilobytes weighs here.
    assert estimate_bytes(views, random_backbone, config) == pytest.approx(written, rel=0.5)


def test_a_disk_that_is_too_small_is_said_before_and_one_that_fills_up_keeps_the_parts(
    build: Callable[..., Path],
    views: list[View],
    random_backbone: Backbone,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    usage = module.shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "disk_usage", lambda path: usage._replace(free=1_000))
        with pytest.raises(HyperASRError, match="make room or choose another folder"):
            build(views)
    assert not list(tmp_path.rglob("part-*"))
    from datasets import Dataset

    save, written = Dataset.save_to_disk, []

    def fills_up(rows: Dataset, folder: str) -> None:
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(folder)
        save(rows, folder)

    with monkeypatch.context() as patch:
        patch.setattr(Dataset, "save_to_disk", fills_up)
        with pytest.raises(ConfigError, match=r"part-0000[12]: No space left on device; make room"):
            build(views)
    (folder,) = (tmp_path / "cache").iterdir()
    with pytest.raises(ConfigError, match="2 of 3 parts are missing: its build was interrupted"):
        Cache([folder], random_backbone)
    assert len(Cache([build(views)], random_backbone)) == 9, "goes on, and is whole"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_a_device_that_is_not_there_is_said_before(
    views: list[View], random_backbone_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="device 'cuda' cannot be used here"):
        build_cache(tmp_path, views, random_backbone_folder, POOLED, device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a card")
def test_states_made_on_a_card_are_the_same(
    views: list[View], random_backbone_folder: Path, random_backbone: Backbone, tmp_path: Path
) -> None:
    folders = [
        build_cache(tmp_path / name, views, random_backbone_folder, POOLED, device=name)
        for name in ("cpu", "cuda")
    ]
    here, there = (Cache([folder], random_backbone).batch([0, 1]) for folder in folders)
    torch.testing.assert_close(there.encoded.states, here.encoded.states, rtol=1e-2, atol=1e-2)


@torch.no_grad()
def test_log_mel_of_30_s_can_be_encoded_anew(
    views: list[View], random_backbone_folder: Path, in_this_process: None, tmp_path: Path
) -> None:
    full = Backbone.from_pretrained(random_backbone_folder, audio_context="full")
    folder = build_cache(tmp_path, views[:3], random_backbone_folder, WITH_MEL, backbone=full)
    batch = Cache([folder], full).batch([2, 0])
    assert batch.encoded.lengths.tolist() == [1_500, 1_500], "the context of the given backbone"
    for k, i in enumerate([2, 0]):
        mel, n_frames, _ = uncached(full, views[i])
        torch.testing.assert_close(batch.mel[k], mel[0], rtol=2**-11, atol=2e-5)
        assert batch.n_frames[k] == n_frames[0]
    assert full.encode(batch.mel, batch.n_frames).states.shape[1] == 1_500


@pytest.mark.slow
def test_processes_of_their_own_write_the_same(
    views: list[View],
    random_backbone_folder: Path,
    random_backbone: Backbone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_PART", 1)
    folder = build_cache(tmp_path / "a", views[:2], random_backbone_folder, POOLED, workers=1)
    monkeypatch.setattr(module, "WorkerPool", InThisProcess)
    here = build_cache(tmp_path / "b", views[:2], random_backbone_folder, POOLED)
    assert here.name == folder.name
    batches: list[Batch] = [Cache([f], random_backbone).batch([0, 1]) for f in (folder, here)]
    assert batches[0].ids == batches[1].ids
    states = [b.encoded.states for b in batches if b.encoded is not None]
    torch.testing.assert_close(states[0], states[1], rtol=2**-10, atol=1e-4)


def test_recorded_rows_keep_domain_person_and_unknown_severity(
    recordings: list[Utterance], random_backbone: Backbone, build: Callable[..., Path]
) -> None:
    """A part in which no severity is known stands beside parts in which all are."""
    patients = [
        replace(u, id=f"p{i}", cohort="als", speaker=f"P{i}") for i, u in enumerate(recordings)
    ]
    views = plan_views([*patients, recordings[0]], seed=3, cohorts=("stuttering", "typical"))
    cache = Cache([build(views)], random_backbone)
    assert cache.meta["cohort"] == ["als", "als", "als", "stuttering", "typical"]
    assert cache.meta["domain"] == ["recorded"] * 3 + ["simulated", "recorded"]
    assert cache.meta["severity"][:3] == [None] * 3
    assert cache.meta["severity"][4] == 0.0
    assert [cache.person(row) for row in range(3)] == ["P0", "P1", "P2"]


def test_the_margin_of_trimmed_context_survives_the_cache(
    views: list[View], random_backbone_folder: Path, build: Callable[..., Path]
) -> None:
    backbone = Backbone.from_pretrained(random_backbone_folder, margin_s=0.3)
    cache = Cache([build(views, WITH_MEL, backbone=backbone)], backbone)
    batch = cache.batch(range(len(views)))
    again = backbone.encode(batch.mel, batch.n_frames)
    assert torch.equal(again.lengths, batch.encoded.lengths)
    torch.testing.assert_close(again.states, batch.encoded.states, atol=3e-2, rtol=3e-2)
    for row, view in enumerate(views[:2]):
        mel, n_frames, _ = uncached(backbone, view)
        n = mel.shape[-1]
        torch.testing.assert_close(batch.mel[row, :, :n], mel[0], atol=2e-3, rtol=2e-3)
        assert int(batch.n_frames[row]) == int(n_frames)


def test_views_that_whisper_cannot_hear_at_once_are_left_out(
    recordings: list[Utterance],
    views: list[View],
    random_backbone: Backbone,
    build: Callable[..., Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Pauses and repetitions make a recording longer, by how much nobody knows beforehand."""
    wave = np.random.default_rng(0).normal(0, 0.1, 31 * 16_000)
    sf.write(tmp_path / "long.wav", wave, 16_000)
    long = replace(recordings[0], id="long", path=str(tmp_path / "long.wav"))
    plan = [*views, *plan_views([long], seed=0, cohorts=("typical",))]
    cache = Cache([build(plan)], random_backbone)
    assert cache.meta["id"] == [view.id for view in views]
    assert f"1 of {len(plan)} views last more than 30 s and are left out" in caplog.text
