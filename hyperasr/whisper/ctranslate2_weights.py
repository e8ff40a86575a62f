"""A Whisper in CTranslate2's layout, as faster-whisper has it on disk, for transformers.

The file holds named arrays. Each weight is used once, and one that is missing, too many or of
integers is refused. Layout: OpenNMT/CTranslate2, python/ctranslate2/specs/model_spec.py
(`LayerSpec.save`), binary version 6.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyperasr.errors import ConfigError
from hyperasr.util.uninitialised import Uninitialised
from hyperasr.whisper.languages import MULTILINGUAL_VOCABULARY, language_tokens
from hyperasr.whisper.weights import Weights

_VERSION = 6
_DTYPES = {0: "float32", 1: "int8", 2: "int16", 3: "int32", 4: "float16", 5: "bfloat16"}
_FLOATS = ("float32", "float16")
_EACH = "ffn/linear_0/weight"  # an array that every layer has once


def load_ctranslate2(weights: Weights) -> tuple[Any, Any]:
    """Return model (float32) and tokenizer.

    Raises:
        ConfigError: the files are incomplete, torn, of another version, of integers, or not those
            that were published.
    """
    folder = Path(weights.where)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder}: config.json is missing or damaged") from error
    if not (folder / "tokenizer.json").is_file():
        raise ConfigError(
            f"{folder} has no tokenizer.json; copy the one of the Whisper that it was made from"
        )
    # One buffer for all arrays: they are views of it until they are made float32.
    content = bytearray(b"".join(part.read_bytes() for part in weights.parts))
    if weights.sha256 and hashlib.sha256(content).hexdigest() != weights.sha256:
        raise ConfigError(
            f"the weights of {weights.name!r} in {folder} are not those that were published: "
            f"their SHA-256 is not {weights.sha256[:12]}…; install the package again"
        )
    return _whisper(read_arrays(content, str(folder)), config, folder)


def read_arrays(content: bytearray, where: str) -> dict[str, np.ndarray]:
    """Return the arrays of a model.bin by name; what stands for another one is that one.

    Args:
        content: of the file.
        where: it lies, for messages.
    Raises:
        ConfigError: cut short, of another version, no Whisper, or weights of integers.
    """
    place = 0

    def take(kind: str) -> Any:
        nonlocal place
        values = struct.unpack_from(f"<{kind}", content, place)
        place += struct.calcsize(f"<{kind}")
        return values if len(values) != 1 else values[0]

    def text() -> str:
        nonlocal place
        length = take("H")
        value = bytes(content[place : place + length]).rstrip(b"\0").decode()
        place += length
        return value

    arrays: dict[str, np.ndarray] = {}
    try:
        version, spec = take("I"), text()
        if version != _VERSION:
            raise ConfigError(
                f"{where}: model.bin is of CTranslate2's binary version {version}, {_VERSION} is "
                "read; convert the model again"
            )
        if not spec.startswith("Whisper"):
            raise ConfigError(f"{where}: model.bin holds a {spec}, no Whisper")
        take("I")  # revision of the specification
        for _ in range(take("I")):
            name, rank = text(), take("B")
            shape = struct.unpack_from(f"<{rank}I", content, place)
            place += 4 * rank
            code, n_bytes = take("B"), take("I")
            dtype = _DTYPES.get(code, f"type {code}")
            if rank and dtype not in _FLOATS:
                raise ConfigError(
                    f"{where}: the weights are {dtype}, and adapters need float16 or float32; "
                    "convert the model again with --quantization float16"
                )
            flat = np.frombuffer(content, dtype, n_bytes // np.dtype(dtype).itemsize, place)
            arrays[name] = flat.reshape(shape)
            place += n_bytes
        for _ in range(take("I")):
            alias, name = text(), text()
            arrays[alias] = arrays[name]
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{where}: model.bin is cut short or damaged after {len(arrays)} arrays; copy it again"
        ) from error
    return arrays


def _whisper(
    arrays: dict[str, np.ndarray], config: dict[str, Any], folder: Path
) -> tuple[Any, Any]:
    """Build model and tokenizer of arrays by CTranslate2's names."""
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperForConditionalGeneration,
        WhisperTokenizer,
    )

    try:
        tokenizer = WhisperTokenizer.from_pretrained(folder)
    except Exception as error:  # tokenizers raises of every kind
        raise ConfigError(
            f"{folder}: tokenizer.json is damaged; copy that of the Whisper it was made from"
        ) from error
    n_layers = {
        side: sum(name.startswith(f"{side}/layer_") for name in arrays if name.endswith(_EACH))
        for side in ("encoder", "decoder")
    }
    state = _state(arrays, n_layers, str(folder))
    shapes = {name: tensor.shape for name, tensor in state.items()}
    vocabulary = tokenizer.get_vocab()
    end = vocabulary["<|endoftext|>"]
    generation: dict[str, Any] = {
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "decoder_start_token_id": vocabulary["<|startoftranscript|>"],
        "suppress_tokens": config.get("suppress_ids") or None,
        "begin_suppress_tokens": config.get("suppress_ids_begin") or None,
    }
    shape = WhisperConfig(
        vocab_size=shapes["proj_out.weight"][0],
        d_model=shapes["proj_out.weight"][1],
        encoder_layers=n_layers["encoder"],
        decoder_layers=n_layers["decoder"],
        encoder_attention_heads=int(arrays["encoder/num_heads"]),
        decoder_attention_heads=int(arrays["decoder/num_heads"]),
        encoder_ffn_dim=shapes["model.encoder.layers.0.fc1.weight"][0],
        decoder_ffn_dim=shapes["model.decoder.layers.0.fc1.weight"][0],
        num_mel_bins=shapes["model.encoder.conv1.weight"][1],
        max_source_positions=shapes["model.encoder.embed_positions.weight"][0],
        max_target_positions=shapes["model.decoder.embed_positions.weight"][0],
        **generation,
    )
    with torch.device("meta"), Uninitialised():
        whisper: Any = WhisperForConditionalGeneration(shape)
    whisper.load_state_dict(state, strict=True, assign=True)
    whisper.tie_weights()
    if multilingual := shape.vocab_size >= MULTILINGUAL_VOCABULARY:
        tokens = language_tokens(vocabulary)
        generation["lang_to_id"] = {f"<|{code}|>": token for code, token in tokens.items()}
        generation["task_to_id"] = {t: vocabulary[f"<|{t}|>"] for t in ("transcribe", "translate")}
    whisper.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        **generation,
        max_length=shape.max_target_positions,
        alignment_heads=config.get("alignment_heads"),
        is_multilingual=multilingual,
        no_timestamps_token_id=vocabulary.get("<|notimestamps|>"),
        prev_sot_token_id=vocabulary.get("<|startofprev|>"),
        return_timestamps=False,
    )
    return whisper, tokenizer


