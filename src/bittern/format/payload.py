"""The codes of one chunk to the bytes of its payload and back: raw, or range coded. No torch here.

A raw payload is stage behind stage, each from a whole byte on. A range coded one has before each
stage the length of its bytes, 7 bits to a byte, low ones first; length 0 says that the stage follows
raw, as it does where coding gains nothing. What a stage's bytes mean depends on the stages before it
alone, and so payloads can be cut short without any model.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.int64]


class ChunkCoder(Protocol):
    """Codes one chunk, stage after stage, each with what is known from those before it."""

    def encode(self, codes: Codes) -> bytes:
        """The bytes of the next stage, [S, F]."""
        ...

    def decode(self, data: bytes) -> Codes:
        """The next stage from its bytes, [S, F]."""
        ...

    def skip(self, codes: Codes) -> None:
        """Take note of the next stage, which is coded otherwise."""
        ...


class Coder(Protocol):
    """An entropy model, as containers see it; `entropy.py` has the one there is."""

    @property
    def fingerprint(self) -> bytes: ...

    def start(self, streams: int, frames: int) -> ChunkCoder:
        """Begin a chunk, which depends on none before it."""
        ...


def stage_bytes(streams: int, frames: int, bits: int) -> int:
    """Bytes that one raw stage takes."""
    return -(-streams * frames * bits // 8)


def pack_raw(codes: Codes, bits: int) -> bytes:
    """Pack codes [S streams, k, F], most significant bit first, each stage from a whole byte on."""
    by_stage = codes.transpose(1, 0, 2).reshape(codes.shape[1], -1, 1)
    shifts = np.arange(bits - 1, -1, -1)
    flags = ((by_stage >> shifts) & 1).astype(np.uint8)
    return np.packbits(flags.reshape(len(flags), -1), axis=1).tobytes()


def unpack_raw(payload: bytes, streams: int, stages: int, frames: int, bits: int) -> Codes:
    """The codes of the first `stages` stages: [S, stages, F]."""
    width = stage_bytes(streams, frames, bits)
    data = np.frombuffer(payload, np.uint8, stages * width).reshape(stages, width)
    count = streams * frames
    flags = np.unpackbits(data, axis=1, count=count * bits)
    weights = 1 << np.arange(bits - 1, -1, -1)
    flat = flags.reshape(stages, count, -1).astype(np.int64) @ weights
    return flat.reshape(stages, streams, frames).transpose(1, 0, 2)


def pack_ranged(codes: Codes, bits: int, coder: Coder | None) -> bytes:
    """Code [S, k, F]; without a coder every stage is raw, which any reader of such files takes."""
    streams, stages, frames = codes.shape
    chunk = coder.start(streams, frames) if coder else None
    parts: list[bytes] = []
    for stage in range(stages):
        raw = pack_raw(codes[:, stage : stage + 1], bits)
        data = chunk.encode(codes[:, stage]) if chunk else raw
        length = _varint(len(data))
        parts += [b"\0", raw] if len(length) + len(data) >= 1 + len(raw) else [length, data]
    return b"".join(parts)


def unpack_ranged(
    payload: bytes, streams: int, stages: int, frames: int, bits: int, coder: Coder | None
) -> Codes:
    """The codes of the first `stages` stages: [S, stages, F].

    Raises:
        ValueError: the payload makes no sense, or a stage is coded and `coder` is None.
    """
    chunk = coder.start(streams, frames) if coder else None
    codes: list[Codes] = []
    for data, coded in split(payload, stages, stage_bytes(streams, frames, bits)):
        if not coded:
            codes.append(unpack_raw(data, streams, 1, frames, bits)[:, 0])
            if chunk:
                chunk.skip(codes[-1])
        elif chunk:
            codes.append(chunk.decode(data))
        else:
            raise ValueError("its codes need an entropy model")
    return np.stack(codes, axis=1)


def split(payload: bytes, stages: int, raw_bytes: int) -> list[tuple[bytes, bool]]:
    """The bytes of the first `stages` stages, and whether they are coded or raw.

    Raises:
        ValueError: the lengths in the payload lead beyond its end.
    """
    position = 0
    found: list[tuple[bytes, bool]] = []
    for _ in range(stages):
        length, position = _read_varint(payload, position)
        end = position + (length or raw_bytes)
        if end > len(payload):
            raise ValueError("a stage is longer than its payload")
        found.append((payload[position:end], length > 0))
        position = end
    return found


def ranged_bytes(payload: bytes, stages: int, raw_bytes: int) -> int:
    """Bytes that the first `stages` stages of a range coded payload take.

    Raises:
        ValueError: see `split`.
    """
    pieces = split(payload, stages, raw_bytes)
    return sum(len(data) + (len(_varint(len(data))) if coded else 1) for data, coded in pieces)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    """The number, in its shortest form and of at most 4 bytes, and the position behind it."""
    value = 0
    for place in range(4):
        if position + place >= len(data):
            break
        byte = data[position + place]
        value |= (byte & 127) << 7 * place
        if byte < 128:
            if place and not byte:
                break
            return value, position + place + 1
    raise ValueError("a length in the payload makes no sense")
