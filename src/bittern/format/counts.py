"""How many stages each frame of a chunk has, as bytes: range coded with counts that adapt. No torch here.

A frame mostly has as many stages as the one before it, and where not, a number that occurred before. So
each number is expected by how often it followed the last one, and how often it occurred at all, since the
chunk began. All of it is in whole numbers and starts anew with each chunk; docs/format.md has the rule.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bittern.format.rangecoder import TOTAL, RangeDecoder, RangeEncoder

_SEEN, _FOLLOWED, _SAME = 4, 64, 128  # weights of what occurred, what followed, what stays

Counts = NDArray[np.int64]


def encode_counts(counts: Counts, most: int) -> bytes:
    """The bytes of counts [S, F], each 0 to `most`."""
    model, encoder = _Adaptive(most), RangeEncoder()
    rows: list[NDArray[np.int64]] = []
    for stream in counts.tolist():
        model.begin()
        for count in stream:
            rows.append(model.frequencies())
            model.note(count)
    encoder.push(counts.ravel(), np.stack(rows))
    return encoder.finish()


@lru_cache(maxsize=1)  # a payload is checked, and then unpacked
def decode_counts(data: bytes, streams: int, frames: int, most: int) -> Counts:
    """The counts [S, F] from their bytes, not to be written to.

    Raises:
        ValueError: `encode_counts` cannot have written these bytes.
    """
    model, decoder = _Adaptive(most), RangeDecoder(data, bounded=False)
    counts = np.empty((streams, frames), np.int64)
    for stream in counts:
        model.begin()
        for frame in range(frames):
            stream[frame] = count = int(decoder.pull(model.frequencies()[None])[0])
            model.note(count)
    counts.flags.writeable = False
    return counts


class _Adaptive:
    """What the next count may be."""

    def __init__(self, most: int) -> None:
        self._size = most + 1
        self._seen = np.ones(self._size, np.int64)
        self._followed = np.zeros((self._size, self._size), np.int64)
        self._last: int | None = None

    def begin(self) -> None:
        """Begin another stream, whose first count follows none."""
        self._last = None

    def note(self, count: int) -> None:
        self._seen[count] += _SEEN
        if self._last is not None:
            self._followed[self._last, count] += _FOLLOWED
        self._last = count

    def frequencies(self) -> NDArray[np.int64]:
        """What `rangecoder` takes, [most + 1]; the likeliest gets what rounding leaves over."""
        weights = self._seen.copy()
        if self._last is not None:
            weights += self._followed[self._last]
            weights[self._last] += _SAME
        counts = weights * (TOTAL - self._size) // weights.sum() + 1
        counts[weights.argmax()] += TOTAL - counts.sum()
        return counts
