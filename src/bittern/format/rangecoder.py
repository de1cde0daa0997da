"""Integers and their frequencies in, bytes out: a thin wrapper over the `constriction` library.

The library takes probabilities as floats. It is given whole numbers here, in ranges where each of
its steps is exact, so that its intervals are precisely the frequencies on every machine.
"""

import importlib.metadata
import math
from functools import cache
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from bittern.errors import ModelError

PRECISION = 24
TOTAL = 1 << PRECISION  # what the frequencies of all symbols add up to

_WORD_BYTES = 4
_SLACK_BITS = 64  # that symbols may cost beyond their bytes: zeros are added without end
_TAIL_BITS = 1024  # and symbols 0 up to the end, which are nothing but such zeros
_KNOWN = b"\xff\xfe\xd2\xff\xff\x8f\xff\xccq5\xf0\x01"  # of what `check_library` codes
_STREAM: Any = constriction.stream  # pyright: ignore[reportAttributeAccessIssue]
_CATEGORICAL = _STREAM.model.Categorical(perfect=False)


@cache
def check_library() -> None:
    """See that the library still gives the bytes that files are made of.

    Raises:
        ModelError: it does not.
    """
    encoder = RangeEncoder()
    encoder.push(np.arange(8) % 3, np.tile([[TOTAL - 300, 299, 1]], (8, 1)))
    if encoder.finish() != _KNOWN:
        version = importlib.metadata.version("constriction")
        raise ModelError(
            f"constriction {version} codes otherwise than files were coded; install one from 0.4 on, "
            "below 0.6"
        )


class RangeEncoder:
    """Symbols and frequencies to bytes."""

    def __init__(self) -> None:
        self._encoder = _STREAM.queue.RangeEncoder()
        self._bits = 0.0

    def push(self, symbols: NDArray[np.integer], frequencies: NDArray[np.integer]) -> None:
        """Append symbols.

        Args:
            symbols: [n], in 0..N - 1.
            frequencies: [n, N], each 1 or more; each row adds up to `TOTAL`.
        """
        self._bits += _cost(symbols, frequencies)
        self._encoder.encode(symbols.astype(np.int32), _CATEGORICAL, _weights(frequencies))

    def finish(self) -> bytes:
        """All of it, at least one byte; zeros at the end are left out, as the decoder adds them.

        So many of them stay that a decoder without a tail of zeros believes what they stand for. The
        encoders up to format 2's first left all of them out.
        """
        data = self._encoder.get_compressed().astype(">u4").tobytes().rstrip(b"\0") or b"\0"
        return data.ljust(math.ceil((self._bits - _SLACK_BITS + 16) / 8), b"\0")


class RangeDecoder:
    """Bytes and the same frequencies to symbols, in any portions."""

    def __init__(self, data: bytes, *, bounded: bool = True) -> None:
        """Unless `bounded`, symbols may cost more than their bytes; whoever asks bounds their number."""
        padded = data + bytes(-len(data) % _WORD_BYTES + 2 * _WORD_BYTES)
        words = np.frombuffer(padded, ">u4").astype(np.uint32)
        self._decoder = _STREAM.queue.RangeDecoder(words)
        self._bits = 8.0 * len(data) + _SLACK_BITS if bounded else math.inf
        self._tail = 0.0  # bits of the symbols 0 since the last other one

    def pull(self, frequencies: NDArray[np.integer]) -> NDArray[np.int64]:
        """The next symbols, [n], one for each row of frequencies [n, N].

        Raises:
            ValueError: an encoder cannot have written these bytes, or so few of them.
        """
        try:
            symbols = self._decoder.decode(_CATEGORICAL, _weights(frequencies))
        except (ValueError, AssertionError) as error:
            raise ValueError("these are not the bytes of a range coder") from error
        if self._bits == math.inf:
            return symbols.astype(np.int64)
        other = len(symbols) - int((symbols[::-1] != 0).argmax()) if symbols.any() else 0
        if other:
            self._bits -= self._tail + _cost(symbols[:other], frequencies[:other])
            self._tail = 0.0
        self._tail += _cost(symbols[other:], frequencies[other:])
        if self._bits < 0 or self._tail > self._bits + _TAIL_BITS:
            raise ValueError("its codes go on after its bytes have ended")
        return symbols.astype(np.int64)


def _cost(symbols: NDArray[np.integer], frequencies: NDArray[np.integer]) -> float:
    """Bits that symbols take."""
    own = np.take_along_axis(frequencies, symbols[:, None].astype(np.int64), axis=1)
    return float((PRECISION - np.log2(own)).sum())


def _weights(frequencies: NDArray[np.integer]) -> NDArray[np.float32]:
    """What makes the library arrive at these frequencies.

    It adds 1 to each weight and scales their sum to TOTAL - N, which here it is already; sums of
    whole numbers below 2^24 are exact in float32, in any order.
    """
    return (frequencies - 1).astype(np.float32)
