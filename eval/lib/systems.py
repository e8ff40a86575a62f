"""Whatever a training program wrote, as one kind of thing that decodes: a system of a table.

A folder is one of: an adapter model (`HyperASR.save_pretrained`: hypernetwork, static, Bayesian),
a whole backbone in the Hugging Face layout (decoder or full fine-tuning), a PEFT adapter, or
residual adapters. What nothing was trained for, the frozen backbone alone, needs no folder and is
opened by its name (`UNADAPTED`). One way to run it is transformers' own `generate` with its
defaults: no limit by the length of the audio, no guard; where a published Whisper runs away, so
does that.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import __version__ as transformers_version

from hyperasr.adapters.checkpoint import read_head
from hyperasr.adapters.residual import FORMAT as RESIDUAL
from hyperasr.adapters.residual import ResidualAdapters
from hyperasr.cohorts.views import View, render_view
from hyperasr.errors import CheckpointMismatch, ConfigError, MissingExtra
from hyperasr.hub import HyperASR
from hyperasr.metrics.calibration import CALIBRATION_FILE
from hyperasr.types import Batch, Decoded
from hyperasr.whisper.backbone import MARGIN_S, Backbone
from hyperasr.whisper.loading import quiet_transformers
from train.baselines import TRAINING_FILE
from train.individual import by_person
from train.loop.scoring import Rows, mel_only

BACKBONE, PLAIN = "backbone", "backbone_plain"
TRIMMED, TRIMMED_STOP = "backbone_trimmed", "backbone_trimmed_stop"
UNADAPTED = (BACKBONE, PLAIN, TRIMMED, TRIMMED_STOP)
"""Ways to run the frozen backbone alone."""
BATCH = 8  # of `generate`: a row that runs away makes all rows of its batch wait
ROOT = Path(__file__).parents[2]
# What a transcript depends on besides weights and cached states: these and all that they import.
_CODE = ("hyperasr.model", "hyperasr.adapters.residual")


@dataclass(frozen=True)
class System:
    """A row of a table: a model, and how to decode with it."""

    name: str
    """Its name in the table."""
    model: HyperASR
    """Decodes; its source is used only where `adapt` is true."""
    adapt: bool
    """Whether the model's source adapts its backbone; False decodes with the backbone alone."""
    fingerprint: str
    """16 hex digits of weights, settings and the code that decodes."""
    own_encoder: bool = False
    """The encoder differs from the frozen one, so that cached encoder states do not serve."""
    n_trained: int = 0
    """Parameters that training changed."""
    n_generated: int = 0
    """Factor entries made for each utterance."""
    training: dict[str, Any] = field(default_factory=dict)
    """Notes of the training program."""
    folder: Path | None = None
    """Where it was read from."""
    recognised: frozenset[str] | None = None
    """Of a source by person: ids of the rows it may recognise, because nobody enrolled with them;
    None for every other system."""
    from_audio: bool = False
    """Features are computed from the audio instead of read from the cache, which has those of
    another audio context."""
    plain: bool = False
    """Decoded by transformers' `generate`, see `plain_tokens`; gives no probabilities."""
    stops: bool = True
    """Whether a text that begins again after the sound is ended, see
    `hyperasr.whisper.stopping`."""

    @property
    def conditioned(self) -> bool:
        """Whether it listens to the speaker embedding, so that controls mean something."""
        return self.adapt and bool(self.model.source.conditioned)

    @property
    def groups(self) -> tuple[str, ...]:
        """Cohorts that have factors of their own; empty for every other source."""
        settings = self.model.source_config.settings or {}
        by_cohort = self.adapt and settings.get("by") == "cohort"
        return tuple(settings.get("groups", ())) if by_cohort else ()


def open_unadapted(name: str, backbone: Backbone) -> System:
    """Open a way to run the frozen backbone alone, one of `UNADAPTED`."""
    if name == BACKBONE:
        return System(name, HyperASR.unadapted(backbone), False, _fingerprint(None, backbone))
    if name == PLAIN:  # transformers hears 30 s, whatever the others hear
        heard = Backbone(backbone.whisper, backbone.tokenizer, "full")
        digest = _hash(f"{heard.fingerprint()}/{transformers_version}".encode())
    else:  # our search on the real length and a margin of silence, whatever the others hear
        heard = Backbone(backbone.whisper, backbone.tokenizer, "trimmed", MARGIN_S)
        digest = _hash(f"{_fingerprint(None, heard)}/{name == TRIMMED_STOP}".encode())
    how = {"from_audio": True, "plain": name == PLAIN, "stops": name != TRIMMED}
    return System(name, HyperASR.unadapted(heard), False, digest, **how)


