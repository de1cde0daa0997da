"""WAV as a stream: read and written forwards only, so that pipes work. 16 bit out.

libsndfile, through `audio.py`, reads files; it needs to seek, which a pipe cannot.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from bittern.errors import AudioError

Block = NDArray[np.float32]  # [n samples, C channels]

_READ_SAMPLES = 16384
_ENDLESS = 0xFFFFFFFF  # a size not known when the header was written
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE


@dataclass(frozen=True)
class Encoding:
    """How samples lie in a stream."""

    sample_rate: int  # Hz
    channels: int
    bits: int = 16
    floating: bool = False


def read_header(file: BinaryIO, name: str) -> tuple[Encoding, int | None]:
    """Read up to the first sample.

    Returns:
        The encoding, and how many samples for each channel the header claims (None: no end known).

    Raises:
        AudioError: not a WAV stream, or of a kind not read here.
    """
    riff, _, wave = struct.unpack("<4sI4s", _read_exactly(file, 12, name))
    if riff != b"RIFF" or wave != b"WAVE":
        raise AudioError(
            f"{name}: not a WAV stream. Pipe WAV, or raw 16-bit samples with --raw-rate"
        )
    encoding = None
    while True:
        kind, size = struct.unpack("<4sI", _read_exactly(file, 8, name))
        if kind == b"data":
            break
        body = _read_exactly(file, size + size % 2, name)
        if kind == b"fmt ":
            encoding = _parse_format(body, name)
    if encoding is None:
        raise AudioError(f"{name}: the WAV stream has no format before its samples")
    width = encoding.channels * encoding.bits // 8
    return encoding, None if size == 0 or size >= 0x7FFF0000 else size // width


def read_samples(file: BinaryIO, encoding: Encoding, samples: int | None) -> Iterator[Block]:
    """The samples as blocks [n, C] in -1..1, up to the end of the stream or `samples` of them."""
    width = encoding.channels * encoding.bits // 8
    left = samples
    rest = b""
    while left is None or left > 0:
        count = _READ_SAMPLES if left is None else min(_READ_SAMPLES, left)
        data = file.read(count * width - len(rest))
        if not data:
            return
        data = rest + data
        whole = len(data) // width
        rest = data[whole * width :]
        if left is not None:
            left -= whole
        if whole:
            yield _to_float(data[: whole * width], encoding).reshape(whole, encoding.channels)


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


def _read_exactly(file: BinaryIO, size: int, name: str) -> bytes:
    if size > 2**20:
        raise AudioError(f"{name}: not a WAV stream that makes sense (a chunk of {size} bytes)")
    parts: list[bytes] = []
    while size > 0:
        part = file.read(size)
        if not part:
            raise AudioError(f"{name}: the stream ends before any samples")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
