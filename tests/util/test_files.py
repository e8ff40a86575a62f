"""Writing whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from hyperasr.errors import ConfigError
from hyperasr.util import files
from hyperasr.util.files import (
    atomic_folder,
    atomic_text,
    atomic_write_bytes,
    atomic_write_text,
    check_writable,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_text_and_bytes_arrive_as_given(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / ("caf\u00e9" * 50)  # as long as names can be
    assert atomic_write_text(path, "na\u00efve\r\n") == path
    assert path.read_bytes() == "na\u00efve\r\n".encode()
    atomic_write_bytes(str(path), b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert names(path.parent) == [path.name]
    (tmp_path / "plain").write_text("")
    modes = [stat.S_IMODE(p.stat().st_mode) for p in (path, tmp_path / "plain")]
    assert modes[0] == modes[1], "as the umask says"


def test_files_and_folders_do_not_take_each_others_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="it is a folder"):
        atomic_write_text(tmp_path, "text")
    with pytest.raises(ConfigError, match="it is a folder"), atomic_text(tmp_path):
        pass
    (tmp_path / "file").write_text("text")
    with pytest.raises(ConfigError, match="cannot write"):
        atomic_write_text(tmp_path / "file" / "below", "text")
    with pytest.raises(ConfigError, match="a file has this name"), atomic_folder(tmp_path / "file"):
        pass
    assert (tmp_path / "file").read_text() == "text"


def test_whether_a_folder_can_be_written_is_known_before(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b")
    assert names(tmp_path) == []
    (tmp_path / "file").write_text("text")
    for place, said in (("file/below/x", "cannot write"), ("file", "a file has this name")):
        with pytest.raises(ConfigError, match=said):
            check_writable(tmp_path / place)


def test_failed_rename_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ConfigError, match=r"cannot write .*a\.json: No space left"):
        atomic_write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.json"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("real.txt")
    atomic_write_text(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"


def test_folder_appears_at_the_end_of_the_block(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "model"
    with atomic_folder(target) as folder:
        (folder / "config.json").write_text("{}")
        assert not target.exists()
        assert folder.parent == target.parent
    assert names(target) == ["config.json"]
    assert names(target.parent) == ["model"]


def test_folder_replaces_an_old_one_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "model"
    for name in ("old.safetensors", "new.safetensors"):
        with atomic_folder(target) as folder:
            (folder / name).write_text(name)
    assert names(target) == ["new.safetensors"]
    assert names(tmp_path) == ["model"]


def test_a_folder_is_told_from_one_whose_name_goes_on(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "tiny.en") as longer, atomic_folder(tmp_path / "tiny") as folder:
        assert longer.is_dir()
        (folder / "config.json").write_text("{}")
    assert names(tmp_path) == ["tiny", "tiny.en"]


def test_failure_in_the_block_leaves_the_old_folder(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with atomic_folder(target) as folder:
        (folder / "config.json").write_text("old")

    def interrupted() -> None:
        with atomic_folder(target) as folder:
            (folder / "config.json").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (target / "config.json").read_text() == "old"
    assert names(tmp_path) == ["model"]


def test_failure_of_the_swap_brings_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "model"
    with atomic_folder(target) as folder:
        (folder / "config.json").write_text("old")
    rename = os.rename

    def refuse_new(source: Path, destination: Path) -> None:
        if str(source).endswith(".tmp"):
            raise OSError(5, "Input/output error")
        rename(source, destination)

    monkeypatch.setattr(files.os, "rename", refuse_new)

    def overwrite() -> None:
        with atomic_folder(target) as folder:
            (folder / "config.json").write_text("new")

    with pytest.raises(ConfigError, match="Input/output error"):
        overwrite()
    assert (target / "config.json").read_text() == "old"
    assert names(tmp_path) == ["model"]


def test_what_somebody_else_put_there_is_not_replaced(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with atomic_folder(home) as folder:
        (folder / "thesis.tex").write_text("")
    entered = False

    def overwrite() -> None:
        nonlocal entered
        with atomic_folder(home):
            entered = True

    with pytest.raises(ConfigError, match="will not replace"):
        overwrite()
    assert not entered
    assert names(home) == ["thesis.tex"]
    with atomic_folder(home, replaces=["*.tex"]):
        pass
    assert names(home) == []


def test_text_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows.jsonl"
    with atomic_text(path) as file:
        file.write("ä\n")
        assert not path.exists()
    assert path.read_bytes() == "ä\n".encode()

    def fail() -> None:
        with atomic_text(path) as file:
            file.write("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_bytes() == "ä\n".encode(), "the old one stays"
    assert [p.name for p in path.parent.iterdir()] == ["rows.jsonl"], "nothing is left beside"
