"""The codes of one chunk to the bytes of its payload and back, where all frames have all stages.

Codes are stored in layers, one after the other, and what a layer's bytes mean depends on those before it
alone: payloads can be cut short without any model. Here, as in files of version 1, a layer is a stage;
in `ragged.py`, as in files of version 2, frames have as many stages as they need. No torch here.

A raw payload is the layers, each from a whole byte on. A range coded one has before each layer the
length of its bytes; length 0 says that the layer follows raw, as it does where coding gains nothing.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.int64]


class Part(NamedTuple):
    """Codes of one stage that stand side by side."""

    stage: int
    rows: NDArray[np.int64]  # [n], where they belong: stream * F + frame, ascending


Layer = Sequence[Part]


class ChunkCoder(Protocol):
    """Codes one chunk, layer after layer, each with what is known from those before it."""

    def encode(self, layer: Layer, codes: Codes) -> bytes:
        """The bytes of the next layer; its parts' codes one after the other, [n]."""
        ...

    def decode(self, layer: Layer, data: bytes) -> Codes:
        """The codes of the next layer from its bytes, [n]."""
        ...

    def skip(self, layer: Layer, codes: Codes) -> None:
        """Take note of the next layer, which is coded otherwise."""
        ...


class Coder(Protocol):
    """An entropy model, as containers see it; `entropy.py` has the one there is."""

    @property
    def fingerprint(self) -> bytes: ...

    def start(self, streams: int, frames: int) -> ChunkCoder:
        """Begin a chunk, which depends on none before it."""
        ...


CoderFinder = Callable[[bytes], Coder | None]  # by fingerprint, asked when codes first need it


def whole_stages(streams: int, stages: int, frames: int) -> list[Layer]:
    """The layers of a chunk whose frames have all stages."""
    rows = np.arange(streams * frames)
    return [[Part(stage, rows)] for stage in range(stages)]


def layer_size(layer: Layer) -> int:
    """How many codes it has."""
    return sum(len(part.rows) for part in layer)


def gather(codes: Codes, layer: Layer) -> Codes:
    """A layer's codes, [n], out of those of its chunk, [S, k, F]."""
    by_stage = [codes[:, part.stage].reshape(-1)[part.rows] for part in layer]
    return np.concatenate([np.zeros(0, np.int64), *by_stage])


def scatter(values: Codes, layer: Layer, codes: Codes) -> None:
    """Put a layer's codes [n] where they belong in `codes` [S, k, F]."""
    frames, begin = codes.shape[2], 0
    for stage, rows in layer:
        codes[rows // frames, stage, rows % frames] = values[begin : begin + len(rows)]
        begin += len(rows)


def raw_bytes(count: int, bits: int) -> int:
    """Bytes that so many raw codes take."""
    return -(-count * bits // 8)


def stage_bytes(streams: int, frames: int, bits: int) -> int:
    """Bytes that one raw stage takes."""
    return raw_bytes(streams * frames, bits)


def pack_bits(codes: Codes, bits: int) -> bytes:
    """Codes [n], most significant bit first; zero bits fill the last byte."""
    flags = (codes[:, None] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(flags.astype(np.uint8)).tobytes()


def unpack_bits(data: bytes, count: int, bits: int) -> Codes:
    """The first `count` codes of raw bytes, [n]."""
    flags = np.unpackbits(np.frombuffer(data, np.uint8), count=count * bits)
    return flags.reshape(count, bits).astype(np.int64) @ (1 << np.arange(bits - 1, -1, -1))


def pack_raw(codes: Codes, bits: int) -> bytes:
    """The payload of codes [S streams, k, F]."""
    return b"".join(pack_bits(stage.reshape(-1), bits) for stage in codes.transpose(1, 0, 2))


def unpack_raw(payload: bytes, streams: int, stages: int, frames: int, bits: int) -> Codes:
    """The codes of the first `stages` stages: [S, stages, F]."""
    width, codes = stage_bytes(streams, frames, bits), np.empty((stages, streams, frames), np.int64)
    for stage, out in enumerate(codes):
        data = payload[stage * width : (stage + 1) * width]
        out[:] = unpack_bits(data, streams * frames, bits).reshape(streams, frames)
    return codes.transpose(1, 0, 2)


def pack_ranged(codes: Codes, bits: int, coder: Coder | None) -> bytes:
    """Code [S, k, F]; without a coder every stage is raw, which any reader of such files takes."""
    streams, stages, frames = codes.shape
    chunk = coder.start(streams, frames) if coder else None
    parts: list[bytes] = []
    for layer in whole_stages(streams, stages, frames):
        values = gather(codes, layer)
        raw = pack_bits(values, bits)
        data = chunk.encode(layer, values) if chunk else raw
        length = write_varint(len(data))
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
    codes = np.empty((streams, stages, frames), np.int64)
    pieces = split(payload, stages, stage_bytes(streams, frames, bits))
    for layer, (data, coded) in zip(whole_stages(streams, stages, frames), pieces, strict=True):
        scatter(decode_layer(layer, data, coded, bits, chunk), layer, codes)
    return codes


def decode_layer(
    layer: Layer, data: bytes, coded: bool, bits: int, chunk: ChunkCoder | None
) -> Codes:
    """The codes of the next layer, [n], from its bytes, coded or raw.

    Raises:
        ValueError: the bytes make no sense, or are coded and `chunk` is None.
    """
    if not coded:
        codes = unpack_bits(data, layer_size(layer), bits)
        if chunk:
            chunk.skip(layer, codes)
        return codes
    if not chunk:
        raise ValueError("its codes need an entropy model")
    return chunk.decode(layer, data)


def split(payload: bytes, stages: int, raw_bytes: int) -> list[tuple[bytes, bool]]:
    """The bytes of the first `stages` stages, and whether they are coded or raw.

    Raises:
        ValueError: the lengths in the payload lead beyond its end.
    """
    position = 0
    found: list[tuple[bytes, bool]] = []
    for _ in range(stages):
        length, position = read_varint(payload, position)
        end = position + (length or raw_bytes)
        if end > len(payload):
            raise ValueError("a stage is longer than its payload")
        found.append((payload[position:end], length > 0))
        position = end
    return found


def check_ranged(payload: bytes, stages: int, raw_bytes: int) -> None:
    """Refuse a range coded payload whose lengths do not lead to its end.

    Raises:
        ValueError: they do not.
    """
    if ranged_bytes(payload, stages, raw_bytes) != len(payload):
        raise ValueError("its stages do not end where it ends")


def ranged_bytes(payload: bytes, stages: int, raw_bytes: int) -> int:
    """Bytes that the first `stages` stages of a range coded payload take.

    Raises:
        ValueError: see `split`.
    """
    pieces = split(payload, stages, raw_bytes)
    return sum(len(data) + (len(write_varint(len(data))) if coded else 1) for data, coded in pieces)


def write_varint(value: int) -> bytes:
    """7 bits to a byte, low ones first; all but the last byte with 128 added."""
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """The number, in its shortest form and of at most 4 bytes, and the position after it.

    Raises:
        ValueError: there is none.
    """
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
