"""Errors that a caller can act on: what happened, with which values, what to do."""


class HyperASRError(Exception):
    """Base of every error this package raises on purpose; the message is one line.

    >>> try:
    ...     model.transcribe("absent.wav")
    ... except hyperasr.HyperASRError as error:
    ...     print(error)
    there is no file absent.wav; check the name
    """


class ShapeError(HyperASRError):
    """Tensors whose sizes do not belong together."""


class ConfigError(HyperASRError):
    """A setting with an impossible value, or a name that does not exist."""


class AudioError(HyperASRError):
    """A recording that cannot be read or used."""


class ManifestError(HyperASRError):
    """A row of a manifest that is not valid."""


class CheckpointMismatch(HyperASRError):
    """Saved weights that do not belong to the model they are loaded into."""


class MissingExtra(HyperASRError):
    """An optional package that this function needs is not installed."""
