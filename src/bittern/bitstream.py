"""The container `.btn`: packed codes and bytes, read and written piece by piece. No torch here.

Layout, field by field, in docs/format.md:

    header (52 bytes) | chunk 0 | chunk 1 | ... | end chunk, only where the header has no length

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
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from bittern.errors import FormatError

MAGIC = b"BTRN"
VERSION = 1
CODER_RAW = 0  # codes packed at bits_per_code; other values are for coders to come
RATES = (1_000, 768_000)  # Hz, of model and source
MOST_CHANNELS = 255
SYNC = b"\xb7\x7b"

_HEADER = struct.Struct("<4sBB8sIIBBBHBBBHQQI")
_CHUNK = struct.Struct("<2sIHB3sI")  # sync, index, frames, stages, payload length, CRC
_END = struct.Struct("<QQ")
_UNKNOWN = 2**64 - 1  # a sample count while live
_LONGEST_PAYLOAD = 2**24 - 1
_MOST_SAMPLES = 2**53

HEADER_BYTES = _HEADER.size
CHUNK_OVERHEAD_BYTES = _CHUNK.size


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file says about itself.

    Raises:
        ValueError: a field is out of range or does not fit another.
    """

    fingerprint: bytes  # 8 bytes, of the model's weights
    sample_rate: int  # of the model, Hz
    source_rate: int  # of the audio that was compressed, Hz
    channels: int  # of the model
    source_channels: int
    streams: int = 1  # code sequences side by side; streams * channels come out
    hop_length: int  # samples at `sample_rate` to one frame
    bits_per_code: int
    stages: int
    extra_frames: int  # frames beyond ceil(samples / hop_length), 1 with a lapped transform
    chunk_frames: int  # frames in every chunk but the last
    samples: int | None = None  # for each channel at `sample_rate`; None while live
    source_samples: int | None = None  # the same at `source_rate`

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            value = cast(int, getattr(self, name))
            if not low <= value <= high:
                raise ValueError(f"{name} is {value}, expected {low} to {high}")
        if len(self.fingerprint) != 8:
            raise ValueError(f"fingerprint has {len(self.fingerprint)} bytes, expected 8")
        if self.payload_bytes(self.chunk_frames, self.stages) > _LONGEST_PAYLOAD:
            raise ValueError(f"chunk_frames is {self.chunk_frames}, too many for one chunk")
        _check_samples(self)

    @property
    def frames(self) -> int | None:
        """Frames of each stream, or None while live."""
        if not self.samples:
            return self.samples
        return -(-self.samples // self.hop_length) + self.extra_frames

    @property
    def chunks(self) -> int | None:
        """Chunks with codes, or None while live."""
        return None if self.frames is None else -(-self.frames // self.chunk_frames)

    @property
    def kbps_per_stage(self) -> float:
        """Nominal, of all streams together."""
        return self.sample_rate / self.hop_length * self.bits_per_code * self.streams / 1000

    def stage_bytes(self, frames: int) -> int:
        """Bytes that one stage takes in a chunk of `frames` frames."""
        return -(-self.streams * frames * self.bits_per_code // 8)

    def payload_bytes(self, frames: int, stages: int) -> int:
        return stages * self.stage_bytes(frames)

    def seconds(self, frames: int) -> float:
        return frames * self.hop_length / self.sample_rate

    def to_bytes(self) -> bytes:
        """The 52 bytes that a file begins with."""
        body = _HEADER.pack(
            MAGIC,
            VERSION,
            CODER_RAW,
            self.fingerprint,
            self.sample_rate,
            self.source_rate,
            self.channels,
            self.source_channels,
            self.streams,
            self.hop_length,
            self.bits_per_code,
            self.stages,
            self.extra_frames,
            self.chunk_frames,
            _UNKNOWN if self.samples is None else self.samples,
            _UNKNOWN if self.source_samples is None else self.source_samples,
            0,
        )[:-4]
        return body + zlib.crc32(body).to_bytes(4, "little")

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> "Header":
        """Read what `to_bytes` wrote; `name` is the file's, for messages.

        Raises:
            FormatError: not a `.btn` file, another version or coder, damaged, or out of range.
        """
        if data[:4] != MAGIC:
            raise FormatError(
                f"{name}: not a .btn file (it begins with {data[:4].hex() or 'nothing'})"
            )
        if len(data) > 4 and data[4] != VERSION:
            raise FormatError(
                f"{name}: .btn version {data[4]}; this Bittern reads version {VERSION}. "
                "Update Bittern"
            )
        if len(data) < HEADER_BYTES:
            raise FormatError(
                f"{name}: cut short in the header (byte {len(data)} of {HEADER_BYTES})"
            )
        values = _HEADER.unpack(data)
        if zlib.crc32(data[:-4]) != values[-1]:
            raise FormatError(
                f"{name}: the header is damaged (bytes 0-{HEADER_BYTES - 1}, checksum)"
            )
        if values[2] != CODER_RAW:
            raise FormatError(
                f"{name}: codes are packed by coder {values[2]}; this Bittern knows coder "
                f"{CODER_RAW}. Update Bittern"
            )
        names = [name for name, _, _ in _RANGES]
        samples, source_samples = (None if n == _UNKNOWN else n for n in values[-3:-1])
        fields = dict(zip(names, values[4:-3], strict=True))
        try:
            return cls(
                fingerprint=values[3], samples=samples, source_samples=source_samples, **fields
            )
        except ValueError as error:
            raise FormatError(f"{name}: the header makes no sense ({error})") from None


# fields between fingerprint and sample counts in the order of the file, with their ranges
_RANGES = (
    ("sample_rate", *RATES),
    ("source_rate", *RATES),
    ("channels", 1, MOST_CHANNELS),
    ("source_channels", 1, MOST_CHANNELS),
    ("streams", 1, 255),
    ("hop_length", 1, 65535),
    ("bits_per_code", 1, 16),
    ("stages", 1, 255),
    ("extra_frames", 0, 255),
    ("chunk_frames", 1, 65535),
)


def _check_samples(header: Header) -> None:
    """Both counts or neither, and samples = ceil(source_samples * sample_rate / source_rate)."""
    samples, source_samples = header.samples, header.source_samples
    if (samples is None) != (source_samples is None):
        raise ValueError("only one of samples and source_samples is known")
    if samples is None or source_samples is None:
        return
    if not (0 <= samples <= _MOST_SAMPLES and 0 <= source_samples <= _MOST_SAMPLES):
        raise ValueError(f"samples are {samples} and {source_samples}, expected 0 to 2^53")
    if samples != -(-source_samples * header.sample_rate // header.source_rate):
        raise ValueError(
            f"{samples} samples at {header.sample_rate} Hz and {source_samples} at "
            f"{header.source_rate} Hz are not the same duration"
        )


@dataclass(frozen=True)
class Chunk:
    """The codes of some frames, still packed."""

    index: int
    frames: int
    stages: int
    payload: bytes


def pack(codes: NDArray[np.int64], header: Header) -> bytes:
    """Pack codes [S streams, k, F], most significant bit first, each stage from a whole byte on."""
    by_stage = codes.transpose(1, 0, 2).reshape(codes.shape[1], -1, 1)
    shifts = np.arange(header.bits_per_code - 1, -1, -1)
    bits = ((by_stage >> shifts) & 1).astype(np.uint8)
    return np.packbits(bits.reshape(len(bits), -1), axis=1).tobytes()


def unpack(chunk: Chunk, header: Header, stages: int | None = None) -> NDArray[np.int64]:
    """The codes of a chunk, or of its first `stages` stages: [S streams, k, F]."""
    stages = chunk.stages if stages is None else min(stages, chunk.stages)
    width = header.stage_bytes(chunk.frames)
    data = np.frombuffer(chunk.payload, np.uint8, stages * width).reshape(stages, width)
    count = header.streams * chunk.frames
    bits = np.unpackbits(data, axis=1, count=count * header.bits_per_code)
    weights = 1 << np.arange(header.bits_per_code - 1, -1, -1)
    flat = bits.reshape(stages, count, -1).astype(np.int64) @ weights
    return flat.reshape(stages, header.streams, chunk.frames).transpose(1, 0, 2)


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
        if self.stages == 0 or self.length != header.payload_bytes(self.frames, self.stages):
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

    def __init__(self, file: BinaryIO, header: Header, *, live: bool = False) -> None:
        """Write the header.

        Args:
            file: where to write, from its present position on.
            header: with or without sample counts.
            live: `file` cannot be gone back in; without sample counts an end chunk will give them.
        """
        self.header = header
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
        self.copy(Chunk(self._index, frames, stages, pack(codes, self.header)))

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
        self.header = Header.from_bytes(self._read(HEADER_BYTES), name)

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
        expected = _END.size if ending else self.header.payload_bytes(frames, stages)
        if head.sync != SYNC:
            raise self._error(index, start, "damaged: no sync word")
        if head.length != expected or stages > self.header.stages or (stages == 0) != ending:
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
        return Chunk(index, frames, stages, payload)

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
