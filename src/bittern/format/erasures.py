"""Losses as networks have them, in bursts: which frames or chunks do not arrive. No torch here.

Gilbert's model has two states: all arrives, nothing arrives. A loss follows an arrival with probability
p and an arrival follows a loss with probability q; then 1 / q is the mean burst and p / (p + q) the rate.

Source: Gilbert, Capacity of a burst-noise channel, Bell System Technical Journal 39 (1960).
"""

import numpy as np
from numpy.typing import NDArray


class BurstLoss:
    """Draws what is lost, and counts it."""

    def __init__(
        self, rate: float, mean_burst: float = 1.0, *, seed: int = 0, by_chunk: bool = False
    ) -> None:
        """Begin with an arrival.

        Args:
            rate: share that is lost, from 0 to below 1.
            mean_burst: units lost in a row, on average; at least 1, and rate / (1 - rate).
            seed: of the draws.
            by_chunk: whole chunks are lost, not single frames.

        Raises:
            ValueError: rate or mean_burst out of range, or there are no such bursts at this rate.
        """
        if not 0 <= rate < 1:
            raise ValueError(f"loss rate is {rate:g}, expected 0 to below 1")
        if mean_burst < max(1.0, rate / (1 - rate)):
            least = max(1.0, rate / (1 - rate))
            raise ValueError(
                f"mean burst is {mean_burst:g}; at a loss rate of {rate:g} give {least:g} or more"
            )
        self.by_chunk = by_chunk
        self.lost = self.total = 0  # frames
        self._ends = 1 / mean_burst
        self._begins = rate / (1 - rate) * self._ends
        self._losing = False
        self._random = np.random.default_rng(seed)

    def draw(self, frames: int) -> NDArray[np.bool_]:
        """Which frames of the next chunk are lost, [F]."""
        lost = np.zeros(frames, bool)
        for unit in range(min(frames, 1) if self.by_chunk else frames):
            chance = 1 - self._ends if self._losing else self._begins
            self._losing = bool(self._random.random() < chance)
            lost[unit] = self._losing
        if self.by_chunk:
            lost[:] = lost[:1].any()
        self.lost += int(lost.sum())
        self.total += frames
        return lost
