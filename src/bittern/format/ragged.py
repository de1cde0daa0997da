"""The payload of a chunk whose frames have different numbers of stages (version 2). No torch here.

    layers L | counts | layer 1 | layer 2 | ... | layer l        l = L, fewer once trimmed

Counts and layers each have before them their length in bytes and whether they are raw or coded. Of a
frame that was given k stages, layer i holds those from ceil(k (i - 1) / L) up to ceil(k i / L): with the
first i layers every frame has the share i / L of its stages. So trimming drops the last layers, keeps who
gets more than whom, and needs no model. Within a layer codes stand by stage, then stream, then frame.
"""

from typing import NamedTuple

import numpy as np

from bittern.format.counts import Counts, decode_counts, encode_counts
from bittern.format.payload import (
    Coder,
    Codes,
    Layer,
    Part,
    decode_layer,
    gather,
    layer_size,
    pack_bits,
    raw_bytes,
    read_varint,
    scatter,
    write_varint,
)

_STAGES_A_LAYER = 2  # about, on average: finer layers cost bytes, coarser ones are hard to trim to


class Piece(NamedTuple):
    """Bytes of the counts or of a layer."""

    data: bytes
    coded: bool  # else raw


class Pieces(NamedTuple):
    total: int  # layers when the payload was made
    counts: Piece
    layers: list[Piece]


def longest(streams: int, frames: int, stages: int, bits: int) -> int:
    """Bytes that the payload of such a chunk takes at most."""
    return 5 + streams * frames + raw_bytes(streams * frames * stages, bits) + 5 * stages


def count_stages(codes: Codes) -> Counts:
    """How many stages each frame of codes [S, k, F] has, -1 standing where it has none: [S, F].

    Raises:
        ValueError: a frame has a stage without having those before it.
    """
    there = codes >= 0
    if (there[:, 1:] > there[:, :-1]).any():
        raise ValueError("a frame has a code at a stage, but none at the stage before it")
    return there.sum(axis=1)


def pack(codes: Codes, bits: int, most: int, coder: Coder | None) -> tuple[bytes, int]:
    """The payload of codes [S, k, F], -1 where a frame has none, and how many layers it has.

    Args:
        codes: see `count_stages`.
        bits: of each code.
        most: stages that a frame may have, k or more.
        coder: without it every layer is raw, which any reader of such files takes.
    """
    counts = count_stages(codes)
    layers = max(round(float(counts.mean()) / _STAGES_A_LAYER), 1)
    raw = counts.astype(np.uint8).tobytes()
    parts = [bytes([layers]), *_shorter(encode_counts(counts, most), raw)]
    chunk = coder.start(*counts.shape) if coder else None
    for layer in plan(counts, layers):
        values = gather(codes, layer)
        raw = pack_bits(values, bits)
        parts += _shorter(chunk.encode(layer, values), raw) if chunk else _shorter(None, raw)
    return b"".join(parts), layers


def unpack(
    payload: bytes, layers: int, shape: tuple[int, int], bits: int, most: int, coder: Coder | None
) -> Codes:
    """The codes [S, most, F] of a payload, -1 where a frame has none.

    Args:
        payload: as it stands in the chunk.
        layers: that the chunk says it has.
        shape: streams and frames.
        bits: of each code.
        most: stages that a frame may have.
        coder: may be None if no layer is coded.

    Raises:
        ValueError: the payload makes no sense, or a layer is coded and `coder` is None.
    """
    total, given, pieces = split(payload, layers)
    counts = _counts(given, shape, most)
    codes = np.full((shape[0], most, shape[1]), -1, np.int64)
    chunk = coder.start(*shape) if coder else None
    for layer, piece in zip(plan(counts, total), pieces, strict=False):
        _check_size(layer, piece, bits)
        scatter(decode_layer(layer, *piece, bits, chunk), layer, codes)
    return codes


def _check_size(layer: Layer, piece: Piece, bits: int) -> None:
    size = layer_size(layer)
    if not size if piece.coded else len(piece.data) != raw_bytes(size, bits):
        raise ValueError("a layer is not as long as its codes are")


def check(payload: bytes, layers: int, shape: tuple[int, int], bits: int, most: int) -> None:
    """Refuse a payload that makes no sense, in all that can be told without a coder.

    Raises:
        ValueError: as for `unpack`.
    """
    total, given, pieces = split(payload, layers)
    for layer, piece in zip(plan(_counts(given, shape, most), total), pieces, strict=False):
        _check_size(layer, piece, bits)


def read_counts(payload: bytes, layers: int, shape: tuple[int, int], most: int) -> Counts:
    """How many stages each frame has with the layers that the chunk has, [S, F]; needs no coder.

    Raises:
        ValueError: the payload makes no sense.
    """
    total, given, _ = split(payload, layers)
    return _share(_counts(given, shape, most), layers, total)


def prefix(payload: bytes, layers: int) -> bytes:
    """The part of a payload that its first `layers` layers take.

    Raises:
        ValueError: the payload makes no sense.
    """
    position = 1
    for _ in range(1 + layers):
        _, position = _read_piece(payload, position)
    return payload[:position]


def split(payload: bytes, layers: int) -> Pieces:
    """What a payload is made of.

    Raises:
        ValueError: the lengths in the payload do not lead to its end.
    """
    if not payload or payload[0] < layers:
        raise ValueError("it has more layers than it was made with")
    found: list[Piece] = []
    position = 1
    for _ in range(1 + layers):
        piece, position = _read_piece(payload, position)
        found.append(piece)
    if position != len(payload):
        raise ValueError("its layers do not end where it ends")
    return Pieces(payload[0], found[0], found[1:])


def plan(counts: Counts, layers: int) -> list[Layer]:
    """What each layer holds, from the counts [S, F] of stages that frames were given."""
    flat = counts.reshape(-1)
    plans: list[Layer] = []
    have = np.zeros_like(flat)
    for layer in range(1, layers + 1):
        need = _share(flat, layer, layers)
        stages = range(int(have.min(initial=0)), int(need.max(initial=0)))
        rows = [np.flatnonzero((have <= stage) & (stage < need)) for stage in stages]
        plans.append([Part(s, r) for s, r in zip(stages, rows, strict=True) if len(r)])
        have = need
    return plans


def _share(counts: Counts, layers: int, total: int) -> Counts:
    return -(-counts * layers // total)


def _counts(piece: Piece, shape: tuple[int, int], most: int) -> Counts:
    if piece.coded:
        return decode_counts(piece.data, *shape, most)
    counts = np.frombuffer(piece.data, np.uint8).astype(np.int64)
    if len(counts) != shape[0] * shape[1] or counts.max(initial=0) > most:
        raise ValueError("its numbers of stages make no sense")
    return counts.reshape(shape)


def _shorter(coded: bytes | None, raw: bytes) -> list[bytes]:
    """Whichever is shorter, with its length before it: twice the bytes, 1 more if they are raw."""
    if coded is not None and len(coded) < len(raw):
        return [write_varint(2 * len(coded)), coded]
    return [write_varint(2 * len(raw) + 1), raw]


def _read_piece(payload: bytes, position: int) -> tuple[Piece, int]:
    value, begin = read_varint(payload, position)
    end = begin + value // 2
    if end > len(payload):
        raise ValueError("a layer is longer than its payload")
    return Piece(payload[begin:end], value % 2 == 0), end
