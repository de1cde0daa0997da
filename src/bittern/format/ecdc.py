"""EnCodec's own files, `.ecdc`, byte for byte as its package writes them without its language model.

    "ECDC", version 0, length of the JSON (uint32, big end first), JSON; then for each segment its level
    (float32, big end first; where there are segments) and codes, time by time, the lowest bits first

There is no checksum: damage is not noticed, but where bytes are missing. No torch here.
"""

import json
import operator
import struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bittern.config import CodecConfig
from bittern.errors import FormatError, ModelMismatchError

MODELS = ("encodec_24khz", "encodec_48khz")  # by name, as its package knows them
MAGIC = b"ECDC"
_HEAD, _LEVEL = struct.Struct("!4sBI"), struct.Struct("!f")
_LONGEST_JSON = 4096


class EcdcSegment(NamedTuple):
    codes: NDArray[np.int64]  # [k, F]
    level: float | None


def write(config: CodecConfig, samples: int, segments: list[EcdcSegment], stages: int) -> bytes:
    """A file of audio of so many samples a channel, at the model's rate."""
    facts = json.dumps({"m": config.name, "al": samples, "nc": stages, "lm": False}).encode()
    parts = [_HEAD.pack(MAGIC, 0, len(facts)), facts]
    shifts = np.arange(config.quantizer.bits_per_code)
    for segment in segments:
        if segment.level is not None:
            parts.append(_LEVEL.pack(segment.level))
        bits = (segment.codes.T.reshape(-1, 1) >> shifts) & 1
        parts.append(np.packbits(bits.astype(np.uint8), bitorder="little").tobytes())
    return b"".join(parts)


def read(data: bytes, name: str, config: CodecConfig) -> tuple[int, list[EcdcSegment]]:
    """Samples a channel, and the segments.

    Args:
        data: the whole file.
        name: of the file, for messages.
        config: of the model that decodes.

    Raises:
        FormatError: it is no such file, is cut short, or was coded with the language model.
        ModelMismatchError: it is of another model.
    """
    begin, samples, stages = _read_head(data, name, config)
    bits, stride = config.quantizer.bits_per_code, config.segment_stride or max(samples, 1)
    segments = []
    for first in range(0, samples, stride):
        level = None
        if config.segment_samples:
            (level,) = _LEVEL.unpack(_part(data, begin, _LEVEL.size, name))
            begin += _LEVEL.size
            if not 0 <= level < np.inf:
                raise FormatError(f"{name}: damaged: a level is {level}")
        own = min(samples - first, config.segment_samples or samples)
        count = config.frame_count(own) * stages
        part = _part(data, begin, -(-count * bits // 8), name)
        begin += len(part)
        flat = np.unpackbits(np.frombuffer(part, np.uint8), count=count * bits, bitorder="little")
        values = flat.reshape(count, bits) @ (1 << np.arange(bits))
        segments.append(EcdcSegment(values.reshape(-1, stages).T, level))
    return samples, segments


def _read_head(data: bytes, name: str, config: CodecConfig) -> tuple[int, int, int]:
    """Where segments begin, samples, and stages."""
    magic, version, length = _HEAD.unpack(_part(data, 0, _HEAD.size, name))
    if magic != MAGIC or version != 0 or length > _LONGEST_JSON:
        raise FormatError(f"{name}: not an .ecdc file of version 0")
    try:
        facts = json.loads(_part(data, _HEAD.size, length, name))
        model, samples, stages, lm = (facts[key] for key in ("m", "al", "nc", "lm"))
        samples, stages = operator.index(samples), operator.index(stages)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise FormatError(f"{name}: damaged: the header makes no sense") from None
    if samples < 0 or stages < 1:
        raise FormatError(f"{name}: damaged: {samples} samples of {stages} codebooks")
    if lm:
        raise FormatError(
            f"{name}: coded with EnCodec's language model, whose probabilities differ from machine to "
            "machine; bring it back with the encodec package, or code it without --lm"
        )
    if model != config.name or stages > config.quantizer.stages:
        raise ModelMismatchError(
            f"{name}: made by {model} with {stages} codebooks, but {config.name} with "
            f"{config.quantizer.stages} was given; pass --model with the folder of {model}"
        )
    return _HEAD.size + length, samples, stages


def _part(data: bytes, begin: int, size: int, name: str) -> bytes:
    if len(data) - begin < size:
        raise FormatError(f"{name}: cut short (at byte {len(data)} of {begin + size} or more)")
    return data[begin : begin + size]
