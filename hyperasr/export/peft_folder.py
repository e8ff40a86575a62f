"""Static factors as a PEFT folder: the exchange format for LoRA, read by many tools.

Layout of PEFT 0.21: ``adapter_config.json`` and ``adapter_model.safetensors`` with keys
``base_model.model.<path of the layer>.lora_A.weight``. Written without PEFT.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hyperasr.adapters import lora
from hyperasr.errors import ShapeError
from hyperasr.types import LoRAFactors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."


def write_peft(whisper: nn.Module, factors: LoRAFactors, folder: Path, base: str) -> None:
    """Write the factors of one utterance (or shared ones) for this Whisper.

    Args:
        whisper: the `WhisperForConditionalGeneration` that they adapt.
        factors: of one utterance; every target has the same rank.
        folder: to write into; it must exist.
        base: hub name or folder of the Whisper, for PEFT to name.
    Raises:
        ShapeError: more than one utterance, targets that differ in rank, or other sizes than the
            model's.
        ConfigError: unknown targets.
    """
    linears = lora.checked_targets(whisper, factors)
    ranks = {int(factors[name].A.shape[2]) for name in factors}
    if factors.n_utt != 1 or len(ranks) != 1:
        raise ShapeError(
            f"a PEFT folder holds factors of one utterance and one rank; these are of "
            f"{factors.n_utt} utterances and ranks {sorted(ranks)}"
        )
    (rank,) = ranks
    tensors: dict[str, Tensor] = {}
    paths = []
    path_of = {module: path for path, module in whisper.named_modules()}
    for name, modules in linears.items():
        for layer, module in enumerate(modules):
            path = path_of[module]
            for key, factor in (("lora_A", factors[name].A), ("lora_B", factors[name].B)):
                tensor = factor[layer, 0].detach().to("cpu", torch.float32)
                tensors[f"{_PREFIX}{path}.{key}.weight"] = tensor.contiguous().clone()
            paths.append(re.escape(path))
    config: dict[str, Any] = {
        "peft_type": "LORA",
        # None: with SEQ_2_SEQ_LM PEFT passes on input_ids, which Whisper does not take.
        "task_type": None,
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": factors.scaling * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        # One expression that PEFT holds against whole paths: names such as fc1 are in the encoder
        # too.
        "target_modules": "|".join(paths),
        "modules_to_save": None,
    }
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
