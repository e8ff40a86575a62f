"""What we ask of SpeechBrain: import it quietly, load its checkpoints, hide padding from it."""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hyperasr.audio.mel import SAMPLE_RATE
from hyperasr.errors import ConfigError

# What the published hyperparams.yaml name; any other tag of HyperPyYAML could run code.
_SAFE_TAG = re.compile(
    r"!(?:ref|copy|tuple|name:torch\.nn\.(?:LeakyReLU|ReLU)|new:speechbrain\.(?:"
    r"lobes\.features\.(?:Fbank|MFCC)|processing\.features\.InputNormalization|"
    r"lobes\.models\.(?:ECAPA_TDNN\.(?:ECAPA_TDNN|Classifier)|Xvector\.(?:Xvector|Classifier)|"
    r"ResNet\.(?:ResNet|Classifier))|"
    r"dataio\.encoder\.CategoricalEncoder|utils\.parameter_transfer\.Pretrainer))"
)


class RealFrames(threading.local):
    """The mask (n_utt, n_frames) of the batch in hand, for the layers inside an ECAPA-TDNN."""

    mask: Tensor | None = None  # each thread's own, so that several can use one model

    def __reduce__(self) -> Any:
        """Let a model be copied, which a mask is no part of."""
        return RealFrames, ()

    def silence_padding(self, _: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Set padding of a layer's input (n_utt, n_channels, n_frames) to zero, as a pre-hook."""
        assert self.mask is not None
        return (args[0].masked_fill(~self.mask[:, None], 0), *args[1:])


class _MaskedBatchNorm(nn.BatchNorm1d):
    """Batch normalisation of (n_utt, n_channels, n_frames) with statistics of real frames."""

    def __init__(self, n_channels: int, real: RealFrames) -> None:
        super().__init__(n_channels)
        self._real = real

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        mask = self._real.mask
        if mask is None or x.shape[2] != mask.shape[1]:  # after pooling: one value an utterance
            mask = torch.ones(x.shape[0], x.shape[2], dtype=torch.bool, device=x.device)
        values = x.transpose(1, 2)[mask]
        if len(values) == 1:  # no variance to be had: as in evaluation
            stats = self.running_mean, self.running_var
            return nn.functional.batch_norm(x, *stats, self.weight, self.bias, eps=self.eps)
        values = super().forward(values)
        out = values.new_zeros(x.shape[0], x.shape[2], x.shape[1])
        return out.masked_scatter(mask[..., None], values).transpose(1, 2)


def see_real_frames_only(ecapa: nn.Module, real: RealFrames) -> None:
    """Make a freshly built ECAPA-TDNN blind to padding, in training and in evaluation."""
    from speechbrain.nnet.CNN import Conv1d
    from speechbrain.nnet.normalization import BatchNorm1d

    for module in list(ecapa.modules()):
        if isinstance(module, Conv1d) and module.kernel_size > 1:
            module.padding_mode = "constant"
            module.register_forward_pre_hook(real.silence_padding)
        elif isinstance(module, BatchNorm1d):
            module.norm = _MaskedBatchNorm(module.norm.num_features, real)


@contextmanager
def speechbrain_import() -> Iterator[None]:
    """Import SpeechBrain without its side effects.

    Its first import switches TF32 on for the whole process, which would change what the backbone
    computes on a GPU, and logs about itself.
    """
    switch, before = "SB_DISABLE_QUIRKS", os.environ.get("SB_DISABLE_QUIRKS")
    os.environ[switch] = ",".join(filter(None, [before, "allow_tf32", "disable_jit_profiling"]))
    logger = logging.getLogger("speechbrain")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.WARNING)
    try:
        import speechbrain  # noqa: F401

        yield
    finally:
        if before is None:
            del os.environ[switch]
        else:
            os.environ[switch] = before
        _forget_redirects()


def _forget_redirects() -> None:
    """Take SpeechBrain's stand-ins for renamed modules out of `sys.modules`.

    They import what they stand for at any look at them, so whatever walks `sys.modules` (the
    hypothesis package, for one) fails for want of an optional package such as k2.
    """
    for name, module in list(sys.modules.items()):
        if type(module).__module__ == "speechbrain.utils.importutils":
            del sys.modules[name]


def load_classifier(folder: Path) -> Any:
    """Load a checkpoint folder into an EncoderClassifier, from its own files alone.

    Raises:
        ConfigError: it is no speaker encoder, not for 16 kHz, lacks a file, or its yaml names
            what no published encoder does; damaged files raise whatever SpeechBrain raises.
    """
    text = (folder / "hyperparams.yaml").read_text(encoding="utf-8")
    for tag in re.findall(r"!\S+", text):
        if not _SAFE_TAG.fullmatch(tag):
            raise ConfigError(
                f"{folder / 'hyperparams.yaml'} has {tag!r}, which could run code and which no "
                "published speaker encoder has; give the published folder"
            )
    with speechbrain_import():
        from speechbrain.inference.classifiers import EncoderClassifier
        from speechbrain.nnet.pooling import StatisticsPooling
        from speechbrain.utils.checkpoints import torch_recovery
    from hyperpyyaml import load_hyperpyyaml

    hparams = load_hyperpyyaml(text)
    if not {"modules", "pretrainer"} <= set(hparams) or "embedding_model" not in hparams["modules"]:
        raise ConfigError(
            f"{folder / 'hyperparams.yaml'} describes no speaker encoder: it needs pretrainer and "
            "modules with an embedding_model"
        )
    if hparams.get("sample_rate", SAMPLE_RATE) != SAMPLE_RATE:
        raise ConfigError(
            f"{folder} is a model for {hparams['sample_rate']} Hz, not {SAMPLE_RATE} Hz"
        )
    pretrainer = hparams["pretrainer"]
    for unneeded in ("classifier", "label_encoder"):
        hparams["modules"].pop(unneeded, None)
        pretrainer.loadables.pop(unneeded, None)
    for name in pretrainer.loadables:
        file_path = folder / Path(str(pretrainer.paths.get(name, f"{name}.ckpt"))).name
        if not file_path.is_file():
            raise ConfigError(f"the speaker encoder in {folder} lacks {file_path.name}")
        pretrainer.paths[name] = str(file_path.absolute())
        pretrainer.is_local.append(name)
    # Strictly: SpeechBrain's own transfer only logs about weights that do not fit.
    pretrainer.add_custom_hooks(
        {"embedding_model": lambda module, path: torch_recovery(module, path, end_of_epoch=False)}
    )
    pretrainer.load_collected()
    classifier = EncoderClassifier(
        modules=hparams["modules"], hparams=hparams, run_opts={"device": "cpu"}
    )
    for module in classifier.mods.modules():
        if isinstance(module, StatisticsPooling):
            # It adds noise from the global generator, in evaluation too: an embedding would
            # differ from call to call.
            module._get_gauss_noise = torch.zeros
    return classifier
