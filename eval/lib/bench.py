"""The bench that every evaluation program shares: who is tested, on what, decoded once.

The test set is a fixed plan of views of speakers nobody trained on: recorded cohorts as they are,
typical recordings also as simulated people would say them. A `Bench` prints what it found, opens
systems by name and folder, refuses training data that leak into the test, decodes each system
(and its controls), and keeps every hypothesis in a store, so that several programs do not decode
the same thing twice and an interrupted evaluation goes on.

    bench = Bench(config)
    texts = bench.decode("hypernet")  # one hypothesis a row of the test set
    scores = bench.scores(["backbone", "hypernet", "hypernet_shuffled"])
    rows = [row for group in scores.groups() for row in scores.rows(group)]
"""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from eval.lib import results
from eval.lib.embedding_controls import CONTROLS, control_embeddings, impossible
from eval.lib.scores import RECORDED, SIMULATED, Scores, labels
from eval.lib.systems import (
    BACKBONE,
    System,
    open_system,
    open_unadapted,
    plain_tokens,
    view_of,
)
from eval.lib.testset import BenchConfig, Store, fixed_views, print_found
from hyperasr.cohorts.cache import Cache, CacheConfig, build_cache
from hyperasr.cohorts.manifest import read_manifest
from hyperasr.cohorts.splits import check_leaks
from hyperasr.cohorts.views import TYPICAL, plan_key, verbatim_text
from hyperasr.errors import ConfigError
from hyperasr.metrics.protocols import protocol
from hyperasr.model import decode_tokens
from hyperasr.speaker.encoder import SpeakerConfig
from hyperasr.types import Decoded
from hyperasr.whisper.backbone import Backbone
from hyperasr.whisper.search import SearchConfig

log = logging.getLogger(__name__)

_SAVED_TOGETHER = 256  # rows decoded between two savings, a multiple of the batch size


