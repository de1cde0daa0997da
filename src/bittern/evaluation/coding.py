"""What entropy coding is worth: bytes and time of real files, beside cheaper ways to say the same.

The cheaper ways: the order-0 entropy of each stage (what a table for each stage could reach at
best, its own size not counted) and `xz -9`. Other designs for the coder are in `coders.py`.
"""

import io
import lzma
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bittern.codec import Codec
from bittern.evaluation.systems import trimmed
from bittern.format import container as bitstream
from bittern.format import payload as packing

Codes = NDArray[np.int64]
_XZ = 9  # preset


@dataclass(frozen=True)
class Saving:
    """All clips at one bitrate; sizes in bytes."""

    stages: int
    seconds: float
    raw: int  # files, with their headers
    coded: int
    saved: float  # of the raw file, mean over clips
    least: float  # the same, of the clip that gains least
    order0: float  # saved of the raw payload, the headers left out, were each stage so coded
    xz: float  # saved of the raw payloads, each clip by itself
    xz_joined: float  # the same, all clips as one, each code in two bytes


def savings(codec: Codec, wavs: Sequence[torch.Tensor], rates: Sequence[float]) -> list[Saving]:
    """Compress clips both ways and count.

    Args:
        codec: one with an entropy model.
        wavs: [C, T] each, at the codec's rate.
        rates: nominal, kbit/s.
    """
    whole = [
        [codec.compress(wav, codec.sample_rate, coder=coder) for coder in ("raw", "range")]
        for wav in wavs
    ]
    seconds = sum(wav.shape[-1] for wav in wavs) / codec.sample_rate
    return [_saving(whole, codec.config.stages_for(rate), seconds) for rate in rates]


def _saving(whole: Sequence[Sequence[bytes]], stages: int, seconds: float) -> Saving:
    raw, coded = ([trimmed(pair[i], stages) for pair in whole] for i in (0, 1))
    codes = [_codes(data) for data in raw]
    bits = bitstream.Reader(io.BytesIO(raw[0]), "raw").header.bits_per_code
    payloads = [packing.pack_raw(each[None], bits) for each in codes]
    payload = sum(len(data) for data in payloads)
    joined = np.concatenate(codes, axis=1)
    entropy = sum(_entropy(row) for row in joined) * joined.shape[1] / 8
    xz = sum(len(lzma.compress(data, preset=_XZ)) for data in payloads)
    xz_joined = len(lzma.compress(joined.astype("<u2").tobytes(), preset=_XZ))
    each = [1 - len(b) / len(a) for a, b in zip(raw, coded, strict=True)]
    return Saving(
        stages=stages,
        seconds=seconds,
        raw=sum(map(len, raw)),
        coded=sum(map(len, coded)),
        saved=float(np.mean(each)),
        least=min(each),
        order0=1 - entropy / payload,
        xz=1 - xz / payload,
        xz_joined=1 - xz_joined / payload,
    )


def _codes(data: bytes) -> Codes:
    reader = bitstream.Reader(io.BytesIO(data), "clip")
    return np.concatenate([bitstream.unpack(c, reader.header)[0] for c in reader], axis=1)


def _entropy(codes: Codes) -> float:
    """Order 0, bits per code, of these codes themselves."""
    share = np.bincount(codes) / len(codes)
    share = share[share > 0]
    return float(-(share * np.log2(share)).sum())


@dataclass(frozen=True)
class CodingSpeed:
    """Audio to `.btn` or back."""

    work: str
    coder: str
    clock: float  # seconds of audio in a second
    processor: float  # seconds of audio in a second of processor time


def speeds(codec: Codec, wav: torch.Tensor, rate: float, rounds: int = 3) -> list[CodingSpeed]:
    """Compress and decompress [C, T] both ways, on as many threads as torch has; the median."""
    return list(_speeds(codec, wav, rate, rounds))


def _speeds(codec: Codec, wav: torch.Tensor, rate: float, rounds: int) -> Iterator[CodingSpeed]:
    seconds = wav.shape[-1] / codec.sample_rate
    for coder in ("raw", "range"):
        took: dict[str, list[tuple[float, float]]] = {"compress": [], "decompress": []}
        for _ in range(rounds + 1):
            start = _now()
            data = codec.compress(wav, codec.sample_rate, bitrate_kbps=rate, coder=coder)
            middle = _now()
            codec.decompress(data)
            end = _now()
            took["compress"].append((middle[0] - start[0], middle[1] - start[1]))
            took["decompress"].append((end[0] - middle[0], end[1] - middle[1]))
        for work, times in took.items():
            clock, processor = np.median(times[1:], axis=0)  # the first warms up
            yield CodingSpeed(work, coder, seconds / clock, seconds / processor)


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()
