"""The container `.btn`: codes and bytes, read and written piece by piece. No torch here.

Layout, field by field, in docs/format.md:

    header (52 or 64 bytes) | chunk 0 | chunk 1 | ... | end chunk, only where the header has no length

A chunk holds the codes of some seconds in layers, so that cutting payloads short lowers the bitrate
(`edit.py`); see `payload.py` for version 1, whose layers are stages, and `ragged.py` for version 2. What
the codes mean is the model's business; all that is needed to walk, check and trim a file is in its header.
"""

import struct
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from bittern.errors import FormatError
from bittern.format import payload as whole
from bittern.format import ragged
from bittern.format.header import HEADER_BYTES as HEADER_BYTES
from bittern.format.header import MOST_CHANNELS as MOST_CHANNELS
from bittern.format.header import RATES as RATES
from bittern.format.header import Header, read_header
from bittern.format.payload import Coder, CoderFinder, Codes

SYNC = b"\xb7\x7b"

_CHUNK = struct.Struct("<2sIHB3sI")  # sync, index, frames, layers, payload length, CRC
_END = struct.Struct("<QQ")

CHUNK_OVERHEAD_BYTES = _CHUNK.size


@dataclass(frozen=True)
class Chunk:
    """The codes of some frames, still packed."""

    index: int
    frames: int
    layers: int  # in version 1 these are stages
    payload: bytes
    file: str = "a payload"  # where it is from, for messages


def pack(codes: Codes, header: Header, coder: Coder | None = None, *, index: int = 0) -> Chunk:
    """A chunk of codes [S streams, k, F], in version 2 with -1 where a frame has no code.

    Raises:
        ValueError: a frame lacks a stage before its last, or, in version 1, any.
    """
    bits = header.bits_per_code
    coder = None if header.entropy is None else coder
    if header.version == 2:
        payload, layers = ragged.pack(codes, bits, header.stages, coder)
        return Chunk(index, codes.shape[2], layers, payload)
    if codes.min(initial=0) < 0:
        raise ValueError("a frame has no code at a stage, for which a file must be of version 2")
    if header.entropy is None:
        payload = whole.pack_raw(codes, bits)
    else:
        payload = whole.pack_ranged(codes, bits, coder)
    return Chunk(index, codes.shape[2], codes.shape[1], payload)


def unpack(
    chunk: Chunk, header: Header, stages: int | None = None, coder: Coder | None = None
) -> Codes:
    """The codes of a chunk, or of its first `stages` stages.

    Returns:
        [S streams, k, F]: in version 1 k is what the chunk has, in version 2 what the header says, and
        -1 stands where a frame has no code.

    Raises:
        FormatError: a payload makes no sense, or there is no coder for it.
    """
    shape = (header.streams, chunk.frames)
    bits = header.bits_per_code
    with _telling_chunk(chunk, "cannot be decoded"):
        if header.version == 2:
            args = (shape, bits, header.stages, coder)
            return ragged.unpack(chunk.payload, chunk.layers, *args)[:, :stages]
        count = chunk.layers if stages is None else min(stages, chunk.layers)
        if header.entropy is None:
            return whole.unpack_raw(chunk.payload, shape[0], count, shape[1], bits)
        return whole.unpack_ranged(chunk.payload, shape[0], count, shape[1], bits, coder)


def stage_counts(chunk: Chunk, header: Header) -> NDArray[np.int64]:
    """How many stages each frame has, [S streams, F]; no coder is needed.

    Raises:
        FormatError: the payload makes no sense.
    """
    shape = (header.streams, chunk.frames)
    if header.version == 1:
        return np.full(shape, chunk.layers)
    with _telling_chunk(chunk, "cannot be decoded"):
        return ragged.read_counts(chunk.payload, chunk.layers, shape, header.stages)


def check(chunk: Chunk, header: Header) -> Chunk:
    """The same chunk, if its payload is one in all that can be told without an entropy model.

    Raises:
        FormatError: the payload makes no sense.
    """
    with _telling_chunk(chunk, "cannot be decoded"):
        if header.version == 2:
            ragged.check(chunk.payload, chunk.layers, *_form(chunk, header))
        elif header.entropy is not None:
            whole.check_ranged(chunk.payload, chunk.layers, header.stage_bytes(chunk.frames))
    return chunk


def _form(chunk: Chunk, header: Header) -> tuple[tuple[int, int], int, int]:
    return (header.streams, chunk.frames), header.bits_per_code, header.stages


def prefix(chunk: Chunk, header: Header, layers: int) -> bytes:
    """The payload of a chunk's first `layers` layers; no coder is needed.

    Raises:
        FormatError: the lengths in the payload make no sense.
    """
    width = header.stage_bytes(chunk.frames)
    with _telling_chunk(chunk, "makes no sense"):
        if header.version == 2:
            return ragged.prefix(chunk.payload, layers)
        if header.entropy is None:
            return chunk.payload[: layers * width]
        return chunk.payload[: whole.ranged_bytes(chunk.payload, layers, width)]


@contextmanager
def _telling_chunk(chunk: Chunk, what: str) -> Generator[None, None, None]:
    """Say of an error in a payload which chunk it is in."""
    try:
        yield
    except ValueError as error:
        raise FormatError(f"{chunk.file}: chunk {chunk.index + 1} {what} ({error})") from None


@dataclass(frozen=True)
class ChunkHead:
    """What stands before a payload."""

    sync: bytes
    index: int
    frames: int
    layers: int
    length: int  # of the payload, bytes
    checksum: int

    def fits(self, header: Header) -> bool:
        """Whether a chunk of this file, or its end chunk, may look like that."""
        if self.sync != SYNC or self.layers > header.stages or self.frames > header.chunk_frames:
            return False
        if self.frames == 0:
            return self.layers == 0 and self.length == _END.size and header.samples is None
        if self.layers == 0 or not header.takes(self.length, self.frames, self.layers):
            return False
        if header.frames is None:
            return True
        return self.frames == min(
            header.chunk_frames, header.frames - self.index * header.chunk_frames
        )


