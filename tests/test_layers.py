"""Who may import whom: every import in the repository is read and held against the layers."""

from __future__ import annotations

import ast
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A room may import itself and the rooms before it, also inside a function; there are no exceptions.
ROOMS = [
    "errors",
    "types",
    "util",
    "audio",
    "adapters",
    "whisper",
    "speaker",
    "metrics",
    "model",
    "cohorts",
    "transcription",
    "export",
    "hub",
    "service",
    "cli",
]

# Packages that few rooms may import, anywhere in the file.
HOMES = {
    "transformers": {
        "hyperasr.audio.mel",  # its filters
        "hyperasr.export.*",
        "hyperasr.whisper.*",
        "train.*",
        "eval.*",
    },
    # Its import changes torch's arithmetic: go through speechbrain_import.
    "speechbrain": {"hyperasr.speaker.*"},
    "accelerate": {"train.*", "eval.*"},
    # The extra `serve`: a room of its own, which the command line imports late.
    "fastapi": {"hyperasr.service.*", "eval.benchmarks.*"},
    "docx": {"hyperasr.service.*"},
    "prometheus_client": {"hyperasr.service.*"},
    "pydantic": {"hyperasr.service.*"},
    "ray": {"hyperasr.transcription.cluster"},
    "starlette": {"hyperasr.service.*"},
    "uvicorn": {"hyperasr.service.*", "eval.benchmarks.*"},
    "wyoming": {"hyperasr.service.*", "eval.benchmarks.*"},
}
# Packages that come with an extra: only inside the function that needs them.
OPTIONAL = {
    "bitsandbytes",
    "ctranslate2",
    "faster_whisper",
    "gradio",
    "matplotlib",
    "openpyxl",
    "peft",
    "pywhispercpp",
    "ray",
    "silero_vad",
    "sklearn",
    "tensorboard",
    "torchcodec",
    "xlrd",
}

Import = tuple[str, int, bool]  # dotted name, line, whether it runs when the module is imported


