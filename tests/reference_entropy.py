"""Payloads written a second time, from docs/format.md: plain integers, no BLAS, no `bittern`.

Slow and short on purpose, and for one stream. It reads an `entropy.safetensors` itself, works out
frequencies in int64 with shifts, divides with Python's floats, and codes ranges in integers of any length.
"""

import itertools
import json
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

TOTAL = 1 << 24


class Reference(NamedTuple):
    w: dict[str, np.ndarray]  # all int64

    @classmethod
    def read(cls, data: bytes) -> "Reference":
        """From the bytes of a safetensors file: 8 bytes of length, JSON, then the tensors."""
        begin = 8 + int.from_bytes(data[:8], "little")
        kinds = {"I8": "i1", "U8": "u1", "I16": "<i2", "I32": "<i4"}
        found = {}
        for name, at in json.loads(data[8:begin]).items():
            if name != "__metadata__":
                first, end = at["data_offsets"]
                flat = np.frombuffer(data[begin + first : begin + end], kinds[at["dtype"]])
                found[name] = flat.reshape(at["shape"]).astype(np.int64)
        return cls(found)

    def context(self, stage: int, code: int) -> np.ndarray:
        """What a code adds for those after it: [E]; nothing if there is none."""
        if code < 0:
            return np.zeros(self.w["embed"].shape[2], np.int64)
        return self.w["embed"][stage][code] << self.w["embed_shift"][stage]

    def frequencies(self, stage: int, window: np.ndarray) -> list[int]:
        """From what a code's network sees, [3 * E]."""
        w = self.w
        hidden = (window @ w["first"][stage] + w["first_bias"][stage]) >> w["first_shift"][stage]
        narrow = (hidden.clip(0, 511) @ w["second"][stage]) >> w["second_shift"][stage]
        logits = w["output"][stage] @ narrow.clip(-1023, 1023) + w["output_bias"][stage]
        best = int(logits.argmax())
        below = (logits[best] - logits) >> w["output_shift"][stage]
        weights = w["table"][below.clip(max=len(w["table"]) - 1)].tolist()
        scale = (TOTAL - len(weights)) / sum(weights)
        counts = [int(weight * scale) + 1 for weight in weights]
        counts[best] += TOTAL - sum(counts)
        return counts


class Chunk:
    """What is known of a chunk while its codes come, in order."""

    def __init__(self, model: Reference, stages: int, frames: int) -> None:
        self.model = model
        self.codes = np.full((stages, frames), -1)
        self.context = np.zeros((frames + 2, model.w["embed"].shape[2]), np.int64)

    def frequencies(self, stage: int, frame: int) -> list[int]:
        if stage:
            return self.model.frequencies(stage, self.window(frame))
        none = np.zeros_like(self.context[0])
        back = [
            self.model.context(0, self.codes[0, frame - n]) if frame >= n else none for n in (1, 2)
        ]
        return self.model.frequencies(0, np.concatenate([*back, none]))

    def window(self, frame: int) -> np.ndarray:
        """[3 * E], without the codes that stand beside those of this part."""
        return self.known[frame : frame + 3].ravel()

    def begin_part(self) -> None:
        """Codes of a part see what was there before the part."""
        self.known = self.context.copy()

    def note(self, stage: int, frame: int, code: int) -> None:
        self.codes[stage, frame] = code
        self.context[frame + 1] += self.model.context(stage, code)


class RangeEncoder:
    def __init__(self) -> None:
        self.low, self.width, self.words = 0, 2**64 - 1, 2

    def push(self, counts: list[int], symbol: int) -> None:
        unit = self.width >> 24
        self.low, self.width = self.low + unit * sum(counts[:symbol]), unit * counts[symbol]
        if self.width < 2**32:
            self.low, self.width, self.words = self.low << 32, self.width << 32, self.words + 1

    def finish(self) -> bytes:
        point = (self.low + 2**32 - 1) >> 32  # all its further digits may be zeros
        return point.to_bytes(4 * (self.words - 1), "big").rstrip(b"\0") or b"\0"


class RangeDecoder:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.low, self.width, self.words = 0, 2**64 - 1, 2

    def pull(self, counts: list[int]) -> int:
        unit = self.width >> 24
        digits = self.data.ljust(4 * self.words, b"\0")[: 4 * self.words]
        place = (int.from_bytes(digits, "big") - self.low) // unit
        symbol = int(np.searchsorted(np.cumsum(counts), place, side="right"))
        self.low, self.width = self.low + unit * sum(counts[:symbol]), unit * counts[symbol]
        if self.width < 2**32:
            self.low, self.width, self.words = self.low << 32, self.width << 32, self.words + 1
        return symbol


# version 1, coder 1


def encode(model: Reference, codes: np.ndarray, bits: int) -> bytes:
    """The payload of a chunk of one stream, codes [k, F]."""
    chunk, payload = Chunk(model, *codes.shape), b""
    for stage, row in enumerate(codes):
        data = encode_layer(chunk, [(stage, range(len(row)))], codes)
        raw = pack_bits(row.tolist(), bits)
        short = len(varint(len(data))) + len(data) < 1 + len(raw)
        payload += varint(len(data)) + data if short else b"\0" + raw
    return payload


