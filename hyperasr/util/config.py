"""Configurations: frozen dataclasses, filled from YAML and dotted overrides by jsonargparse."""

from __future__ import annotations

import dataclasses
import json
import re
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from hyperasr.errors import ConfigError
from hyperasr.util.closest import did_you_mean

T = TypeVar("T")


PARSE_ERRORS = (AttributeError, OSError, RecursionError, TypeError, ValueError)
"""What jsonargparse raises beside its own errors where arguments or a configuration are wrong;
the first where a configuration holds ``config``."""


def parse(kind: type[T], argv: list[str]) -> T:
    """Build a config from the command line: ``--config FILE`` and ``--dotted.key value``.

    ``--help`` shows the docstring under each field.

    Raises:
        ConfigError: unknown key (names the closest valid one), a value of the wrong type or range,
            or a file that is missing or no YAML.
    """
    from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    # Without abbreviations, which would take a misspelt key for a valid one.
    parser = ArgumentParser(
        exit_on_error=False, allow_abbrev=False, description=(kind.__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--config", action="config", help="YAML file with values")
    parser.add_class_arguments(kind, as_group=False)
    try:
        namespace = parser.parse_args(argv)
        values = parser.instantiate(namespace)
    except (ArgumentError, yaml.YAMLError, *PARSE_ERRORS) as error:
        raise ConfigError(explained(error, parser, argv)) from error
    values.pop("config", None)
    return kind(**values.as_dict() if hasattr(values, "as_dict") else vars(values))


def from_dict(kind: type[T], values: dict[str, Any], where: str) -> T:
    """Build a config from plain values, such as a saved JSON; `where` names their source.

    Raises:
        ConfigError: unknown key, a missing value, or one of the wrong type or out of range.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: expected settings by name, not {values!r}")
    names = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(kind)
    for key, value in values.items():
        if key not in names:
            raise ConfigError(f"{where}: unknown key {key!r}{did_you_mean(key, names)}")
        check_type(value, hints[key], f"{where}: {key}")
    ready = {k: _built(hints[k], v, f"{where}: {k}") for k, v in values.items()}
    try:
        return kind(**ready)
    except TypeError as error:
        raise ConfigError(f"{where}: a value is missing or of the wrong type ({error})") from error


def _built(hint: Any, value: Any, where: str) -> Any:
    """Return a plain value as what a field of that type holds; configs within are built too."""
    kinds = [kind for kind in (hint, *typing.get_args(hint)) if isinstance(kind, type)]
    if isinstance(value, dict):
        inner = [kind for kind in kinds if dataclasses.is_dataclass(kind)]
        return from_dict(inner[0], value, where) if inner else value
    if isinstance(value, str) and Path in kinds and str not in kinds:
        return Path(value)
    return tuple(value) if isinstance(value, list) else value


def check_types(config: Any) -> None:
    """Raise ConfigError where a value of a config is not of its field's type; see `check_type`."""
    for name, hint in typing.get_type_hints(type(config)).items():
        check_type(getattr(config, name), hint, name)


def to_dict(config: Any) -> dict[str, Any]:
    """Return plain JSON values of a config dataclass; paths become strings."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def check_type(value: Any, hint: Any, what: str) -> None:
    """Raise ConfigError, which begins with `what`, where a plain JSON value is not of that type.

    Lists stand for tuples, texts for paths and mappings for configs; whole numbers are numbers.
    """
    if not _is_a(value, hint):
        is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
        kinds = typing.get_args(hint) if is_union else (hint,)
        expected = " or ".join(map(_name_of, kinds))
        raise ConfigError(f"{what} is {repr(value)[:100]}; it must be {expected}")


def _is_a(value: Any, hint: Any) -> bool:
    origin, within = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_is_a(value, kind) for kind in within)
    if origin is typing.Literal:
        return any(value == choice and type(value) is type(choice) for choice in within)
    if origin is tuple:
        inner = within[0] if len(within) == 2 and within[1] is Ellipsis else Any
        return isinstance(value, list | tuple) and all(_is_a(part, inner) for part in value)
    if hint in (int, float, bool):
        # A boolean is a whole number to Python.
        kind = (int, float) if hint is float else hint
        return isinstance(value, kind) and isinstance(value, bool) is (hint is bool)
    if hint is Path:
        return isinstance(value, str | Path)
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return True
    kind = origin or hint
    return isinstance(value, kind) if isinstance(kind, type) else True


def _name_of(hint: Any) -> str:
    """Return what a type of Python's is called in a message."""
    if typing.get_origin(hint) is typing.Literal:
        return f"one of {', '.join(map(repr, typing.get_args(hint)))}"
    kind = typing.get_origin(hint) or hint
    return _TYPES.get(getattr(kind, "__name__", ""), "settings by name")


def from_json(text: str) -> Any:
    """Return the values of a JSON text.

    Raises:
        ValueError: it is none, or nested too deeply to be read.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "tuple": "a list, such as [1, 2]",
    "dict": "settings by name",
    "NoneType": "null",
    "Path": "a path",
}
_UNKNOWN = (
    re.compile(r"Group '(?P<group>[\w.]+)' does not accept option '(?P<key>[^']*)'"),
    re.compile(r"[Kk]ey\W+'(?P<key>[^']*)' is not expected"),
    re.compile(r"[Oo]ption '(?P<key>[^']*)' is not accepted"),
    re.compile(r"does not accept option '(?P<key>[^']*)'"),
)
_WRONG_TYPE = re.compile(r'Parser key "(?P<key>[\w.]+)".*?: .*(?:Got|Given) value: ?(?P<value>.*)')
_EXPECTED = re.compile(r"Expected an? (typing\.Literal\[.*?\]|<class '\w+'>)")


def explained(error: object, parser: Any, argv: Sequence[str]) -> str:
    """Say in one line of our own what jsonargparse found wrong, with the closest right name.

    Args:
        error: as it was raised.
        parser: what read the arguments, for the names that there are.
        argv: the arguments.
    """
    message = " ".join(str(error).split())
    options = [name for name in parser._option_string_actions if name.startswith("--")]
    if found := re.search(r"unrecognized arguments: (\S+)", message):
        name = found[1].split("=")[0]
        if name.startswith("-"):
            return f"unknown option {name}{did_you_mean(name, options)}"
        return f"{name!r} is one argument too many; see --help"
    if found := re.search(r"following arguments are required: (.*)", message):
        names = [name.rpartition(".")[2] for name in found[1].split(", ")]
        needed = [f"--{name}" if f"--{name}" in options else name.upper() for name in names]
        return f"it needs {', '.join(needed)}; see --help"
    for pattern in _UNKNOWN:
        if unknown := pattern.search(message):
            group = unknown.groupdict().get("group")
            key = f"{group}.{unknown['key']}" if group else unknown["key"]
            keys = [option[2:].replace("-", "_") for option in options]
            return f"unknown configuration key {key!r}{did_you_mean(key, keys)}"
    if "must be a mapping, not" in message or "Unable to load config" in message:
        return "a group of settings is given as one value; give its settings by name"
    files = " ".join(config_files(argv))
    if isinstance(error, AttributeError):
        return f"configuration {files}: it names another one; take 'config' out of it"
    # Which of the two it is depends on how deep the stack was: Python shows a loop as [...].
    if isinstance(error, RecursionError) or "[...]" in message or "{...}" in message:
        return f"configuration {files}: it refers to itself, or is nested too deeply"
    if wrong := _WRONG_TYPE.search(message):
        kinds = [_choices(kind) for kind in _EXPECTED.findall(message)]
        if kinds:
            return f"{wrong['key']} is {wrong['value']!r}; it must be {' or '.join(kinds)}"
    if "Unexpected config" in message:
        return f"configuration {files}: it holds no settings by name"
    if "parsing config" in message or 'key "config"' in message:
        return f"configuration {files}: {message.split(': ', 1)[1]}"
    return message


def config_files(argv: Sequence[str]) -> list[str]:
    """Return the configuration files among arguments."""
    given = [arg.partition("=") for arg in argv]
    return [
        value or " ".join(argv[i + 1 : i + 2])
        for i, (key, _, value) in enumerate(given)
        if key == "--config"
    ]


def _choices(kind: str) -> str:
    """Return what a type of Python's is called in a message."""
    literal = re.fullmatch(r"typing\.Literal\[(.*)\]", kind)
    return f"one of {literal[1]}" if literal else _TYPES.get(kind.split("'")[1], kind)
