"""A corpus in few large files, for data that travels or lies on a network disk.

A pack is a folder of shards and an index. A shard is files of FLAC or Ogg Opus, one after the other, as
one would find them on a disk: mono at one sample rate. `index.jsonl` says in its first line what the
pack is, and in each further one where a file lies. Packs are read by range, file by file.
"""

import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import soundfile

from bittern.audio.ranges import FileRange
from bittern.errors import AudioError, ConfigError

INDEX = "index.jsonl"
_KIND = "bittern pack 1"
_OPUS_RATES = (8000, 12_000, 16_000, 24_000, 48_000)


class Coding(StrEnum):
    FLAC = "flac"  # exact
    OPUS = "opus"  # at libsndfile's own setting, about 29 kbit/s for speech at 16 kHz


@dataclass(frozen=True)
class Packed:
    """Where a file of a pack lies."""

    path: str  # below the folder it was packed from, with slashes
    shard: Path
    offset: int
    size: int  # bytes
    digest: int  # of these bytes

    def open(self) -> BinaryIO:
        """The file alone, from its first byte."""
        return io.BufferedReader(
            FileRange(self.shard.open("rb"), self.offset, self.size, owned=True)
        )


class Index(NamedTuple):
    sample_rate: int
    coding: Coding
    entries: list[Packed]


def is_pack(folder: Path) -> bool:
    """Whether a folder is a pack, and not one of files."""
    try:
        with (folder / INDEX).open() as file:
            return json.loads(file.readline()).get("kind") == _KIND
    except (OSError, ValueError, AttributeError):
        return False


def read_index(folder: Path) -> Index:
    """What a pack holds, in the order of the folder it was made of.

    Raises:
        AudioError: the index is damaged, or a shard is missing or too short.
    """
    entries = []
    try:
        head, *rows = (folder / INDEX).read_text().splitlines()
        about = json.loads(head)
        coding, sample_rate, count = about["coding"], about["sample_rate"], about["files"]
        for row in map(json.loads, rows):
            entries.append(_entry(folder, row))
        if len(entries) != count:
            raise ValueError(f"{len(entries)} files of {count}")
        coding = Coding(coding)
        if not (isinstance(sample_rate, int) and 1_000 <= sample_rate <= 768_000):
            raise ValueError(f"sample_rate is {sample_rate}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise AudioError(f"{folder / INDEX}: is damaged ({error}); pack or copy it anew") from None
    needed: dict[Path, int] = {}
    for entry in entries:
        needed[entry.shard] = max(needed.get(entry.shard, 0), entry.offset + entry.size)
    for shard, size in needed.items():
        held = shard.stat().st_size if shard.is_file() else 0
        if held < size:
            raise AudioError(f"{shard}: has {held} bytes of {size}; copy the pack anew")
    return Index(sample_rate, coding, entries)


def _entry(folder: Path, row: dict[str, Any]) -> Packed:
    """A row of the index.

    Raises:
        ValueError: what it names is not in the folder.
        KeyError, TypeError: a part is missing, or of another type.
    """
    name, offset, size = str(row["shard"]), row["offset"], row["size"]
    if not (Path(name).name == name and isinstance(row["path"], str)):
        raise ValueError(f"shard {name!r} is not a file beside it")
    if not (type(offset) is type(size) is int and offset >= 0 and size >= 0):
        raise ValueError(f"a file at {offset!r} of {size!r} bytes")
    return Packed(row["path"], folder / name, offset, size, int(row["digest"], 16))


def check(folder: Path, sample_rate: int, coding: Coding) -> None:
    """Raise what `write_pack` would, before the work of scanning.

    Raises:
        ConfigError: Opus does not know the sample rate.
        AudioError: the folder is there already.
    """
    if coding is Coding.OPUS and sample_rate not in _OPUS_RATES:
        rates = ", ".join(map(str, _OPUS_RATES))
        raise ConfigError(f"Opus has no sample rate of {sample_rate} Hz; give one of {rates}")
    if folder.exists():
        raise AudioError(f"{folder}: exists already; give another name, or delete it")


def write_pack(
    folder: Path,
    clips: Iterable[tuple[str, np.ndarray]],
    sample_rate: int,
    coding: Coding,
    *,
    shard_bytes: int = 2**28,
) -> Index:
    """Write a pack, which appears whole or not at all.

    Args:
        folder: which must not exist yet.
        clips: paths with slashes, and the samples of each, [n] int16.
        sample_rate: of the clips, Hz.
        coding: how they are kept.
        shard_bytes: a shard is closed when it has grown beyond this.

    Raises:
        ConfigError, AudioError: see `check`; or the folder cannot be written.
    """
    check(folder, sample_rate, coding)
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        temporary.chmod(0o755)
        entries = _write_shards(temporary, clips, sample_rate, coding, shard_bytes)
        about = {"kind": _KIND, "coding": coding, "sample_rate": sample_rate, "files": len(entries)}
        rows = [asdict(e) | {"shard": e.shard.name, "digest": f"{e.digest:015x}"} for e in entries]
        text = "".join(json.dumps(row) + "\n" for row in [about, *rows])
        (temporary / INDEX).write_text(text)
        _flush(temporary / INDEX)
        temporary.rename(folder)
    except OSError as error:
        raise AudioError(f"{folder}: cannot be written ({error.strerror or error})") from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)  # gone already if all went well
    return read_index(folder)


def _write_shards(
    folder: Path,
    clips: Iterable[tuple[str, np.ndarray]],
    sample_rate: int,
    coding: Coding,
    shard_bytes: int,
) -> list[Packed]:
    entries: list[Packed] = []
    number = size = 0
    for name, samples in clips:
        data = _encode(samples, sample_rate, coding)
        if size and size + len(data) > shard_bytes:
            number, size = number + 1, 0
        shard = folder / f"shard-{number:05d}"
        with shard.open("ab") as file:
            file.write(data)
        digest = int.from_bytes(hashlib.sha256(data).digest()[:7])
        entries.append(Packed(name, shard, size, len(data), digest))
        size += len(data)
    for shard in folder.iterdir():
        _flush(shard)
    return entries


def _encode(samples: np.ndarray, sample_rate: int, coding: Coding) -> bytes:
    buffer = io.BytesIO()
    container, subtype = {Coding.FLAC: ("FLAC", "PCM_16"), Coding.OPUS: ("OGG", "OPUS")}[coding]
    soundfile.write(buffer, samples, sample_rate, format=container, subtype=subtype)
    return buffer.getvalue()


def _flush(path: Path) -> None:
    with path.open("r+b") as file:  # Windows flushes only what may be written
        os.fsync(file.fileno())