class Bench:
    """Systems on one test set.

    Args:
        config: the settings.
        backbone: the frozen one, where it is loaded already.
    Raises:
        ConfigError: a system's folder is missing.
        ManifestError: training data leak into the test.
    """

    def __init__(self, config: BenchConfig, backbone: Backbone | None = None) -> None:
        self.config = config
        self.views = fixed_views(config)
        found = [(v.cohort, v.domain, v.utterance.source, v.utterance.speaker) for v in self.views]
        print_found(config.test, found, config.simulate)
        self.backbone = backbone or Backbone.from_pretrained(config.backbone)
        self.protocol = protocol(config.protocol)
        self.store = Store(config.store, plan_key(self.views))
        self.systems = {name: open_unadapted(name, self.backbone) for name in config.unadapted}
        self._open(config.systems)
        self._checked: set[Path] = set()
        # Shared with benches beside this one, so that what was said is not said again.
        self._looked: set[str] = set()
        self._left_out: set[str] = set()
        self.check_leaks()
        self._caches: dict[str, Cache] = {}
        self._embeddings: dict[str, Tensor] = {}

    def _open(self, folders: Mapping[str, Path]) -> None:
        for name, folder in folders.items():
            self.systems[name] = open_system(name, folder, self.backbone)

    def beside(self, systems: dict[str, Path]) -> Bench:
        """Return a bench on the same test set with more systems; this one stays as it is.

        Raises:
            ManifestError: their training data leak into the test.
        """
        other = copy.copy(self)
        other.systems = dict(self.systems)
        other._open(systems)
        other.check_leaks()
        return other

    def check_leaks(self) -> None:
        """Refuse systems and manifests whose training or development speakers are tested.

        Besides the manifests of the config those that a system's own notes name are read, as far
        as they are still there.
        """
        manifests = [Path(p) for p in self.config.train]
        for system in self.systems.values():
            notes = system.training.get("config", {})
            notes = notes.get("data", notes)
            named = [Path(notes[key]) for key in ("train", "dev") if notes.get(key)]
            for path in named:
                if path.is_file():
                    manifests.append(path)
                else:
                    log.warning("%s: %s is not there; no leak check of it", system.name, path)
        test = read_manifest(self.config.test)
        for path in dict.fromkeys(p.resolve() for p in manifests):
            if path in self._checked:
                continue
            self._checked.add(path)
            check_leaks(read_manifest(path), test, text=self.config.prompt_overlap, name=path.name)

    def cache_of(self, system: System) -> Cache:
        """Return the test rows as this system hears them, with its speaker encoder's embeddings.

        Systems that do not listen share the rows of the first one that does.
        """
        backbone = system.model.backbone
        if not system.adapt:
            # A fine-tuned Whisper reads what the frozen one heard, or log-mel.
            heard = self.backbone if system.folder is None else backbone
            backbone = heard.around(self.backbone.whisper)
        config = self._speaker_of(system, backbone)
        key = f"{config!r}, {backbone.audio_context}, {backbone.margin_s}"
        if key not in self._caches:
            folder = build_cache(
                self.config.cache,
                self.views,
                self.config.backbone,
                CacheConfig(config, keep_mel=True),
                backbone=backbone,
                workers=self.config.workers,
                progress=lambda done, n: print(f"cache: {done} of {n} parts", file=sys.stderr),
            )
            self._caches[key] = Cache([folder], backbone)
        return self._caches[key]

    def _speaker_of(self, system: System, backbone: Backbone) -> SpeakerConfig:
        if system.conditioned:
            return system.model.speaker_config
        heard = (backbone.audio_context, backbone.margin_s)
        adapted = [
            s
            for s in self.systems.values()
            if s.adapt and heard == (s.model.backbone.audio_context, s.model.backbone.margin_s)
        ]
        others = [s for s in adapted if s.conditioned] or adapted
        return (others[0] if others else system).model.speaker_config

    @property
    def rows(self) -> Cache:
        """The test rows as every system shares them."""
        return self.cache_of(self.systems[BACKBONE])

    def rows_of(self, name: str) -> list[int]:
        """Return the rows a system may decode: all, save for what people enrolled with."""
        recognised = self.find(name)[0].recognised
        if recognised is None:
            return list(range(len(self.views)))
        return [row for row, view in enumerate(self.views) if view.id in recognised]

    def column(self, name: str) -> list[Any]:
        """Return a column of the test set: id, speaker, person, cohort, domain, severity (None
        where nobody knows it), source or text."""
        # Of whichever cache there is: the views are the same.
        cache = next(iter(self._caches.values()), None) or self.rows
        return list(cache.meta[name])

    @property
    def described(self) -> str:
        """What is tested and how it is scored, for the head of a result file."""
        domains = {view.domain for view in self.views if view.cohort != TYPICAL}
        kinds = " and ".join(d for d in (RECORDED, SIMULATED) if d in domains)
        what = f"{kinds} cohorts" if kinds else "typical speech"
        return f"{what}, held-out speakers, {self.protocol.name}"

    def verbatim(self) -> list[str]:
        """Return what is heard in each row, repetitions and fillers included; made once."""
        made = self.store.read("verbatim")
        missing = [row for row in range(len(self.views)) if row not in made]
        for row in track(missing, "verbatim references", transient=True):
            made[row] = verbatim_text(self.views[row])
        if missing:
            self.store.write("verbatim", made, {})
        return [made[row] for row in range(len(self.views))]

    def names(self) -> list[str]:
        """List what can be decoded: every system, each followed by its controls.

        What follows a colon in a name tells variants of one system apart. Controls for which the
        test set has too few speakers or cohorts are left out; the log says why.
        """
        names, wanted = [], self.config.controls_of
        for name, system in self.systems.items():
            names.append(name)
            if system.conditioned and (wanted is None or name.partition(":")[0] in wanted):
                names += [f"{name}_{control}" for control in CONTROLS if self._allows(control)]
        return names

    def _allows(self, control: str) -> bool:
        speakers = [view.utterance.speaker for view in self.views]
        reason = impossible(control, speakers, self._labels())
        if reason and control not in self._left_out:
            log.warning("the control %r is left out: %s", control, reason)
            self._left_out.add(control)
        return reason is None

    def _labels(self) -> list[str]:
        return labels([v.cohort for v in self.views], [v.domain for v in self.views])

    def find(self, name: str) -> tuple[System, str | None]:
        """Return the system and the control (or None) that a name such as ``hypernet_mean`` means.

        Raises:
            ConfigError: there is no such system, or it has no such control.
        """
        if name in self.systems:
            return self.systems[name], None
        for control in CONTROLS:
            system = self.systems.get(name.removesuffix(f"_{control}"))
            if system is not None and system.conditioned:
                return system, control
        raise ConfigError(f"no system is called {name!r}; there are {', '.join(self.names())}")

    def decode(self, name: str, rows: Sequence[int] | None = None) -> list[str]:
        """Return a hypothesis for each of the rows; arguments as for `decoded`."""
        backbone = self.find(name)[0].model.backbone
        return [backbone.text(tokens) for tokens in self.decoded(name, rows).tokens]

    def decoded(
        self, name: str, rows: Sequence[int] | None = None, *, n_samples: int | None = None
    ) -> Decoded:
        """Return tokens and log-probabilities of each of the rows, from the store or decoded now.

        Args:
            name: of a system or control, see `find`.
            rows: row numbers; None for all it may decode, see `rows_of`.
            n_samples: posterior samples an utterance; None for the posterior mean.
        Returns:
            A row for each row number, or n_samples adjacent rows.
        """
        self._look()
        system, control = self.find(name)
        wanted = self.rows_of(name) if rows is None else list(rows)
        if system.recognised is not None and not set(wanted) <= set(self.rows_of(name)):
            raise ConfigError(
                f"{name} has factors by person and recognises only what they did not enrol with; "
                "give rows of `rows_of`"
            )
        cache, k = self.cache_of(system), n_samples or 1
        key = self._key(system, control, n_samples)
        known = self.store.read(key)
        # In order of length, as decoding itself would go through them: the batches are the same.
        missing = sorted({r for r in wanted if r not in known}, key=lambda r: cache.n_frames[r])
        embs = self._control(system, control) if missing else None
        for start in range(0, len(missing), _SAVED_TOGETHER):
            chosen = missing[start : start + _SAVED_TOGETHER]
            heard = view_of(system, cache, self.views)
            if system.plain:
                made = plain_tokens(system.model.backbone, heard, chosen)
            else:
                made = decode_tokens(
                    system.model,
                    heard,
                    chosen,
                    search=SearchConfig(beam_size=self.config.beam_size, stop=system.stops),
                    adapt=system.adapt,
                    embeddings=None if embs is None else embs[chosen],
                    n_samples=n_samples,
                    seed=self.config.seed,
                )
            lines = [
                [list(t), [round(p, 5) for p in lp], done, round(score, 5)]
                for t, lp, done, score in zip(
                    made.tokens, made.logprobs, made.finished, made.score, strict=True
                )
            ]
            known.update({row: lines[i * k : (i + 1) * k] for i, row in enumerate(chosen)})
            self.store.write(key, known, {"system": name, "fingerprint": system.fingerprint})
        columns = zip(*(line for row in wanted for line in known[row]), strict=True)
        tokens, logprobs, finished, score = list(columns) or ((), (), (), ())
        return Decoded(
            tuple(map(tuple, tokens)), tuple(map(tuple, logprobs)), tuple(finished), tuple(score)
        )

    def scores(
        self,
        names: Iterable[str],
        rows: Sequence[int] | None = None,
        *,
        metric: str | None = None,
    ) -> Scores:
        """Decode and count the edits of systems and controls on the same rows, see `score`."""
        tracked = track(list(names), "decoding", transient=True)
        return self.score({name: self.decode(name, rows) for name in tracked}, rows, metric=metric)

    def score(
        self,
        texts: dict[str, list[str]],
        rows: Sequence[int] | None = None,
        *,
        metric: str | None = None,
    ) -> Scores:
        """Count the edits of hypotheses that are already there, each in the order of `rows`.

        All rows where there are no row numbers; by the protocol's first metric (``wer`` or ``cer``)
        where there is none.
        """
        wanted = list(range(len(self.views))) if rows is None else list(rows)
        names = ("id", "speaker", "cohort", "domain", "severity", "source", "person")
        meta = {name: [self.column(name)[i] for i in wanted] for name in names}
        clean = [self.column("text")[i] for i in wanted]
        heard = None
        if self.protocol.references != "clean":
            verbatim = self.verbatim()
            heard = [verbatim[i] for i in wanted]
        metric = metric or self.protocol.metrics[0]
        counts = {
            name: self.protocol.score(hypotheses, clean, heard, metric)
            for name, hypotheses in texts.items()
        }
        return Scores(self.protocol, metric, meta, counts, self.config.seed, self.config.apart)

    def save(self, program: str, config: Any, rows: Sequence[results.Row], **more: Any) -> None:
        """Write the result file of a program; `more` as for `eval.lib.results.save`."""
        about = {"seed": self.config.seed, "protocol": self.described}
        about["normaliser"] = self.protocol.normaliser
        results.save(program, config, rows, **{**about, **more})

    def embeddings(self, system: System) -> Tensor:
        """Return the embeddings (n_rows, d_spk) that a system hears."""
        self._look()
        key = system.fingerprint
        if key not in self._embeddings:
            cache = self.cache_of(system)
            if cache.keeps_embeddings:
                embs = cache.embeddings()
            else:
                # A speaker encoder that was trained along: the cache has none.
                with torch.inference_mode():
                    parts = [
                        system.model.embed(cache.batch(range(i, min(i + 64, len(cache)))))[0]
                        for i in range(0, len(cache), 64)
                    ]
                embs = torch.cat(parts)
            self._embeddings[key] = embs.to(self.backbone.device)
        return self._embeddings[key]

    def _control(self, system: System, control: str | None) -> Tensor | None:
        if control is None:
            return None
        mean: Any = getattr(system.model.source, "emb_mean", None)
        if mean is None:
            raise ConfigError(f"{system.name} keeps no training mean; it has no control for it")
        return control_embeddings(
            control,
            self.embeddings(system),
            mean,
            speakers=self.column("speaker"),
            persons=self.column("person"),
            cohorts=self._labels(),
            severities=self.column("severity"),
            seed=self.config.seed,
        )

    def _look(self) -> None:
        """Note that these systems are run on the test, once for each of them."""
        if new := [name for name in self.systems if name not in self._looked]:
            rows = [view.utterance for view in self.views]
            results.note_look(self.config.looks, self.config.test, rows, new)
            self._looked.update(new)

    def _key(self, system: System, control: str | None, n_samples: int | None) -> str:
        parts = [system.fingerprint, f"beam{self.config.beam_size}"]
        parts += [f"{control}{self.config.seed}"] if control else []
        parts += [f"samples{n_samples}seed{self.config.seed}"] if n_samples else []
        return "-".join(parts)
