"""Shards of codes in four formats, each written whole or not at all, of the same bytes each time.

    parquet     one file; columns key, codes [k][F], frames, samples, sample_rate, seconds, error
    webdataset  one tar; NAME.codes.npy and NAME.json of each recording
    npy         a folder; NAME.npy of each, and index.jsonl
    btn         a folder; NAME.btn of each, and index.jsonl

Codes are uint16 [k stages, F frames]. What could not be read has an error, and no codes.
"""

import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from enum import StrEnum
from itertools import chain, count
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bittern.audio.atomic import atomic_file, atomic_folder
from bittern.audio.names import is_audio_name
from bittern.errors import extra

INDEX = "index.jsonl"


class Format(StrEnum):
    PARQUET = "parquet"
    WEBDATASET = "webdataset"
    NPY = "npy"
    BTN = "btn"


_GROUP_ROWS, _LONG_FRAMES = 1000, 100_000  # of a group of rows in Parquet
_SUFFIXES = {Format.PARQUET: ".parquet", Format.WEBDATASET: ".tar"}


class Row(NamedTuple):
    """What became of a recording."""

    key: str
    codes: NDArray[np.uint16] | bytes | None = None  # [k, F], or a `.btn` file
    frames: int = 0
    samples: int = 0  # of the recording, for each channel
    sample_rate: int = 0  # of the recording, Hz
    error: str | None = None  # why there are no codes
    lasting: bool = True  # for as long as the recording stays as it is; else it is tried again

    @property
    def seconds(self) -> float:
        return self.samples / self.sample_rate if self.sample_rate else 0.0

    def told(self) -> dict[str, Any]:
        """All but the codes."""
        about = {name: getattr(self, name) for name in ("key", "frames", "samples", "sample_rate")}
        return about | {"seconds": self.seconds, "error": self.error}


def shard_path(out: Path, number: int, shards: int, to: Format) -> Path:
    return out / f"codes-{number:05d}-of-{shards:05d}{_SUFFIXES.get(to, '')}"


def write_shard(path: Path, rows: Iterable[Row], to: Format, about: dict[str, Any]) -> None:
    """Write one shard, which replaces what is there.

    Args:
        path: see `shard_path`.
        rows: in their order.
        to: the format.
        about: what a reader should know, kept in the shard.

    Raises:
        CodecError: it cannot be written.
    """
    match to:
        case Format.PARQUET:
            _write_parquet(path, rows, about)
        case Format.WEBDATASET:
            members = (
                member
                for name, row in _named(rows)
                for member in (
                    *_codes_member(f"{name}.codes.npy", row),
                    (f"{name}.json", json.dumps(row.told()).encode()),
                )
            )
            with atomic_file(path) as file:
                write_tar(file, members, {"bittern": json.dumps(about)})
        case Format.NPY | Format.BTN:
            _write_folder(path, rows, f".{to}", about)


def write_tar(
    file: Any, members: Iterable[tuple[str, bytes]], headers: dict[str, str] | None = None
) -> None:
    """Write members of one owner and time, so that equal members make equal tars."""
    with tarfile.open(
        fileobj=file, mode="w", format=tarfile.PAX_FORMAT, pax_headers=headers
    ) as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def _write_parquet(path: Path, rows: Iterable[Row], about: dict[str, Any]) -> None:
    with extra("corpus"):
        import pyarrow as pa
        import pyarrow.parquet as pq
    whole, text = pa.int64(), pa.string()
    types = {"key": text, "codes": pa.list_(pa.list_(pa.uint16()))}
    types |= dict.fromkeys(("frames", "samples", "sample_rate"), whole)
    schema = pa.schema(
        types | {"seconds": pa.float64(), "error": text}, {"bittern": json.dumps(about)}
    )
    with (
        atomic_file(path) as file,
        pq.ParquetWriter(file, schema, compression="zstd") as writer,
    ):
        for group in _groups(rows):
            told = [row.told() for row in group]
            columns = {name: [row[name] for row in told] for name in told[0]}
            columns |= {"codes": _nested([row.codes for row in group])}
            writer.write_table(pa.table(columns, schema))


def _groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Rows in groups that bound the memory."""
    group: list[Row] = []
    for row in rows:
        group.append(row)
        if len(group) == _GROUP_ROWS or sum(row.frames for row in group[-2:]) > _LONG_FRAMES:
            yield group
            group = []
    if group:
        yield group


def _nested(codes: list[Any]) -> Any:
    """Arrays [k, F] as lists of lists of uint16, null where there is none; nothing is copied twice."""
    import pyarrow as pa

    shapes = [array.shape if array is not None else (0, 0) for array in codes]
    frames = np.concatenate([[0], *([f] * k for k, f in shapes)])
    flat = [array.ravel() for array in codes if array is not None]
    values = np.concatenate(flat) if flat else np.zeros(0, np.uint16)
    stages = pa.ListArray.from_arrays(pa.array(np.cumsum(frames), pa.int32()), pa.array(values))
    outer = np.cumsum([0, *(k for k, _ in shapes)])
    missing = pa.array([array is None for array in codes])
    return pa.ListArray.from_arrays(pa.array(outer, pa.int32()), stages, mask=missing)


def _write_folder(path: Path, rows: Iterable[Row], suffix: str, about: dict[str, Any]) -> None:
    with atomic_folder(path) as folder, (folder / INDEX).open("w") as index:
        index.write(json.dumps(about) + "\n")
        for name, row in _named(rows):
            for member, data in _codes_member(f"{name}{suffix}", row):
                (folder / member).parent.mkdir(parents=True, exist_ok=True)
                (folder / member).write_bytes(data)
            file = None if row.codes is None else f"{name}{suffix}"
            index.write(json.dumps(row.told() | {"file": file}) + "\n")


def _codes_member(name: str, row: Row) -> Iterator[tuple[str, bytes]]:
    if isinstance(row.codes, bytes):
        yield name, row.codes
    elif row.codes is not None:
        buffer = io.BytesIO()
        np.save(buffer, row.codes)
        yield name, buffer.getvalue()


def _named(rows: Iterable[Row]) -> Iterator[tuple[str, Row]]:
    """Rows with the name of a file each: the key's, within the shard, and before a dot unique there."""
    taken: set[str] = set()
    for row in rows:
        parts = [part for part in PurePosixPath(row.key).parts if part not in ("/", "..", ".")]
        path = PurePosixPath(*parts) if parts else PurePosixPath("unnamed")
        plain = path.with_suffix("") if is_audio_name(Path(path)) else path
        short, long = (str(p.with_name(p.name.replace(".", "_"))) for p in (plain, path))
        names = chain((short, long), (f"{long}_{number}" for number in count(2)))
        name = next(name for name in names if name not in taken)
        taken.add(name)
        yield name, row
