"""The languages Whisper knows: names, codes, and the token of each in a vocabulary."""

from __future__ import annotations

from collections.abc import Mapping

from hyperasr.errors import ConfigError
from hyperasr.util.closest import closest

MULTILINGUAL_VOCABULARY = 51_865
"""Tokens of the first multilingual Whisper; one with fewer knows English alone."""
_TASKS = ("transcribe", "translate")


def language_code(language: str) -> str:
    """Return Whisper's code of a language given by code or English name; others as they are."""
    from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

    return str(TO_LANGUAGE_CODE.get(language.lower(), language))


def language_name(code: str) -> str:
    """Return the English name, in lower case, of a language given by code; others as they are."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    return str(LANGUAGES.get(code, code))


def language_tokens(
    vocabulary: Mapping[str, int], recorded: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Return the token id of each language by code.

    Args:
        vocabulary: all tokens of the model.
        recorded: ``lang_to_id`` of its generation config, keys such as ``<|de|>``; None where it
            has none, as many fine-tuned folders.
    """
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    if recorded:
        return {name.strip("<|>"): int(i) for name, i in recorded.items()}
    names = {code: f"<|{code}|>" for code in LANGUAGES}
    return {code: vocabulary[name] for code, name in names.items() if name in vocabulary}


def prompt_tokens(
    vocabulary: Mapping[str, int], languages: Mapping[str, int], language: str, task: str
) -> list[int]:
    """Return the decoder's prompt: start, language and task, no timestamps.

    Args:
        vocabulary: all tokens of the model.
        languages: token of each language; empty for a model of English alone, which has neither
            language nor task in its prompt.
        language: code or English name.
        task: ``transcribe`` or ``translate``.
    Raises:
        ConfigError: the model does not know the language or the task, or is one of English alone
            that is to translate.
    """
    code, cannot = language_code(language), f"this model cannot {task} {language!r}"
    if task not in _TASKS:
        raise ConfigError(f"{cannot}; task must be {' or '.join(_TASKS)}")
    if set(languages) <= {"en"} and (code, task) != ("en", "transcribe"):
        raise ConfigError(
            f"{cannot}: it knows English alone; leave language and task as they are, or give a "
            "multilingual model"
        )
    names = ["<|startoftranscript|>"]
    if languages:
        names += [f"<|{code}|>", f"<|{task}|>"]
    names.append("<|notimestamps|>")
    if (languages and code not in languages) or any(name not in vocabulary for name in names):
        known = list(languages) or ["en"]
        close = closest(code, known, at_least=0.6) or known[0]
        raise ConfigError(f"{cannot}; try language={close!r}")
    return [vocabulary[name] for name in names]