def decode(model: Reference, payload: bytes, stages: int, frames: int, bits: int) -> np.ndarray:
    """The codes [k, F] of a chunk of one stream."""
    chunk = Chunk(model, stages, frames)
    for stage in range(stages):
        length, payload = read_varint(payload)
        size = length or -(-frames * bits // 8)
        data, payload = payload[:size], payload[size:]
        decode_layer(chunk, [(stage, range(frames))], data, bits, coded=length > 0)
    assert not payload
    return chunk.codes


# version 2


def encode_ragged(
    model: Reference | None, codes: np.ndarray, layers: int, most: int, bits: int
) -> bytes:
    """The payload of a chunk of one stream, codes [k, F] with -1 where a frame has none."""
    counts = (codes >= 0).sum(axis=0).tolist()
    coded, raw = encode_counts(counts, most), bytes(counts)
    payload = bytes([layers]) + piece(coded, raw)
    chunk = Chunk(model, *codes.shape) if model else None
    for layer in parts_of_layers(counts, layers):
        raw = pack_bits([int(codes[stage, f]) for stage, frames in layer for f in frames], bits)
        payload += piece(encode_layer(chunk, layer, codes) if chunk else None, raw)
    return payload


def decode_ragged(
    model: Reference, payload: bytes, layers: int, frames: int, most: int, bits: int
) -> np.ndarray:
    """The codes [most, F] of a chunk of one stream, of which `layers` layers are there."""
    total, payload = payload[0], payload[1:]
    coded, data, payload = read_piece(payload)
    counts = decode_counts(data, frames, most) if coded else list(data)
    chunk = Chunk(model, most, frames)
    for layer in parts_of_layers(counts, total)[:layers]:
        coded, data, payload = read_piece(payload)
        decode_layer(chunk, layer, data, bits, coded=coded)
    assert not payload
    return chunk.codes


def parts_of_layers(counts: list[int], layers: int) -> list[list[tuple[int, list[int]]]]:
    """For each layer its parts: a stage, and the frames that get it."""
    found = []
    for layer in range(layers):
        stages_of = [
            range(-(-count * layer // layers), -(-count * (layer + 1) // layers))
            for count in counts
        ]
        parts = [
            (stage, [frame for frame, stages in enumerate(stages_of) if stage in stages])
            for stage in range(max(counts))
        ]
        found.append([(stage, frames) for stage, frames in parts if frames])
    return found


def encode_counts(counts: list[int], most: int) -> bytes:
    encoder = RangeEncoder()
    for count, frequencies in zip(counts, count_frequencies(counts, most), strict=False):
        encoder.push(frequencies, count)
    return encoder.finish()


def decode_counts(data: bytes, frames: int, most: int) -> list[int]:
    decoder, counts = RangeDecoder(data), []
    frequencies = count_frequencies(counts, most)
    while len(counts) < frames:
        counts.append(decoder.pull(next(frequencies)))
    return counts


def count_frequencies(counts: list[int], most: int) -> Iterator[list[int]]:
    """Of each count in turn; `counts` may grow while this goes on."""
    for place in range(1 << 30):
        before = counts[:place]
        weights = [1 + 4 * before.count(n) for n in range(most + 1)]
        if before:
            weights[before[-1]] += 128
            for last, following in itertools.pairwise(before):
                if last == before[-1]:
                    weights[following] += 64
        found = [1 + n * (TOTAL - most - 1) // sum(weights) for n in weights]
        found[weights.index(max(weights))] += TOTAL - sum(found)
        yield found


def piece(coded: bytes | None, raw: bytes) -> bytes:
    if coded is not None and len(coded) < len(raw):
        return varint(2 * len(coded)) + coded
    return varint(2 * len(raw) + 1) + raw


def read_piece(payload: bytes) -> tuple[bool, bytes, bytes]:
    """Whether it is coded, its bytes, and what follows."""
    value, payload = read_varint(payload)
    return value % 2 == 0, payload[: value // 2], payload[value // 2 :]


# what both have in common


def encode_layer(chunk: Chunk, layer, codes: np.ndarray) -> bytes:
    encoder = RangeEncoder()
    for stage, frames in layer:
        chunk.begin_part()
        for frame in frames:
            encoder.push(chunk.frequencies(stage, frame), int(codes[stage, frame]))
            chunk.note(stage, frame, int(codes[stage, frame]))
    return encoder.finish()


def decode_layer(chunk: Chunk, layer, data: bytes, bits: int, *, coded: bool) -> None:
    decoder = RangeDecoder(data)
    digits = f"{int.from_bytes(data, 'big'):0{8 * len(data)}b}"
    for stage, frames in layer:
        chunk.begin_part()
        for frame in frames:
            if coded:
                code = decoder.pull(chunk.frequencies(stage, frame))
            else:
                code, digits = int(digits[:bits], 2), digits[bits:]
            chunk.note(stage, frame, code)


def pack_bits(codes: list[int], bits: int) -> bytes:
    digits = "".join(f"{code:0{bits}b}" for code in codes)
    digits += "0" * (-len(digits) % 8)
    return bytes(int(digits[i : i + 8], 2) for i in range(0, len(digits), 8))


def varint(value: int) -> bytes:
    digits = []
    while value >= 128:
        digits.append(value % 128 + 128)
        value //= 128
    return bytes([*digits, value])


def read_varint(data: bytes) -> tuple[int, bytes]:
    value = size = 0
    while True:
        value += data[size] % 128 << 7 * size
        size += 1
        if data[size - 1] < 128:
            return value, data[size:]
