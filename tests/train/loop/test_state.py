"""States to go on from: averaged weights as a start, settings that must agree, on the disk."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hyperasr.errors import CheckpointMismatch
from train.loop import state
from train.loop.state import (
    check_settings,
    flat_settings,
    last_state,
    remove_older,
    save_state,
)


def model_of() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1).requires_grad_(False))


def saved(folder: Path, **notes: Any) -> None:
    model = model_of()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    save_state(folder, 7, {}, model, optimizer, None, notes=notes)


SETTINGS = {
    "out": Path("runs/a"),
    "targets": ("decoder.fc1",),
    "loop": {"lr": 0.1, "seed": 0, "save_every": 5, "steps": 10},
}


def test_settings_are_flat_json() -> None:
    assert flat_settings(SETTINGS) == {
        "out": "runs/a",
        "targets": ["decoder.fc1"],
        "loop.lr": 0.1,
        "loop.seed": 0,
        "loop.save_every": 5,
        "loop.steps": 10,
    }


def changed(**loop: Any) -> dict[str, Any]:
    return flat_settings({**SETTINGS, "loop": {**SETTINGS["loop"], **loop}})


def test_the_same_settings_go_on(tmp_path: Path) -> None:
    check_settings(tmp_path, flat_settings(SETTINGS))  # nothing there yet
    saved(tmp_path, settings=flat_settings(SETTINGS))
    check_settings(tmp_path, flat_settings(SETTINGS))
    # What changes neither weights nor their choice may differ.
    check_settings(tmp_path, {**changed(save_every=9), "out": "elsewhere"})


def test_other_settings_are_refused_readably(tmp_path: Path) -> None:
    saved(tmp_path, settings=flat_settings(SETTINGS))
    with pytest.raises(CheckpointMismatch) as error:
        check_settings(tmp_path, {**changed(lr=0.2, steps=20), "loop.ema": 0.9})
    message = str(error.value)
    assert (
        "loop.ema was not set, is 0.9; loop.lr was 0.1, is 0.2; loop.steps was 10, is 20" in message
    )
    assert "accept_changes" in message
    assert "\n" not in message
    with pytest.raises(CheckpointMismatch, match=r"loop\.lr was 0.1, is not set"):
        check_settings(tmp_path, {k: v for k, v in changed().items() if k != "loop.lr"})
    # One side does not know a setting that is off: it was added, or taken away, since.
    for off in (False, 0, 0.0, "", None, []):
        check_settings(tmp_path, {**changed(), "features.mask": off})
    with pytest.raises(CheckpointMismatch, match=r"features\.mask was not set, is true"):
        check_settings(tmp_path, {**changed(), "features.mask": True})


def test_a_setting_that_is_gone_may_have_changed_nothing(tmp_path: Path) -> None:
    for sets, goes_on in ((1, True), (2, False)):
        before = {"data.view_sets": sets, **flat_settings(SETTINGS)}
        saved(tmp_path / str(sets), settings=before)
        if goes_on:
            check_settings(tmp_path / str(sets), flat_settings(SETTINGS))
        else:
            with pytest.raises(CheckpointMismatch, match=r"data\.view_sets was 2, is not set"):
                check_settings(tmp_path / str(sets), flat_settings(SETTINGS))


def test_content_is_on_the_disk_before_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    sync, rename = os.fsync, os.rename

    def fsync(handle: int) -> None:
        events.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        sync(handle)

    def renamed(old: Any, new: Any) -> None:
        events.append(f"-> {Path(new).name}")
        rename(old, new)

    from hyperasr.util import files

    monkeypatch.setattr(state.os, "fsync", fsync)
    monkeypatch.setattr(files.os, "rename", renamed)
    saved(tmp_path)
    at = events.index("-> state-00000007")
    assert {"state.json", "state.safetensors"} <= set(events[:at])
    assert events[at + 1 :] == [tmp_path.name]
    assert json.loads((tmp_path / "state-00000007" / "state.json").read_text())["step"] == 7


def test_what_a_kill_left_of_an_older_state_goes(tmp_path: Path) -> None:
    saved(tmp_path)
    for name, part in (("state-00000006", "state.safetensors"), (".state-00000008.x", "a")):
        (tmp_path / name).mkdir()
        (tmp_path / name / part).write_bytes(b"half")
    (tmp_path / "state-00000005").mkdir()
    (tmp_path / "state-00000005" / "state.json").write_text('{"step": 5}')
    remove_older(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["state-00000007"]
    assert last_state(tmp_path) == tmp_path / "state-00000007"


def test_processes_that_do_not_write_leave_nothing(tmp_path: Path) -> None:
    model = model_of()
    optimizer = torch.optim.AdamW(model.parameters())
    save_state(tmp_path, 1, {}, model, optimizer, None, notes={}, writes=False)
    assert not list(tmp_path.iterdir())


def test_a_damaged_state_is_passed_over(tmp_path: Path) -> None:
    for name, text in (("state-1", '{"step": 1}'), ("state-2", "{"), ("state-3", "{}")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state.json").write_text(text)
    assert last_state(tmp_path) == tmp_path / "state-1"