def module_name(path: Path) -> str:
    """Return the dotted name of a file, relative to the repository."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = sorted(
    path for folder in ("hyperasr", "train", "eval") for path in (ROOT / folder).rglob("*.py")
)


def imports_of(source: str, module: str, is_package: bool = False) -> list[Import]:
    """List what a module imports; `from a import b` counts as a.b."""
    found: list[Import] = []

    def visit(node: ast.AST, at_import: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend((alias.name, node.lineno, at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".") if is_package else module.split(".")[:-1]
            base = package[: len(package) - node.level + 1] if node.level else []
            base += [node.module] if node.module else []
            found.extend(
                (".".join([*base, alias.name]), node.lineno, at_import) for alias in node.names
            )
        else:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                at_import = False
            for child in ast.iter_child_nodes(node):
                visit(child, at_import)

    visit(ast.parse(source), True)
    return found


def order_fault(module: str, target: str) -> str | None:
    """Say why `module` must not import `target`, both dotted names in the repository."""
    origin, goal = module.split("."), target.split(".")
    if goal[0] == "eval" and origin[0] != "eval":
        return "nothing imports eval"
    if goal[0] == "train" and origin[0] == "hyperasr":
        return "hyperasr never imports train"
    if goal[0] != "hyperasr" or origin[0] != "hyperasr" or len(origin) == 1:
        return None  # hyperasr itself only names its public classes, and imports them lazily
    if len(goal) == 1 or goal[1] == "__version__":
        return None
    if goal[1] not in ROOMS:
        return f"inside the package, import from the module itself, not {target!r} from hyperasr"
    if ROOMS.index(goal[1]) > ROOMS.index(origin[1]):
        return f"hyperasr.{goal[1]} comes after hyperasr.{origin[1]}"
    return None


def package_fault(module: str, target: str, at_import: bool) -> str | None:
    """Say why `module` must not import a package from outside the repository."""
    package = target.split(".")[0]
    homes = HOMES.get(package)
    if homes is not None and not any(fnmatchcase(module, home) for home in homes):
        return f"{package} is imported only in {', '.join(sorted(homes))}"
    if package in OPTIONAL and at_import and module.startswith("hyperasr"):
        return f"{package} is optional: import it inside the function that needs it"
    return None


def test_every_room_has_a_place() -> None:
    names = {name.split(".")[1] for name in map(module_name, FILES) if "hyperasr." in name}
    assert names == set(ROOMS), "every room of hyperasr has its place in ROOMS, and no other"
    assert len(list((ROOT / "hyperasr").glob("[!_]*"))) <= 18


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_point_one_way(path: Path) -> None:
    module = module_name(path)
    imports = imports_of(path.read_text(encoding="utf-8"), module, path.stem == "__init__")
    faults = [
        f"{path.relative_to(ROOT)}:{line}: {fault}"
        for target, line, at_import in imports
        for fault in (order_fault(module, target), package_fault(module, target, at_import))
        if fault
    ]
    assert not faults, "\n".join(faults)


def test_no_circles() -> None:
    # hyperasr itself names its public classes for type checkers and imports none of them.
    files = {module_name(path): path for path in FILES if module_name(path) != "hyperasr"}
    wanted: dict[str, set[str]] = {}
    for module, path in files.items():
        targets = imports_of(path.read_text(encoding="utf-8"), module, path.stem == "__init__")
        names = {t if t in files else t.rpartition(".")[0] for t, _, at_import in targets}
        wanted[module] = {name for name in names if name in files and name != module}
    while free := {module for module, needs in wanted.items() if not needs & set(wanted)}:
        wanted = {module: needs for module, needs in wanted.items() if module not in free}
    assert not wanted, f"imports in a circle, or on top of one: {', '.join(sorted(wanted))}"


def test_files_are_found() -> None:
    assert {"hyperasr", "hyperasr.types", "train", "eval"} <= {module_name(path) for path in FILES}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import a.b, c", [("a.b", 1, True), ("c", 1, True)]),
        ("from a.b import c", [("a.b.c", 1, True)]),
        ("from . import c", [("hyperasr.cohorts.c", 1, True)]),
        ("from ..types import c", [("hyperasr.types.c", 1, True)]),
        ("def f():\n    import a", [("a", 2, False)]),
        ("class F:\n    import a", [("a", 2, True)]),
        ("try:\n    import a\nexcept ImportError: pass", [("a", 2, True)]),
    ],
)
def test_imports_are_read(source: str, expected: list[Import]) -> None:
    assert imports_of(source, "hyperasr.cohorts.cache") == expected


def test_relative_imports_of_a_package_start_in_it() -> None:
    expected = [("hyperasr.adapters.static.X", 1, True)]
    assert imports_of("from .static import X", "hyperasr.adapters", is_package=True) == expected


@pytest.mark.parametrize(
    ("module", "target", "allowed"),
    [
        ("hyperasr.audio.reading", "hyperasr.types.Batch", True),
        ("hyperasr.audio.reading", "hyperasr.model.AdaptedWhisper", False),
        ("hyperasr.adapters.hypernet", "hyperasr.whisper.backbone.Backbone", False),
        ("hyperasr.model", "hyperasr.whisper.backbone.Backbone", True),
        ("hyperasr.model", "hyperasr.HyperASR", False),
        ("hyperasr.model", "hyperasr.__version__", True),
        ("hyperasr.cli.parser", "train.meta", False),
        ("hyperasr", "hyperasr.hub.HyperASR", True),
        ("hyperasr", "eval.report", False),
        ("train.meta", "eval.report", False),
        ("train.meta", "hyperasr.HyperASR", True),
        ("eval.report", "train.meta", True),
        ("eval.report", "eval.benchmarks.speed", True),
    ],
)
def test_the_order_tells_right_from_wrong(module: str, target: str, allowed: bool) -> None:
    assert (order_fault(module, target) is None) == allowed


@pytest.mark.parametrize(
    ("module", "target", "at_import", "allowed"),
    [
        ("hyperasr.metrics.normalisers", "transformers.WhisperTokenizer", False, False),
        ("hyperasr.whisper.backbone", "transformers.WhisperTokenizer", False, True),
        ("eval.lib.systems", "transformers.WhisperTokenizer", True, True),
        ("hyperasr.audio.reading", "speechbrain.augment", False, False),
        ("hyperasr.export.exporter", "peft", True, False),
        ("hyperasr.export.exporter", "peft", False, True),
        ("hyperasr.audio.reading", "numpy", True, True),
    ],
)
def test_homes_tell_right_from_wrong(
    module: str, target: str, at_import: bool, allowed: bool
) -> None:
    assert (package_fault(module, target, at_import) is None) == allowed
