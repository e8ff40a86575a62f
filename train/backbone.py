"""Train the embedded Whisper from scratch on the speech of `train.speech`.

    accelerate launch -m train.backbone --config train/configs/backbone.yaml

The encoder runs on the real length of each utterance (trimmed audio context). The loss is cross-
entropy with label smoothing plus a CTC loss on the encoder (Watanabe et al., IEEE JSTSP 2017),
whose head is left behind after training.
"""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from hyperasr.backbone import Backbone
from hyperasr.decode import token_limits
from hyperasr.decoder import DecoderStep
from hyperasr.files import atomic_folder
from hyperasr.metrics import error_rate, score
from hyperasr.text import normaliser
from train.augment import change_margins, change_rate, mask_features, warp_frequency
from train.domain import sample_text
from train.loop import LoopConfig
from train.program import fit_and_report, read_config, run_program, start
from train.speech import FeatureSet
from train.state import load_average
from train.tokenizer import build_tokenizer

log = logging.getLogger("train.backbone")


@dataclass(frozen=True)
class BackboneConfig:
    """Shape of the embedded model and how it is trained."""

    speech: Path = Path("runs/speech")
    """Folder that `train.speech` wrote."""
    out: Path = Path("runs/backbone")
    """Run folder; the best model is in its folder `best`."""
    d_model: int = 192
    """Width."""
    n_heads: int = 4
    """Attention heads of every layer."""
    encoder_layers: int = 4
    """Encoder layers."""
    decoder_layers: int = 2
    """Decoder layers."""
    dropout: float = 0.1
    """Dropout probability, in [0, 1)."""
    n_merged: int = 0
    """Tokens of the vocabulary above single bytes; characters align fastest."""
    ctc_weight: float = 0.3
    """Weight of the CTC loss, in [0, 1]."""
    label_smoothing: float = 0.1
    """Label smoothing of the cross-entropy, in [0, 1)."""
    frames_per_batch: int = 8_000
    """Mel frames of a batch (10 ms each), padding not counted."""
    easy_batches: int = 1_600
    """Batches with short utterances first and without masking, at least 0."""
    an4_share: float = 0.35
    """Share of the utterances that are AN4's, in [0, 1]; 0 where there is none."""
    rate_range: tuple[float, float] | None = None
    """Half of the utterances are spoken this much faster or slower; None leaves all as they are."""
    margins: bool = False
    """Take silence off the ends of utterances, or put some there."""
    init_from: Path | None = None
    """Run folder of the same shape whose averaged weights this run starts from."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    """The training loop."""


class Recognizer(nn.Module):
    """Whisper plus a CTC head; its forward returns the losses."""

    def __init__(self, backbone: Backbone, config: BackboneConfig) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = config
        backbone.whisper.requires_grad_(True)
        backbone.whisper.model.encoder.embed_positions.requires_grad_(False)
        self.ctc_head = nn.Linear(config.d_model, backbone.eos + 1)

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return the losses of a batch of `Batches`."""
        encoded = self.backbone.encode(batch["mel"], batch["n_frames"])
        tokens, n_tokens, n_prompt = batch["tokens"], batch["n_tokens"], batch["n_prompt"]
        step = DecoderStep(self.backbone.whisper, encoded, cached=False)
        logits = step.all_logits(tokens[:, :-1])[:, n_prompt - 1 :].float()
        target = tokens[:, n_prompt:].clone()
        scored = torch.arange(n_prompt, tokens.shape[1], device=tokens.device)
        scored = scored < n_tokens[:, None]
        target[~scored] = -100
        ce = F.cross_entropy(
            logits.transpose(1, 2), target, label_smoothing=self.config.label_smoothing
        )
        log_probs = self.ctc_head(encoded.states).float().log_softmax(-1).transpose(0, 1)
        n_text = n_tokens - n_prompt - 1
        ctc = F.ctc_loss(
            log_probs,
            tokens[:, n_prompt:],
            encoded.lengths,
            n_text,
            blank=self.backbone.eos,
            zero_infinity=True,
        )
        weight = self.config.ctc_weight
        return {"total": (1 - weight) * ce + weight * ctc, "ce": ce, "ctc": ctc}


