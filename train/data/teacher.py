"""The unadapted Whisper as a teacher: what it says of every token of a text, hearing 30 s of it.

`train.data.writing` writes the lines. The teacher heard the recording as it is; the student hears
it simulated on, moved to another room, or on a trimmed context. So it learns to write what it would
have written of typical speech, and typical speech itself as before.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hyperasr.errors import CheckpointMismatch, ConfigError
from hyperasr.types import Batch, TeacherTokens
from hyperasr.whisper.backbone import Backbone


@dataclass(frozen=True)
class Teacher:
    """Most probable next tokens of recordings.

    Attributes:
        path: where they were read.
        n_kept: tokens that are kept at each place.
        of: ids (n_tokens, n_kept) int32 and log-probabilities (n_tokens, n_kept) float16 by the id
            of the recording: of each token of its text, and of the end of text.
    """

    path: Path
    n_kept: int
    of: dict[str, tuple[np.ndarray, np.ndarray]]

    @classmethod
    def read(cls, path: Path, backbone: Backbone) -> Teacher:
        """Read the lines of `train.data.writing`.

        Args:
            path: ``....lines.jsonl``.
            backbone: the student's, whose weights must be the teacher's.
        Raises:
            ConfigError: no such file, or one without tokens.
            CheckpointMismatch: another Whisper wrote it.
        """
        try:
            head, *lines = (json.loads(line) for line in path.read_text("utf-8").splitlines())
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{path}: cannot be read as a teacher ({error}); python -m train.data.writing "
                "writes one"
            ) from error
        if "kept" not in head:
            raise ConfigError(f"{path} has no tokens of a teacher; write it again")
        whole = Backbone(backbone.whisper, backbone.tokenizer, "full")
        if head["fingerprint"] != whole.fingerprint():
            raise CheckpointMismatch(f"{path} was written by another Whisper; write it again")
        n_kept = head["kept"]

        def array(text: str, dtype: str) -> np.ndarray:
            return np.frombuffer(base64.b64decode(text), dtype).reshape(-1, n_kept)

        told = (line for line in lines if "tokens" in line)
        of = {t["id"]: (array(t["tokens"], "<i4"), array(t["logprobs"], "<f2")) for t in told}
        return cls(path, n_kept, of)

    def teach(self, batch: Batch, recordings: Sequence[str | None]) -> TeacherTokens:
        """Return what the teacher says of the tokens of a batch.

        Args:
            batch: with tokens.
            recordings: the id of each utterance's recording; None where no teacher is wanted.
        Raises:
            ConfigError: a text differs from the one that the teacher was asked about.
        """
        assert batch.tokens is not None
        assert batch.n_tokens is not None
        shape = (*batch.tokens.shape, self.n_kept)
        ids = torch.zeros(shape, dtype=torch.long)
        logprobs = torch.full(shape, -torch.inf)
        for row, recording in enumerate(recordings):
            if recording not in self.of:
                continue
            told, chances = self.of[recording]
            last = int(batch.n_tokens[row])
            if len(told) != last - batch.n_prompt:
                raise ConfigError(
                    f"{self.path}: the text of {recording} is not the one in the manifest; train "
                    "on the manifest that train.data.writing wrote beside it"
                )
            ids[row, batch.n_prompt : last] = torch.from_numpy(told.astype(np.int64))
            logprobs[row, batch.n_prompt : last] = torch.from_numpy(chances.astype(np.float32))
        return TeacherTokens(ids, logprobs).to(batch.tokens.device)
