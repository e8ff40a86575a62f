"""Configurations: every mistake is one line that says what is meant."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hyperasr.errors import ConfigError
from hyperasr.util.config import from_dict, from_json, parse, to_dict


@dataclass(frozen=True)
class Inner:
    """A group of settings."""

    steps: int = 10
    """Steps, at least 1."""
    lr: float = 1e-3
    """Learning rate."""
    fast: bool = False
    """Whether."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"steps is {self.steps}; it must be at least 1")


@dataclass(frozen=True)
class Outer:
    """A program's settings."""

    name: str = "a"
    """A name."""
    out: Path = Path("runs/x")
    """A folder."""
    start: Path | None = None
    """A file, or none."""
    layers: tuple[int, ...] | None = None
    """Some numbers."""
    settings: dict[str, Any] | None = None
    """Anything."""
    loop: Inner = field(default_factory=Inner)
    """The group."""


@pytest.fixture
def yaml_file(tmp_path: Path) -> Any:
    def write(text: str) -> list[str]:
        path = tmp_path / "my config.yaml"
        path.write_text(text, encoding="utf-8")
        return ["--config", str(path)]

    return write


def fails(argv: list[str], message: str) -> str:
    with pytest.raises(ConfigError) as error:
        parse(Outer, argv)
    text = str(error.value)
    assert message in text, text
    assert "\n" not in text
    return text


def test_defaults() -> None:
    assert parse(Outer, []) == Outer()


def test_values_from_yaml_and_the_command_line(yaml_file: Any) -> None:
    text = """
name: größe
out: runs/y
layers: [1, 2]
settings: {rank: 8, head: mlp}
loop:
  steps: 5
  lr: 3e-4
  fast: true
"""
    argv = [*yaml_file(text), "--loop.steps", "7", "--settings.rank=4", "--start", "a b.txt"]
    config = parse(Outer, argv)
    assert config == Outer(
        "größe",
        Path("runs/y"),
        Path("a b.txt"),
        (1, 2),
        {"rank": 4, "head": "mlp"},
        Inner(7, 3e-4, True),
    )
    assert isinstance(config.out, Path)
    assert parse(Outer, ["--loop.steps=7", *yaml_file("loop: {steps: 5}")]).loop.steps == 5, (
        "the later one counts"
    )
    assert parse(Outer, ["--start", "null"]).start is None


@pytest.mark.parametrize(
    ("key", "closest"),
    [("loop.stps", "loop.steps"), ("lop.steps", "loop.steps"), ("nam", "name"), ("lr", "loop.lr")],
)
def test_an_unknown_key_names_the_closest(key: str, closest: str, yaml_file: Any) -> None:
    expected = f"unknown option --{key}; did you mean --{closest}?"
    fails([f"--{key}", "3"], expected)
    fails([f"--{key}=3"], expected)
    expected = f"unknown configuration key {key!r}; did you mean {closest!r}?"
    group, _, last = key.rpartition(".")
    fails(yaml_file(f"{group}:\n  {last}: 3\n" if group else f"{last}: 3\n"), expected)


def test_a_stray_word() -> None:
    fails(["strt"], "'strt' is one argument too many")


@pytest.mark.parametrize(
    ("key", "value", "must"),
    [
        ("loop.steps", "many", "a whole number"),
        ("loop.steps", "1.5", "a whole number"),
        ("loop.steps", "[1]", "a whole number"),
        ("loop.lr", "slow", "a number"),
        ("loop.fast", "1", "true or false"),
        ("loop.fast", "maybe", "true or false"),
        ("loop.fast", "", "true or false"),
        ("layers", "x", "a list, such as [1, 2] or null"),
        ("settings", "3", "settings by name or null"),
    ],
)
def test_a_wrong_type(key: str, value: str, must: str, yaml_file: Any) -> None:
    fails([f"--{key}={value}"], f"{key} is {value!r}; it must be {must}")
    if value:
        group, _, last = key.rpartition(".")
        text = f"{group}:\n  {last}: {value}\n" if group else f"{last}: {value}\n"
        fails(yaml_file(text), f"it must be {must}")


@pytest.mark.parametrize(("text", "value"), [("true", True), ("false", False)])
def test_booleans(text: str, value: bool, yaml_file: Any) -> None:
    assert parse(Outer, ["--loop.fast", text]).loop.fast is value, "not bool('false')"
    assert parse(Outer, yaml_file(f"loop: {{fast: {text}}}")).loop.fast is value


def test_out_of_range(yaml_file: Any) -> None:
    fails(["--loop.steps", "0"], "steps is 0; it must be at least 1")
    fails(yaml_file("loop: {steps: -3}"), "steps is -3; it must be at least 1")


