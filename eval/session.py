"""Does it help to remember the voice of a conversation, and is a new voice noticed?

    python -m eval.session --config eval/configs/session.yaml

Conversations are put together of speakers nobody trained on: every person says their recordings one
after the other, a simulated one at a severity of their own. Systems: ``backbone``; ``utterance``,
each adapted to itself; ``session_told``, which is told when the person changes, and so remembers
each alone; ``session``, which has to notice. ``session`` hears conversations of two people, who
follow one another, once in each order. Rows with ``threshold`` are of ``session`` with
other values of `SessionConfig.new_voice`.

Further rows have a ``measure``: the ``distance`` of an utterance to the voice so far, for the same
person and for another one who takes over (of the same cohort, of another one), as quantiles;
``new_voice_found`` and ``new_voice_false``, how often another person is noticed and the same one is
taken for another; ``new_voice_auroc``, how well the distance tells them apart.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

from eval.looks import note_look
from eval.printed import print_rows
from eval.scores import Scores, targets
from hyperasr import results
from hyperasr.cache import Cache, CacheConfig, build_cache
from hyperasr.calibration import auroc, clustered_interval
from hyperasr.cohorts.manifest import read_manifest
from hyperasr.cohorts.views import TYPICAL, plan_views
from hyperasr.decode import decode_rows
from hyperasr.errors import ConfigError
from hyperasr.model import HyperASR
from hyperasr.protocols import protocol
from hyperasr.session import Session, SessionConfig
from train.program import read_config, run_program

Row = dict[str, Any]
SEED = 9_500  # no other set of views uses it: these are other people than those of the bench
BACKBONE, ALONE, TOLD, SESSION = "backbone", "utterance", "session_told", "session"
PAIRS = ((SESSION, ALONE), (TOLD, ALONE), (SESSION, TOLD), (ALONE, BACKBONE), (SESSION, BACKBONE))
_PLACES_IN_ORDER = {"first": (1, 1), "second to fourth": (2, 4), "fifth and later": (5, 10**9)}
_QUANTILES = (1, 5, 25, 50, 75, 95, 99)


@dataclass(frozen=True)
class SessionEvalConfig:
    """Which model, on whom."""

    model: str = "micro"
    """``micro`` or a folder that `train.meta` wrote."""
    backbone: str = "micro"
    """The frozen Whisper it was trained on."""
    test: Path = Path("runs/recordings/test.jsonl")
    """Manifest of typical recordings of held-out speakers."""
    session: SessionConfig = field(default_factory=SessionConfig)
    """When to trust the past."""
    thresholds: tuple[float, ...] = (0.4, 0.5, 0.8, 1.0, 1.2)
    """Other values of `SessionConfig.new_voice` to measure, each > 0."""
    protocol: str = "spoken"
    """How to score; one that goes by what was meant."""
    cache: Path = Path("runs/cache")
    """Folder of all caches of encoder states."""
    looks: Path | None = Path("results/test_looks.jsonl")
    """File that gets a line each time test speakers are looked at; None for none."""
    workers: int = 2
    """Processes that build the cache."""
    seed: int = 0
    """Of pairing people and of the bootstrap."""
    out: Path = Path("results/session.json")
    """Result file."""

    def __post_init__(self) -> None:
        if protocol(self.protocol).references != "clean":
            raise ConfigError(f"protocol {self.protocol!r} needs verbatim references; take spoken")
        if not all(t > 0 for t in self.thresholds) or self.workers < 1:
            raise ConfigError("thresholds must be above 0 and workers at least 1")


@dataclass(frozen=True)
class People:
    """Who says which rows, in order.

    Attributes:
        rows: of each person, in the order spoken.
        partner: who takes over from each: of the same cohort, and of another.
    """

    rows: Mapping[str, Sequence[int]]
    partner: Mapping[str, Mapping[str, str]]


def people_of(
    persons: Sequence[str], speakers: Sequence[str], cohorts: Sequence[str], seed: int
) -> People:
    """Group rows by person, and draw for each person two others, of other speakers.

    Args:
        persons, speakers, cohorts: of each row; a person has one speaker and one cohort.
        seed: of drawing.
    Raises:
        ConfigError: a person for whom there is no partner.
    """
    rows: dict[str, list[int]] = {}
    for row, person in enumerate(persons):
        rows.setdefault(person, []).append(row)
    rng = np.random.default_rng(seed)
    partner: dict[str, dict[str, str]] = {"same_cohort": {}, "other_cohort": {}}
    for person, own in rows.items():
        for relation, found in partner.items():
            same = relation == "same_cohort"
            others = [
                name
                for name, (first, *_) in rows.items()
                if speakers[first] != speakers[own[0]]
                and (cohorts[first] == cohorts[own[0]]) == same
            ]
            if not others:
                raise ConfigError(f"there is nobody of another voice to follow {person}; give more")
            found[person] = others[int(rng.integers(len(others)))]
    return People(rows, partner)


def told(model: HyperASR, embs: Tensor, seconds: Tensor, people: People) -> Tensor:
    """Return the embeddings (n_rows, d_spk) of sessions of one person each, never begun anew."""
    used = embs.clone()
    for rows in people.rows.values():
        session = Session.of(model, SessionConfig(new_voice=float("inf")))
        used[list(rows)] = session.smooth(embs[list(rows)], seconds[list(rows)])
    return used


def noticed(
    model: HyperASR,
    embs: Tensor,
    seconds: Tensor,
    people: People,
    relation: str,
    config: SessionConfig,
) -> tuple[Tensor, list[bool]]:
    """Return embeddings of conversations in which each person takes over from another.

    A person's rows are those after the change, so that every row is there once.

    Returns:
        (n_rows, d_spk), and for each row whether the session began anew with it.
    """
    used, anew = embs.clone(), [False] * len(embs)
    before = {then: first for first, then in people.partner[relation].items()}
    # Whom nobody was drawn to be followed by takes over from the one drawn to follow them.
    for person, rows in people.rows.items():
        session = Session.of(model, config)
        first = list(people.rows[before.get(person, people.partner[relation][person])])
        session.smooth(embs[first], seconds[first])
        for row in rows:
            known = session.n_voices
            used[row] = session.smooth(embs[row : row + 1], seconds[row : row + 1])[0]
            anew[row] = session.n_voices > known
    return used, anew


def distances(
    model: HyperASR, embs: Tensor, seconds: Tensor, people: People
) -> dict[str, list[tuple[float, int]]]:
    """Return how far utterances lie from the voice so far, and the row of each.

    ``same_person``: of every utterance but the first to the person's earlier ones. The others: of
    a person's first utterance to all of somebody else's.
    """
    found: dict[str, list[tuple[float, int]]] = {"same_person": []}
    voices: dict[str, Session] = {}
    for person, rows in people.rows.items():
        session = Session.of(model, SessionConfig(new_voice=float("inf")))
        for row in rows:
            if session.mean is not None:
                found["same_person"].append((session.distance(embs[row]), row))
            session.smooth(embs[row : row + 1], seconds[row : row + 1])
        voices[person] = session
    for relation, partner in people.partner.items():
        firsts = [(person, people.rows[then][0]) for person, then in partner.items()]
        found[relation] = [(voices[person].distance(embs[row]), row) for person, row in firsts]
    return found


def distance_rows(
    found: Mapping[str, Sequence[tuple[float, int]]],
    speakers: Sequence[str],
    thresholds: Sequence[float],
    seed: int,
) -> list[Row]:
    """Return quantiles of the distances, and how often each threshold is right."""
    rows: list[Row] = []
    own = found["same_person"]
    for relation, pairs in found.items():
        values = np.array([value for value, _ in pairs])
        who = [speakers[row] for _, row in pairs]
        about = {"relation": relation, "n_utterances": len(pairs), "n_speakers": len(set(who))}
        quantiles = {f"q{q:02d}": float(np.percentile(values, q)) for q in _QUANTILES}
        rows.append({"measure": "distance", **about, "value": float(values.mean()), **quantiles})
        measure = "new_voice_false" if relation == "same_person" else "new_voice_found"
        for threshold in thresholds:
            beyond = values > threshold

            def share(i: NDArray[np.int64], beyond: NDArray[np.bool_] = beyond) -> float:
                return float(beyond[i].mean())

            interval = clustered_interval(share, who, seed=seed)
            rows.append(_measured(measure, interval, relation=relation, threshold=threshold))
        if relation != "same_person":
            both = np.array([value for value, _ in (*own, *pairs)])
            new = np.array([False] * len(own) + [True] * len(pairs))
            whose = [speakers[row] for _, row in (*own, *pairs)]

            def area(
                i: NDArray[np.int64],
                both: NDArray[np.float64] = both,
                new: NDArray[np.bool_] = new,
            ) -> float:
                return auroc(both[i], new[i])

            interval = clustered_interval(area, whose, seed=seed)
            rows.append(_measured("new_voice_auroc", interval, relation=relation))
    return rows


def _measured(measure: str, interval: Any, **about: Any) -> Row:
    values = {k: v for k, v in vars(interval).items() if v is not None and k != "p"}
    return {"measure": measure, **about, **values}


def error_rows(scores: Scores, order: Sequence[int]) -> list[Row]:
    """Return error rows and paired differences: by cohort, domain, and place in the conversation.

    Args:
        scores: of all systems.
        order: the place of each utterance among its person's, from 1.
    """
    rows: list[Row] = []
    for group in scores.groups():
        rows += scores.group_rows(group, pairs=PAIRS)
        if group.corpus is not None:
            continue
        for name, (first, last) in _PLACES_IN_ORDER.items():
            chosen = [i for i in group.chosen if first <= order[i] <= last]
            rows += scores.rows(chosen, group.cohort, group.domain, pairs=PAIRS, place=name)
    return results.with_holm(rows, ("corpus", "metric", "place"))


class Measurement:
    """One model on one set of conversations.

    Args:
        config: which.
    Raises:
        ConfigError: the model does not listen to the voice, or its speaker encoder was trained
            along and is in no cache.
    """

    def __init__(self, config: SessionEvalConfig) -> None:
        self.config = config
        self.model = HyperASR.from_pretrained(config.model)
        backbone = self.model.backbone
        Session.of(self.model)
        rows = read_manifest(config.test)
        note_look(config.looks, config.test, rows, (BACKBONE, ALONE, TOLD, SESSION))
        self.views = plan_views(rows, seed=SEED, people_per_speaker=1)
        folder = build_cache(
            config.cache,
            self.views,
            config.backbone,
            CacheConfig(self.model.speaker_config, keep_mel=self.model.adapts_encoder),
            backbone=backbone,
            workers=config.workers,
            progress=lambda done, n: print(f"cache: {done} of {n} parts", file=sys.stderr),
        )
        self.cache = Cache([folder], backbone)
        self.embs = self.cache.embeddings()
        # Not of frames: the shortest utterances are lengthened with silence.
        seconds = self.cache.rows.select_columns("duration_s")["duration_s"][:]
        self.seconds = torch.tensor([seconds[row] for row in self.cache.index])
        # The typical voice of a speaker is another person than the simulated ones.
        self.persons = [view.person for view in self.views]
        meta = self.cache.meta
        self.people = people_of(self.persons, meta["speaker"], meta["cohort"], config.seed)

    @property
    def order(self) -> list[int]:
        """The place of each row among its person's, from 1."""
        place = [0] * len(self.persons)
        for rows in self.people.rows.values():
            for number, row in enumerate(rows, start=1):
                place[row] = number
        return place

    def scores(self) -> tuple[Scores, dict[float, Scores]]:
        """Decode and score all systems, and the session with each other threshold."""
        config = self.config

        def heard(new_voice: float) -> Tensor:
            chosen = replace(config.session, new_voice=new_voice)
            args = (self.model, self.embs, self.seconds, self.people, "same_cohort", chosen)
            return noticed(*args)[0]

        embs = {
            ALONE: self.embs,
            TOLD: told(self.model, self.embs, self.seconds, self.people),
            SESSION: heard(config.session.new_voice),
        }
        embs |= {f"{t:g}": heard(t) for t in config.thresholds}
        texts = {BACKBONE: decode_rows(self.model, self.cache, adapt=False)}
        for name, used in track(list(embs.items()), "decoding", console=Console(stderr=True)):
            texts[name] = decode_rows(self.model, self.cache, embeddings=used)
        main = self._scored({n: texts[n] for n in (BACKBONE, ALONE, TOLD, SESSION)})
        return main, {
            t: self._scored({ALONE: texts[ALONE], SESSION: texts[f"{t:g}"]})
            for t in config.thresholds
        }

    def _scored(self, texts: Mapping[str, Sequence[str]]) -> Scores:
        rules = protocol(self.config.protocol)
        names = ("id", "speaker", "cohort", "domain", "severity", "source")
        meta = {name: self.cache.meta[name] for name in names} | {"person": self.persons}
        clean, metric = self.cache.meta["text"], rules.metrics[0]
        counts = {name: rules.score(said, clean, None, metric) for name, said in texts.items()}
        return Scores(rules, metric, meta, counts, self.config.seed)

    def rows(self) -> list[Row]:
        """Return all rows of the result file."""
        config = self.config
        scores, others = self.scores()
        rows = error_rows(scores, self.order)
        for threshold, other in others.items():
            groups = other.groups()
            typical = [g for g in groups if g.cohort == TYPICAL and g.corpus is None]
            options = {"systems": (SESSION,), "pairs": ((SESSION, ALONE),), "threshold": threshold}
            for group in (*targets(groups), *typical):
                rows += other.group_rows(group, **options)
        found = distances(self.model, self.embs, self.seconds, self.people)
        thresholds = sorted({config.session.new_voice, *config.thresholds})
        return rows + distance_rows(found, self.cache.meta["speaker"], thresholds, config.seed)


