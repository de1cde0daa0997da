"""How many stages each frame gets: bits go where an error would be heard. No torch here.

For each frame is known what error of the latent so many stages leave over. What the error is worth
depends on how loud the frame is beside its neighbours, and one number, the trade-off, says how much error
the stages must take away:

    choose k_f to minimise  sum_f  w_f D_f(k_f) + tradeoff * (k_f^2 + CHANGE * 2 k_(f-1) [k_f != k_(f-1)])
    w_f = 10^(LEVEL_POWER * (level_f - highest level nearby) / 20), levels in dB

Squares, not stages: to a frame that has many the next one is dearer, which keeps frames nearer to each
other than the least error would. What is known whole is solved by the Viterbi algorithm; a stream, which
has no frames ahead, by one decision a frame. Trade-offs that make a bitrate are found by bisection, or,
where not all is known, by following what was spent. Measured in docs/decisions/007-stages-per-frame.md.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LEVEL_POWER = 0.2
NEARBY_FRAMES = 12  # on either side, in which the highest level is looked for
LEVEL_DECAY = 0.5  # dB a frame that it sinks by in a stream
CHANGE = 0.5  # stages that a change of their number is taken to cost

_TYPICAL_WEIGHT = 0.44  # of the frames that decide, see `tradeoff_for`
_DB = 20 / np.log(10)  # dB to a neper
_SPAN = (-16.0, 12.0)  # of the logarithm of a trade-off to base 2, in units of the errors
_LENIENCE = 250  # frames' worth of bits too many at which a stream's trade-off has doubled
_SLOWER = 1500  # frames after which a lasting debt has doubled it once more
_BLOCK = 32  # frames, see `choose`
_NEAR = 1.5  # how far a trade-off is looked for from one that is near
_POINTS = 16  # trade-offs tried at once, in each of so many rounds:
_ROUNDS, _NEAR_ROUNDS = 4, 2

Floats = NDArray[np.floating]
Counts = NDArray[np.int64]


class Searched(NamedTuple):
    """Codes with what it takes to choose how many of them each frame gets."""

    codes: NDArray[np.integer]  # [S streams, k, F]
    errors: Floats  # [S, R, F], squared errors of the latent at each rung of `ladder(k)`
    levels: Floats  # [S, F] in nepers

    def stream(self, number: int, frames: int | None) -> "Searched":
        """One stream alone, or its first so many frames."""
        own = slice(number, number + 1)
        codes, errors = self.codes[own, :, :frames], self.errors[own, :, :frames]
        return Searched(codes, errors, self.levels[own, :frames])


def ladder(stages: int) -> Counts:
    """The numbers of stages that frames are given: three to an octave, up to `stages`, [R]."""
    steps = np.arange(3 * np.log2(stages) + 1)
    rungs = np.minimum(np.round(2 ** (steps / 3)), stages)
    return np.unique(np.append(rungs, stages).astype(np.int64))


def tradeoff_for(quality: float, gains: Floats) -> float:
    """The trade-off that gives `quality` stages a frame, on average over typical speech.

    Where a stage more is just worth it, what it takes away, weighted, is what it costs: w gain = 2 k
    tradeoff. Gains are the model's own, so that a quality means about the same with any model. The one
    number in it is fitted, on eleven clips that training holds out: with the shipped codec 3 to 24 come
    out within 5 %, lower ones as fewer; with the one before it as 8 % more.

    Args:
        quality: stages, 1 to K.
        gains: [K], squared error that each stage takes away.
    """
    stages = np.arange(1, len(gains) + 1)
    falling = np.minimum.accumulate(np.maximum(gains, 1e-12))
    gain = np.exp(np.interp(np.log(quality), np.log(stages), np.log(falling)))
    return float(_TYPICAL_WEIGHT * gain / (2 * quality))


def highest_rung(most: float, stages: int) -> int:
    """The rung of the ladder at or above `most`, or the last."""
    rungs = ladder(stages)
    return int(rungs[min(np.searchsorted(rungs, most - 1e-9), len(rungs) - 1)])


def frame_weights(levels: Floats) -> Floats:
    """What errors are worth beside each other: levels [S, F] in nepers -> [S, F], at most 1."""
    size = 2 * NEARBY_FRAMES + 1
    padded = np.pad(levels, ((0, 0), (NEARBY_FRAMES, NEARBY_FRAMES)), constant_values=-np.inf)
    highest = np.lib.stride_tricks.sliding_window_view(padded, size, axis=1).max(axis=2)
    return _weight(levels, highest)


def choose(errors: Floats, weights: Floats, rungs: Counts, tradeoffs: Floats) -> Counts:
    """The best numbers of stages for frames that are all known, for several trade-offs at once.

    The Viterbi algorithm runs on blocks of frames side by side; between blocks changes are free.

    Args:
        errors: [S, F, R], squared errors of the latent at each rung of the ladder.
        weights: [S, F], see `frame_weights`.
        rungs: [R], stages at each rung.
        tradeoffs: [L], 0 or more.

    Returns:
        [L, S, F].
    """
    streams, frames, _ = errors.shape
    surplus = -frames % _BLOCK
    padding = ((0, 0), (0, surplus), (0, 0))  # frames that cost nothing
    heard = np.pad(errors * weights[..., None], padding).reshape(-1, _BLOCK, len(rungs))
    price = np.pad(np.broadcast_to(rungs**2, errors.shape), padding).reshape(heard.shape)
    scale = tradeoffs[:, None, None]
    leaving = scale * CHANGE * 2 * rungs  # [L, 1, R]
    total = heard[:, 0] + scale * price[:, 0]  # [L, M, R], the least that leads to each rung
    origins = np.empty((_BLOCK, *total.shape[:2]), np.int64)  # the best to come from, and
    changes = np.empty((_BLOCK, *total.shape), bool)  # whether that is less than to stay
    for frame in range(1, _BLOCK):
        left = total + leaving
        origins[frame] = left.argmin(axis=2)
        least = left.min(axis=2, keepdims=True)
        changes[frame] = least < total
        total = np.minimum(total, least) + heard[:, frame] + scale * price[:, frame]
    chosen = np.empty((*total.shape[:2], _BLOCK), np.int64)
    at = total.argmin(axis=2)
    for frame in range(_BLOCK - 1, 0, -1):
        chosen[..., frame] = at
        change = np.take_along_axis(changes[frame], at[..., None], axis=2)[..., 0]
        at = np.where(change, origins[frame], at)
    chosen[..., 0] = at
    return rungs[chosen.reshape(len(tradeoffs), streams, -1)[..., :frames]]


def solve(
    errors: Floats, weights: Floats, rungs: Counts, budget: float, *, near: float | None = None
) -> tuple[float, Counts]:
    """The trade-off at which frames have as many stages as a budget has, or nearly, and what it chooses.

    Args:
        errors: [S, F, R], as for `choose`.
        weights: [S, F].
        rungs: [R].
        budget: stages of all the frames together.
        near: a trade-off that is not far off, where one is known; faster, and less exact.

    Returns:
        The trade-off, and stages [S, F]; with a budget out of reach the fewest, or the most.
    """
    rounds = _ROUNDS
    (low, high), best, chosen = _SPAN, 0.0, np.zeros(0, np.int64)
    if near is not None:
        rounds, low, high = _NEAR_ROUNDS, np.log2(near) - _NEAR, np.log2(near) + _NEAR
    for _ in range(rounds):
        points = np.linspace(low, high, _POINTS)
        tried = choose(errors, weights, rungs, 2.0**points)
        place = int(np.abs(tried.sum(axis=(1, 2)) - budget).argmin())
        low, high = points[max(place - 1, 0)], points[min(place + 1, _POINTS - 1)]
        best, chosen = float(points[place]), tried[place]
    return 2.0**best, chosen


class LiveChoice:
    """The rule for streams: a frame is decided when it comes, by what came before."""

    def __init__(self, streams: int, rungs: Counts) -> None:
        """Begin before the first frame; `rungs` [R] as for `choose`."""
        self._rungs = rungs
        self._highest = np.full(streams, -np.inf)
        self._last: Counts | None = None  # [S], places on the ladder

    def push(self, errors: Floats, levels: Floats, tradeoff: float) -> Counts:
        """Decide the next frames: errors [S, F, R], levels [S, F] in nepers -> stages [S, F]."""
        chosen = np.empty(levels.shape, np.int64)
        price = tradeoff * self._rungs**2
        leaving = tradeoff * CHANGE * 2 * self._rungs
        for frame in range(levels.shape[1]):
            level = levels[:, frame]
            self._highest = np.maximum(level, self._highest - LEVEL_DECAY / _DB)
            cost = _weight(level, self._highest)[:, None] * errors[:, frame] + price  # [S, R]
            best = cost.argmin(axis=1)
            if self._last is not None:
                stay = np.take_along_axis(cost, self._last[:, None], axis=1)[:, 0]
                best = np.where(stay <= cost.min(axis=1) + leaving[self._last], self._last, best)
            chosen[:, frame] = self._last = best
        return self._rungs[chosen]


class FileRate:
    """Brings frames that are known beforehand to a bitrate, though packing them chunk by chunk.

    One trade-off for all says which share of the bits is each chunk's. What codes come to is known once
    they are packed, and so each chunk gets its share of what is left.
    """

    def __init__(
        self, errors: Floats, weights: Floats, rungs: Counts, budget: float, stage_bits: float
    ) -> None:
        """Find the trade-off.

        Args:
            errors: [S, F, R], as for `choose`, of all frames.
            weights: [S, F].
            rungs: [R].
            budget: bits for all the frames together, with everything that stands around them.
            stage_bits: what a stage of a frame comes to, about, with all that stands around it.
        """
        self._errors, self._weights, self._rungs = errors, weights, rungs
        self.left = self.wanted = budget  # of the whole, and of the chunk that was planned
        self._stage_bits = stage_bits  # as was seen last
        self._begin = 0
        self._tradeoff, self._chosen = solve(errors, weights, rungs, budget / stage_bits)

    def plan(self, frames: int) -> Counts:
        """Stages [S, frames] of the next chunk."""
        here = slice(self._begin, self._begin + frames)
        share = self._chosen[:, here].sum() / self._chosen[:, self._begin :].sum()
        self.wanted = max(self.left, 0.0) * share
        budget = self.wanted / self._stage_bits
        errors, weights = self._errors[:, here], self._weights[:, here]
        return solve(errors, weights, self._rungs, budget, near=self._tradeoff)[1]

    def learn(self, counts: Counts, spent: float) -> None:
        """Learn what the next chunk would come to, in bits; the next plan is for the same frames."""
        self._stage_bits = spent / counts.sum()

    def keep(self, counts: Counts, spent: float) -> None:
        """Go on after a chunk that came to so many bits."""
        self.learn(counts, spent)
        self.left -= spent
        self._begin += counts.shape[1]


class LiveRate:
    """Moves a stream's trade-off so that its average comes to a bitrate and stays there."""

    def __init__(self, target: float, tradeoff: float, *, most_saved: float = np.inf) -> None:
        """Begin before the first frame.

        Args:
            target: bits a frame of a stream.
            tradeoff: a first guess.
            most_saved: frames' worth of bits that may be saved up, or owed, while next to nothing can
                be spent well, or saved. Without it, what is live spends for minutes what a long
                silence has saved.
        """
        self._target = target
        self._most_saved = most_saved
        self._start = np.log2(tradeoff)
        self._debt = self._sum = 0.0  # in frames' worth of bits

    @property
    def tradeoff(self) -> float:
        """What to decide the next frames by."""
        lift = (self._debt + self._sum / _SLOWER) / _LENIENCE
        return float(2.0 ** np.clip(self._start + lift, *_SPAN))

    def note(self, frames: int, spent: float) -> None:
        """Take note of what frames, of all streams together, came to in bits."""
        debt = self._debt + spent / self._target - frames
        self._debt = float(np.clip(debt, -self._most_saved, self._most_saved))
        if self._debt == debt:
            self._sum += debt * frames


def _weight(levels: Floats, highest: Floats) -> Floats:
    return np.exp(LEVEL_POWER * (levels - highest))
