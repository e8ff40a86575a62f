"""A Whisper as one file in the format of whisper.cpp.

Little-endian: a magic number and eleven int32 of sizes; the mel filters; the bytes of every text
token; then each tensor with its number of dimensions, length of its name, number type (0 float32,
1 float16), dimensions from the last to the first, name and values. Names are those of OpenAI's
code; vectors, positions and the biases of the convolutions are float32 whatever the file is.
Source: `models/README.md` and `src/whisper.cpp` of github.com/ggml-org/whisper.cpp.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import numpy as np

from hyperasr.whisper.backbone import Backbone

_MAGIC = 0x67676D6C
_NAMES = (
    (r"^model\.", ""),
    (r"\.layers\.", ".blocks."),
    (r"\.self_attn_layer_norm\.", ".attn_ln."),
    (r"\.encoder_attn_layer_norm\.", ".cross_attn_ln."),
    (r"\.final_layer_norm\.", ".mlp_ln."),
    (r"\.self_attn\.", ".attn."),
    (r"\.encoder_attn\.", ".cross_attn."),
    (r"\.q_proj\.", ".query."),
    (r"\.k_proj\.", ".key."),
    (r"\.v_proj\.", ".value."),
    (r"\.out_proj\.", ".out."),
    (r"\.fc1\.", ".mlp.0."),
    (r"\.fc2\.", ".mlp.2."),
    (r"^encoder\.layer_norm\.", "encoder.ln_post."),
    (r"^decoder\.layer_norm\.", "decoder.ln."),
    (r"\.embed_tokens\.", ".token_embedding."),
    (r"\.embed_positions\.weight$", ".positional_embedding"),
)


def write_ggml(backbone: Backbone, path: Path) -> None:
    """Write a Whisper for whisper.cpp, whose convolutions take matrices in float16 alone.

    Args:
        backbone: the Whisper.
        path: of the file.
    """
    from transformers import WhisperFeatureExtractor
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    config = backbone.whisper.config
    filters = np.ascontiguousarray(
        WhisperFeatureExtractor(feature_size=backbone.n_mels).mel_filters.T, dtype="<f4"
    )
    byte_of = {character: byte for byte, character in bytes_to_unicode().items()}
    # Markers and timestamps follow the end of text; whisper.cpp knows them by their place.
    tokens = backbone.tokenizer.convert_ids_to_tokens(range(backbone.eos))
    with path.open("wb") as file:
        sizes = (
            config.vocab_size,
            config.max_source_positions,
            config.d_model,
            config.encoder_attention_heads,
            config.encoder_layers,
            config.max_target_positions,
            config.d_model,
            config.decoder_attention_heads,
            config.decoder_layers,
            config.num_mel_bins,
            1,  # matrices in float16
        )
        file.write(struct.pack("<12i", _MAGIC, *sizes))
        file.write(struct.pack("<2i", *filters.shape) + filters.tobytes())
        file.write(struct.pack("<i", len(tokens)))
        for token in tokens:
            content = bytes(byte_of[character] for character in token)
            file.write(struct.pack("<i", len(content)) + content)
        for name, tensor in backbone.whisper.state_dict().items():
            if name != "proj_out.weight":  # the embedding of the tokens once more
                _write_tensor(file, _renamed(name), tensor.float().cpu().numpy())


def _renamed(name: str) -> str:
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _write_tensor(file: Any, name: str, values: np.ndarray) -> None:
    half = values.ndim > 1 and not name.endswith("positional_embedding")
    if name in ("encoder.conv1.bias", "encoder.conv2.bias"):
        values = values[:, None]  # added to every frame
    encoded = name.encode()
    file.write(struct.pack("<3i", values.ndim, len(encoded), int(half)))
    file.write(struct.pack(f"<{values.ndim}i", *values.shape[::-1]) + encoded)
    file.write(np.ascontiguousarray(values, dtype="<f2" if half else "<f4").tobytes())
