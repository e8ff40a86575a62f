"""Keep torchaudio importable where its compiled part does not fit the installed torch.

SpeechBrain needs torchaudio, and transformers and peft import it wherever it is installed. The
published wheel is built against CUDA: beside a CPU build of torch, or one for another CUDA
version, its compiled part does not load and takes all of them down. Nothing here or in the parts
of SpeechBrain that we use needs the compiled part, so its absence need not be an error.
"""

from __future__ import annotations

import functools
import importlib.machinery
import logging
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any

# Private to torchaudio, hence the exact version in pyproject.toml. Its import loads the
# compiled libraries and raises where that fails.
_EXTENSION = "torchaudio._extension"

logger = logging.getLogger(__name__)


def ensure_torchaudio() -> None:
    """Let later imports of torchaudio succeed even where its compiled part does not load.

    Imports nothing itself, so it costs nothing. Where the compiled part loads, torchaudio is
    what it always is; where it does not, functions that need it raise when they are called.
    Call it before the first import of torchaudio, transformers, peft or speechbrain; repeated
    calls do nothing.
    """
    if _EXTENSION not in sys.modules and not any(
        isinstance(finder, _ExtensionFinder) for finder in sys.meta_path
    ):
        sys.meta_path.insert(0, _ExtensionFinder())


class _ExtensionFinder(MetaPathFinder):
    """Find torchaudio's extension module where it is, and load it forgivingly."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _EXTENSION:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and type(spec.loader) is importlib.machinery.SourceFileLoader:
            spec.loader = _ForgivingLoader(spec.loader.name, spec.loader.path)
        return spec


class _ForgivingLoader(importlib.machinery.SourceFileLoader):
    """Run the module; if its libraries do not load, leave it saying that there are none."""

    def exec_module(self, module: ModuleType) -> None:
        try:
            super().exec_module(module)
        except (OSError, RuntimeError, ImportError) as error:
            logger.debug("torchaudio runs without its compiled part: %s", error)
            _declare_absent(module, error)


def _declare_absent(module: ModuleType, cause: Exception) -> None:
    def fail_if_no_align(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def fail(*args: Any, **kwargs: Any) -> Any:
            raise RuntimeError(
                f"{function.__name__} needs torchaudio's compiled part, which does not load "
                "beside this torch"
            ) from cause

        return fail

    vars(module).update(
        _IS_TORCHAUDIO_EXT_AVAILABLE=False,
        _IS_ALIGN_AVAILABLE=False,
        _check_cuda_version=lambda: None,
        fail_if_no_align=fail_if_no_align,
    )
