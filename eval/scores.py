"""Edit counts of every utterance under every system, and the rows that tables are made of."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import eq
from pathlib import Path
from typing import Any

from hyperasr.errors import ConfigError, ShapeError
from hyperasr.files import atomic_write_text
from hyperasr.metrics import EditCounts
from hyperasr.protocols import Protocol, protocol
from hyperasr.results import difference_row, error_row
from hyperasr.statistics import SpeakerBootstrap

__all__ = ["ATYPICAL", "Place", "Scores", "places"]

ATYPICAL = "atypical"
Row = dict[str, Any]
Place = tuple[str, dict[str, str], Callable[[str], bool]]


@dataclass(frozen=True)
class Scores:
    """Counts of several systems on the same utterances.

    Attributes:
        protocol: how they were scored.
        metric: ``wer`` or ``cer``.
        meta: columns of the utterances: id, speaker, cohort, severity, source, person.
        counts: of each system, one an utterance.
        seed: of the bootstrap.
    """

    protocol: Protocol
    metric: str
    meta: Mapping[str, Sequence[Any]]
    counts: Mapping[str, Sequence[EditCounts]]
    seed: int = 0

    def __post_init__(self) -> None:
        sizes = {name: len(values) for name, values in (*self.meta.items(), *self.counts.items())}
        if len(set(sizes.values())) > 1:
            raise ShapeError(f"scores of different numbers of utterances: {sizes}")

    def __len__(self) -> int:
        return len(self.meta["speaker"])

    def pick(self, **where: Any) -> list[int]:
        """Return the utterances with these values; a function as a value is a test of it."""
        tests = {k: v if callable(v) else partial(eq, v) for k, v in where.items()}
        return [i for i in range(len(self)) if all(t(self.meta[k][i]) for k, t in tests.items())]

    def rows(
        self,
        chosen: Sequence[int],
        cohort: str,
        domain: str,
        *,
        pairs: Iterable[tuple[str, str]] = (),
        systems: Iterable[str] | None = None,
        severity: float | str | None = None,
        **extra: Any,
    ) -> list[Row]:
        """Return error rows of the systems, and difference rows of the pairs, on some utterances.

        All intervals come from the same draws of speakers.

        Args:
            chosen: utterances; none gives no rows.
            cohort, domain, severity: what the rows say they are about.
            pairs: (system, against) to compare; those with an unknown system are passed over.
            systems: which ones; None for all.
            extra: further fields of every row.
        """
        if not chosen:
            return []
        who = [self.meta["speaker"][i] for i in chosen]
        drawn = SpeakerBootstrap(who, seed=self.seed, clip=self.protocol.clip)
        picked = {s: [values[i] for i in chosen] for s, values in self.counts.items()}
        rows = [
            error_row(
                name,
                cohort,
                domain,
                drawn.rate(picked[name]),
                picked[name],
                self.metric,
                severity,
                protocol=self.protocol,
                speakers=who,
            )
            for name in (picked if systems is None else systems)
        ]
        rows += [
            difference_row(
                a,
                b,
                cohort,
                domain,
                drawn.difference(picked[a], picked[b]),
                self.metric,
                severity,
                protocol=self.protocol,
            )
            for a, b in pairs
            if a in picked and b in picked
        ]
        return [{**row, **extra} for row in rows]

    def part(self, chosen: Sequence[int]) -> Scores:
        """Return some of the utterances."""
        meta = {name: [values[i] for i in chosen] for name, values in self.meta.items()}
        counts = {name: [values[i] for i in chosen] for name, values in self.counts.items()}
        return replace(self, meta=meta, counts=counts)

    def joined(self, other: Scores) -> Scores:
        """Return the utterances of both, for the systems that both have.

        Raises:
            ConfigError: they were scored by different rules.
        """
        if (self.protocol, self.metric) != (other.protocol, other.metric):
            raise ConfigError(
                f"scores by protocol {self.protocol.name!r} ({self.metric}) and by "
                f"{other.protocol.name!r} ({other.metric}) cannot be joined; use one for both"
            )
        meta = {k: [*self.meta[k], *other.meta[k]] for k in self.meta}
        common = [name for name in self.counts if name in other.counts]
        counts = {name: [*self.counts[name], *other.counts[name]] for name in common}
        return Scores(self.protocol, self.metric, meta, counts, self.seed)

    def save(self, path: Path) -> Path:
        """Write the counts of every utterance, from which every rate can be made again."""
        content = {
            "protocol": self.protocol.fields(),
            "metric": self.metric,
            "seed": self.seed,
            "meta": {name: list(values) for name, values in self.meta.items()},
            "counts": {
                name: [[c.hits, c.substitutions, c.deletions, c.insertions] for c in values]
                for name, values in self.counts.items()
            },
        }
        return atomic_write_text(path, json.dumps(content, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> Scores:
        """Read what `save` wrote.

        Raises:
            ConfigError: the file is missing, damaged, or of another version of its protocol.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            counts = {n: [EditCounts(*c) for c in v] for n, v in content["counts"].items()}
            fields, rest = content["protocol"], (content["metric"], content["meta"])
            seed = int(content["seed"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path} holds no edit counts ({error}); score again") from error
        scored = protocol(fields["protocol"])
        if scored.fields() != fields:
            raise ConfigError(
                f"{path} was scored by another version of protocol {scored.name!r}; score again"
            )
        return cls(scored, *rest, counts, seed)


def places(sources: Iterable[str]) -> list[Place]:
    """Return where utterances come from, as tables group them: (domain, further fields, test).

    All recordings, the synthetic ones, the real ones, and each real corpus apart; only those that
    have any.
    """
    known = sorted(set(sources))
    real = [name for name in known if name != "synthetic"]
    found: list[Place] = [("all", {}, lambda source: True)]
    if "synthetic" in known:
        found.append(("synthetic", {}, lambda source: source == "synthetic"))
    if real:
        found.append(("real", {}, lambda source: source != "synthetic"))
    found += [("real", {"corpus": name}, partial(eq, name)) for name in real]
    return found
