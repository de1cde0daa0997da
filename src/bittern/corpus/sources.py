"""Where recordings lie: a folder, a manifest, tars, Parquet files. Each is opened by itself."""

import glob
import io
import json
import re
import tarfile
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from bittern.audio.names import find_audio, is_audio_name
from bittern.audio.ranges import FileRange
from bittern.audio.streams import AudioStream, open_audio
from bittern.errors import AudioError, AudioWarning, UnreachableError, extra

TAR, PARQUET = ".tar", ".parquet"


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One recording: a file, a range of a tar, or a row of a Parquet file."""

    key: str  # its name in what is made of it: a path with slashes, or what the manifest calls it
    path: str  # of the file that it is or lies in
    size: int  # bytes; of rows, the mean of their file's
    modified: int = 0  # nanoseconds, of the file
    offset: int | None = None  # in a tar
    row: int | None = None  # of a Parquet file

    def open(self) -> AbstractContextManager[AudioStream]:
        """Its audio.

        Raises:
            UnreachableError: the file cannot be read now.
            AudioError: it is no audio, or is damaged; also from the blocks.
        """
        if self.offset is None and self.row is None:
            return open_audio(Path(self.path))
        return open_audio(Path(self.key), self.open_range())

    def open_range(self) -> BinaryIO:
        """Its bytes alone, from within the file that it lies in."""
        try:
            if self.row is not None:
                return io.BytesIO(_read_row(self.path, self.row))
            file = Path(self.path).open("rb")  # noqa: SIM115  (who reads it closes it)
            if self.offset is None:
                return file
            return io.BufferedReader(FileRange(file, self.offset, self.size, owned=True))
        except OSError as error:
            raise UnreachableError(f"{self.path}: cannot be read ({error})") from None


def find_recordings(source: str | Path) -> list[Recording]:
    """All recordings of a source, in its order, each with a key of its own.

    Args:
        source: a folder of audio files and tars, at any depth (or of Parquet files, where it has
            neither); a manifest: JSON lines with `audio_filepath` or `path` and perhaps `id`, or
            Kaldi's wav.scp; a tar, a Parquet file with a column `audio` of `bytes` and `path`; or a
            pattern of such files, as in "shards/*.tar".

    Raises:
        AudioError: there is nothing of the kind, or a tar or manifest is damaged.
    """
    root = Path(source).expanduser()
    if root.is_dir():
        paths = find_audio(root, beside=(TAR,)) or find_audio(root, beside=(PARQUET,))
        names = {path: path.relative_to(root).as_posix() for path in paths}
    else:
        paths = sorted(map(Path, glob.glob(str(root), recursive=True)))  # noqa: PTH207
        names = {path: path.as_posix() for path in paths}
    found = [recording for path in paths for recording in _held(path, names[path])]
    if not found:
        raise AudioError(
            f"{str(source)!r} has no usable audio; give a folder of audio files or tars, a manifest "
            "(.jsonl or wav.scp), tars or Parquet files with audio"
        )
    _warn_of_missing(paths)
    return _with_own_keys(found)


def _held(path: Path, name: str) -> Iterator[Recording]:
    """What a file holds; `name` is the key of one that is a recording itself."""
    try:
        status = path.stat()
        whole = Recording(
            key=name, path=str(path.absolute()), size=status.st_size, modified=status.st_mtime_ns
        )
        match path.suffix.lower():
            case ".tar":
                yield from _members(whole)
            case ".parquet":
                names = _parquet_names(path)
                for row, given in enumerate(names):
                    key, size = given or f"{path.stem}/{row:07d}", whole.size // len(names)
                    yield replace(whole, key=key, size=size, row=row)
            case ".jsonl" | ".json" | ".scp":
                yield from _listed(path)
            case _:
                yield whole
    except (OSError, tarfile.TarError, UnicodeDecodeError) as error:
        raise AudioError(f"{path}: cannot be read ({error}); copy it anew") from None


def _members(whole: Recording) -> Iterator[Recording]:
    with tarfile.open(whole.path, "r:") as tar:
        for member in tar:
            if member.isreg() and is_audio_name(Path(member.name)):
                place = {"offset": member.offset_data, "size": member.size}
                inner = member.name.removesuffix(".flac").removesuffix(".ogg")  # of a pack
                key = inner if is_audio_name(Path(inner)) else member.name
                yield replace(whole, key=key, **place)


def _listed(path: Path) -> Iterator[Recording]:
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        if path.suffix == ".scp":
            key, _, name = line.strip().partition(" ")
        else:
            key, name = _parse_row(line)
        if not name or name.rstrip().endswith("|"):
            raise AudioError(
                f"{path}: line {number} names no file; give audio_filepath or path in JSON lines, "
                "or `KEY FILE` in a wav.scp without commands; cut segments out first"
            )
        file = (path.parent / name.strip()).absolute()
        try:
            status = file.stat()
            yield Recording(
                key=key, path=str(file), size=status.st_size, modified=status.st_mtime_ns
            )
        except OSError:  # becomes a row that says so
            yield Recording(key=key, path=str(file), size=0)


def _parse_row(line: str) -> tuple[str, str | None]:
    """Key and file of a line of JSON; no file where it names none, or a segment of one."""
    try:
        row = json.loads(line)
        name = row.get("audio_filepath") or row.get("path")
        return str(row.get("id") or row.get("key") or name), None if row.get("offset") else name
    except (ValueError, AttributeError):
        return "", None


def _with_own_keys(found: list[Recording]) -> list[Recording]:
    """The same, where keys occur twice with the name of their tar or Parquet file before them.

    Raises:
        AudioError: that does not tell them apart.
    """
    counts = Counter(recording.key for recording in found)
    if len(counts) == len(found):
        return found
    renamed = [
        replace(r, key=f"{Path(r.path).stem}/{r.key}") if counts[r.key] > 1 else r for r in found
    ]
    key, times = Counter(recording.key for recording in renamed).most_common(1)[0]
    if times > 1:
        raise AudioError(f"{key!r} names {times} recordings; give each a name of its own")
    return renamed


def _warn_of_missing(paths: list[Path]) -> None:
    """Where files say how many they are, as in NAME-00000-of-00012.tar, say if some are not there."""
    stems = Counter(re.sub(r"-\d+-of-", "-*-of-", str(path)) for path in paths)
    for stem, held in stems.items():
        match = re.search(r"-of-(\d+)$", Path(stem).stem)
        if "-*-of-" in stem and match and held < int(match[1]):
            what = f"{stem}: {held} of {int(match[1])} files are there"
            warnings.warn(f"{what}; copy the others, if that is not meant", AudioWarning, 2)


# Parquet


@lru_cache(maxsize=1)
def _parquet(path: str) -> tuple[Any, np.ndarray]:
    """A Parquet file, and the first row of each of its groups."""
    with extra("corpus"):
        import pyarrow.parquet as pq
    file = pq.ParquetFile(path)
    rows = [file.metadata.row_group(n).num_rows for n in range(file.metadata.num_row_groups)]
    return file, np.cumsum([0, *rows])


def _parquet_names(path: Path) -> list[str | None]:
    file, _ = _parquet(str(path.absolute()))
    if "audio.bytes" not in {
        column.path for column in map(file.schema.column, range(len(file.schema)))
    }:
        raise AudioError(f"{path}: has no column `audio` with `bytes` (as `datasets` stores it)")
    table = file.read(columns=["audio.path"])
    if "audio" not in table.column_names:
        return [None] * table.num_rows
    return [entry["path"] for entry in table.column("audio").to_pylist()]


@lru_cache(maxsize=1)
def _group(path: str, number: int) -> Any:
    return _parquet(path)[0].read_row_group(number, columns=["audio.bytes"]).column("audio")


def _read_row(path: str, row: int) -> bytes:
    _, firsts = _parquet(path)
    number = int(np.searchsorted(firsts, row, side="right")) - 1
    entry = _group(path, number)[row - int(firsts[number])].as_py()
    if not entry or not entry["bytes"]:
        raise AudioError(f"{path}: row {row} has no bytes of audio")
    return cast(bytes, entry["bytes"])
