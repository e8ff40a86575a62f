"""A Whisper and its tokenizer from a folder or the hub; what is wrong is said in one line.

transformers makes up for what is missing: weights with random numbers, a tokenizer with an empty
vocabulary. Here that is an error.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hyperasr.errors import ConfigError
from hyperasr.util.uninitialised import Uninitialised
from hyperasr.whisper.ctranslate2_weights import load_ctranslate2
from hyperasr.whisper.weights import Weights, find_weights, kind_of_folder, packaged

DTYPES: dict[str, torch.dtype | None] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int8": None,
}
"""Number formats of the frozen weights by name; int8 is `hyperasr.whisper.quantize`."""

_DIGEST_SAMPLES = 1024
_START = "<|startoftranscript|>"


def load_whisper(name: str | os.PathLike[str], offline: bool) -> tuple[Any, Any]:
    """Load model (float32) and tokenizer.

    Args:
        name: as for `hyperasr.whisper.weights.find_weights`.
        offline: never touch the network.
    Raises:
        ConfigError: there is no such model, it is no Whisper, or its files do not fit together.
    """
    weights = find_weights(name, offline=offline)
    try:
        whisper, tokenizer, report = _load(weights, offline)
    except ConfigError:
        # A download that broke off leaves config.json, by which the weights seemed to be there.
        instead = packaged(weights)
        if instead is None:
            raise
        whisper, tokenizer, report = _load(instead, offline)
    fault = _fault(whisper, report, tokenizer)
    if fault:
        raise ConfigError(f"cannot load the Whisper {weights.name!r}: {fault}")
    complete_merges(tokenizer)
    return whisper, tokenizer


def _load(weights: Weights, offline: bool) -> tuple[Any, Any, dict[str, Any]]:
    """Return model, tokenizer, and transformers' report of keys that did not fit."""
    local = isinstance(weights.where, Path)
    if local and not weights.parts:
        _check_folder(Path(weights.where), weights.name)
    try:
        with quiet_transformers():
            if weights.parts:
                return *load_ctranslate2(weights), {"missing_keys": (), "unexpected_keys": ()}
            return _load_huggingface(weights.where, offline or local)
    except ConfigError:
        raise
    except Exception as error:  # transformers and safetensors raise of every kind
        hint = "give 'tiny.en', a folder with a Whisper, or a hub name"
        if offline and not local:
            hint = "it is not in the local cache and --offline is set"
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(f"cannot load the Whisper {weights.name!r}: {hint} ({reason})") from error


def _load_huggingface(where: Path | str, offline: bool) -> tuple[Any, Any, dict[str, Any]]:
    """Do as `_load` does, with what transformers raises."""
    from transformers import WhisperForConditionalGeneration, WhisperTokenizer

    if offline and not isinstance(where, Path):
        from huggingface_hub import snapshot_download

        # By its name, transformers asks the hub for adapters whatever local_files_only says.
        where = snapshot_download(where, local_files_only=True)
    with Uninitialised():
        loaded: Any = WhisperForConditionalGeneration.from_pretrained(
            where,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported by the caller, readably
            use_safetensors=True,  # the other format, pytorch_model.bin, is pickle
            local_files_only=offline,
        )
        whisper, report = loaded
        tokenizer = WhisperTokenizer.from_pretrained(where, local_files_only=offline)
    return whisper, tokenizer, report


def complete_merges(tokenizer: Any) -> None:
    """Give a tokenizer the merge that is lost in published multilingual Whispers, in place.

    In their tokenizer.json the first rule, of a blank and t, is missing. Texts are then decoded
    rightly, but no word that begins with t is encoded as the model writes it.
    """
    from tokenizers import Tokenizer

    known = tokenizer.backend_tokenizer.token_to_id("Ġt") is not None
    if not known or len(tokenizer.tokenize(" t")) == 1:
        return
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    rules["model"]["merges"].insert(0, ["Ġ", "t"])
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(rules))


def checked_dtype(dtype: str) -> torch.dtype | None:
    """Return the number format of a name; None for int8.

    Raises:
        ConfigError: no such format.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype is {dtype!r}; it must be one of {', '.join(DTYPES)}")
    return DTYPES[dtype]


def checked_device(device: str | torch.device) -> torch.device:
    """Return the device of a name, having tried it.

    Raises:
        ConfigError: no such device on this machine.
    """
    try:
        target = torch.device(device)
        torch.zeros(1, device=target)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"device {str(device)!r} cannot be used here ({reason}); cpu always can"
        ) from error
    return target


def weights_digest(whisper: torch.nn.Module) -> Any:
    """Return a sha256 object of a model's weights and shape, for a fingerprint.

    Hashes each tensor's name, shape, checksum and some evenly spaced values, in float16: it is
    the same after a round trip through fp16, quick, and no single changed value escapes it.
    """
    digest = hashlib.sha256()
    known: dict[Any, tuple[int, bytes]] = {}  # the vocabulary is there twice, once as an embedding
    for name, tensor in sorted(whisper.state_dict().items()):
        place = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if place not in known:
            flat = tensor.detach().flatten()
            step = max(1, flat.numel() // _DIGEST_SAMPLES)
            half = flat.to(torch.float16).cpu().numpy()
            # Numpy sums whole numbers fifteen times as fast as torch.
            checksum = int(half.view(np.int16).sum(dtype=np.int64))
            known[place] = checksum, half[::step].tobytes()
        checksum, samples = known[place]
        digest.update(json.dumps([name, list(tensor.shape), checksum]).encode())
        digest.update(samples)
    return digest


def _check_folder(folder: Path, name: str) -> None:
    """Say what a folder is, where it is no Whisper."""
    cannot = f"cannot load the Whisper {name!r}:"
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{cannot} it has no config.json, so it is no model folder")
    kind = kind_of_folder(folder)
    if kind == "adapter":
        raise ConfigError(f"{cannot} it is an adapter; as a backbone give the Whisper it adapts")
    if kind != "whisper":
        raise ConfigError(f"{cannot} its config.json says {kind or 'nothing of a model'}")
    if not any(folder.glob("*.safetensors")):
        raise ConfigError(f"{cannot} it has no weights (model.safetensors)")
    slow = all((folder / n).is_file() for n in ("vocab.json", "merges.txt"))
    if not slow and not (folder / "tokenizer.json").is_file():
        raise ConfigError(
            f"{cannot} it has no tokenizer.json; copy the tokenizer files of the model that it was "
            "made from"
        )


def _fault(whisper: Any, report: dict[str, Any], tokenizer: Any) -> str | None:
    """Say what does not fit together."""
    for key, saved, wanted in sorted(report.get("mismatched_keys", ())):
        return (
            f"{key} is {tuple(saved)} in the weights and {tuple(wanted)} after config.json; "
            "both must be of one model"
        )
    missing = sorted(report["missing_keys"])
    if missing:
        return f"the weights are incomplete for its config.json, without {missing[0]}"
    # Of a smaller config the rest of the layers would be left out without a word.
    surplus = sorted(k for k in report["unexpected_keys"] if ".layers." in k)
    if surplus:
        return f"the weights are of a larger model than its config.json, with {surplus[0]}"
    start = tokenizer.backend_tokenizer.token_to_id(_START)  # the whole vocabulary takes 50 ms
    if start is None:
        return f"its tokenizer has no {_START}"
    if start >= whisper.config.vocab_size:
        return (
            f"its tokenizer is of another model: {_START} is {start}, but the "
            f"weights know {whisper.config.vocab_size} tokens"
        )
    return None


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers from drawing bars, and from tables of what is reported here."""
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging  # without types
    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
