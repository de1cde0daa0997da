"""The container `.btn`: packed codes and bytes, read and written piece by piece. No torch here.

Layout, field by field, in docs/format.md:

    header (52 or 64 bytes) | chunk 0 | chunk 1 | ... | end chunk, only where the header has no length

A chunk holds the codes of some seconds, stage behind stage, each stage from a whole byte on, so
that cutting payloads short lowers the bitrate (`editing.py`). What the codes mean is the model's
business (`transcode.py`); all that is needed to walk, check and trim a file is in its header.
"""

import struct
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from bittern.errors import FormatError
from bittern.format import payload as packing
from bittern.format.header import HEADER_BYTES as HEADER_BYTES
from bittern.format.header import MOST_CHANNELS as MOST_CHANNELS
from bittern.format.header import RATES as RATES
from bittern.format.header import VERSION as VERSION
from bittern.format.header import Header, read_header
from bittern.format.payload import Coder

SYNC = b"\xb7\x7b"

_CHUNK = struct.Struct("<2sIHB3sI")  # sync, index, frames, stages, payload length, CRC
_END = struct.Struct("<QQ")

CHUNK_OVERHEAD_BYTES = _CHUNK.size


@dataclass(frozen=True)
class Chunk:
    """The codes of some frames, still packed."""

    index: int
    frames: int
    stages: int
    payload: bytes
    file: str = "a payload"  # where it is from, for messages


def pack(codes: NDArray[np.int64], header: Header, coder: Coder | None = None) -> bytes:
    """The payload of codes [S streams, k, F]; see `packing.py`."""
    if header.entropy is None:
        return packing.pack_raw(codes, header.bits_per_code)
    return packing.pack_ranged(codes, header.bits_per_code, coder)


def unpack(
    chunk: Chunk, header: Header, stages: int | None = None, coder: Coder | None = None
) -> NDArray[np.int64]:
    """The codes of a chunk, or of its first `stages` stages: [S streams, k, F].

    Raises:
        FormatError: a range coded payload makes no sense, or there is no coder for it.
    """
    stages = chunk.stages if stages is None else min(stages, chunk.stages)
    shape = (header.streams, stages, chunk.frames, header.bits_per_code)
    if header.entropy is None:
        return packing.unpack_raw(chunk.payload, *shape)
    try:
        return packing.unpack_ranged(chunk.payload, *shape, coder)
    except ValueError as error:
        raise FormatError(
            f"{chunk.file}: chunk {chunk.index + 1} cannot be decoded ({error})"
        ) from None


def prefix(chunk: Chunk, header: Header, stages: int) -> bytes:
    """The payload of a chunk's first `stages` stages; no coder is needed.

    Raises:
        FormatError: the lengths in a range coded payload make no sense.
    """
    width = header.stage_bytes(chunk.frames)
    if header.entropy is None:
        return chunk.payload[: stages * width]
    try:
        return chunk.payload[: packing.ranged_bytes(chunk.payload, stages, width)]
    except ValueError as error:
        raise FormatError(
            f"{chunk.file}: chunk {chunk.index + 1} makes no sense ({error})"
        ) from None


@dataclass(frozen=True)
class ChunkHead:
    """What stands before a payload."""

    sync: bytes
    index: int
    frames: int
    stages: int
    length: int  # of the payload, bytes
    checksum: int

    def fits(self, header: Header) -> bool:
        """Whether a chunk of this file, or its end chunk, may look like that."""
        if self.sync != SYNC or self.stages > header.stages or self.frames > header.chunk_frames:
            return False
        if self.frames == 0:
            return self.stages == 0 and self.length == _END.size and header.samples is None
        if self.stages == 0 or not header.takes(self.length, self.frames, self.stages):
            return False
        if header.frames is None:
            return True
        return self.frames == min(
            header.chunk_frames, header.frames - self.index * header.chunk_frames
        )


def parse_chunk_head(data: bytes) -> ChunkHead:
    """Read the 16 bytes before a payload."""
    sync, index, frames, stages, length, checksum = _CHUNK.unpack(data)
    return ChunkHead(sync, index, frames, stages, int.from_bytes(length, "little"), checksum)


