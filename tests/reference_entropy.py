"""Coder 1 written a second time, from docs/format.md: plain integers, no BLAS, no `bittern`.

Slow and short on purpose. It reads an `entropy.safetensors` itself, works out frequencies in int64
with shifts, divides with Python's floats, and codes ranges in integers of any length.
"""

import json
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

    def context(self, stage: int, codes: np.ndarray) -> np.ndarray:
        """What the codes [F] of one stage add for those after it: [F, E]."""
        return self.w["embed"][stage][codes] << self.w["embed_shift"][stage]

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


def encode(model: Reference, codes: np.ndarray, bits: int) -> bytes:
    """The payload of a chunk of one stream, codes [k, F]."""
    payload = b""
    context = np.zeros((codes.shape[1] + 2, model.w["embed"].shape[2]), np.int64)
    for stage, row in enumerate(codes):
        low, width, words = 0, 2**64 - 1, 2
        for frame, code in enumerate(row):
            counts = model.frequencies(stage, _window(model, stage, context, row, frame))
            unit = width >> 24
            low, width = low + unit * sum(counts[:code]), unit * counts[code]
            if width < 2**32:
                low, width, words = low << 32, width << 32, words + 1
        point = (low + 2**32 - 1) >> 32  # all its further digits may be zeros
        data = point.to_bytes(4 * (words - 1), "big").rstrip(b"\0") or b"\0"
        raw = "".join(f"{code:0{bits}b}" for code in row)
        raw += "0" * (-len(raw) % 8)
        length = [len(data) & 127] if len(data) < 128 else [len(data) & 127 | 128, len(data) >> 7]
        if len(length) + len(data) < 1 + len(raw) // 8:
            payload += bytes(length) + data
        else:
            payload += b"\0" + int(raw, 2).to_bytes(len(raw) // 8, "big")
        context[1:-1] += model.context(stage, row)
    return payload


def decode(model: Reference, payload: bytes, stages: int, frames: int, bits: int) -> np.ndarray:
    """The codes [k, F] of a chunk of one stream."""
    codes = np.zeros((stages, frames), np.int64)
    context = np.zeros((frames + 2, model.w["embed"].shape[2]), np.int64)
    for stage, row in enumerate(codes):
        length, payload = payload[0], payload[1:]
        if length >= 128:
            length, payload = length - 128 + 128 * payload[0], payload[1:]
        if length:
            data, payload = payload[:length], payload[length:]
            _decode_stage(model, stage, data, context, row)
        else:
            size = -(-frames * bits // 8)
            digits = f"{int.from_bytes(payload[:size], 'big'):0{8 * size}b}"
            row[:] = [int(digits[i * bits : (i + 1) * bits], 2) for i in range(frames)]
            payload = payload[size:]
        context[1:-1] += model.context(stage, row)
    assert not payload
    return codes


def _decode_stage(
    model: Reference, stage: int, data: bytes, context: np.ndarray, row: np.ndarray
) -> None:
    """Fill `row` from a stage's bytes."""
    digits = data.ljust(4 * len(row) + 12, b"\0")  # a code takes less than 4 bytes
    low, width, words = 0, 2**64 - 1, 2
    for frame in range(len(row)):
        counts = model.frequencies(stage, _window(model, stage, context, row, frame))
        unit = width >> 24
        place = (int.from_bytes(digits[: 4 * words], "big") - low) // unit
        code = int(np.searchsorted(np.cumsum(counts), place, side="right"))
        low, width = low + unit * sum(counts[:code]), unit * counts[code]
        if width < 2**32:
            low, width, words = low << 32, width << 32, words + 1
        row[frame] = code


def _window(
    model: Reference, stage: int, context: np.ndarray, row: np.ndarray, frame: int
) -> np.ndarray:
    """[3 * E]; `context` has a frame of nothing at either end, the first stage looks back only."""
    if stage:
        return context[frame : frame + 3].ravel()
    none = np.zeros_like(context[0])
    back = [model.context(0, row[frame - n]) if frame >= n else none for n in (1, 2)]
    return np.concatenate([*back, none])