def test_a_group_is_no_value(yaml_file: Any) -> None:
    fails(["--loop=3"], "give its settings by name")
    fails(yaml_file("loop: 3"), "give its settings by name")


def test_a_value_is_missing() -> None:
    fails(["--loop.steps"], "loop.steps")
    fails(["--config"], "--config")


def test_files_that_are_no_configuration(yaml_file: Any, tmp_path: Path) -> None:
    for text in ("just words", "", "- a\n- b"):
        argv = yaml_file(text)
        assert argv[1] in fails(argv, "it holds no settings by name")
    argv = yaml_file("loop: [1\nname: : x")
    assert argv[1] in fails(argv, "configuration")
    fails(yaml_file("name: &a [*a]"), "it refers to itself, or is nested too deeply")
    for text in ("config: 3", "config: {config: 3}"):
        argv = yaml_file(text)
        assert argv[1] in fails(argv, "it names another one")
    missing = str(tmp_path / "none.yaml")
    assert missing in fails(["--config", missing], "File does not exist")
    assert missing in fails([f"--config={missing}"], "File does not exist")
    assert str(tmp_path) in fails(["--config", str(tmp_path)], "not a file")


def test_every_setting_of_every_program_is_described() -> None:
    root = Path(__file__).parents[2]
    for path in (p for part in ("hyperasr", "train", "eval") for p in root.glob(f"{part}/**/*.py")):
        for kind in ast.walk(ast.parse(path.read_text())):
            if isinstance(kind, ast.ClassDef) and kind.name.endswith(("Config", "Options")):
                for field_, below in zip(kind.body, [*kind.body[1:], None], strict=True):
                    if isinstance(field_, ast.AnnAssign):
                        told = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
                        assert told, f"{path}, line {field_.lineno}: --help says nothing of it"


def test_from_dict() -> None:
    assert from_dict(Inner, {"steps": 3, "lr": 1}, "x.json") == Inner(3, 1)
    assert from_dict(Outer, {"layers": [1, 2]}, "x.json").layers == (1, 2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stps": 3}, "x.json: unknown key 'stps'; did you mean 'steps'?"),
        ({"steps": "3"}, "x.json: steps is '3'; it must be a whole number"),
        ({"steps": True}, "x.json: steps is True; it must be a whole number"),
        ({"steps": None}, "x.json: steps is None; it must be a whole number"),
        ({"fast": 1}, "x.json: fast is 1; it must be true or false"),
        ({"lr": "fast"}, "x.json: lr is 'fast'; it must be a number"),
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"steps": [1] * 99}, f"x.json: steps is {str([1] * 99)[:100]}; it must be a whole number"),
        ([1], "x.json: expected settings by name, not [1]"),
        (None, "x.json: expected settings by name, not None"),
    ],
)
def test_from_dict_says_what_is_wrong(values: Any, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        from_dict(Inner, values, "x.json")
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("values", "must"),
    [
        ({"layers": "ab"}, "a list, such as [1, 2] or null"),
        ({"layers": [1, "a"]}, "a list, such as [1, 2] or null"),
        ({"settings": []}, "settings by name or null"),
        ({"loop": 3}, "settings by name"),
        ({"out": None}, "a path"),
        ({"start": 3}, "a path or null"),
    ],
)
def test_from_dict_checks_what_is_within(values: Any, must: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"; it must be {must}")):
        from_dict(Outer, values, "x.json")


def test_deep_json_is_a_fault_like_any_other() -> None:
    assert from_json('{"a": [1]}') == {"a": [1]}
    for text in ("[" * 100_000, "{"):
        with pytest.raises(ValueError, match=r"nested too deeply|Expecting"):
            from_json(text)


def test_from_dict_misses_a_value() -> None:
    @dataclass(frozen=True)
    class Needy:
        """Needs a size."""

        size: int

    with pytest.raises(ConfigError, match=r"x\.json: a value is missing.*size"):
        from_dict(Needy, {}, "x.json")


def test_to_dict_is_plain_json() -> None:
    config = Outer(layers=(1, 2), settings={"rank": 2})
    values = to_dict(config)
    assert values["out"] == "runs/x"
    assert values["layers"] == [1, 2]
    assert values["loop"] == {"steps": 10, "lr": 1e-3, "fast": False}
    assert from_dict(Inner, values["loop"], "x") == config.loop


def test_a_config_comes_back_from_its_plain_values() -> None:
    from train.config import MetaConfig

    config = MetaConfig(simulate=("parkinson",), init_from=Path("runs/a"))
    assert from_dict(MetaConfig, to_dict(config), "config.json") == config
    with pytest.raises(ConfigError, match=r"config.json: loop: unknown key 'stps'"):
        from_dict(MetaConfig, {"loop": {"stps": 3}}, "config.json")
