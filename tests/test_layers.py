"""Who may import whom: every import in the repository is read and held against the layers."""

from __future__ import annotations

import ast
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A module may import its own layer and the earlier ones. A new module or package of hyperasr
# gets its place here.
LAYERS = [
    {
        "_torchaudio",
        "closest",
        "config",
        "errors",
        "export_config",
        "files",
        "options",
        "tables",
        "types",
        "workers",
    },
    {
        "_speechbrain",
        "audio",
        "bayes",
        "container",
        "disfluency",
        "lora",
        "loudness",
        "mel",
        "memory",
        "noise",
        "objective",
        "pooling",
        "posterior",
        "priors",
        "residual",
        "search",
        "segment",
        "sparsity",
        "stopping",
        "subspace",
        "text",
        "top_subspace",
        "vad",
    },
    {
        "calibration",
        "cohorts",
        "edits",
        "metrics",
        "protocols",
        "provenance",
        "recordings",
        "results",
        "sources",
        "speaker",
        "startup",
        "statistics",
        "uncertainty",
    },
    {
        "backbone",
        "checkpoint",
        "ctranslate2_weights",
        "decoder",
        "languages",
        "model",
        "quantize",
        "weights",
        "whisper",
    },
    {
        "cache",
        "cache_part",
        "card",
        "decode",
        "distil",
        "export",
        "guard",
        "hub",
        "opening",
        "parity",
        "peft_folder",
        "words",
    },
    {
        "__main__",
        "annotations",
        "cli",
        "command_corpora",
        "command_export",
        "command_simulate",
        "commands",
        "formats",
        "recognise",
        "tally",
        "terminal",
        "transcribe",
    },
]
# The ways up: methods that offer a later room, imported when they are called.
UPWARD = {
    ("hyperasr.model", "hyperasr.hub.model_folder"),
    ("hyperasr.model", "hyperasr.hub.push_to_hub"),
    ("hyperasr.model", "hyperasr.transcription.pipeline.transcribe_one"),
}
LAYER_OF = {name: number for number, names in enumerate(LAYERS) for name in names}

# Packages that few rooms may import, anywhere in the file.
ROOMS = {
    "transformers": {
        "hyperasr.whisper.backbone",
        "hyperasr.whisper.ctranslate2_weights",
        "hyperasr.decode",
        "hyperasr.whisper.decoder",
        "hyperasr.export.exporter",
        "hyperasr.whisper.languages",
        "hyperasr.model",
        "hyperasr.whisper.loading",
        "train.*",
        "eval.*",
    },
    # Its import changes torch's arithmetic: go through speechbrain_import.
    "speechbrain": {"hyperasr.speaker.speechbrain_import", "hyperasr.speaker.encoder"},
    "accelerate": {"train.*", "eval.*"},
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
ROOM_NAMES = {name.split(".")[1] for name in map(module_name, FILES) if "hyperasr." in name}


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


def layer_fault(module: str, target: str) -> str | None:
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
    if goal[1] not in LAYER_OF and goal[1] not in ROOM_NAMES:
        return f"inside the package, import from the module itself, not {target!r} from hyperasr"
    if LAYER_OF.get(goal[1], 0) > LAYER_OF[origin[1]]:
        return f"hyperasr.{goal[1]} is in a later layer than hyperasr.{origin[1]}"
    return None


def room_fault(module: str, target: str, at_import: bool) -> str | None:
    """Say why `module` must not import a package from outside the repository."""
    package = target.split(".")[0]
    rooms = ROOMS.get(package)
    if rooms is not None and not any(fnmatchcase(module, room) for room in rooms):
        return f"{package} is imported only in {', '.join(sorted(rooms))}"
    if package in OPTIONAL and at_import and module.startswith("hyperasr"):
        return f"{package} is optional: import it inside the function that needs it"
    return None


def test_every_room_has_a_layer() -> None:
    lost = sorted(ROOM_NAMES - set(LAYER_OF))
    assert not lost, (
        f"give hyperasr.{', hyperasr.'.join(lost)} a place in LAYERS of tests/test_layers.py: "
        "the first layer that holds everything it imports"
    )


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_point_one_way(path: Path) -> None:
    module = module_name(path)
    if module.startswith("hyperasr.") and module.split(".")[1] not in LAYER_OF:
        pytest.skip("reported by test_every_room_has_a_layer")
    imports = imports_of(path.read_text(encoding="utf-8"), module, path.stem == "__init__")
    faults = [
        f"{path.relative_to(ROOT)}:{line}: {fault}"
        for target, line, at_import in imports
        for fault in (layer_fault(module, target), room_fault(module, target, at_import))
        if fault and (at_import or (module, target) not in UPWARD)
    ]
    assert not faults, "\n".join(faults)


def test_files_are_found() -> None:
    assert {"hyperasr", "hyperasr.types", "train", "eval"} <= {module_name(path) for path in FILES}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import a.b, c", [("a.b", 1, True), ("c", 1, True)]),
        ("from a.b import c", [("a.b.c", 1, True)]),
        ("from . import c", [("hyperasr.cohorts.c", 1, True)]),
        ("from ..text import c", [("hyperasr.metrics.normalisers.c", 1, True)]),
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
        ("hyperasr.audio.reading", "hyperasr.model.HyperASR", False),
        ("hyperasr.adapters.hypernet", "hyperasr.whisper.backbone.Backbone", False),
        ("hyperasr.model", "hyperasr.whisper.backbone.Backbone", True),
        ("hyperasr.model", "hyperasr.HyperASR", False),
        ("hyperasr.model", "hyperasr.__version__", True),
        ("hyperasr.cli.main", "train.meta", False),
        ("hyperasr", "hyperasr.model.HyperASR", True),
        ("hyperasr", "eval.report", False),
        ("train.meta", "eval.report", False),
        ("train.meta", "hyperasr.HyperASR", True),
        ("eval.report", "train.meta", True),
        ("eval.report", "eval.benchmarks.speed", True),
    ],
)
def test_layers_tell_right_from_wrong(module: str, target: str, allowed: bool) -> None:
    assert (layer_fault(module, target) is None) == allowed


@pytest.mark.parametrize(
    ("module", "target", "at_import", "allowed"),
    [
        ("hyperasr.metrics.normalisers", "transformers.WhisperTokenizer", False, False),
        ("hyperasr.whisper.backbone", "transformers.WhisperTokenizer", False, True),
        ("train.peft_reference", "transformers.WhisperTokenizer", True, True),
        ("hyperasr.audio.reading", "speechbrain.augment", False, False),
        ("hyperasr.export.exporter", "peft", True, False),
        ("hyperasr.export.exporter", "peft", False, True),
        ("hyperasr.audio.reading", "numpy", True, True),
    ],
)
def test_rooms_tell_right_from_wrong(
    module: str, target: str, at_import: bool, allowed: bool
) -> None:
    assert (room_fault(module, target, at_import) is None) == allowed