def parse_chunk_head(data: bytes) -> ChunkHead:
    """Read the 16 bytes before a payload."""
    sync, index, frames, layers, length, checksum = _CHUNK.unpack(data)
    return ChunkHead(sync, index, frames, layers, int.from_bytes(length, "little"), checksum)


def parse_end(payload: bytes) -> tuple[int, int]:
    """Samples and source samples from an end chunk's payload of 16 bytes."""
    return _END.unpack(payload)


class Writer:
    """Writes a file chunk by chunk: `write` as often as needed, then `finish` once."""

    def __init__(
        self,
        file: BinaryIO,
        header: Header,
        *,
        live: bool = False,
        find_coder: CoderFinder | None = None,
    ) -> None:
        """Write the header.

        Args:
            file: where to write, from its present position on.
            header: with or without sample counts.
            live: `file` cannot be gone back in; without sample counts an end chunk will give them.
            find_coder: finds that of `header.entropy` when codes are first written; without it, codes
                in such a file are stored raw.
        """
        self.header = header
        self._find_coder = find_coder
        self.bytes_written = 0
        self._file = file
        self._live = live
        self._start = 0 if live else file.tell()
        self._index: int = 0
        self._frames: int = 0
        self._put(header.to_bytes())

    def write(self, codes: NDArray[np.int64]) -> None:
        """Append the next codes, [S streams, k, F], F = chunk_frames but for the last; see `pack`."""
        streams, stages, frames = codes.shape
        if streams != self.header.streams or not 1 <= stages <= self.header.stages:
            raise ValueError(
                f"codes are {list(codes.shape)}; expected {self.header.streams} streams and up to "
                f"{self.header.stages} stages"
            )
        self._check_frames(frames)
        self.copy(pack(codes, self.header, self._coder, index=self._index))

    @cached_property
    def _coder(self) -> Coder | None:
        return coder_of(self.header, self._find_coder)

    def copy(self, chunk: Chunk) -> None:
        """Append a chunk that is packed already."""
        self._check_frames(chunk.frames)
        self._put(_chunk_bytes(self._index, chunk.frames, chunk.layers, chunk.payload))
        self._index += 1
        self._frames += chunk.frames

    def _check_frames(self, frames: int) -> None:
        if not 1 <= frames <= self.header.chunk_frames:
            raise ValueError(f"got {frames} frames, expected 1 to {self.header.chunk_frames}")
        if self._frames != self._index * self.header.chunk_frames:
            raise ValueError("the chunk before was not full; only the last may be so")

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


def _chunk_bytes(index: int, frames: int, layers: int, payload: bytes) -> bytes:
    length = len(payload).to_bytes(3, "little")
    head = _CHUNK.pack(SYNC, index, frames, layers, length, 0)[:-4]
    checksum = zlib.crc32(payload, zlib.crc32(head))
    return head + checksum.to_bytes(4, "little") + payload


class Reader:
    """Reads a file chunk by chunk, also from a pipe; nothing is allocated on a file's mere word."""

    def __init__(self, file: BinaryIO, name: str, *, find_coder: CoderFinder | None = None) -> None:
        """Read the header.

        Args:
            file: read from its present position on, once and forwards.
            name: of the file, for messages.
            find_coder: finds the entropy model of a fingerprint when codes are first decoded.

        Raises:
            FormatError: see `Header.from_bytes`.
        """
        self.name = name
        self._file = file
        self._offset = 0
        self._start = file.tell() if file.seekable() else 0
        self._index = self._frames = 0  # chunks that were read, and their frames
        self.header = read_header(self._read, name)
        self.find_coder = find_coder

    @property
    def bytes_read(self) -> int:
        return self._offset

    @cached_property
    def coder(self) -> Coder | None:
        """What `find_coder` finds, if codes are range coded."""
        return coder_of(self.header, self.find_coder)

    def codes(self, stages: int | None = None) -> Iterator[Codes]:
        """The codes of the chunks in order, [S streams, k, F]; see `unpack`.

        Raises:
            FormatError: as `__iter__`, or a payload makes no sense.
        """
        for chunk in self:
            yield unpack(chunk, self.header, stages, self.coder)

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
                f"{self.name}: bytes are left over after the last chunk (byte {self._offset - 1})"
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
        """The next chunk, or None after a live file's end chunk."""
        start, index = self._offset, self._index
        data = self._read(_CHUNK.size)
        if len(data) < _CHUNK.size:
            raise self._error(index, start, "missing: the file is cut short")
        head = parse_chunk_head(data)
        frames, layers = head.frames, head.layers
        ending = frames == 0 and self.header.chunks is None
        length = head.length
        fits = length == _END.size if ending else self.header.takes(length, frames, layers)
        if head.sync != SYNC:
            raise self._error(index, start, "damaged: no sync word")
        if not fits or layers > self.header.stages or (layers == 0) != ending:
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
        chunk = Chunk(index, frames, layers, payload, self.name)
        return chunk if skipping else check(chunk, self.header)

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
                f"{self.name}: the end chunk after {index} chunks makes no sense ({error})"
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


def coder_of(header: Header, find: CoderFinder | None) -> Coder | None:
    return None if header.entropy is None or find is None else find(header.entropy)


def _clock(seconds: float) -> str:
    return f"{int(seconds // 60)}:{seconds % 60:05.2f}"
