"""Quality over the rate of loss, concealed and silent."""

import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bittern.audio import streams as audio
from bittern.codec import Codec
from bittern.evaluation.scores import METRICS
from bittern.format.erasures import BurstLoss

Samples = NDArray[np.float32]  # [T]

_METRICS = {metric.key: metric.measure for metric in METRICS if metric.key in ("pesq_wb", "estoi")}


class Quality(NamedTuple):
    """Nan where a score cannot be computed."""

    pesq: float  # wide band
    estoi: float


class LossScore(NamedTuple):
    """Means over clips."""

    rate: float
    mean_burst: float
    concealed: Quality
    silent: Quality


def quality(estimate: Samples, reference: Samples, sample_rate: int) -> Quality:
    """Score [T] against [T]."""
    return Quality(*(_measured(name, estimate, reference, sample_rate) for name in _METRICS))


def _measured(name: str, estimate: Samples, reference: Samples, sample_rate: int) -> float:
    try:
        return _METRICS[name](estimate, reference, sample_rate)
    except Exception:  # each metric has errors of its own, where there is nothing to be heard
        return float("nan")


def loss_scores(
    codec: Codec,
    clips: Iterable[tuple[Samples, int]],
    *,
    stages: int,
    rates: Sequence[float],
    mean_bursts: Sequence[float],
) -> Iterator[LossScore]:
    """Lose frames of each clip [T], alike for concealment and silence, and score what comes out."""
    coded = [
        (samples, rate, codec.compress(samples, rate, stages=stages)) for samples, rate in clips
    ]
    for rate, burst in itertools.product(rates, mean_bursts):
        means = []
        for silent in (False, True):
            scores = []
            for seed, (samples, sample_rate, data) in enumerate(coded):
                loss = BurstLoss(rate, burst, seed=seed)
                stream = codec.simulate_loss(io.BytesIO(data), "clip", loss, silent=silent)
                decoded = audio.gather(stream.blocks, 1)[0]
                scores.append(quality(decoded, samples, sample_rate))
            means.append(
                Quality(*(float(np.nanmean(column)) for column in zip(*scores, strict=True)))
            )
        yield LossScore(rate, burst, *means)
