"""Other designs for the probabilities of codes, so that decisions/002 can be measured again.

Tables counted on training codes, all for the same range coder, bytes counted and time taken for
real. They are written with numpy as the shipped model is, and code chunk by chunk.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bittern.format import payload as packing
from bittern.format.entropy import EntropyModel
from bittern.format.rangecoder import TOTAL, RangeDecoder, RangeEncoder

Codes = NDArray[np.int64]
Floats = NDArray[np.float64]
CLASSES = 64  # that codes are sorted into where a table for each code would be too large
_PRIOR = 60  # counts that the order-0 table is worth beside those of a class
_STATIC = 300  # and the static table beside the codes of the chunk


@dataclass(frozen=True)
class Cost:
    """What coding costs with one design."""

    design: str
    bits: float  # per code, bytes of the payload counted
    encode_us: float  # processor time per code
    decode_us: float


class Design(Protocol):
    """Gives the probabilities of a stage's codes in a chunk."""

    name: str
    looks_back: bool  # at the stage's own codes: it decodes frame by frame

    def probabilities(self, stage: int, codes: Codes, first: int, end: int) -> Floats:
        """[end - first, N] from codes [K, F], of which those not yet known are not looked at."""
        ...


class OrderZero:
    """A table for each stage."""

    name = "order 0, a table for each stage"
    looks_back = False

    def __init__(self, clips: Sequence[Codes], size: int) -> None:
        joined = np.concatenate(clips, axis=1)
        counts = np.stack([np.bincount(row, minlength=size) for row in joined])
        self.tables = (counts + 0.5) / (counts + 0.5).sum(axis=1, keepdims=True)

    def probabilities(self, stage: int, codes: Codes, first: int, end: int) -> Floats:
        return np.broadcast_to(self.tables[stage], (end - first, self.tables.shape[1]))


class Previous:
    """A table for each stage and class of its code one frame before."""

    name = "table for each stage and class of the previous code"
    looks_back = True

    def __init__(self, zero: OrderZero, classes: Codes, clips: Sequence[Codes]) -> None:
        self._classes = classes  # [K, N]
        size = zero.tables.shape[1]
        counts = np.zeros((len(classes), CLASSES + 1, size))
        for clip in clips:
            for stage, row in enumerate(clip):
                np.add.at(counts[stage], (self._before(stage, row, 0, len(row)), row), 1)
        mixed = counts + _PRIOR * zero.tables[:, None]
        self._tables = mixed / mixed.sum(axis=2, keepdims=True)

    def _before(self, stage: int, row: Codes, first: int, end: int) -> Codes:
        known = self._classes[stage][row[max(first - 1, 0) : end - 1]]
        return known if first else np.concatenate([[CLASSES], known])

    def probabilities(self, stage: int, codes: Codes, first: int, end: int) -> Floats:
        return self._tables[stage, self._before(stage, codes[stage], first, end)]


class Product:
    """The same times a table for each class of the stage before's code."""

    name = "the same, times one for the code of the stage before"
    looks_back = True

    def __init__(
        self, zero: OrderZero, previous: Previous, classes: Codes, clips: Sequence[Codes]
    ) -> None:
        self._previous, self._classes = previous, classes
        size = zero.tables.shape[1]
        counts = np.zeros((len(classes), CLASSES, size))
        for clip in clips:
            for stage in range(1, len(clip)):
                np.add.at(counts[stage], (classes[stage - 1][clip[stage - 1]], clip[stage]), 1)
        mixed = counts + _PRIOR * zero.tables[:, None]
        self._ratios = mixed / mixed.sum(axis=2, keepdims=True) / zero.tables[:, None]

    def probabilities(self, stage: int, codes: Codes, first: int, end: int) -> Floats:
        found = self._previous.probabilities(stage, codes, first, end)
        if stage:
            found = (
                found * self._ratios[stage, self._classes[stage - 1][codes[stage - 1, first:end]]]
            )
        return found / found.sum(axis=1, keepdims=True)


