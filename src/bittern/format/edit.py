"""Changing `.btn` files as bytes: a lower bitrate, a span of one, several as one. No torch.

Everything streams: the source is read once and forwards, and memory stays the same at any length.
Chunks are copied where they can be. Of a range coded file, others need the entropy model that the reader
finds: in `cut` the frame that a lapped transform needs after the last chunk, in `cat` all after the
first joint.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import BinaryIO

import numpy as np

from bittern.errors import FormatError
from bittern.format.container import (
    CHUNK_OVERHEAD_BYTES,
    Chunk,
    Header,
    Reader,
    Writer,
    prefix,
    unpack,
)

_MUST_AGREE = (
    "version",
    "fingerprint",
    "entropy",
    "source_rate",
    "source_channels",
    "streams",
    "stages",
)


def trim(reader: Reader, file: BinaryIO, stages: int, *, live: bool = False) -> Writer:
    """Copy a file of version 1 with its first `stages` stages only.

    Args:
        reader: the file, from its header on.
        file: where to write.
        stages: 1 up to the file's own.
        live: as for `Writer`.

    Returns:
        The finished writer, which knows the header and the bytes written.

    Raises:
        ValueError: the file does not have that many stages.
        FormatError: it is of version 2; and see `Reader`.
    """
    if reader.header.version != 1:
        raise FormatError(
            f"{reader.name}: its frames have numbers of stages of their own; trim it to a bitrate"
        )
    if not 1 <= stages <= reader.header.stages:
        raise ValueError(f"got {stages} stages, {reader.name} has 1 to {reader.header.stages}")
    header = replace(reader.header, stages=stages)
    return _with_layers(reader, file, header, lambda chunk: min(stages, chunk.layers), live=live)


def trim_to_share(reader: Reader, file: BinaryIO, share: float, *, live: bool = False) -> Writer:
    """Copy a file with about a share of its bytes, whole layers of every chunk.

    Each chunk keeps as many layers as bring all that was written so far nearest to the share of all
    that was read; one at least.

    Args:
        reader: the file, from its header on.
        file: where to write.
        share: above 0, up to 1.
        live: as for `Writer`.

    Returns:
        The finished writer, which knows the header and the bytes written.

    Raises:
        ValueError: the share is out of range.
        FormatError: see `Reader`.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is {share:g}, expected above 0 and up to 1")
    owed = (share - 1) * reader.header.size  # bytes that may be written, up to here

    def choose(chunk: Chunk) -> int:
        nonlocal owed
        sizes = [len(prefix(chunk, reader.header, n + 1)) for n in range(chunk.layers)]
        owed += share * (sizes[-1] + CHUNK_OVERHEAD_BYTES) - CHUNK_OVERHEAD_BYTES
        kept = int(np.abs(np.array(sizes) - owed).argmin())
        owed -= sizes[kept]
        return kept + 1

    return _with_layers(reader, file, reader.header, choose, live=live)


def _with_layers(
    reader: Reader,
    file: BinaryIO,
    header: Header,
    choose: Callable[[Chunk], int],
    *,
    live: bool,
) -> Writer:
    """Copy each chunk with its first layers, as many as `choose` says."""
    writer = Writer(file, header, live=live)
    for chunk in reader:
        layers = choose(chunk)
        writer.copy(replace(chunk, layers=layers, payload=prefix(chunk, reader.header, layers)))
    header = reader.header
    assert header.samples is not None  # known at the end
    assert header.source_samples is not None
    writer.finish(header.samples, header.source_samples)
    return writer


