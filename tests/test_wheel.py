"""The wheel as a user gets it: built, installed into an environment of its own, no network."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LARGEST_BYTES = 100e6  # what the Python package index takes by default
# Every connection fails, to this machine too, and every name.
OFFLINE = """
import socket, sys
def refuse(*args, **options):
    raise RuntimeError("the network was tried")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
from hyperasr.cli.parser import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", str(folder), str(ROOT)], check=True, cwd=folder)
    (made,) = folder.glob("hyperasr-*.whl")
    return made


@pytest.mark.slow
def test_it_is_small_and_holds_the_notices_of_what_it_ships(wheel: Path) -> None:
    assert wheel.stat().st_size < LARGEST_BYTES
    with zipfile.ZipFile(wheel) as content:
        names = content.namelist()
        notices = {n: content.read(n).decode() for n in names if "/licenses/" in n}
    assert not any(n.startswith(("train/", "eval/", "tests/")) for n in names)
    texts = "\n".join(notices.values())
    assert "Copyright (c) 2022 OpenAI" in texts
    assert "LibriSpeech" in texts, "the clips of the demo"
    assert "Creative Commons Attribution 4.0" in texts


@pytest.mark.slow
def test_it_transcribes_where_nothing_else_is_and_no_network(wheel: Path, tmp_path: Path) -> None:
    """Dependencies are those of this environment; hyperasr is the wheel's and nothing else's."""
    home = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    site = next(home.glob("lib/python*/site-packages")) if os.name != "nt" else home / "Lib"
    # Its own .pth files, and with them an editable hyperasr, are not followed from here.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site)]
    subprocess.run([*command, str(wheel)], check=True)
    python = str(next(home.glob("bin/python")))
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "HF_"))}
    where = "import hyperasr; print(hyperasr.__file__)"
    found = subprocess.run(
        [python, "-c", where], check=True, cwd=tmp_path, env=clean, capture_output=True, text=True
    )
    assert found.stdout.strip().startswith(str(site))
    (clip,) = sorted((site / "hyperasr" / "assets" / "demo").glob("*typical*"))[:1]
    done = subprocess.run(
        [python, "-c", OFFLINE, "transcribe", str(clip), "--offline"],
        cwd=tmp_path, env=clean, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) >= 3
    assert "the network was tried" not in done.stderr