def parse_end(payload: bytes) -> tuple[int, int]:
    """Samples and source samples from an end chunk's payload of 16 bytes."""
    return _END.unpack(payload)


class Writer:
    """Writes a file chunk by chunk: `write` as often as needed, then `finish` once."""

    def __init__(
        self, file: BinaryIO, header: Header, *, live: bool = False, coder: Coder | None = None
    ) -> None:
        """Write the header.

        Args:
            file: where to write, from its present position on.
            header: with or without sample counts.
            live: `file` cannot be gone back in; without sample counts an end chunk will give them.
            coder: that of `header.entropy`; without it, codes in such a file are stored raw.
        """
        self.header = header
        self._coder = coder
        self.bytes_written = 0
        self._file = file
        self._live = live
        self._start = 0 if live else file.tell()
        self._index: int = 0
        self._frames: int = 0
        self._put(header.to_bytes())

    def write(self, codes: NDArray[np.int64]) -> None:
        """Append the next codes, [S streams, k, F], F = chunk_frames but for the last."""
        streams, stages, frames = codes.shape
        if streams != self.header.streams or not 1 <= stages <= self.header.stages:
            raise ValueError(
                f"codes are {list(codes.shape)}; expected {self.header.streams} streams and up to "
                f"{self.header.stages} stages"
            )
        self.copy(Chunk(self._index, frames, stages, pack(codes, self.header, self._coder)))

    def copy(self, chunk: Chunk) -> None:
        """Append a chunk that is packed already."""
        if not 1 <= chunk.frames <= self.header.chunk_frames:
            raise ValueError(f"got {chunk.frames} frames, expected 1 to {self.header.chunk_frames}")
        if self._frames != self._index * self.header.chunk_frames:
            raise ValueError("the chunk before was not full; only the last may be so")
        self._put(_chunk_bytes(self._index, chunk.frames, chunk.stages, chunk.payload))
        self._index += 1
        self._frames += chunk.frames

    def finish(self, samples: int, source_samples: int) -> Header:
        """Complete the file with its sample counts, at the model's rate and at the source's.

        Returns:
            The header with the counts.

        Raises:
            ValueError: the counts do not fit the frames written, or those of a live header.
        """
        header = replace(self.header, samples=samples, source_samples=source_samples)
        if header.frames != self._frames:
            raise ValueError(f"{samples} samples are {header.frames} frames, not {self._frames}")
        if self.header.samples is None and self._live:
            payload = _END.pack(samples, source_samples)
            self._put(_chunk_bytes(self._index, 0, 0, payload))
        elif header != self.header:
            if self._live:
                raise ValueError(f"the header said {self.header.samples} samples, not {samples}")
            self._file.seek(self._start)
            self._file.write(header.to_bytes())
            self._file.seek(0, 2)
        self.header = header
        return header

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self.bytes_written += len(data)


def _chunk_bytes(index: int, frames: int, stages: int, payload: bytes) -> bytes:
    length = len(payload).to_bytes(3, "little")
    head = _CHUNK.pack(SYNC, index, frames, stages, length, 0)[:-4]
    checksum = zlib.crc32(payload, zlib.crc32(head))
    return head + checksum.to_bytes(4, "little") + payload


