"""Edit counts of every utterance under every system, and the rows that tables are made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from eval.lib.results import difference_row, error_row
from hyperasr.cohorts.simulate import COHORTS
from hyperasr.cohorts.splits import severity_bin
from hyperasr.cohorts.views import TYPICAL
from hyperasr.metrics.error_rates import EditCounts
from hyperasr.metrics.protocols import Protocol
from hyperasr.metrics.statistics import SpeakerBootstrap

ATYPICAL = "atypical"
SIMULATED, RECORDED = "simulated", "recorded"
_EDGES = (0.25, 0.5, 0.75)  # between ranges of severity, where there are too many levels for rows
_MOST_LEVELS = 6
Row = dict[str, Any]


@dataclass(frozen=True)
class Group:
    """Utterances that rows of a table are about.

    Attributes:
        cohort: its name, or `ATYPICAL` for several cohorts together.
        domain: ``recorded`` or ``simulated``.
        chosen: the utterances.
        corpus: that all of them are from, in rows about one corpus; None in the headline.
    """

    cohort: str
    domain: str
    chosen: tuple[int, ...]
    corpus: str | None = None

    @property
    def fields(self) -> dict[str, str]:
        """Further fields of the group's rows."""
        return {} if self.corpus is None else {"corpus": self.corpus}


def in_order(cohorts: Iterable[str]) -> list[str]:
    """Return cohorts, each once, in the order of tables: known ones, others by name, typical."""
    known = {name: i for i, name in enumerate(COHORTS)}
    return sorted(set(cohorts), key=lambda c: (c == TYPICAL, known.get(c, len(known)), c))


def groups_of(meta: Mapping[str, Sequence[Any]], apart: Sequence[str] = ()) -> list[Group]:
    """Return utterances as tables group them; only groups that have any.

    First the headline, all corpora but those of `apart`; then each corpus that is apart, and each
    one where the headline has several. Within each: what is simulated, what was recorded, typical
    speech. Several cohorts of one domain come together first, as `ATYPICAL`.

    Args:
        meta: columns ``cohort``, ``domain`` and ``source`` of the utterances.
        apart: corpora that are not in the headline.
    """
    cohorts, domains, sources = (meta[name] for name in ("cohort", "domain", "source"))
    headline = sorted(set(sources) - set(apart))
    corpora = [s for s in sorted(set(sources)) if s in apart or len(headline) > 1]
    found: list[Group] = []
    for corpus, inside in [(None, set(headline)), *((s, {s}) for s in corpora)]:
        here = [i for i, source in enumerate(sources) if source in inside]
        for domain in (SIMULATED, RECORDED):
            own = [i for i in here if domains[i] == domain and cohorts[i] != TYPICAL]
            names = in_order(cohorts[i] for i in own)
            if len(names) > 1:
                found.append(Group(ATYPICAL, domain, tuple(own), corpus))
            for name in names:
                chosen = tuple(i for i in own if cohorts[i] == name)
                found.append(Group(name, domain, chosen, corpus))
        if typical := tuple(i for i in here if cohorts[i] == TYPICAL):
            found.append(Group(TYPICAL, RECORDED, typical, corpus))
    return found


def targets(groups: Iterable[Group], corpus: str | None = None) -> list[Group]:
    """Return what stands for atypical speech: in each domain all cohorts, or the only one.

    What is simulated comes first.
    """
    own = [g for g in groups if g.corpus == corpus and g.cohort != TYPICAL]
    return list({g.domain: g for g in reversed(own)}.values())[::-1]


def labels(cohorts: Sequence[str], domains: Sequence[str]) -> list[str]:
    """Return the cohort of each utterance, with its domain where others of it are of another."""
    pairs = list(zip(cohorts, domains, strict=True))
    n_domains = Counter(cohort for cohort, _ in set(pairs))
    return [f"{c}, {d}" if n_domains[c] > 1 else c for c, d in pairs]


def levels_of(
    severities: Sequence[float | None], chosen: Iterable[int]
) -> dict[float | str, list[int]]:
    """Return some utterances by severity, those without one left out.

    Where there are many levels, as in a corpus that measures each speaker, ranges such as
    ``0.25-0.50`` take their place.
    """
    known = [i for i in chosen if severities[i] is not None]
    many = len({severities[i] for i in known}) > _MOST_LEVELS
    found: dict[Any, list[int]] = {}
    for i in known:
        level = severities[i]
        found.setdefault(severity_bin(level, _EDGES) if many else level, []).append(i)
    return {level: found[level] for level in sorted(found)}


@dataclass(frozen=True)
class Scores:
    """Counts of several systems on the same utterances.

    Attributes:
        protocol: how they were scored.
        metric: ``wer`` or ``cer``.
        meta: columns of the utterances: id, speaker, cohort, domain, severity, source, person.
        counts: of each system, one an utterance.
        seed: of the bootstrap.
        apart: corpora that are not in the headline.
    """

    protocol: Protocol
    metric: str
    meta: Mapping[str, Sequence[Any]]
    counts: Mapping[str, Sequence[EditCounts]]
    seed: int = 0
    apart: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.meta["speaker"])

    def groups(self) -> list[Group]:
        """Return the utterances as tables group them, see `groups_of`."""
        return groups_of(self.meta, self.apart)

    def rows(
        self,
        group: Group,
        *,
        pairs: Iterable[tuple[str, str]] = (),
        severity: float | str | None = None,
        **extra: Any,
    ) -> list[Row]:
        """Return error rows of the systems, and difference rows of the pairs, on some utterances.

        All intervals come from the same draws of speakers.

        Args:
            group: the utterances, and what the rows say they are about.
            pairs: (system, against) to compare; those with an unknown system are passed over.
            severity: what the rows say it is.
            extra: further fields of every row.
        """
        who = [self.meta["speaker"][i] for i in group.chosen]
        drawn = SpeakerBootstrap(who, seed=self.seed, clip=self.protocol.clip)
        picked = {s: [values[i] for i in group.chosen] for s, values in self.counts.items()}
        place: Row = {"cohort": group.cohort, "domain": group.domain, "metric": self.metric}
        if severity is not None:
            place["severity"] = severity
        rows = [
            error_row(name, place, drawn.rate(counts), counts, self.protocol, who)
            for name, counts in picked.items()
        ]
        rows += [
            difference_row(a, b, place, drawn.difference(picked[a], picked[b]), self.protocol)
            for a, b in pairs
            if a in picked and b in picked
        ]
        return [{**row, **group.fields, **extra} for row in rows]

    def part(self, chosen: Sequence[int]) -> Scores:
        """Return some of the utterances."""
        meta = {name: [values[i] for i in chosen] for name, values in self.meta.items()}
        counts = {name: [values[i] for i in chosen] for name, values in self.counts.items()}
        return replace(self, meta=meta, counts=counts)

    def joined(self, other: Scores) -> Scores:
        """Return the utterances of both, scored alike, for the systems that both have."""
        meta = {k: [*self.meta[k], *other.meta[k]] for k in self.meta}
        common = [name for name in self.counts if name in other.counts]
        counts = {name: [*self.counts[name], *other.counts[name]] for name in common}
        return replace(self, meta=meta, counts=counts)
