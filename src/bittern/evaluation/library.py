"""Codecs that Python can call: a function that codes and decodes, and what is said about it.

To add one: a module with such a function and a `family` of it, and a line in `BASELINES`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import soxr
from numpy.typing import NDArray

from bittern.evaluation.clips import Clip
from bittern.evaluation.systems import Row, System, not_coded

Samples = NDArray[np.float32]  # [T], in -1..1


class Decoded(NamedTuple):
    """What came back of a clip, and the bytes it took."""

    samples: NDArray[np.floating]  # [T'], may lag and differ in length
    sample_rate: int  # Hz
    payload_bytes: int  # what carries audio
    file_bytes: int  # with all headers


@dataclass(frozen=True)
class LibraryFamily:
    """A codec's function at one or several rates. It goes to worker processes: no lambdas."""

    name: str
    rates: tuple[str, ...]  # kbit/s
    version: str  # names exactly what runs
    work: Callable[[Samples, int, str], Decoded]  # samples, their rate in Hz, kbit/s
    sample_rate: int | None = None  # Hz, that `work` must be given; None for the clip's own
    missing: str | None = None
    is_model: bool = False

    @property
    def systems(self) -> tuple[System, ...]:
        return tuple(
            System(self.name, f"{rate} kbit/s", f"{self.version} | {rate}") for rate in self.rates
        )

    def code(self, clip: Clip, wanted: Sequence[System]) -> Iterator[Row]:
        sample_rate = self.sample_rate or clip.sample_rate
        samples = soxr.resample(clip.samples, clip.sample_rate, sample_rate)
        for system, rate in zip(self.systems, self.rates, strict=True):
            if system not in wanted:
                continue
            try:
                found = self.work(samples, sample_rate, rate)
            except Exception as error:  # of other people's code over whatever audio users have
                yield not_coded(clip, system, f"{type(error).__name__}: {error}")
                continue
            back = soxr.resample(found.samples, found.sample_rate, clip.sample_rate)
            yield Row(
                clip.name,
                system,
                payload_bytes=found.payload_bytes,
                file_bytes=found.file_bytes,
                samples=back.astype(np.float32),
            )
