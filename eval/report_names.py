"""What the names in the tables mean: systems, and what is put behind a name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from eval.report_blocks import Block

__all__ = ["SYSTEMS", "VARIANTS", "names_block"]

SYSTEMS = {
    "backbone": "the frozen Whisper, unadapted",
    "backbone_plain": "the same on 30 s of audio, decoded by transformers' generate",
    "backbone_trimmed": "the same on the real length and a margin of silence",
    "backbone_trimmed_stop": "the same, ended where the text begins again after the sound",
    "global_lora": "one LoRA for everybody",
    "cohort_lora": "one LoRA for each cohort; an oracle says which cohort an utterance is of",
    "hypernet": "LoRA factors generated for each utterance from what it sounds like, nothing else",
    "global_lora_encoder_decoder": "one LoRA for everybody, on the encoder as well",
    "hypernet_encoder_decoder": "the hypernetwork, adapting the encoder as well, in a second pass",
    "bayes_hypernet": "a hypernetwork with a Gaussian over the factors; decoded with its mean",
    "vi_lora": "a Gaussian over one LoRA for everybody, dual prior (arXiv 2509.20397)",
    "vi_lora_single_prior": "the same with one prior for all layers",
    "blora": "a Gaussian over one LoRA for everybody, narrow prior at zero (arXiv 2510.18723)",
    "lora_qk": "one LoRA on the matrices and at the rank of blora, which it is held against",
    "map_lora": "the same with blora's pull to zero, without its noise",
    "decoder_ft": "every weight of the decoder's layers fine-tuned",
    "full_ft": "every weight fine-tuned",
    "residual": "small bottleneck layers behind each layer, trained for everybody",
    "peft_reference": "one LoRA for everybody, trained by PEFT and transformers' trainer",
    "from_typical": "hypernetwork made by one command from typical recordings alone",
    "individual_1": "a LoRA of each person, from 1 utterance with its transcript",
    "individual_5": "the same from 5 utterances",
    "individual_20": "the same from 20 utterances",
    "individual_all": "the same from all utterances but those that are recognised",
    "individual_vi_lora_1": "a Gaussian over the LoRA of each person, from 1 utterance",
    "individual_vi_lora_5": "the same from 5 utterances",
    "individual_vi_lora_all": "the same from all utterances but those that are recognised",
    "static_lora": "one LoRA for everybody on a single type of matrix",
    "utterance": "the hypernetwork, adapted to each utterance alone",
}
VARIANTS = {
    "_continued": "went on with sentences that nobody said, spliced from recordings",
    "_fresh": "went on once more, with simulated people it had not met",
    "_spliced": "learned from such sentences too",
    "_shuffled": "control: hears the embedding of an utterance of another speaker",
    "_mean": "control: hears the mean embedding of the training, whatever is said",
    "_cohort_mean": "control: hears the mean embedding of the cohort's other speakers",
    "_same_speaker": "control: hears another utterance of the same person",
    "_oracle": "was trained on the cohort that the others have never met",
    "_consensus": "the transcript that agrees best with posterior samples",
    "_sample": "decoded with a single posterior sample",
    "@": "one cohort's factors for everybody",
    ":without-": "trained without that cohort",
    ":full:full": "its recogniser was trained on 30 s of audio, and hears 30 s",
    ":full:trimmed": "its recogniser was trained on 30 s of audio, and hears the real length",
    ":trimmed:full": "its recogniser was trained on the real length, and hears 30 s",
    ":trimmed:trimmed": "its recogniser was trained on the real length, and hears that",
}
# The longest first: the end of hypernet_cohort_mean is not _mean.
_ENDINGS = sorted((v for v in VARIANTS if v.startswith("_")), key=lambda v: -len(v))


def names_block(contents: Mapping[str, Mapping[str, Any]]) -> Block | None:
    """Return a table of the names that occur in some result files; None where none is known."""
    used = [str(row["system"]) for c in contents.values() for row in c["rows"] if "system" in row]
    used += [
        str(row["against"]) for c in contents.values() for row in c["rows"] if "against" in row
    ]
    systems, variants = _parts(dict.fromkeys(used))
    known = [(name, text) for name, text in SYSTEMS.items() if name in systems]
    known += [(_shown(mark), text) for mark, text in VARIANTS.items() if mark in variants]
    lines = tuple(((name, ""), (text, "")) for name, text in known)
    return (
        Block("table", "", header=("name", "what it is"), lines=lines, words=True)
        if lines
        else None
    )


def _parts(names: Iterable[str]) -> tuple[set[str], set[str]]:
    """Return the systems that names are of, and what stands behind them."""
    systems, variants = set(), set()
    for name in names:
        rest = name
        for mark in ("@", ":"):
            rest, found, after = rest.partition(mark)
            if found:
                part = f"{mark}{after}"
                variants.add(part if part in VARIANTS else mark)
                if after.startswith("without-"):
                    variants.add(":without-")
        while ending := _ending(rest):
            variants.add(ending)
            rest = rest.removesuffix(ending)
        systems.add(rest)
    return systems, variants


def _ending(name: str) -> str:
    return next((e for e in _ENDINGS if name not in SYSTEMS and name.endswith(e)), "")


def _shown(mark: str) -> str:
    return f"…{mark}" + ("COHORT" if mark in ("@", ":without-") else "")