class Batches:
    """Batches of similar length, the same for the same number, with masking and warping."""

    def __init__(self, sets: list[FeatureSet], backbone: Backbone, config: BackboneConfig) -> None:
        self.backbone, self.config = backbone, config
        self.prompt = backbone.prompt_ids()
        rows = [(s, i) for s in sets for i in range(len(s.rows))]
        self.real = [(s, i) for s, i in rows if s.rows[i]["speaker"].startswith("an4-")]
        self.synthetic = [(s, i) for s, i in rows if not s.rows[i]["speaker"].startswith("an4-")]
        self.planned: tuple[int, list[list[tuple[FeatureSet, int]]]] = (-1, [])

    def plan(self, block: int) -> list[list[tuple[FeatureSet, int]]]:
        """Return 32 batches: a random draw, sorted by length, cut by frames, shuffled."""
        if self.planned[0] != block:
            rng = random.Random(f"{self.config.loop.seed}-{block}")
            batches: list[list[tuple[FeatureSet, int]]] = []
            drawn: list[tuple[FeatureSet, int]] = []
            limit = self.longest(32 * block)
            while sum(s.rows[i]["n_frames"] for s, i in drawn) < 33 * self.config.frames_per_batch:
                real = self.real and rng.random() < self.config.an4_share
                chosen = rng.choices(self.real if real else self.synthetic, k=16)
                drawn += [(s, i) for s, i in chosen if s.rows[i]["n_frames"] <= limit]
            drawn.sort(key=lambda item: item[0].rows[item[1]]["n_frames"])
            size = 0
            for item in drawn:
                frames = item[0].rows[item[1]]["n_frames"]
                if not batches or size + frames > self.config.frames_per_batch:
                    batches.append([])
                    size = 0
                batches[-1].append(item)
                size += frames
            rng.shuffle(batches)
            self.planned = (block, batches[:32])
        return self.planned[1]

    def longest(self, number: int) -> int:
        """Return the most frames an utterance of batch `number` may have: short ones come first."""
        easy = max(1, self.config.easy_batches)
        return 130 + 350 * number // easy if number < easy else 3_000

    def retimed(self, mel: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Change rate and margins, where the configuration says so."""
        if self.config.rate_range and rng.random() < 0.5:
            mel = change_rate(mel, rng.uniform(*self.config.rate_range))
        return change_margins(mel, rng) if self.config.margins else mel

    def __call__(self, number: int) -> dict[str, Any]:
        """Return batch `number`."""
        rng = np.random.default_rng([self.config.loop.seed, number])
        mels, texts = [], []
        for features, index in self.plan(number // 32)[number % 32]:
            mel = warp_frequency(features.mel(index), rng.uniform(0.9, 1.11))
            mel = self.retimed(mel, rng) + rng.normal(0, 0.08)
            mels.append(mel if number < self.config.easy_batches else mask_features(mel, rng))
            texts.append(features.rows[index]["text"])
        return collate(mels, texts, self.backbone)


def collate(mels: list[np.ndarray], texts: list[str], backbone: Backbone) -> dict[str, Any]:
    """Pad features and tokens of several utterances."""
    prompt = backbone.prompt_ids()
    ids = [[*prompt, *backbone.text_ids(text), backbone.eos] for text in texts]
    tokens = torch.full((len(ids), max(map(len, ids))), backbone.eos)
    for row, values in zip(tokens, ids, strict=True):
        row[: len(values)] = torch.tensor(values)
    n_frames = torch.tensor([len(mel) for mel in mels])
    mel = torch.zeros(len(mels), mels[0].shape[1], int(n_frames.max()))
    for row, values in zip(mel, mels, strict=True):
        row[:, : len(values)] = torch.from_numpy(np.ascontiguousarray(values.T))
    device = backbone.device
    return {
        "mel": mel.to(device),
        "n_frames": n_frames.to(device),
        "tokens": tokens.to(device),
        "n_tokens": torch.tensor([len(values) for values in ids], device=device),
        "n_prompt": len(prompt),
    }


@torch.inference_mode()
def transcribe_set(backbone: Backbone, items: list[tuple[FeatureSet, int]]) -> list[str]:
    """Decode greedily in batches of similar length; texts in the order given."""
    order = sorted(range(len(items)), key=lambda k: items[k][0].rows[items[k][1]]["n_frames"])
    texts = [""] * len(items)
    for first in range(0, len(order), 32):
        chosen = order[first : first + 32]
        batch = collate(
            [items[k][0].mel(items[k][1]) for k in chosen], [""] * len(chosen), backbone
        )
        encoded = backbone.encode(batch["mel"], batch["n_frames"])
        decoded = backbone.generate(encoded, max_tokens=token_limits(encoded.lengths))
        for k, tokens in zip(chosen, decoded.tokens, strict=True):
            texts[k] = backbone.text(tokens)
    return texts


def evaluate(model: nn.Module, sets: list[FeatureSet]) -> dict[str, float]:
    """Return word error rates on the development voices and speakers."""
    measures = {}
    for name, real in (("synthetic", False), ("an4", True)):
        items = [
            (s, i)
            for s in sets
            for i in range(len(s.rows))
            if s.rows[i]["speaker"].startswith("an4-") == real
        ]
        if items:
            references = [s.rows[i]["text"] for s, i in items]
            hypotheses = transcribe_set(model.backbone, items)
            counts = score(references, hypotheses, normaliser("spoken"), "wer")
            measures[name] = error_rate(counts)
    return {**measures, "score": sum(measures.values()) / len(measures)}


def new_backbone(config: BackboneConfig) -> Backbone:
    """Return a randomly initialised Whisper of the configured shape."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    rng = random.Random(config.loop.seed)
    tokenizer = build_tokenizer([sample_text(rng) for _ in range(20_000)], config.n_merged)
    vocabulary = tokenizer.get_vocab()
    eos, sot = vocabulary["<|endoftext|>"], vocabulary["<|startoftranscript|>"]
    torch.manual_seed(config.loop.seed)
    whisper = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=len(tokenizer),
            d_model=config.d_model,
            encoder_layers=config.encoder_layers,
            decoder_layers=config.decoder_layers,
            encoder_attention_heads=config.n_heads,
            decoder_attention_heads=config.n_heads,
            encoder_ffn_dim=4 * config.d_model,
            decoder_ffn_dim=4 * config.d_model,
            dropout=config.dropout,
            max_target_positions=224,
            pad_token_id=eos,
            bos_token_id=eos,
            eos_token_id=eos,
            decoder_start_token_id=sot,
            suppress_tokens=None,
            begin_suppress_tokens=None,
            audio_context="trimmed",
            init_std=config.d_model**-0.5,
        )
    )
    # Whisper's usual start leaves the convolutions' output far below the sinusoidal positions, and
    # a small model then takes a thousand steps to hear anything.
    for convolution in (whisper.model.encoder.conv1, whisper.model.encoder.conv2):
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    generation = whisper.generation_config
    generation.is_multilingual = True
    generation.lang_to_id = {"<|en|>": vocabulary["<|en|>"]}
    generation.task_to_id = {t: vocabulary[f"<|{t}|>"] for t in ("transcribe", "translate")}
    generation.no_timestamps_token_id = vocabulary["<|notimestamps|>"]
    generation.prev_sot_token_id = vocabulary["<|startofprev|>"]
    generation.max_initial_timestamp_index = 50
    return Backbone(whisper, tokenizer)


def main() -> None:
    """Train, and leave the best model in the run folder."""
    config = read_config(BackboneConfig)
    loop = config.loop
    accelerator = start("backbone", config.out, loop.mixed_precision, loop.tracker)
    sets = [FeatureSet(folder) for folder in sorted(config.speech.iterdir()) if folder.is_dir()]
    by_split = {s: [f for f in sets if f.rows[0]["split"] == s] for s in ("train", "dev")}
    backbone = new_backbone(config)
    log.info(
        "%d training voices, %.1f M weights", len(by_split["train"]), backbone.n_parameters / 1e6
    )

    def save_best(model: nn.Module) -> None:
        with atomic_folder(config.out / "best") as temporary:
            model.backbone.save_pretrained(temporary)

    recognizer = Recognizer(backbone, config)
    if config.init_from:
        load_average(config.init_from, recognizer)
    fit_and_report(
        recognizer,
        Batches(by_split["train"], backbone, config),
        lambda model: evaluate(model, by_split["dev"]),
        save_best,
        config,
        accelerator,
    )


if __name__ == "__main__":
    run_program(main)
