"""The errors Bittern raises on purpose, each with the exit code the command line gives it.

A message says what was got, what was expected and what to do, in one line. Programming errors of a
caller in Python (a tensor of the wrong rank) stay `ValueError`; these here are about files, models
and configurations, things that a user can put right without reading code.
"""

from collections.abc import Generator
from contextlib import contextmanager


def one_line(text: object) -> str:
    """What is told, with names of files and tensors in it that may hold anything: on one line, escaped."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode()
        for c in str(text)
    )


class CodecError(Exception):
    """Anything wrong with a user's file, model or configuration."""

    exit_code = 1


class ConfigError(CodecError):
    """A configuration value is unknown, of the wrong type or out of range."""

    exit_code = 1


class AudioError(CodecError):
    """An audio file cannot be read, written or used."""

    exit_code = 2


class UnreachableError(AudioError):
    """An audio file could not be read this time: rights, a network, no ffmpeg; the file may be good."""


class AudioWarning(UserWarning):
    """An audio file was used, though there is something about it that its owner should know."""


class ModelError(CodecError):
    """A model folder is missing, incomplete or not what the file was made with."""

    exit_code = 3


class ModelMismatchError(ModelError):
    """A `.btn` file was made with other weights than those given."""


class FormatError(CodecError):
    """A `.btn` file is not one, is damaged, cut short or from a newer version."""

    exit_code = 4


class DivergedError(CodecError):
    """Training has left the finite numbers."""


@contextmanager
def extra(name: str) -> Generator[None]:
    """Tell which extra to install where a module of it is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "a package").split(".")[0]
        if package == "bittern":
            raise
        raise ConfigError(f"{package} is not installed; pip install 'bittern[{name}]'") from None
