"""What is tested: the settings that every evaluation program shares, and the fixed test views."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from eval.systems import BACKBONE
from hyperasr.cohorts.manifest import read_manifest
from hyperasr.cohorts.views import View, plan_views
from hyperasr.errors import ConfigError
from hyperasr.protocols import protocol

__all__ = ["SEVERITIES", "TEST_SEED", "BenchConfig", "fixed_views"]

SEVERITIES = (0.25, 0.5, 0.75, 1.0)
TEST_SEED = 9_000  # no training or development set of views uses it


@dataclass(frozen=True)
class BenchConfig:
    """What every evaluation program has to know: systems, test set, protocol, where things lie."""

    systems: dict[str, Path] = field(default_factory=dict)
    """Folders of the systems by name; the frozen backbone is always there as ``backbone``."""
    test: Path = Path("runs/recordings/test.jsonl")
    """Manifest of typical recordings of held-out speakers."""
    train: tuple[Path, ...] = (
        Path("runs/recordings/train.jsonl"),
        Path("runs/recordings/dev.jsonl"),
    )
    """Manifests of what was trained and chosen on, checked for leaks into the test."""
    prompt_overlap: str = "warn"
    """What the same text on both sides is: ``warn`` (closed domains repeat), ``error`` or
    ``ignore``."""
    backbone: str = "micro"
    """The frozen Whisper of all adapted systems."""
    protocol: str = "spoken"
    """How to score: ``spoken``, ``verbatim``, ``whisper`` or ``sap2``."""
    controls_of: tuple[str, ...] | None = None
    """Systems that also get the controls; None for every one that listens to an embedding."""
    cache: Path = Path("runs/cache")
    """Folder of all caches of encoder states."""
    store: Path = Path("runs/eval")
    """Folder of hypotheses."""
    beam_size: int = 1
    """Beams, at least 1."""
    workers: int = 2
    """Processes that build the cache."""
    seed: int = 0
    """Of shuffling and bootstrap."""

    def __post_init__(self) -> None:
        protocol(self.protocol)
        if self.beam_size < 1 or self.workers < 1:
            raise ConfigError(
                f"beam_size and workers must be at least 1, not {self.beam_size} and {self.workers}"
            )
        reserved = sorted(n for n in self.systems if n == BACKBONE or "@" in n)
        if reserved:
            raise ConfigError(f"a system cannot be called {reserved[0]!r}; choose another name")


def fixed_views(manifest: Path) -> list[View]:
    """Return the fixed test views: every recording in every cohort, severities in turn."""
    return plan_views(read_manifest(manifest), seed=TEST_SEED, severities=SEVERITIES)
