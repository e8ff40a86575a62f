"""What to export: settings alone, so that the command line can read them fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hyperasr.errors import ConfigError
from hyperasr.util.config import check_types


@dataclass(frozen=True)
class ExportConfig:
    """What to write, and how to make one adapter of several clips."""

    to: Literal["peft", "merged", "ctranslate2", "ggml"] = "peft"
    """PEFT adapter folder, merged Hugging Face folder, CTranslate2 (faster-whisper), or ggml
    (whisper.cpp)."""
    method: Literal["embedding", "average"] = "embedding"
    """Factors of the mean speaker embedding, or the mean of the clips' updates at a rank."""
    rank: int | None = None
    """Rank with the method average, at least 1; null is that of the model."""
    group: str | None = None
    """Cohort or speaker, for a model with adapters by name."""
    dtype: Literal["float32", "float16", "bfloat16", "int8"] = "float32"
    """Number format of what is written; int8 is for ctranslate2 alone, peft takes float32 and ggml
    float16."""
    language: str = "en"
    """Language of the clips, for the parity check."""
    max_difference: float | None = None
    """Largest logit difference allowed, beside the largest logit; null is one for each dtype."""
    max_word_difference: float | None = 0.3
    """Largest word difference allowed, over all checked clips, between the model's own texts and
    what the engine that the export is for writes by its defaults; null checks no texts."""

    def __post_init__(self) -> None:
        check_types(self)
        if self.dtype != "float16" and self.to == "ggml":
            raise ConfigError("whisper.cpp takes matrices in float16 alone; choose that dtype")
        if self.dtype == "int8" and self.to != "ctranslate2":
            raise ConfigError("int8 is written for ctranslate2 alone; choose another dtype")
        if self.dtype != "float32" and self.to == "peft":
            raise ConfigError("a PEFT adapter is written in float32; choose that dtype")
        if self.max_difference is not None and not self.max_difference > 0:
            raise ConfigError(f"max_difference is {self.max_difference}; it must be above 0")
        if self.max_word_difference is not None and not self.max_word_difference >= 0:
            raise ConfigError(
                f"max_word_difference is {self.max_word_difference}; it must be at least 0"
            )
