"""How many stages each frame gets: bits go where an error would be heard. No torch here.

For each frame is known what error of the latent so many stages leave over. What the error is worth
depends on how loud the frame is beside its neighbours, and one number, the trade-off, says how much error
a bit must take away:

    choose k_f to minimise  sum_f  w_f D_f(k_f) + tradeoff * (bits(k_f) + CHANGE_BITS [k_f != k_(f-1)])
    w_f = 10^(LEVEL_POWER * (level_f - highest level nearby) / 20), levels in dB

A file is solved by the Viterbi algorithm; a stream, which has no frames ahead, by one decision a frame.
Which rule, ladder and constants: docs/decisions/007-stages-per-frame.md.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

LEVEL_POWER = 0.2
NEARBY_FRAMES = 12  # on either side, in which the highest level is looked for
LEVEL_DECAY = 0.5  # dB a frame that it sinks by in a stream
CHANGE_BITS = 6.0  # what a change of the number of stages is taken to cost

_DB = 20 / np.log(10)  # dB to a neper
_SPAN = (-12.0, 12.0)  # of the logarithm of a trade-off to base 2, in units of the errors to a bit
_POINTS = 16  # trade-offs tried at once, in each of so many rounds:
_ROUNDS = 3

Floats = NDArray[np.floating]
Rungs = NDArray[np.int64]  # places on a ladder


def ladder(stages: int) -> NDArray[np.int64]:
    """The numbers of stages that frames are given: powers of the root of 2 up to `stages`, [R]."""
    steps = np.arange(2 * np.log2(stages) + 1)
    rungs = np.minimum(np.round(2 ** (steps / 2)), stages)
    return np.unique(np.append(rungs, stages).astype(np.int64))


def frame_weights(levels: Floats) -> Floats:
    """What errors are worth beside each other: levels [S, F] in nepers -> [S, F], at most 1."""
    size = 2 * NEARBY_FRAMES + 1
    padded = np.pad(levels, ((0, 0), (NEARBY_FRAMES, NEARBY_FRAMES)), constant_values=-np.inf)
    highest = np.lib.stride_tricks.sliding_window_view(padded, size, axis=1).max(axis=2)
    return _weight(levels, highest)


def choose(errors: Floats, weights: Floats, bits: Floats, tradeoffs: Floats) -> Rungs:
    """The best rungs for frames that are all known, for several trade-offs at once.

    Args:
        errors: [S, F, R], squared errors of the latent at each rung of the ladder.
        weights: [S, F], see `frame_weights`.
        bits: [R], what a frame at each rung costs.
        tradeoffs: [L], error that a bit must take away.

    Returns:
        [L, S, F].
    """
    streams, frames, count = errors.shape
    tradeoffs = tradeoffs[:, None]
    price = (tradeoffs * bits)[:, None]  # [L, 1, R]
    penalty = CHANGE_BITS * tradeoffs  # [L, 1]
    heard = errors * weights[..., None]  # [S, F, R]
    here = np.arange(count)
    came = np.empty((frames, len(tradeoffs), streams, count), np.uint8)
    total = np.zeros((len(tradeoffs), streams, count))
    for frame in range(frames):
        changed = total.min(axis=2) + penalty
        cheaper = changed[..., None] < total
        came[frame] = np.where(cheaper, total.argmin(axis=2)[..., None], here)
        total = np.minimum(total, changed[..., None]) + heard[:, frame] + price
    chosen = np.empty((len(tradeoffs), streams, frames), np.int64)
    at = total.argmin(axis=2)
    for frame in reversed(range(frames)):
        chosen[..., frame] = at
        at = np.take_along_axis(came[frame], at[..., None], axis=2)[..., 0].astype(np.int64)
    return chosen


def solve(rule: Callable[[Floats], Rungs], bits: Floats, budget: float) -> tuple[float, Rungs]:
    """The least trade-off at which frames cost no more than a budget, and what it chooses.

    Args:
        rule: gives rungs [L, ...] for trade-offs [L].
        bits: [R], what a frame at each rung costs.
        budget: bits for all the frames together.

    Returns:
        The trade-off, and the rungs; with a budget out of reach the cheapest, or the best.
    """
    (low, high), chosen = _SPAN, None
    for _ in range(_ROUNDS):
        points = np.linspace(low, high, _POINTS)
        tried = rule(2.0**points)
        within = bits[tried].reshape(_POINTS, -1).sum(axis=1) <= budget
        place = int(within.argmax()) if within.any() else _POINTS - 1
        low, high, chosen = points[max(place - 1, 0)], points[place], tried[place]
    assert chosen is not None
    return float(2.0**high), chosen


class LiveChoice:
    """The rule for streams: a frame is decided when it comes, by what came before."""

    def __init__(self, streams: int, bits: Floats) -> None:
        """Begin before the first frame; `bits` [R] as for `choose`."""
        self._bits = bits
        self._highest = np.full(streams, -np.inf)
        self._rung: Rungs | None = None

    def push(self, errors: Floats, levels: Floats, tradeoff: float) -> Rungs:
        """Decide the next frames: errors [S, F, R] and levels [S, F] in nepers -> rungs [S, F]."""
        chosen = np.empty(levels.shape, np.int64)
        for frame in range(levels.shape[1]):
            level = levels[:, frame]
            self._highest = np.maximum(level, self._highest - LEVEL_DECAY / _DB)
            weight = _weight(level, self._highest)[:, None]
            cost = weight * errors[:, frame] + tradeoff * self._bits  # [S, R]
            best = cost.argmin(axis=1)
            if self._rung is not None:
                stay = np.take_along_axis(cost, self._rung[:, None], axis=1)[:, 0]
                keep = stay <= cost.min(axis=1) + CHANGE_BITS * tradeoff
                best = np.where(keep, self._rung, best)
            chosen[:, frame] = self._rung = best
        return chosen


def _weight(levels: Floats, highest: Floats) -> Floats:
    return np.exp(LEVEL_POWER * (levels - highest))
