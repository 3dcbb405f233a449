"""What can go wrong through a user's doing; everything else is a bug and keeps its traceback."""

from __future__ import annotations


class DanluError(Exception):
    """Something the user can mend: one line that says what came, what was expected and what to do."""


class ConfigError(DanluError):
    """A flag, name or configuration value that cannot be used."""


class DataError(DanluError):
    """Data that cannot be read, or too little of it."""


class CheckpointError(DanluError):
    """Weights, checkpoints or model folders that are missing, damaged or of another shape."""


class RequestError(DanluError):
    """A request to a model that cannot be answered.

    `param` names the field at fault and `code` is a short machine-readable reason, as the OpenAI API has them.
    """

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code