def _names(n_layers: dict[str, int]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield CTranslate2's name of each module or array, and transformers' names of its parts.

    Queries, keys and values of self-attention lie below each other in one matrix, as do keys and
    values of cross-attention.
    """
    for side, n in n_layers.items():
        for index in range(n):
            theirs, ours = f"{side}/layer_{index}", f"model.{side}.layers.{index}"
            yield f"{theirs}/self_attention/layer_norm", (f"{ours}.self_attn_layer_norm",)
            parts = tuple(f"{ours}.self_attn.{x}_proj" for x in "qkv")
            yield f"{theirs}/self_attention/linear_0", parts
            yield f"{theirs}/self_attention/linear_1", (f"{ours}.self_attn.out_proj",)
            if side == "decoder":
                yield f"{theirs}/attention/layer_norm", (f"{ours}.encoder_attn_layer_norm",)
                yield f"{theirs}/attention/linear_0", (f"{ours}.encoder_attn.q_proj",)
                parts = tuple(f"{ours}.encoder_attn.{x}_proj" for x in "kv")
                yield f"{theirs}/attention/linear_1", parts
                yield f"{theirs}/attention/linear_2", (f"{ours}.encoder_attn.out_proj",)
            yield f"{theirs}/ffn/layer_norm", (f"{ours}.final_layer_norm",)
            yield f"{theirs}/ffn/linear_0", (f"{ours}.fc1",)
            yield f"{theirs}/ffn/linear_1", (f"{ours}.fc2",)
        yield f"{side}/layer_norm", (f"model.{side}.layer_norm",)
        yield f"{side}/position_encodings", (f"model.{side}.embed_positions",)
    yield "encoder/conv1", ("model.encoder.conv1",)
    yield "encoder/conv2", ("model.encoder.conv2",)
    yield "decoder/embeddings", ("model.decoder.embed_tokens",)
    yield "decoder/projection", ("proj_out",)


# What a module's arrays are called, there and here.
_KINDS = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}
_KINDS["encodings"] = "weight"


def _state(
    arrays: dict[str, np.ndarray], n_layers: dict[str, int], where: str
) -> dict[str, Tensor]:
    """Return the weights by transformers' names, in float32.

    Raises:
        ConfigError: one is missing, or one is left over.
    """
    left = {name for name, array in arrays.items() if array.ndim}
    state: dict[str, Tensor] = {}
    for theirs, ours in _names(n_layers):
        kinds = [kind for kind in _KINDS if f"{theirs}/{kind}" in left]
        if not kinds:
            raise ConfigError(f"{where}: model.bin has no {theirs}; convert the model again")
        for kind in kinds:
            name = f"{theirs}/{kind}"
            left.discard(name)
            whole = torch.from_numpy(arrays[name].astype(np.float32))
            for module, part in zip(ours, whole.chunk(len(ours)), strict=True):
                state[f"{module}.{_KINDS[kind]}"] = part.clone()
    if left:
        raise ConfigError(
            f"{where}: model.bin has {sorted(left)[0]}, which no Whisper has; give the Whisper "
            "that it was made from"
        )
    # A key's bias cancels in the softmax: Whisper has none, the fused matrix has zeros there.
    for name in [n for n in state if n.endswith("k_proj.bias")]:
        if state.pop(name).any():
            raise ConfigError(f"{where}: {name} is not 0, as it is in every Whisper")
    return state
