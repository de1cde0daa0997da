"""Means with their uncertainty, and comparisons clip by clip."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 2000
SEED = 0  # the same clips give the same interval


class Mean(NamedTuple):
    """A mean with its 95 % bootstrap interval over clips."""

    mean: float
    low: float
    high: float
    clips: int


class Comparison(NamedTuple):
    """One system against another on the clips that both have a score for."""

    won: float  # share of the clips where the first is better; ties count a half
    difference: Mean  # first minus second, in the metric's unit


def mean(values: Sequence[float]) -> Mean:
    """Mean and 95 % interval: the percentiles of the means of 2000 resamples of the clips.

    It tells how the mean would move with other clips like these, not with other voices or noise.
    With one clip the interval is the value itself.

    Raises:
        ValueError: no values.

    Source: Efron, "Bootstrap methods: another look at the jackknife", 1979.
    """
    if not values:
        raise ValueError("no values to average")
    data = np.asarray(values, dtype=np.float64)
    picks = np.random.default_rng(SEED).integers(len(data), size=(RESAMPLES, len(data)))
    low, high = np.percentile(data[picks].mean(axis=1), [2.5, 97.5])
    return Mean(float(data.mean()), float(low), float(high), len(data))


def compare(
    first: dict[str, float], second: dict[str, float], *, higher_is_better: bool
) -> Comparison | None:
    """Compare two systems' scores, by clip; None where they have no clip in common."""
    shared = sorted(first.keys() & second.keys())
    if not shared:
        return None
    differences = np.array([first[clip] - second[clip] for clip in shared])
    better = differences if higher_is_better else -differences
    won = float(np.mean((better > 0) + 0.5 * (better == 0)))
    return Comparison(won, mean(differences.tolist()))
