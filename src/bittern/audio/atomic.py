"""Output files that appear whole or not at all."""

import os
import secrets
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from bittern.errors import CodecError


@contextmanager
def atomic_path(path: Path) -> Generator[Path, None, None]:
    """A temporary path beside `path`, renamed to it at the end, removed if an error comes instead.

    A device or a named pipe is handed out as it is; a symbolic link is followed.

    Raises:
        CodecError: the file cannot be written; the message names it and says why. Any `OSError` of
            the body counts as that: readers turn their own into other errors.
    """
    try:
        final = Path(os.path.realpath(path))
        if is_special(final):
            yield final
            return
        if final.is_dir():
            raise IsADirectoryError(None, "it is a directory")
        temporary = final.with_name(f".{final.name[:80]}.{secrets.token_hex(4)}.part")
        try:
            temporary.touch(exist_ok=False)
            yield temporary
            _flush_to_disk(temporary)
            temporary.replace(final)
        finally:
            temporary.unlink(missing_ok=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CodecError(f"{path}: cannot be written ({error.strerror or error})") from None


@contextmanager
def atomic_file(path: Path) -> Generator[BinaryIO, None, None]:
    """The same with the temporary file opened for writing.

    Raises:
        CodecError: see `atomic_path`.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        yield file


def write_atomically(path: Path, data: bytes) -> None:
    """Write a whole file; its folder is made if it does not exist.

    Raises:
        CodecError: see `atomic_path`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CodecError(f"{path}: cannot be written ({error.strerror})") from None
    with atomic_file(path) as file:
        file.write(data)


def is_special(path: Path) -> bool:
    """Whether it is a device, a pipe or a socket: there to be written to, not to be replaced."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _flush_to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def refuse_same_file(source: Path, target: Path) -> None:
    """Raise a `CodecError` if both names lead to one file."""
    try:
        same = source.samefile(target) and not is_special(target)
    except OSError:
        return
    if same:
        raise CodecError(f"{target}: is the input itself; give another output")
