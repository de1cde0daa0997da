"""Output files that appear whole or not at all."""

import io
import os
import re
import secrets
import shutil
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from bittern.errors import CodecError

_LONGEST = 255  # bytes of a name, on most file systems
_DESCRIPTOR = re.compile(r"/dev/fd/(\d+)|/proc/(?:self|thread-self|\d+)/fd/(\d+)")
_unfinished: set[Path] = set()
_STANDARD = {"/dev/stdout": 1, "/dev/stderr": 2}


@contextmanager
def atomic_path(path: Path, *, replace: bool = True) -> Generator[Path, None, None]:
    """A temporary path beside `path`, renamed to it at the end, removed if an error comes instead.

    Without `replace` a file that is there by then is left as it is, and that is an error. A device or a
    named pipe is handed out as it is; a symbolic link is followed. A file that is replaced leaves its
    mode to the new one.

    Raises:
        CodecError: the file cannot be written; the message names it and says why. Any `OSError` of
            the body counts as that: readers turn their own into other errors.
    """
    try:
        if is_special(path):
            yield path
            return
        final = Path(os.path.realpath(path))
        if final.is_dir():
            raise IsADirectoryError(None, "it is a directory")
        temporary = final.with_name(_temporary_name(final.name))
        try:
            _unfinished.add(temporary)
            temporary.touch(exist_ok=False)
            with suppress(FileNotFoundError):
                temporary.chmod(stat.S_IMODE(final.stat().st_mode))
            yield temporary
            _flush_to_disk(temporary)
            if replace or not _link(temporary, final):
                temporary.replace(final)
        finally:
            temporary.unlink(missing_ok=True)
            _unfinished.discard(temporary)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CodecError(f"{path}: cannot be written ({error.strerror or error})") from None


@contextmanager
def atomic_file(path: Path, *, replace: bool = True) -> Generator[BinaryIO, None, None]:
    """The same with the temporary file opened for writing.

    Raises:
        CodecError: see `atomic_path`.
    """
    with atomic_path(path, replace=replace) as temporary, _open(temporary) as file:
        yield file


def _link(temporary: Path, final: Path) -> bool:
    """Give a file its name if that is free; False where the file system cannot, and it was free.

    Raises:
        OSError: the name is taken.
    """
    try:
        os.link(temporary, final)
    except FileExistsError:
        raise OSError(None, "it has come to exist meanwhile; -f overwrites it") from None
    except OSError:
        if os.path.lexists(final):
            raise OSError(None, "it has come to exist meanwhile; -f overwrites it") from None
        return False
    return True


@contextmanager
def atomic_folder(path: Path) -> Generator[Path, None, None]:
    """A temporary folder beside `path`, renamed to it at the end; it replaces one that is there.

    Raises:
        CodecError: see `atomic_path`.
    """
    temporary = path.with_name(_temporary_name(path.name))
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
            yield temporary
            getattr(os, "sync", int)()  # Windows has none
            shutil.rmtree(path, ignore_errors=True)
            temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)  # gone already if all went well
    except OSError as error:
        raise CodecError(f"{path}: cannot be written ({error.strerror or error})") from None


def _open(path: Path) -> BinaryIO:
    """A file to write to; what is special goes through as it is, forwards."""
    number = _descriptor(path)
    if number is not None:
        return io.BufferedWriter(_Forwards(own_descriptor(number), "wb"))
    return io.BufferedWriter(_Forwards(path, "wb")) if is_special(path) else path.open("wb")


def own_descriptor(number: int) -> int:
    """Another number of an open file, for data.

    What others print to standard output goes to standard error from then on: libsndfile prints there
    when it reads some damaged files, at the end of the process even.
    """
    own = os.dup(number)
    if number == 1:
        with suppress(OSError):
            os.dup2(2, 1)
    return own


class _Forwards(io.FileIO):
    """What is written to where others may have written: it is not gone back in."""

    def seekable(self) -> bool:
        return False


def write_atomically(path: Path, data: bytes) -> None:
    """Write a whole file; its folder is made if it does not exist.

    Raises:
        CodecError: see `atomic_path`.
    """
    make_folder(path.parent)
    with atomic_file(path) as file:
        file.write(data)


def make_folder(path: Path) -> None:
    """Make a folder, and those it lies in, if they do not exist.

    Raises:
        CodecError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CodecError(f"{path}: cannot be written ({error.strerror})") from None


def is_special(path: Path) -> bool:
    """Whether it is a device, a pipe, a socket or an open file by its number (`/dev/stdout`).

    Such are there to be written to, not to be replaced.
    """
    if _descriptor(path) is not None:
        return True
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _descriptor(path: Path) -> int | None:
    """The number of one of our open files that a name stands for."""
    name = os.path.normpath(path)
    match = _DESCRIPTOR.fullmatch(name)
    if match and not name.startswith(
        ("/dev", "/proc/self", "/proc/thread", f"/proc/{os.getpid()}/")
    ):
        return None
    return int(match[1] or match[2]) if match else _STANDARD.get(name)


def _temporary_name(name: str) -> str:
    """A hidden name like `name`, as long as file systems take, cut between letters."""
    tail = f".{secrets.token_hex(4)}.part"
    kept = os.fsencode(name)[: _LONGEST - len(tail) - 1 - 3]
    return f".{kept.decode(errors='ignore')}{tail}"


def remove_unfinished() -> None:
    """Delete what is being written, for who ends the process without waiting for its threads."""
    for path in list(_unfinished):
        with suppress(OSError):
            path.unlink()


def is_temporary(path: Path) -> bool:
    """Whether a file is called as those that `atomic_path` writes."""
    return re.fullmatch(r"\..*\.[0-9a-f]{8}\.part", path.name) is not None


def _flush_to_disk(path: Path) -> None:
    with path.open("r+b") as file:  # Windows flushes only what may be written
        os.fsync(file.fileno())


def refuse_same_file(source: Path, target: Path) -> None:
    """Raise a `CodecError` if both names lead to one file."""
    try:
        same = source.samefile(target) and not is_special(target)
    except OSError:
        return
    if same:
        raise CodecError(f"{target}: is the input itself; give another output")