def open_system(name: str, folder: Path, backbone: Backbone) -> System:
    """Open a system of whatever kind its folder holds.

    Args:
        name: in tables.
        folder: what a training program wrote as its best model.
        backbone: the frozen one, which every adapter must belong to.
    Raises:
        ConfigError: there is no such folder, or it holds nothing that decodes.
        CheckpointMismatch: it belongs to another backbone.
    """
    folder = Path(folder)
    kind, notes = _kind(name, folder), _notes(folder)
    digest = _fingerprint(folder, backbone)
    # The same weights, hearing what this system was trained to hear.
    about = read_head(folder) if kind == "adapter" else notes.get("config", {}).get("data", {})
    heard = [about[key] for key in ("audio_context", "margin_s") if about.get(key) is not None]
    if heard and heard != [backbone.audio_context, backbone.margin_s]:
        backbone = Backbone(backbone.whisper, backbone.tokenizer, *heard)
    found: dict[str, Any] = {"training": notes, "folder": folder}
    if kind == "adapter":
        model = HyperASR.from_pretrained(folder, backbone=backbone)
        n_source = sum(p.numel() for p in model.source.parameters())
        n_speaker = sum(p.numel() for p in model.speaker.parameters() if p.requires_grad)
        found |= {"n_trained": n_source + n_speaker, "n_generated": model.source.n_generated}
        found |= {"recognised": _recognised(folder, model)}
    else:
        tuned, found["n_trained"], found["own_encoder"] = _OPENERS[kind](name, folder, backbone)
        model = HyperASR.unadapted(tuned)
    return System(name, model, kind == "adapter", digest, **found)


def view_of(system: System, rows: Any, views: Sequence[View] = ()) -> Any:
    """Return a cache's rows as this system must see them.

    A system with an encoder of its own gets no encoder states; a source by person is told who
    speaks.

    Args:
        system: which.
        rows: the cache.
        views: what its rows are of, for systems that hear the audio.
    """
    if system.recognised is not None:
        return by_person(rows)
    if system.own_encoder:
        return mel_only(rows)

    def from_audio(indices: Sequence[int]) -> Batch:
        waveforms = [render_view(views[i])[0] for i in indices]
        mel, n_frames = system.model.backbone.features(waveforms)
        return Batch(n_frames=n_frames, mel=mel, ids=tuple(views[i].id for i in indices))

    if system.from_audio:
        return Rows(rows.meta, rows.n_frames, from_audio)
    return rows


def _kind(name: str, folder: Path) -> str:
    if (folder / "adapter_config.json").is_file():
        return "peft"
    try:
        head = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{name}: {folder} holds no model (config.json is missing or damaged); train it first, "
            "or take it out of the list of systems"
        ) from error
    if "source" in head:
        return "adapter"
    if head.get("format") == RESIDUAL:
        return "residual"
    if head.get("model_type") == "whisper":
        return "fine_tuned"
    raise ConfigError(f"{name}: {folder}/config.json is of nothing that decodes speech")


