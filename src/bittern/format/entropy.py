"""How probable each code is, given those known already: a small network in exact whole numbers.

A chunk is coded layer by layer, and a layer stage by stage. For a code of stage k at frame t is known all
that was coded before it, of frames after t as well, and so the network sees the sum of those codewords (in
few dimensions) at t - 1, t and t + 1; a code that is not there adds nothing. The first stage sees its own
codes at t - 1 and t - 2 instead.

    context -> first -> relu -> second -> output -> powers of two -> frequencies

Weights and activations are whole numbers, held in floats only where each partial sum is exact
(checked when a model is loaded). Any order of summation, thread count, batch or library gives the
same frequencies; hence the same files on every machine. Fitted by `training/entropy_fit.py`. No torch.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as dump_tensors

from bittern.errors import ModelError
from bittern.format.payload import Codes, Layer, Part
from bittern.format.rangecoder import TOTAL, RangeDecoder, RangeEncoder, check_library

ENTROPY_FILE = "entropy.safetensors"
STEPS_PER_BIT = 64  # of `table`
HIDDEN_MOST = 511  # activations after `first`
NARROW_MOST = 1023  # and after `second`, either sign

_EXACT32, _EXACT64 = 2**24, 2**53
_ROWS = 128  # frames at once, which bounds memory; what comes out does not depend on it


@dataclass(frozen=True, kw_only=True, eq=False)
class EntropyWeights:
    """K stages, N codes, E dimensions of context, H hidden units, D before the output."""

    embed: NDArray[np.int8]  # [K, N, E], what a code adds to the context
    embed_shift: NDArray[np.uint8]  # [K], to be multiplied by 2^shift
    first: NDArray[np.int16]  # [K, 3 * E, H]
    first_bias: NDArray[np.int32]  # [K, H]
    first_shift: NDArray[np.uint8]  # [K], sums are divided by 2^shift
    second: NDArray[np.int16]  # [K, H, D]
    second_shift: NDArray[np.uint8]  # [K]
    output: NDArray[np.int8]  # [K, N, D]
    output_bias: NDArray[np.int32]  # [K, N]
    output_shift: NDArray[np.uint8]  # [K], 2^shift steps of output are one of `table`
    table: NDArray[np.int32]  # [M], 2^(20 - i / STEPS_PER_BIT), 0 at last

    def to_bytes(self) -> bytes:
        """A safetensors file."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        return dump_tensors(tensors, metadata={"format": "bittern entropy 1"})


