"""Configurations: frozen dataclasses, filled from YAML and dotted overrides by jsonargparse."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from pathlib import Path
from typing import Any, TypeVar

import yaml

from hyperasr.errors import ConfigError

__all__ = ["from_dict", "parse", "to_dict"]

T = TypeVar("T")


def parse(kind: type[T], argv: list[str]) -> T:
    """Build a config from the command line: ``--config FILE`` and ``--dotted.key value``.

    Raises:
        ConfigError: unknown key (names the closest valid one), a value of the wrong type or range,
            or a file that is missing or no YAML.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False, description=(kind.__doc__ or "").splitlines()[0])
    parser.add_argument("--config", action="config", help="YAML file with values")
    parser.add_class_arguments(kind, as_group=False)
    try:
        namespace = parser.parse_args(argv)
    except (ArgumentError, TypeError, OSError, yaml.YAMLError) as error:
        raise ConfigError(_readable(str(error), kind)) from error
    values = parser.instantiate(namespace)
    values.pop("config", None)
    return kind(**values.as_dict() if hasattr(values, "as_dict") else vars(values))


def from_dict(kind: type[T], values: dict[str, Any], where: str) -> T:
    """Build a config from plain values, such as a saved JSON; `where` names their source.

    Raises:
        ConfigError: unknown key, or a value out of range.
    """
    names = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in values:
        if key not in names:
            raise ConfigError(f"{where}: unknown key {key!r}{_closest(key, names)}")
    ready = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return kind(**ready)


def to_dict(config: Any) -> dict[str, Any]:
    """Return plain JSON values of a config dataclass; paths become strings."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def valid_keys(kind: Any, prefix: str = "") -> set[str]:
    """Return all dotted keys of a config dataclass."""
    import typing

    hints = typing.get_type_hints(kind)
    keys: set[str] = set()
    for field in dataclasses.fields(kind):
        keys.add(prefix + field.name)
        inner = hints[field.name]
        if dataclasses.is_dataclass(inner):
            keys |= valid_keys(inner, f"{prefix}{field.name}.")
    return keys


def _closest(key: str, names: set[str]) -> str:
    close = difflib.get_close_matches(key, sorted(names), n=1, cutoff=0.0)
    return f"; did you mean {close[0]!r}?" if close else ""


def _readable(message: str, kind: Any) -> str:
    unknown = re.search(r"(?:[Kk]ey|[Oo]ption|arguments?:?)\W+'?(?:--)?([\w.]+)'?[^\n]*", message)
    first = " ".join(message.split())
    if unknown and ("not accepted" in first or "does not exist" in first or "nrecognized" in first):
        key = unknown.group(1)
        return f"unknown configuration key {key!r}{_closest(key, valid_keys(kind))}"
    return f"configuration: {first}"


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file of values."""
    try:
        return yaml.safe_load(path.read_text()) or {}
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
