"""Opinions of speech by itself, without the original beside it: networks fitted to listeners' ratings.

DNSMOS P.835 was fitted to noisy and denoised speech, PLCMOS to speech with lost packets, concealed in
many ways; their weights come with the package `speechmos` (Microsoft, MIT), of which nothing else is
used. DistillMOS, fitted to many kinds of damage, is a third where its package is installed.

Sources: Reddy, Gopal and Cutler, "DNSMOS P.835" (arXiv:2110.01763); Diener et al., "PLCMOS"
(Interspeech 2023); Stahl and Gamper, "Distillation and Pruning for Scalable Self-Supervised
Representation-Based Speech Quality Assessment" (2025). Segments, features, polynomials as in `speechmos`.
"""

import contextlib
import functools
import importlib
import io
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

RATE = 16_000  # Hz
_SECONDS = 9.01  # that the network hears at once, from one second on, the next, and so on
_OVERALL = (-0.06766283, 1.11546468, 0.04602535)  # polynomial, the highest power first


def dnsmos(samples: NDArray[np.floating]) -> float:
    """Mean opinion score, 1 to 5, of speech at 16 kHz, [T], all in all; short speech is repeated.

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
    network = _network("dnsmos_models", "sig_bak_ovr.onnx")
    outputs = [network.run(None, {"input_1": heard[None, s : s + length]})[0] for s in shifts]
    raw = np.asarray(outputs, np.float64)[:, 0, 2]  # after those of the voice and the background
    return float(np.average(np.polyval(_OVERALL, raw), weights=counts))


def plcmos(samples: NDArray[np.floating], raters: int = 5) -> float:
    """Mean opinion score, 1 to 5, of speech at 16 kHz, [T], by PLCMOS v2.

    The network rates as one of many listeners, given by 64 random numbers. The mean of `raters` of them,
    always the same, is returned; the package itself takes 15 others each time, which changes little.

    Raises:
        ValueError: there are no samples.
    """
    if len(samples) == 0:
        raise ValueError("PLCMOS got no samples; give at least one")
    heard = {"degraded_audio": _log_power(np.clip(samples, -1, 1))[None, None]}
    listeners = np.random.RandomState(0).normal(size=(raters, 1, 64)).astype(np.float32)
    network = _network("plcmos_models", "plcmos_v2.onnx")
    ratings = [network.run(None, heard | {"rater_embed": one})[0] for one in listeners]
    return float(np.mean(np.asarray(ratings, dtype=np.float64)))


def _log_power(samples: NDArray[np.floating]) -> NDArray[np.float32]:
    """PLCMOS's features [F, 257]: natural log power over 20, of Hamming windows of 32 ms in steps of 16."""
    size, step = 512, 256
    frames = -(-(len(samples) + step) // step)
    padded = np.zeros((frames - 1) * step + size)
    padded[step : step + len(samples)] = samples
    windows = np.lib.stride_tricks.sliding_window_view(padded, size)[::step]
    power = np.square(np.abs(np.fft.rfft(windows * np.hamming(size + 1)[:-1])))
    if not power.any():
        return np.full(power.shape, -80 / 10 * np.log(10) / 20, np.float32)
    least = power[power > 0].min()
    floor = np.log(least) - 120 / 10 * np.log(10)
    logs = np.where(power > 0, np.log(np.maximum(power, least)), floor)
    return (logs / 20).astype(np.float32)


def distillmos(samples: NDArray[np.floating]) -> float:
    """Mean opinion score, 1 to 5, of speech at 16 kHz, [T]; by its own package."""
    with torch.inference_mode():
        return float(_distilled()(torch.from_numpy(np.asarray(samples, np.float32))[None]))


@functools.cache
def _distilled() -> torch.nn.Module:
    with contextlib.redirect_stdout(io.StringIO()):  # it tells where its weights are
        return importlib.import_module("distillmos").ConvTransformerSQAModel().eval()


@functools.cache
def _network(*place: str) -> "InferenceSession":
    from onnxruntime import (
        InferenceSession,
        SessionOptions,  # type: ignore[attr-defined]  # in a compiled module
    )

    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # processes are the parallelism
    weights = files("speechmos").joinpath(*place).read_bytes()
    return InferenceSession(weights, options, providers=["CPUExecutionProvider"])