def main() -> None:
    """Measure, write the JSON, print the tables."""
    config = read_config(SessionEvalConfig)
    measurement = Measurement(config)
    rows = measurement.rows()
    rules = protocol(config.protocol)
    command = results.command("eval.session")
    described = f"conversations, held-out speakers, {rules.name}"
    head = results.head(command, config, config.seed, described, rules.normaliser)
    results.write(config.out, head, rows)
    errors = [r for r in rows if "measure" not in r and "threshold" not in r and "place" not in r]
    title = f"{rules.metrics[0]} in percent"
    metric = rules.metrics[0]
    print_rows(errors, title=title, metric=metric)
    print_rows(errors, differences=True, title="paired differences", metric=metric)
    for row in rows:
        where = row.get("relation")
        if row.get("measure") == "distance":
            shown = ", ".join(f"{q} % {row[f'q{q:02d}']:.2f}" for q in _QUANTILES)
            print(f"distance, {where}: {shown}")
        elif str(row.get("measure", "")).startswith("new_voice"):
            at = f" beyond {row['threshold']:g}" if "threshold" in row else ""
            print(f"{row['measure']}, {where}{at}: {row['value']:.3f}")
        elif "threshold" in row and "against" in row:
            print(f"{row['cohort']}, new voice {row['threshold']:g}: {100 * row['value']:+.2f}")


if __name__ == "__main__":
    run_program(main)
