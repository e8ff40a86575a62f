"""No code of ours loads what can run code, unpacks archives, or evaluates text."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from hyperasr.errors import ConfigError
from hyperasr.hub import load
from tests.random_whisper import random_whisper

ROOT = Path(__file__).parents[1]
# Pickle under its names, archives, and modules of others that run what they read.
MODULES = {
    *("pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"),
    *("tarfile", "zipfile", "shutil.unpack_archive", "code", "codeop"),
}
CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen"),
    *("torch.load", "torch.save", "torch.jit.load", "torch.hub.load", "torch.package"),
    *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "pd.read_pickle"),
    *("numpy.load", "np.load", "read_pickle", "shutil.unpack_archive"),
}
# What a run and its own workers send each other; Ray itself sends everything so.
EXEMPT = re.compile(r"hyperasr/transcription/cluster\.py:\d+: pickle")
KEYWORDS = {"shell", "allow_pickle", "trust_remote_code"}


def faults(source: str) -> Iterator[str]:
    """Yield every use of what is banned, with its line."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
        if found := (MODULES | CALLS).intersection(names):
            yield f"{node.lineno}: {sorted(found)[0]}"
        if isinstance(node, ast.Attribute | ast.Name) and ast.unparse(node) in CALLS:
            yield f"{node.lineno}: {ast.unparse(node)}"
        if isinstance(node, ast.keyword) and node.arg in KEYWORDS:
            if not (isinstance(node.value, ast.Constant) and node.value.value is False):
                yield f"{node.value.lineno}: {node.arg}"


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import torch\nweights = torch.load(path)",
        "read = torch.load",
        "from torch import load",
        "yaml.load(text, Loader=yaml.Loader)",
        "np.load(path)",
        "numpy.load(path, allow_pickle=True)",
        "eval(text)",
        "subprocess.run(text, shell=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=flag)",
        "import zipfile",
        "from shutil import unpack_archive",
    ],
)
def test_what_is_banned_is_found(source: str) -> None:
    assert list(faults(source))


def test_what_is_not_banned_is_not_found() -> None:
    fine = "model.eval()\nyaml.safe_load(text)\nsubprocess.run([a], shell=False)\nre.compile(x)"
    assert not list(faults(fine))


@pytest.mark.parametrize("folder", ["hyperasr", "train", "eval"])
def test_nothing_runs_what_it_reads(folder: str) -> None:
    paths = sorted((ROOT / folder).rglob("*.py"))
    found = [f"{p.relative_to(ROOT)}:{f}" for p in paths for f in faults(p.read_text("utf-8"))]
    assert paths
    assert not [fault for fault in found if not EXEMPT.fullmatch(fault)]


def test_weights_in_pickle_are_not_read(tmp_path: Path) -> None:
    import torch

    random_whisper().save_pretrained(tmp_path)
    (weights,) = tmp_path.glob("*.safetensors")
    weights.unlink()
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"it has no weights \(model.safetensors\)") as error:
        load(tmp_path, offline=True, device="cpu")
    assert "\n" not in str(error.value)


def test_no_version_with_a_known_advisory_is_admitted() -> None:
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\w-]+) \| CVE-.* \| ([\d.]+) \|$", text, re.MULTILINE)
    assert len(rows) == text.count("| CVE-")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    asked = {r.name.lower(): r for group in groups for r in map(Requirement, group)}
    for package, fixed in rows:
        assert Version(version(package)) >= Version(fixed), package
        if package in asked:  # else another of our dependencies asks for it
            lowest = [
                Version(s.version) for s in asked[package].specifier if s.operator in (">=", "==")
            ]
            assert lowest >= [Version(fixed)], package