class Adaptive:
    """The same, mixed with counts of the stage's codes so far in the chunk."""

    name = "the same, mixed with counts of the chunk so far"
    looks_back = True

    def __init__(self, product: Product) -> None:
        self._product = product

    def probabilities(self, stage: int, codes: Codes, first: int, end: int) -> Floats:
        static = self._product.probabilities(stage, codes, first, end)
        size = static.shape[1]
        counts = np.zeros((end - first, size))
        counts[0] = np.bincount(codes[stage, :first], minlength=size)
        counts[np.arange(1, end - first), codes[stage, first : end - 1]] += 1
        seen = np.arange(first, end)[:, None]
        return (_STATIC * static + np.cumsum(counts, axis=0)) / (_STATIC + seen)


def designs(clips: Sequence[Codes], codewords: NDArray[np.floating]) -> list[Design]:
    """Count the tables.

    Args:
        clips: training codes [K, F].
        codewords: [K, N, D] of the same stages.
    """
    classes = np.stack([_classes(book.astype(np.float64)) for book in codewords])
    zero = OrderZero(clips, codewords.shape[1])
    previous = Previous(zero, classes, clips)
    product = Product(zero, previous, classes, clips)
    return [zero, previous, product, Adaptive(product)]


def _classes(book: NDArray[np.float64]) -> Codes:
    """Codewords [N, D] in `CLASSES` groups by k-means."""
    centres = book[np.random.default_rng(0).choice(len(book), CLASSES, replace=False)]
    nearest = np.zeros(len(book), np.int64)
    for _ in range(8):
        nearest = ((centres**2).sum(axis=1) - 2 * book @ centres.T).argmin(axis=1)
        for group in np.unique(nearest):
            centres[group] = book[nearest == group].mean(axis=0)
    return nearest


def cost(design: Design, chunks: Sequence[Codes]) -> Cost:
    """Code chunks [K, F] and decode them again."""
    size = encoding = decoding = 0.0
    for chunk in chunks:
        started = time.process_time()
        payload = [_encode(design, stage, chunk) for stage in range(len(chunk))]
        encoded = time.process_time()
        back = np.zeros_like(chunk)
        for stage, data in enumerate(payload):
            _decode(design, stage, data, back)
        encoding, decoding = encoding + encoded - started, decoding + time.process_time() - encoded
        if not np.array_equal(back, chunk):
            raise AssertionError(f"{design.name} is not lossless")
        size += sum(len(data) + 1 + (len(data) > 127) for data in payload)
    return _cost(design.name, size, encoding, decoding, chunks)


def cost_of_model(model: EntropyModel, chunks: Sequence[Codes], bits: int) -> Cost:
    """The same for the shipped design."""
    size = encoding = decoding = 0.0
    for chunk in chunks:
        started = time.process_time()
        payload = packing.pack_ranged(chunk[None], bits, model)
        encoded = time.process_time()
        packing.unpack_ranged(payload, 1, len(chunk), chunk.shape[1], bits, model)
        encoding, decoding = encoding + encoded - started, decoding + time.process_time() - encoded
        size += len(payload)
    return _cost("small network in whole numbers", size, encoding, decoding, chunks)


def _cost(
    name: str, size: float, encoding: float, decoding: float, chunks: Sequence[Codes]
) -> Cost:
    count = sum(chunk.size for chunk in chunks)
    return Cost(name, 8 * size / count, 1e6 * encoding / count, 1e6 * decoding / count)


def _encode(design: Design, stage: int, chunk: Codes) -> bytes:
    encoder = RangeEncoder()
    found = design.probabilities(stage, chunk, 0, chunk.shape[1])
    encoder.push(chunk[stage], _frequencies(found))
    return encoder.finish()


def _decode(design: Design, stage: int, data: bytes, back: Codes) -> None:
    """Fill a stage of `back`."""
    decoder, frames = RangeDecoder(data), back.shape[1]
    if not design.looks_back:
        back[stage] = decoder.pull(_frequencies(design.probabilities(stage, back, 0, frames)))
        return
    for frame in range(frames):
        found = design.probabilities(stage, back, frame, frame + 1)
        back[stage, frame] = decoder.pull(_frequencies(found))[0]


def _frequencies(probabilities: Floats) -> NDArray[np.int64]:
    counts = np.floor(probabilities * (TOTAL - probabilities.shape[1])).astype(np.int64) + 1
    best = counts.argmax(axis=1)
    counts[np.arange(len(counts)), best] += TOTAL - counts.sum(axis=1)
    return counts