class EntropyModel:
    """Codes chunks; a `payload.Coder`."""

    def __init__(self, data: bytes, name: str) -> None:
        """Read a model.

        Args:
            data: of `EntropyWeights.to_bytes`.
            name: for messages.

        Raises:
            ModelError: it is not one, its sums are not exact, or `constriction` has changed.
        """
        check_library()
        try:
            weights = EntropyWeights(**load_tensors(data))
            _check(weights)
        except (SafetensorError, TypeError, ValueError) as error:
            raise ModelError(f"{name}: not an entropy model ({error})") from None
        self.fingerprint = hashlib.sha256(data).digest()[:8]
        self.stages, self.codebook_size, self.width = weights.embed.shape
        self._table = weights.table.astype(np.int64)
        self._embed = weights.embed.astype(np.float64) * _power(weights.embed_shift)[:, None, None]
        self._layers = [_Stage(weights, stage) for stage in range(self.stages)]
        own = self._layers[0].first.reshape(3, self.width, -1)
        self._own = [self._embed[0] @ own[0], self._embed[0] @ own[1]]  # [N, H] each

    def start(self, streams: int, frames: int) -> "_Chunk":
        """Begin a chunk, which depends on none before it."""
        return _Chunk(self, streams, frames)

    def frequencies(self, stage: int, sums: NDArray[np.float64]) -> NDArray[np.int64]:
        """What `rangecoder` takes, [n, N], from the sums of the first layer, [n, H].

        All of it is exact but two correctly rounded operations, which are the same everywhere.
        """
        layer = self._layers[stage]
        hidden = np.clip(np.floor((sums + layer.first_bias) * layer.first_scale), 0, HIDDEN_MOST)
        narrow = np.floor((hidden @ layer.second) * layer.second_scale)
        narrow = np.clip(narrow, -NARROW_MOST, NARROW_MOST).astype(np.float32)
        logits = narrow @ layer.output + layer.output_bias
        best = logits.argmax(axis=1)[:, None]
        below = (np.take_along_axis(logits, best, axis=1) - logits) * layer.output_scale
        weights = self._table[np.minimum(below, len(self._table) - 1).astype(np.int32)]
        shared = TOTAL - weights.shape[1]  # each code has 1 of its own
        scale = shared / weights.sum(axis=1, keepdims=True)
        counts = np.floor(weights * scale).astype(np.int64) + 1
        rest = TOTAL - counts.sum(axis=1, keepdims=True)
        np.put_along_axis(counts, best, np.take_along_axis(counts, best, axis=1) + rest, axis=1)
        return counts

    def embed(self, stage: int, codes: Codes) -> NDArray[np.float64]:
        """What codes [n] add to the context, [n, E]."""
        return self._embed[stage][codes]

    def context_sums(self, stage: int, windows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Contexts at t - 1, t and t + 1, [n, 3 * E], to the first layer's sums, [n, H]."""
        return windows @ self._layers[stage].first

    def own_sums(self, before: Codes, two_before: Codes) -> NDArray[np.float64]:
        """The same for the first stage, from its codes one and two frames before, -1 for none."""
        one, two = self._own
        known, known_two = (before >= 0)[:, None], (two_before >= 0)[:, None]
        return one[before] * known + two[two_before] * known_two


class _Stage:
    """One stage's weights as they are multiplied."""

    def __init__(self, weights: EntropyWeights, stage: int) -> None:
        self.first = weights.first[stage].astype(np.float64)
        self.first_bias = weights.first_bias[stage].astype(np.float64)
        self.first_scale = 1 / _power(weights.first_shift[stage])
        self.second = weights.second[stage].astype(np.float64)
        self.second_scale = 1 / _power(weights.second_shift[stage])
        self.output = np.ascontiguousarray(weights.output[stage].T.astype(np.float32))
        self.output_bias = weights.output_bias[stage].astype(np.float32)
        self.output_scale = np.float32(1 / _power(weights.output_shift[stage]))


class _Chunk:
    """A `payload.ChunkCoder`."""

    def __init__(self, model: EntropyModel, streams: int, frames: int) -> None:
        self._model = model
        self._frames = frames
        # a frame of nothing at either end of each stream, and two before its first codes
        self._context = np.zeros((streams * (frames + 2), model.width))
        self._first = np.full(streams * (frames + 2), -1, np.int64)

    def encode(self, layer: Layer, codes: Codes) -> bytes:
        encoder = RangeEncoder()
        for part, own in self._parts(layer, codes):
            if part.stage == 0:
                self._first[self._places(part) + 1] = own
            sums = self._first_sums(part) if part.stage == 0 else self._later_sums(part)
            for at in range(0, len(own), _ROWS):
                rows = slice(at, at + _ROWS)
                encoder.push(own[rows], self._model.frequencies(part.stage, sums[rows]))
            self._note(part, own)
        return encoder.finish()

    def decode(self, layer: Layer, data: bytes) -> Codes:
        decoder = RangeDecoder(data)
        found: list[Codes] = []
        for part in layer:
            decode = self._decode_first if part.stage == 0 else self._decode_later
            found.append(decode(part, decoder))
            self._note(part, found[-1])
        return np.concatenate(found)

    def skip(self, layer: Layer, codes: Codes) -> None:
        for part, own in self._parts(layer, codes):
            self._note(part, own)

    def _parts(self, layer: Layer, codes: Codes) -> Iterator[tuple[Part, Codes]]:
        begin = 0
        for part in layer:
            yield part, codes[begin : begin + len(part.rows)]
            begin += len(part.rows)

    def _note(self, part: Part, codes: Codes) -> None:
        self._context[self._places(part)] += self._model.embed(part.stage, codes)

    def _places(self, part: Part) -> NDArray[np.int64]:
        """Where a part's frames are in the context, [n]."""
        return part.rows + 2 * (part.rows // self._frames) + 1

    def _first_sums(self, part: Part) -> NDArray[np.float64]:
        places = self._places(part)
        return self._model.own_sums(self._first[places], self._first[places - 1])

    def _later_sums(self, part: Part) -> NDArray[np.float64]:
        windows = self._context[self._places(part)[:, None] + (-1, 0, 1)]
        return self._model.context_sums(part.stage, windows.reshape(len(windows), -1))

    def _decode_first(self, part: Part, decoder: RangeDecoder) -> Codes:
        """Frame by frame, as each code is the context of the next two."""
        model, first = self._model, self._first
        for place in self._places(part):
            sums = model.own_sums(first[place : place + 1], first[place - 1 : place])
            first[place + 1] = decoder.pull(model.frequencies(0, sums))[0]
        return first[self._places(part) + 1]

    def _decode_later(self, part: Part, decoder: RangeDecoder) -> Codes:
        sums = self._later_sums(part)
        portions = [
            decoder.pull(self._model.frequencies(part.stage, sums[at : at + _ROWS]))
            for at in range(0, len(sums), _ROWS)
        ]
        return np.concatenate(portions)


def power_table() -> NDArray[np.int32]:
    """2^(20 - i / STEPS_PER_BIT), rounded in whole numbers alone, 0 at last."""
    base = 1 << 20 * STEPS_PER_BIT
    roots = [_root(base >> i) for i in range(20 * STEPS_PER_BIT)]
    return np.array([*roots, 1, 0], np.int32)


def _root(value: int) -> int:
    """The STEPS_PER_BIT-th root, by bisection."""
    low, high = 1, 1 << 21
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if middle**STEPS_PER_BIT <= value else (low, middle)
    return low


def _power(shift: NDArray[np.uint8]) -> NDArray[np.float64]:
    return np.ldexp(1.0, shift.astype(np.int32))


def _check(weights: EntropyWeights) -> None:
    """Shapes fit each other, and no sum can leave the range where it is exact."""
    stages, size, width = weights.embed.shape
    hidden, narrow = weights.second.shape[1:]
    shapes = {
        "embed": (stages, size, width),
        "embed_shift": (stages,),
        "first": (stages, 3 * width, hidden),
        "first_bias": (stages, hidden),
        "first_shift": (stages,),
        "second": (stages, hidden, narrow),
        "second_shift": (stages,),
        "output": (stages, size, narrow),
        "output_bias": (stages, size),
        "output_shift": (stages,),
        "table": weights.table.shape[:1],
    }
    for name, shape in shapes.items():
        if getattr(weights, name).shape != shape:
            raise ValueError(f"{name} is {list(getattr(weights, name).shape)}, not {list(shape)}")
        if not np.issubdtype(getattr(weights, name).dtype, np.integer):
            raise ValueError(f"{name} is not of whole numbers")
    shifts = ("embed_shift", "first_shift", "second_shift", "output_shift")
    if any(getattr(weights, name).max() > 24 for name in shifts):
        raise ValueError("a shift is above 24")
    table = weights.table
    if table[0] != table.max() or table[0] < 1 or table.min() < 0 or table[0] > 2**20:
        raise ValueError("its table is not one of powers")
    if not 2 <= size <= 2**16:
        raise ValueError(f"it has {size} codes")
    context = (np.abs(weights.embed.astype(float)).max((1, 2)) * _power(weights.embed_shift)).sum()
    for bound, weight, bias, limit in (
        (context, weights.first, weights.first_bias, _EXACT64),
        (HIDDEN_MOST, weights.second, np.zeros(1), _EXACT64),
        (NARROW_MOST, weights.output.transpose(0, 2, 1), weights.output_bias, _EXACT32 / 2),
    ):
        sums = np.abs(weight.astype(float)).sum(axis=1).max() * bound
        if sums + np.abs(bias.astype(float)).max() >= limit:
            raise ValueError("its sums are not exact")
