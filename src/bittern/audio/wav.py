"""WAV as a stream: read and written forwards only, the same for pipes and files. 16 bit out.

Kinds that are not plain samples (ADPCM, A-law, GSM and so on) are left to libsndfile, which needs files.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bittern.errors import AudioError

Block = NDArray[np.float32]  # [n samples, C channels]


class Readable(Protocol):
    """What gives bytes, as many as asked for or fewer; none at its end."""

    def read(self, size: int, /) -> bytes: ...


_READ_SAMPLES = 16384
_ENDLESS = 0xFFFFFFFF  # a size not known when the header was written
_GUESSED = 0x7FFF0000  # and larger sizes are what writers put who do not know
_LARGEST_CHUNK = 1 << 30  # before the samples: tags with pictures, room left by recorders
_KEPT = 1 << 16  # bytes of a chunk, more than any format takes
_CHUNKS = frozenset(
    name.ljust(4).encode()
    for name in (
        *("LIST", "id3", "ID3", "fact", "bext", "cue", "smpl", "inst", "JUNK", "junk", "PAD"),
        *("iXML", "axml", "_PMX", "afsp", "PEAK", "FLLR", "chna", "umid", "DISP", "cart", "plst"),
        *("LGWV", "data", "adtl", "minf", "elm1", "regn", "SNDM", "ovwf", "bwav"),
    )
)  # that may follow samples
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE


@dataclass(frozen=True)
class Encoding:
    """How samples lie in a stream."""

    sample_rate: int  # Hz
    channels: int
    bits: int = 16
    floating: bool = False

    @property
    def width(self) -> int:
        """Bytes of one sample of all channels."""
        return self.channels * self.bits // 8


@dataclass(frozen=True)
class Header:
    """What stands before the samples of a WAV stream."""

    encoding: Encoding
    samples: int | None  # for each channel, as claimed; None: up to the end, wherever that is
    begun: bytes = b""  # of the samples, read already


def read_header(file: Readable, name: str) -> Header:
    """Read a WAV, RF64 or BW64 stream up to the first sample.

    Raises:
        AudioError: not a WAV stream, or of a kind not read here.
    """
    riff, _, wave = struct.unpack("<4sI4s", _read_exactly(file, 12, name))
    if riff not in (b"RIFF", b"RF64", b"BW64") or wave != b"WAVE":
        raise AudioError(
            f"{name}: not a WAV stream. Pipe WAV, or raw 16-bit samples with --raw-rate"
        )
    encoding = size_64 = None
    while True:
        kind, size = struct.unpack("<4sI", _read_exactly(file, 8, name))
        if kind == b"data":
            break
        if size > _LARGEST_CHUNK:
            raise AudioError(f"{name}: not a WAV stream that makes sense (a chunk of {size} bytes)")
        body = _read_exactly(file, size + size % 2, name, kept=_KEPT)
        if kind == b"fmt ":
            encoding = _parse_format(body, name)
        elif kind == b"ds64" and len(body) >= 16:  # the sizes that 32 bits cannot say
            size_64 = int.from_bytes(body[8:16], "little")
    if encoding is None:
        raise AudioError(f"{name}: the WAV stream has no format before its samples")
    if size == _ENDLESS and size_64 is not None and 0 < size_64 < 1 << 62:
        return Header(encoding, size_64 // encoding.width)
    if size == 0:
        return _after_size_zero(file, encoding)
    return Header(encoding, None if size >= _GUESSED else size // encoding.width)


def _after_size_zero(file: Readable, encoding: Encoding) -> Header:
    """A recording whose size was never written, unless another chunk follows: then it is empty."""
    begun = _read_some(file, 4)
    if not begun or begun in _CHUNKS:
        return Header(encoding, 0)
    return Header(encoding, None, begun)


def read_samples(
    file: Readable, encoding: Encoding, samples: int | None, begun: bytes = b""
) -> Iterator[Block]:
    """The samples as blocks [n, C] in -1..1, up to the end of the stream or `samples` of them."""
    left = samples
    rest = begun
    while left is None or left > 0:
        count = _READ_SAMPLES if left is None else min(_READ_SAMPLES, left)
        data = file.read(count * encoding.width - len(rest))
        if not data:
            return
        data = rest + data
        whole = len(data) // encoding.width
        rest = data[whole * encoding.width :]
        if left is not None:
            left -= whole
        if whole:
            part = data[: whole * encoding.width]
            yield _to_float(part, encoding).reshape(whole, encoding.channels)


def header_bytes(encoding: Encoding, samples: int | None) -> bytes:
    """The header of a 16-bit WAV stream; without `samples` its sizes are those of an endless one.

    Raises:
        AudioError: longer than the 4 GiB that WAV can say.
    """
    width = encoding.channels * 2
    size = _ENDLESS - 36 if samples is None else samples * width
    if size + 36 > _ENDLESS:
        raise AudioError(f"{size / 2**30:.1f} GiB of samples do not fit a WAV file; write .flac")
    rate = encoding.sample_rate
    kind = struct.pack("<HHIIHH", _PCM, encoding.channels, rate, rate * width, width, 16)
    data_size = _ENDLESS if samples is None else size
    return b"".join(
        (
            struct.pack("<4sI4s", b"RIFF", _ENDLESS if samples is None else size + 36, b"WAVE"),
            struct.pack("<4sI", b"fmt ", len(kind)),
            kind,
            struct.pack("<4sI", b"data", data_size),
        )
    )


def to_pcm16(block: Block) -> bytes:
    """Samples in -1..1 as 16-bit little-endian, rounded and clipped."""
    return np.clip(np.rint(block * 32768.0), -32768, 32767).astype("<i2").tobytes()


def _parse_format(body: bytes, name: str) -> Encoding:
    if len(body) < 16:
        raise AudioError(f"{name}: the WAV stream's format is cut short")
    kind, channels, rate, _, width, bits = struct.unpack("<HHIIHH", body[:16])
    if kind == _EXTENSIBLE and len(body) >= 26:
        kind = int.from_bytes(body[24:26], "little")
    allowed = {_PCM: (8, 16, 24, 32), _FLOAT: (32, 64)}.get(kind, ())
    if bits not in allowed:
        raise AudioError(f"{name}: WAV kind {kind} at {bits} bits is not read; pipe 16-bit PCM")
    if not (channels and rate and width == channels * bits // 8):
        raise AudioError(f"{name}: the WAV stream's format makes no sense")
    return Encoding(rate, channels, bits, kind == _FLOAT)


def _to_float(data: bytes, encoding: Encoding) -> Block:
    if encoding.floating:
        return np.frombuffer(data, f"<f{encoding.bits // 8}").astype(np.float32)
    match encoding.bits:
        case 8:
            return (np.frombuffer(data, np.uint8).astype(np.float32) - 128) * np.float32(2**-7)
        case 24:
            wide = np.zeros((len(data) // 3, 4), np.uint8)
            wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
            return wide.view("<i4")[:, 0].astype(np.float32) * np.float32(2**-31)
        case bits:
            whole = np.frombuffer(data, f"<i{bits // 8}")
            return whole.astype(np.float32) * np.float32(0.5 ** (bits - 1))


def _read_exactly(file: Readable, size: int, name: str, kept: int = 1 << 10) -> bytes:
    """So many bytes, of which the first `kept` are given."""
    parts: list[bytes] = []
    while size > 0:
        part = file.read(min(size, 1 << 20))
        if not part:
            raise AudioError(f"{name}: the stream ends before any samples")
        parts.append(part[:kept])
        kept -= len(parts[-1])
        size -= len(part)
    return b"".join(parts)


def _read_some(file: Readable, size: int) -> bytes:
    """So many bytes, or fewer where the stream ends."""
    data = b""
    while len(data) < size and (part := file.read(size - len(data))):
        data += part
    return data
