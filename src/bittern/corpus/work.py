"""One shard's work: recordings to rows of codes."""

import hashlib
import io
import json
import shutil
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bittern.audio.atomic import write_atomically
from bittern.audio.streams import (
    AudioStream,
    Resampler,
    check_samples,
    mix,
    resampled_length,
)
from bittern.corpus.shards import Format, Row, shard_path, write_shard
from bittern.corpus.sources import Recording
from bittern.errors import AudioError, AudioWarning, UnreachableError
from bittern.format.container import Reader

if TYPE_CHECKING:
    from bittern.codec import Codec

DONE = "done"  # folder of marks, one for each shard that is complete
_BATCH_SECONDS = 20.0  # of audio that is coded at once; what is longer is coded piece by piece


@dataclass(frozen=True)
class Job:
    """What all shards of a run have in common."""

    out: Path
    shards: int
    to: Format
    model: str  # name or folder
    device: str
    options: dict[str, Any]  # of `Codec.compress`
    about: dict[str, Any]  # kept in each shard
    digest: str  # of the plan


def mark_path(out: Path, number: int) -> Path:
    return out / DONE / f"{number:05d}.json"


def read_mark(job: Job, number: int) -> dict[str, Any] | None:
    """What a finished shard came to; None if it is still to be made."""
    try:
        mark = json.loads(mark_path(job.out, number).read_text())
    except (OSError, ValueError):
        return None
    there = shard_path(job.out, number, job.shards, job.to).exists()
    return mark if there and mark.get("digest") == job.digest else None


def make_shard(job: Job, number: int, recordings: list[Recording]) -> dict[str, Any]:
    """Code the recordings of a shard, write it, and then the mark that it is complete.

    Returns:
        The mark: what the shard came to.

    Raises:
        CodecError: it cannot be written, or there is no such model.
    """
    began = time.process_time()
    path, mark_at = shard_path(job.out, number, job.shards, job.to), mark_path(job.out, number)
    for written in (path, mark_at):
        for left in written.parent.glob(f".{written.name}.*.part"):  # by one who was killed
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    rows: list[Row] = []

    def watch() -> Iterator[Row]:
        for row in encode_all(_codec(job.model, job.device), recordings, job.to, job.options):
            rows.append(row._replace(codes=None))
            yield row

    write_shard(path, watch(), job.to, job.about | {"digest": job.digest})
    mark = {
        "digest": job.digest,
        "recordings": len(rows),
        "seconds": sum(row.seconds for row in rows),
        "bytes": sum(file.stat().st_size for file in _files(path)),
        "core_seconds": time.process_time() - began,
        "errors": {row.key: row.error for row in rows if row.error},
        "passing": sum(not row.lasting for row in rows),
        "sha256": _sha256(path),
    }
    write_atomically(mark_at, json.dumps(mark, indent=1).encode())
    return mark


def _files(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def _sha256(path: Path) -> str:
    """Of a file, or of all files of a folder in the order of their names, as `cat` gives them."""
    whole = hashlib.sha256()
    for file in _files(path):
        with file.open("rb") as data:
            while part := data.read(1 << 20):
                whole.update(part)
    return whole.hexdigest()


@lru_cache(maxsize=1)
def _codec(model: str, device: str) -> "Codec":
    from bittern.codec import load

    return load(model, device)


# from recordings to rows


def encode_all(
    codec: "Codec", recordings: list[Recording], to: Format, options: dict[str, Any]
) -> Iterator[Row]:
    """The rows of recordings, in their order; what cannot be read has an error."""
    batch: list[tuple[Row, np.ndarray | None]] = []
    longest = 0
    for recording in recordings:
        row, wav = _read(codec, recording, to, options)
        length = 0 if wav is None else wav.shape[1]
        longest = max(longest, length)
        if batch and longest * (len(batch) + 1) > _BATCH_SECONDS * codec.sample_rate:
            yield from _encode(codec, batch, options)
            batch, longest = [], length
        batch.append((row, wav))
    yield from _encode(codec, batch, options)


def _read(
    codec: "Codec", recording: Recording, to: Format, options: dict[str, Any]
) -> tuple[Row, np.ndarray | None]:
    """A row that is complete, or a short recording's samples [C, T] to code with others."""
    row = Row(recording.key)
    try:
        with warnings.catch_warnings(), recording.open() as stream:
            warnings.simplefilter("ignore", AudioWarning)
            if to is not Format.BTN and (stream.seconds or np.inf) <= _BATCH_SECONDS:
                return _gather(codec, stream, row)
            file = io.BytesIO()
            receipt = codec.compress_stream(stream, file, **options)
    except AudioError as error:
        reason = str(error).removeprefix(f"{recording.path}: ").removeprefix(f"{recording.key}: ")
        return row._replace(error=reason, lasting=not isinstance(error, UnreachableError)), None
    samples = round(receipt.seconds * receipt.sample_rate)
    frames = codec.config.frame_count(
        resampled_length(samples, receipt.sample_rate, codec.sample_rate)
    )
    told = {"frames": frames, "samples": samples, "sample_rate": receipt.sample_rate}
    return row._replace(codes=_codes(file, to), **told), None


def _codes(file: io.BytesIO, to: Format) -> bytes | np.ndarray:
    """A `.btn` file, or the codes [k, F] that are in it."""
    if to is Format.BTN:
        return file.getvalue()
    file.seek(0)
    pieces = list(Reader(file, "codes").codes())
    return np.concatenate(pieces, axis=-1)[0].astype(np.uint16)


def _gather(codec: "Codec", stream: AudioStream, row: Row) -> tuple[Row, np.ndarray]:
    """All samples of a short recording, at the model's rate and of its channels."""
    resampler = Resampler(stream.sample_rate, codec.sample_rate, codec.channels)
    blocks = [
        resampler.push(mix(mix(block, 1), codec.channels)) for block in check_samples(stream).blocks
    ]
    wav = np.concatenate([*blocks, resampler.flush()]).T
    told = {"samples": resampler.samples_in, "sample_rate": stream.sample_rate}
    return row._replace(frames=codec.config.frame_count(wav.shape[1]), **told), wav


def _encode(
    codec: "Codec", batch: list[tuple[Row, np.ndarray | None]], options: dict[str, Any]
) -> Iterator[Row]:
    """The rows of a batch, of which those with samples are coded at once."""
    import torch

    wavs = [wav for _, wav in batch if wav is not None]
    lengths = [wav.shape[1] for wav in wavs]
    padded = torch.zeros(len(wavs), codec.channels, max(lengths, default=0))
    for item, wav in zip(padded, wavs, strict=True):
        item[:, : wav.shape[1]] = torch.from_numpy(wav)
    coded = iter(
        codec.encode(
            padded, lengths=lengths, stages=options["stages"], search_width=options["search_width"]
        )
        if wavs
        else ()
    )
    for row, wav in batch:
        if wav is not None:
            codes = next(coded)[:, : row.frames].cpu().numpy().astype(np.uint16)
            row = row._replace(codes=codes)
        yield row
