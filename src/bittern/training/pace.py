"""How fast a run goes, and how much of its time it waits for data."""

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager

from torch import Tensor


class Pace:
    """Clocks the loop between one lap and the next."""

    def __init__(self, batch_seconds: float) -> None:
        """With `batch_seconds` of audio in each step."""
        self.batch_seconds = batch_seconds
        self._begin()

    def _begin(self) -> None:
        self._began, self._waited, self._paused, self._steps = time.monotonic(), 0.0, 0.0, 0

    def batches(self, source: Iterator[Tensor]) -> Generator[Tensor]:
        """The same batches, with the time that each was waited for."""
        while True:
            asked = time.monotonic()
            batch = next(source, None)
            self._waited += time.monotonic() - asked
            if batch is None:
                return
            self._steps += 1
            yield batch

    @contextmanager
    def pause(self) -> Generator[None]:
        """Leave out what is not training."""
        began = time.monotonic()
        yield
        self._paused += time.monotonic() - began

    def lap(self) -> dict[str, float]:
        """Seconds of audio a second, and the share of time spent waiting, since the last lap."""
        seconds = max(time.monotonic() - self._began - self._paused, 1e-9)
        values = {
            "rate/audio_seconds": self._steps * self.batch_seconds / seconds,
            "rate/waiting": self._waited / seconds,
        }
        self._begin()
        return values