def cut(
    reader: Reader, file: BinaryIO, first: int, end: int | None, *, live: bool = False
) -> Writer:
    """Copy the audio of the chunks from `first` up to but not including `end` (None: to the last).

    The decoder starts from silence at the cut, so that its first frames differ a little from those
    of the whole file; the last frames of a lapped transform are taken from the chunk after.

    Args:
        reader: the file, from its header on; read no further than needed.
        file: where to write.
        first: index of the first chunk.
        end: index after the last chunk, above `first`.
        live: as for `Writer`.

    Raises:
        FormatError: there is no audio from chunk `first` on; and see `Reader`.
    """
    header = reader.header
    writer = Writer(
        file,
        replace(header, samples=None, source_samples=None),
        live=live,
        find_coder=reader.find_coder,
    )
    samples: int | None = None
    frames = 0
    for chunk in reader:
        if end is not None and chunk.index == end:
            samples = frames * header.hop_length
            surplus = unpack(chunk, header, coder=reader.coder)[..., : header.extra_frames]
            if surplus.shape[-1]:
                writer.write(surplus)
                frames += surplus.shape[-1]
            break
        if chunk.index >= first:
            writer.copy(replace(chunk, index=chunk.index - first))
            frames += chunk.frames
    if samples is None:  # up to the end, where the header knows the length
        start = first * header.chunk_frames * header.hop_length
        samples = (reader.header.samples or 0) - start
    if samples <= 0:
        raise FormatError(f"{reader.name}: has no audio from chunk {first + 1} on")
    _finish(writer, frames, samples)
    return writer


def cat(readers: Sequence[Reader], file: BinaryIO, *, live: bool = False) -> Writer:
    """Copy the audio of several files, one after the other.

    A file's last frame is filled up with silence, and so there are up to two frames of it (40 ms at
    50 frames a second) at each joint.

    Args:
        readers: one or more files of the same model, rates and stages.
        file: where to write.
        live: as for `Writer`.

    Raises:
        FormatError: a file does not fit the first; and see `Reader`.
    """
    header = _unknown_length(readers[0].header)
    for reader in readers[1:]:
        _check_same(reader, header, readers[0].name)
    writer = Writer(file, header, live=live, find_coder=readers[0].find_coder)
    pending = np.zeros((header.streams, header.stages, 0), np.int64)
    tail: Chunk | None = None  # not full; to be copied if it is the last of all
    frames = samples = 0
    for reader in readers:
        before = frames
        for chunk in _whole_stages(reader):
            frames += chunk.frames
            if tail is None and not pending.shape[2] and chunk.frames <= header.chunk_frames:
                if chunk.frames == header.chunk_frames:
                    writer.copy(chunk)
                else:
                    tail = chunk
                continue
            if tail is not None:
                pending, tail = unpack(tail, header, coder=readers[0].coder), None
            codes = unpack(chunk, header, coder=reader.coder)
            pending = np.concatenate([pending, codes], axis=2)
            while pending.shape[2] >= header.chunk_frames:
                writer.write(pending[..., : header.chunk_frames])
                pending = pending[..., header.chunk_frames :]
        if frames > before:
            samples = before * header.hop_length + (reader.header.samples or 0)
    if tail is not None:
        writer.copy(tail)
    if pending.shape[2]:
        writer.write(pending)
    _finish(writer, frames, samples)
    return writer


def _unknown_length(header: Header) -> Header:
    return replace(header, samples=None, source_samples=None)


def _check_same(reader: Reader, header: Header, name: str) -> None:
    own = _unknown_length(reader.header)
    if replace(own, chunk_frames=header.chunk_frames) == header:
        return
    for field in _MUST_AGREE:
        got, expected = getattr(own, field), getattr(header, field)
        if got != expected:
            raise FormatError(
                f"{reader.name}: has {field} {_shown(got)}, but {name} has {_shown(expected)}"
            )
    raise FormatError(f"{reader.name}: its header does not fit that of {name}")


def _shown(value: int | bytes | None) -> str:
    return "none" if value is None else value.hex() if isinstance(value, bytes) else str(value)


def _whole_stages(reader: Reader) -> Iterable[Chunk]:
    for chunk in reader:
        if reader.header.version == 1 and chunk.layers != reader.header.stages:
            raise FormatError(f"{reader.name}: its chunks have different numbers of stages")
        yield chunk


def _finish(writer: Writer, frames: int, samples: int) -> None:
    """Finish with `samples` samples at the model's rate, or as near as the source's rate allows."""
    header = writer.header
    source_samples = samples * header.source_rate // header.sample_rate
    for candidate in (source_samples, source_samples + 1):
        samples = -(-candidate * header.sample_rate // header.source_rate)
        counted = replace(header, samples=samples, source_samples=candidate)
        if counted.frames == frames:
            break
    writer.finish(samples, candidate)
