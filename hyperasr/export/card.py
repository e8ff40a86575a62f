"""Model cards: what a model is, from its own files; nothing is claimed that is not there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from hyperasr import __version__
from hyperasr.adapters.checkpoint import read_head
from hyperasr.export.config import ExportConfig
from hyperasr.model import AdaptedWhisper
from hyperasr.whisper.weights import HUB_NAMES

if TYPE_CHECKING:  # transcribing has no need of it
    from hyperasr.export.parity import Exported

CARD_FILE = "README.md"
NOT_A_DEVICE = (
    "Not a medical device. It transcribes; it states no diagnosis and no severity about a person, "
    "and must not be used to."
)
SIMULATED = (
    "Where it was trained with `python -m train.meta`, the atypical cohorts (stuttering, "
    "dysarthria, Parkinson's) were **simulated** from typical recordings after published clinical "
    "descriptions. Nothing measured on simulated speech is a claim about patients."
)
_BIOMETRIC = (
    "Its weights were generated from a person's voice: treat this folder as biometric data. Share "
    "it only with that person's consent, and delete it when they ask."
)
_FORMATS = {
    "peft": "PEFT adapter",
    "merged": "merged Whisper",
    "ctranslate2": "CTranslate2",
    "ggml": "whisper.cpp (ggml)",
}
_TAGS = ["automatic-speech-recognition", "whisper", "lora", "atypical-speech", "hyperasr"]


def model_card(folder: str | Path, *, license: str | None = None) -> str:
    """Return the card of a model folder that `HyperASR.save_pretrained` wrote.

    Args:
        folder: of the model.
        license: under which it is given away, such as ``apache-2.0``; None leaves it open.
    Raises:
        ConfigError: no model there.
    """
    head = read_head(Path(folder))
    source, speaker = head["source"], head["speaker"]
    backbone = str(head["backbone"])
    settings = {k: v for k, v in (source.get("settings") or {}).items() if k != "groups"}
    margin = f" with {head['margin_s']:g} s of silence after it" if head["margin_s"] else ""
    adapted = [
        part
        for part in ("encoder", "decoder")
        if any(target.startswith(f"{part}.") for target in source["targets"])
    ]
    facts = {
        "Backbone": f"`{backbone}`, fingerprint `{head['backbone_fingerprint']}`; not included",
        "Audio context": f"{head['audio_context']}{margin}",
        "Adapter source": f"`{source['kind']}` on {_code(source['targets'])}",
        "Settings": _code([f"{k}={json.dumps(v)}" for k, v in settings.items()]) or "defaults",
        "Speaker encoder": f"`{speaker['kind']}`",
        "Made with": f"hyperasr {__version__}",
    }
    parts = [
        _front_matter(backbone, license),
        f"# HyperASR adapter for {backbone}",
        f"A frozen Whisper whose {' and '.join(adapted)} {'are' if adapted[1:] else 'is'} adapted"
        + (
            " to every utterance: a hypernetwork turns a speaker embedding into low-rank factors, "
            "without enrolment."
            if "hypernet" in source["kind"]
            else ": this model holds factors that do not listen to the utterance."
        ),
        f"> {NOT_A_DEVICE}",
        _table(facts),
        "## Use\n\n```python\nimport hyperasr\n\n"
        'model = hyperasr.load("THIS_FOLDER")\n'
        'print(model.transcribe("my.wav").text)\n```',
        "## Training\n\n" + SIMULATED,
        _notes(head["training"]),
        "## Privacy\n\nSpeaker embeddings and generated factors are biometric data. They are made "
        "in memory and stored nowhere unless the user asks.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def export_card(
    model: AdaptedWhisper, config: ExportConfig, made: Exported, *, n_clips: int, base: str
) -> str:
    """Return the card of an exported static adapter: how it was made, how true it is."""
    factors = made.adapter.factors
    rank = int(next(iter(factors.targets.values())).A.shape[2])
    facts = {
        "Format": _FORMATS[config.to],
        "Backbone": f"`{base}`, fingerprint `{model.backbone.fingerprint()}`",
        "Made from": f"{n_clips} unlabelled clips, method `{config.method}`",
        "Rank": f"{rank} on {_code(list(factors))}",
        "Number format": config.dtype,
        "Parity": f"{made.parity}, on {made.n_clips} clips",
        "Same text as per-utterance adapters": f"{made.n_as_dynamic} of {made.n_clips} clips",
        "Made with": f"hyperasr {__version__}",
    }
    if made.texts.elsewhere:
        difference = f"{100 * made.texts.word_difference:.1f} % of the words differ"
        facts["Text of the engine it is for, by its defaults"] = difference
    parts = [
        _front_matter(base, None),
        "# Static adapter, exported from HyperASR",
        "One set of weights for every utterance, where the model it was made from generates new "
        "ones for each.",
        f"> {NOT_A_DEVICE}",
        f"> {_BIOMETRIC}",
        _table(facts),
        "\n".join(f"* {note[0].upper()}{note[1:]}." for note in made.notes),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(backbone: str, license: str | None) -> str:
    """Return the metadata that the hub reads."""
    data: dict[str, Any] = {
        "library_name": "hyperasr",
        "pipeline_tag": "automatic-speech-recognition",
        "tags": _TAGS,
    }
    published = HUB_NAMES.get(backbone, backbone)
    if is_hub_name(published):
        data["base_model"] = published
    if license is not None:
        data["license"] = license
    return f"---\n{yaml.safe_dump(data, sort_keys=False)}---"


def is_hub_name(name: str) -> bool:
    """Whether a backbone is named as on the hub: OWNER/NAME, and no path."""
    owner, slash, rest = name.partition("/")
    return bool(slash and owner and rest) and "/" not in rest and not owner.startswith((".", "~"))


def _code(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(facts: Mapping[str, str]) -> str:
    lines = [f"| {name} | {value} |" for name, value in facts.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def _notes(training: Mapping[str, Any]) -> str:
    """Return what the training program noted, as it noted it, but for paths of its machine."""
    if not training:
        return "The model's files hold no notes on its training."
    text = json.dumps(without_paths(training), indent=2, ensure_ascii=False)
    return f"Notes of the training program:\n\n```json\n{text}\n```"


def without_paths(value: Any) -> Any:
    """Shorten absolute paths to their last part: they name people and machines."""
    if isinstance(value, Mapping):
        return {key: without_paths(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(v) for v in value]
    return Path(value).name if isinstance(value, str) and value.startswith("/") else value