def _recognised(folder: Path, model: HyperASR) -> frozenset[str] | None:
    """Return the rows that people of a source by person did not enrol with.

    None where the source is not by person.
    """
    settings = model.source_config.settings or {}
    if settings.get("by") != "speaker":
        return None
    path = folder.parent / "people.json"
    if not path.is_file():
        raise ConfigError(
            f"{folder} has factors by person, but {path} does not say who enrolled with what; "
            "train it with train.individual"
        )
    try:
        people = json.loads(path.read_text(encoding="utf-8"))["people"].values()
        enrolled = {name for person in people for name in person["enrolled"]}
        recognised = frozenset(name for person in people for name in person["recognised"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is damaged; train with train.individual again") from error
    if recognised & enrolled:
        raise ConfigError(f"{path}: somebody is to be recognised in what they enrolled with")
    return recognised


def _fine_tuned(name: str, folder: Path, backbone: Backbone) -> tuple[Backbone, int, bool]:
    tuned = Backbone.from_pretrained(
        folder,
        offline=True,
        audio_context=backbone.audio_context,
        margin_s=backbone.margin_s,
    )
    changed = _changed(name, tuned, backbone)
    return tuned, sum(t.numel() for t in changed.values()), _of_encoder(changed)


def _peft(name: str, folder: Path, backbone: Backbone) -> tuple[Backbone, int, bool]:
    """Merge a PEFT adapter into a copy of the backbone."""
    try:
        from peft import PeftModel
    except ImportError as error:
        raise MissingExtra(
            f"{folder} is a PEFT adapter; pip install peft, or take {name} out of the systems"
        ) from error
    adapted = PeftModel.from_pretrained(copy.deepcopy(backbone.whisper), str(folder))
    n_trained = sum(p.numel() for n, p in adapted.named_parameters() if "lora_" in n)
    whisper = adapted.merge_and_unload(safe_merge=True)
    merged = backbone.around(whisper)
    return merged, n_trained, _of_encoder(_changed(name, merged, backbone))


def _residual(name: str, folder: Path, backbone: Backbone) -> tuple[Backbone, int, bool]:
    """Put residual adapters behind the layers of a copy of the backbone, for good."""
    adapters = ResidualAdapters.from_pretrained(folder, backbone)
    n_trained = sum(p.numel() for p in adapters.parameters())
    whisper = copy.deepcopy(backbone.whisper)
    adapters.eval().requires_grad_(False).attach(whisper)
    adapted = backbone.around(whisper)
    return adapted, n_trained, adapters.adapts_encoder


_OPENERS = {"fine_tuned": _fine_tuned, "peft": _peft, "residual": _residual}


def _of_encoder(changed: dict[str, Tensor]) -> bool:
    return any(".encoder." in f".{name}" for name in changed)


def _changed(name: str, tuned: Backbone, backbone: Backbone) -> dict[str, Tensor]:
    """Return the weights that differ from the frozen backbone's."""
    before = dict(backbone.whisper.named_parameters())
    changed = {}
    for key, weight in tuned.whisper.named_parameters():
        old = before.get(key)
        if old is None or old.shape != weight.shape:
            raise CheckpointMismatch(
                f"{name}: its {key} {tuple(weight.shape)} is not of the frozen backbone's shape; "
                "it was trained from another backbone"
            )
        # In fp16, in which a backbone may be stored.
        if not torch.equal(old.half(), weight.half()):
            changed[key] = weight
    if not changed:
        raise CheckpointMismatch(
            f"{name}: every weight is the frozen backbone's; nothing was trained, or it is not it"
        )
    return changed


def _notes(folder: Path) -> dict[str, Any]:
    """Return a program's notes: in the model's config.json where there is a place, or beside it."""
    for path in (folder / "config.json", folder / TRAINING_FILE):
        with suppress(OSError, ValueError, AttributeError):  # damaged, or not there
            notes = json.loads(path.read_text(encoding="utf-8")).get("training")
            if isinstance(notes, dict):
                return notes
    return {}


def _fingerprint(folder: Path | None, backbone: Backbone) -> str:
    digest = hashlib.sha256(f"{backbone.fingerprint()}/{_code()}".encode())
    for path in sorted(folder.iterdir()) if folder else ():
        # The fit of the word probabilities comes after decoding.
        if path.is_file() and path.name != CALIBRATION_FILE:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"/{path.name}/{content}".encode())
    return digest.hexdigest()[:16]


@cache
def _code() -> str:
    """Hash the code that decodes, without its comments and docstrings."""
    digest = hashlib.sha256()
    for name in imported(_CODE):
        tree = ast.parse(_file(name).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):
                node.body = [s for s in body if not _is_text(s)]  # type: ignore[attr-defined]
        digest.update(f"{name}\n{ast.dump(tree)}".encode())
    return digest.hexdigest()


def imported(modules: Sequence[str]) -> list[str]:
    """Return modules of this package and what they import from it when they are imported."""
    found = list(modules)
    for name in found:  # which grows
        for statement in ast.parse(_file(name).read_text(encoding="utf-8")).body:
            if isinstance(statement, ast.ImportFrom) and statement.module:
                base = statement.module
                names = {base, *(f"{base}.{alias.name}" for alias in statement.names)} - set(found)
                found += [n for n in names if n.startswith("hyperasr.") and _file(n).is_file()]
    return sorted(found)


def _file(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _is_text(statement: ast.stmt) -> bool:
    """Tell a docstring, also one under a field, from code."""
    value = getattr(statement, "value", None)
    return isinstance(statement, ast.Expr) and isinstance(getattr(value, "value", None), str)


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def most_tokens(backbone: Backbone) -> int:
    """Return how many tokens of text `generate` writes at most."""
    n_prompt = len(backbone.prompt_ids())
    positions = int(backbone.whisper.config.max_target_positions)
    # It adds the prompt to the length of its configuration, and to transformers' own default.
    length = backbone.whisper.generation_config.max_length or 20
    return min(length, positions - n_prompt)


@torch.inference_mode()
def plain_tokens(backbone: Backbone, rows: Any, indices: Sequence[int]) -> Decoded:
    """Decode rows by transformers' `generate`; in the order of `indices`, without probabilities.

    Args:
        backbone: with the full audio context.
        rows: whose batches bring log-mel (n_utt, n_mels, 3000).
        indices: which.
    Returns:
        Tokens as `hyperasr.model.decode_tokens` gives them; a row that is as long as it may be is
        not finished.
    """
    most = most_tokens(backbone)
    tokens: list[tuple[int, ...]] = []
    for start in range(0, len(indices), BATCH):
        batch = rows.batch(list(indices[start : start + BATCH]))
        with quiet_transformers():  # which would have an attention mask, and does not use it
            made = backbone.whisper.generate(input_features=batch.mel)
        for row in made.tolist():
            end = row.index(backbone.eos) if backbone.eos in row else len(row)
            tokens.append(tuple(row[:end]))
    finished = tuple(len(row) < most for row in tokens)
    return Decoded(tuple(tokens), tuple(() for _ in tokens), finished, (0.0,) * len(tokens))
