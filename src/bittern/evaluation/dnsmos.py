"""DNSMOS P.835: an opinion of speech by itself, without the original beside it.

A network that was fitted to listeners' ratings of noisy and denoised speech, by Microsoft; its weights
come with the package `speechmos` (MIT), of which nothing else is used.

Source: Reddy, Gopal and Cutler, "DNSMOS P.835" (arXiv:2110.01763); cutting into segments and the
polynomials from the network's output to opinion scores, as in `speechmos.dnsmos`.
"""

import functools
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

RATE = 16_000  # Hz
_SECONDS = 9.01  # that the network hears at once, from one second on, the next, and so on
_POLYNOMIALS = (  # of signal, background and overall, the highest power first
    (-0.08397278, 1.22083953, 0.0052439),
    (-0.13166888, 1.60915514, -0.39604546),
    (-0.06766283, 1.11546468, 0.04602535),
)


class Opinion(NamedTuple):
    """Mean opinion scores, 1 to 5."""

    signal: float  # of the voice alone
    background: float  # 5: nothing intrudes
    overall: float


def dnsmos(samples: NDArray[np.floating]) -> Opinion:
    """What listeners would say of speech at 16 kHz, [T]; short speech is repeated, up to 9 s.

    Raises:
        ValueError: there are no samples.
    """
    if len(samples) == 0:
        raise ValueError("DNSMOS got no samples; give at least one")
    heard = np.clip(samples, -1, 1).astype(np.float32)
    length = int(_SECONDS * RATE)
    while len(heard) < length:
        heard = np.concatenate([heard, heard])
    starts = [RATE * second for second in range(int(len(heard) // RATE - _SECONDS) + 1)]
    # what is repeated need be heard once
    shifts, counts = np.unique([start % len(samples) for start in starts], return_counts=True)
    outputs = [_network().run(None, {"input_1": heard[None, s : s + length]})[0] for s in shifts]
    rows = np.concatenate([np.asarray(output, dtype=np.float64) for output in outputs])
    return Opinion(
        *(
            float(np.average(np.polyval(polynomial, column), weights=counts))
            for polynomial, column in zip(_POLYNOMIALS, rows.T, strict=True)
        )
    )


@functools.cache
def _network() -> "InferenceSession":
    from onnxruntime import (
        InferenceSession,
        SessionOptions,  # type: ignore[attr-defined]  # in a compiled module
    )

    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # processes are the parallelism
    weights = files("speechmos").joinpath("dnsmos_models", "sig_bak_ovr.onnx").read_bytes()
    return InferenceSession(weights, options, providers=["CPUExecutionProvider"])
