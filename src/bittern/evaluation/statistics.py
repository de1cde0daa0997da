"""Means with their uncertainty, and comparisons clip by clip."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

SEED = 0  # the same clips give the same interval
CONFIDENCE = 0.95
RESAMPLES = 2000


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
    p: float  # of differences so far to one side by chance: Wilcoxon's signed ranks, two-sided


def mean(values: Sequence[float]) -> Mean:
    """Mean and 95 % interval: bias-corrected and accelerated, of 2000 resamples of the clips.

    It tells how the mean would move with other clips like these, not with other voices or noise.
    With one clip, or all the same, the interval is the value itself.

    Raises:
        ValueError: no values.

    Source: Efron, "Better bootstrap confidence intervals", 1987; by scipy.
    """
    if not values:
        raise ValueError("no values to average")
    data = np.asarray(values, dtype=np.float64)
    average = float(data.mean())
    if np.ptp(data) < 1e-12:
        return Mean(average, average, average, len(data))
    interval = stats.bootstrap(
        (data,), np.mean, confidence_level=CONFIDENCE, n_resamples=RESAMPLES, rng=SEED
    ).confidence_interval
    return Mean(average, float(interval.low), float(interval.high), len(data))


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
    p = 1.0
    if differences.any():
        p = float(stats.wilcoxon(differences).pvalue)  # type: ignore[attr-defined]  # it has
    return Comparison(won, mean(differences.tolist()), p)
