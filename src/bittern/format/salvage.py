"""Reading damaged `.btn` files: every intact chunk in its place, and the lost spans by name. No torch.

The file is scanned once for chunks whose checksum holds, from sync word to sync word where it does
not; the second pass reads them in order. Memory is one payload and a number for each chunk.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import BinaryIO

from bittern.errors import FormatError
from bittern.format.container import (
    CHUNK_OVERHEAD_BYTES,
    SYNC,
    Chunk,
    Header,
    coder_of,
    parse_chunk_head,
    parse_end,
    read_header,
    unpack,
)
from bittern.format.payload import Coder, CoderFinder, Codes

_BLOCK = 1 << 16
_PATIENCE = 64  # bytes to be summed for a byte of the file at most: hostile files stay cheap
_LONGEST_LOSS = 200_000  # frames that may be lost, beyond so many times what is intact:
_LOSS_RATIO = 100


@dataclass(frozen=True)
class Gap:
    """Chunks that are lost."""

    index: int  # of the first
    chunks: int
    frames: int
    start: float  # seconds
    end: float


class Salvage:
    """A damaged file's chunks and gaps, in the order of time."""

    def __init__(self, file: BinaryIO, name: str, *, find_coder: CoderFinder | None = None) -> None:
        """Read the header and look for intact chunks.

        Args:
            file: at its beginning; it must be able to seek.
            name: for messages.
            find_coder: as for `Reader`.

        Raises:
            FormatError: the header is not intact, or there is (next to) nothing to recover.
        """
        self.name = name
        self._file = file
        self._places: dict[int, int] = {}  # where the chunk of an index begins
        self._highest = self._last_frames = 0
        self.header = read_header(file.read, name)
        self.find_coder = find_coder
        self._scan()
        self.bytes_read = file.seek(0, 2)
        self.header = self._with_length()
        self.gaps = list(self._find_gaps())
        lost = sum(gap.frames for gap in self.gaps)
        intact = (self.header.frames or 0) - lost
        if lost > _LONGEST_LOSS + _LOSS_RATIO * intact or (lost and not intact):
            raise FormatError(
                f"{name}: {len(self._places)} of {self.header.chunks} chunks are intact; that is too "
                "little to recover"
            )

    @cached_property
    def coder(self) -> Coder | None:
        """What `find_coder` finds, if codes are range coded."""
        return coder_of(self.header, self.find_coder)

    def codes(self, stages: int | None = None) -> Iterator[Codes | Gap]:
        """The codes of the intact chunks, as `Reader` gives them, and the gaps between.

        Raises:
            FormatError: a payload makes no sense.
        """
        for piece in self:
            is_gap = isinstance(piece, Gap)
            yield piece if is_gap else unpack(piece, self.header, stages, self.coder)

    def __iter__(self) -> Iterator[Chunk | Gap]:
        gaps = {gap.index: gap for gap in self.gaps}
        index = 0
        while index < (self.header.chunks or 0):
            if index in gaps:
                yield gaps[index]
                index += gaps[index].chunks
                continue
            self._file.seek(self._places[index])
            head = parse_chunk_head(self._file.read(CHUNK_OVERHEAD_BYTES))
            payload = self._file.read(head.length)
            yield Chunk(index, head.frames, head.layers, payload, self.name)
            index += 1

    def _scan(self) -> None:
        """Find the intact chunks; an end chunk completes the header."""
        longest = CHUNK_OVERHEAD_BYTES + max(
            self.header.payload_bytes(self.header.chunk_frames, self.header.stages), 16
        )
        patience = _PATIENCE * longest
        # `start` in the buffer, `offset` of the buffer
        buffer, offset, start = b"", self.header.size, 0
        ended = False
        while True:
            if not ended and len(buffer) - start < longest:
                data = self._file.read(max(_BLOCK, longest))
                buffer, offset, start = buffer[start:] + data, offset + start, 0
                patience += _PATIENCE * len(data)
                ended = not data
            if len(buffer) - start < CHUNK_OVERHEAD_BYTES:
                return
            size, summed = self._try(buffer, start, offset + start)
            patience -= summed
            if patience < 0:
                raise FormatError(f"{self.name}: too much of it looks like chunks and is none")
            if size:
                start += size
                continue
            found = buffer.find(SYNC, start + 1)
            start = found if found >= 0 else max(len(buffer) - len(SYNC) + 1, start + 1)

    def _try(self, buffer: bytes, start: int, offset: int) -> tuple[int, int]:
        """Note an intact chunk at `start`: its size (0: there is none), and bytes summed for it."""
        head = parse_chunk_head(buffer[start : start + CHUNK_OVERHEAD_BYTES])
        size = CHUNK_OVERHEAD_BYTES + head.length
        if not head.fits(self.header) or len(buffer) - start < size:
            return 0, 0
        payload = buffer[start + CHUNK_OVERHEAD_BYTES : start + size]
        head_bytes = buffer[start : start + CHUNK_OVERHEAD_BYTES - 4]
        if zlib.crc32(payload, zlib.crc32(head_bytes)) != head.checksum:
            return 0, size
        if head.frames == 0:
            self._end(head.index, payload)
        else:
            self._places.setdefault(head.index, offset)
            if head.index >= self._highest:
                self._highest, self._last_frames = head.index, head.frames
        return size, size

    def _end(self, chunks: int, payload: bytes) -> None:
        samples, source_samples = parse_end(payload)
        try:
            header = replace(self.header, samples=samples, source_samples=source_samples)
        except ValueError:
            return
        if header.chunks == chunks:
            self.header = header

    def _with_length(self) -> Header:
        """The header with sample counts, which end with the last intact chunk where nothing says."""
        header = self.header
        if header.samples is not None:
            for index in [index for index in self._places if index >= (header.chunks or 0)]:
                del self._places[index]
            return header
        frames = 0
        if self._places:
            frames = max(self._places) * header.chunk_frames + self._last_frames
        longest = max(frames - header.extra_frames, 0) * header.hop_length
        source_samples = longest * header.source_rate // header.sample_rate
        samples = -(-source_samples * header.sample_rate // header.source_rate)
        counted = replace(header, samples=samples, source_samples=source_samples)
        if counted.frames != frames:
            raise FormatError(f"{self.name}: has no end chunk, and its length cannot be told")
        return counted

    def _find_gaps(self) -> Iterator[Gap]:
        header = self.header
        total, full = header.frames or 0, header.chunk_frames
        expected = 0
        for index in [*sorted(self._places), header.chunks or 0]:
            if index > expected:
                first, end = expected * full, min(index * full, total)
                yield Gap(
                    expected,
                    index - expected,
                    end - first,
                    header.seconds(first),
                    header.seconds(end),
                )
            expected = index + 1