class Reader:
    """Reads a file chunk by chunk, also from a pipe; nothing is allocated on a file's mere word."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        """Read the header.

        Args:
            file: read from its present position on, once and forwards.
            name: of the file, for messages.

        Raises:
            FormatError: see `Header.from_bytes`.
        """
        self.name = name
        self._file = file
        self._offset = 0
        self._start = file.tell() if file.seekable() else 0
        self._index = self._frames = 0  # chunks behind us, and their frames
        self.header = read_header(self._read, name)
        self.coder: Coder | None = None  # for whoever unpacks the chunks

    @property
    def bytes_read(self) -> int:
        return self._offset

    def __iter__(self) -> Iterator[Chunk]:
        """The chunks in order; at the end `header` has the sample counts of a live file as well.

        Raises:
            FormatError: a chunk is damaged, missing, repeated or cut short, or bytes are left over.
        """
        while self._index != self.header.chunks:
            chunk = self._next()
            if chunk is None:
                break
            yield chunk
        if self._read(1):
            raise FormatError(
                f"{self.name}: bytes are left over behind the last chunk (byte {self._offset - 1})"
            )

    def skip(self, chunks: int) -> None:
        """Pass over chunks, or all that there are; their payloads are not checked.

        Raises:
            FormatError: where chunks should be are none.
        """
        end = self._index + chunks
        while self._index not in (end, self.header.chunks):
            if self._next(skipping=True) is None:
                return

    def _next(self, *, skipping: bool = False) -> Chunk | None:
        """The next chunk, or None behind a live file's end chunk."""
        start, index = self._offset, self._index
        data = self._read(_CHUNK.size)
        if len(data) < _CHUNK.size:
            raise self._error(index, start, "missing: the file is cut short")
        head = parse_chunk_head(data)
        frames, stages = head.frames, head.stages
        ending = frames == 0 and self.header.chunks is None
        length = head.length
        fits = length == _END.size if ending else self.header.takes(length, frames, stages)
        if head.sync != SYNC:
            raise self._error(index, start, "damaged: no sync word")
        if not fits or stages > self.header.stages or (stages == 0) != ending:
            raise self._error(index, start, "damaged: its lengths do not fit")
        skipping = skipping and not ending and self._file.seekable()
        payload = b"" if skipping else self._read(head.length)
        if skipping:
            self._offset = self._file.seek(head.length, 1) - self._start
        elif len(payload) < head.length:
            raise self._error(index, start, f"cut short at byte {self._offset}")
        elif zlib.crc32(payload, zlib.crc32(data[:-4])) != head.checksum:
            raise self._error(index, start, "damaged: the checksum does not match")
        if head.index != index:
            raise self._error(index, start, f"not here: chunk {head.index + 1} is in its place")
        if ending:
            self._end(index, self._frames, payload)
            return None
        self._check_frames(index, self._frames, frames, start)
        self._index += 1
        self._frames += frames
        return Chunk(index, frames, stages, payload, self.name)

    def _check_frames(self, index: int, before: int, frames: int, start: int) -> None:
        full = self.header.chunk_frames
        if before != index * full:
            raise self._error(index, start, "there, but the chunk before it was not full")
        total = self.header.frames
        fits = frames <= full if total is None else frames == min(full, total - before)
        if not fits:
            raise self._error(
                index, start, f"damaged: {frames} frames are not what the header says"
            )

    def _end(self, index: int, frames: int, payload: bytes) -> None:
        samples, source_samples = _END.unpack(payload)
        try:
            header = replace(self.header, samples=samples, source_samples=source_samples)
            if header.frames != frames:
                raise ValueError(f"{samples} samples are not {frames} frames")
        except ValueError as error:
            raise FormatError(
                f"{self.name}: the end chunk behind {index} chunks makes no sense ({error})"
            ) from None
        self.header = header

    def _error(self, index: int, offset: int, what: str) -> FormatError:
        chunks = self.header.chunks
        place = f"chunk {index + 1}" + ("" if chunks is None else f" of {chunks}")
        start = index * self.header.chunk_frames
        end = start + self.header.chunk_frames
        if self.header.frames is not None:
            end = min(end, self.header.frames)
        span = f"{_clock(self.header.seconds(start))}-{_clock(self.header.seconds(end))}"
        return FormatError(f"{self.name}: {place} ({span}, byte {offset}) is {what}")

    def _read(self, size: int) -> bytes:
        """Up to `size` bytes, fewer only at the end of the file."""
        parts: list[bytes] = []
        while size > 0:
            try:
                part = self._file.read(size)
            except OSError as error:
                raise FormatError(
                    f"{self.name}: cannot be read at byte {self._offset} ({error.strerror})"
                ) from None
            if not part:
                break
            parts.append(part)
            size -= len(part)
            self._offset += len(part)
        return b"".join(parts)


@contextmanager
def open_file(path: Path) -> Generator[BinaryIO, None, None]:
    """Open a file for a `Reader`.

    Raises:
        FormatError: it is not there or cannot be opened.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror})") from None
    with file:
        yield file


def _clock(seconds: float) -> str:
    return f"{int(seconds // 60)}:{seconds % 60:05.2f}"
