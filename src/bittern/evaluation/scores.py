"""How far decoded audio is from the original: aligned in time, then scored by every metric.

What each metric says, and what it does not, is in docs/evaluation.md.
"""

import dataclasses
import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import soxr
import torch
from numpy.typing import NDArray

from bittern.audio import stress
from bittern.evaluation import opinions
from bittern.evaluation.clips import Clip
from bittern.evaluation.systems import Row
from bittern.metrics import log_mel_distance, si_sdr, stoi

if TYPE_CHECKING:
    from visqol import VisqolApi

PESQ_RATE = 16_000  # Hz, of PESQ-WB and of ViSQOL's speech mode
LONGEST_DELAY_SECONDS = 0.25
RECIPE = "2"  # part of every cache key; count up when a score changes its meaning

Samples = NDArray[np.floating]
Measure = Callable[[Samples, Samples, int], float]  # estimate, reference, sample rate


@dataclass(frozen=True)
class Metric:
    """A score's name, unit and direction."""

    key: str
    label: str
    unit: str
    higher_is_better: bool
    decimals: int
    measure: Measure

    @property
    def about(self) -> dict[str, Any]:
        """What a report says of it."""
        return {key: value for key, value in vars(self).items() if key != "measure"}


class Aligned(NamedTuple):
    samples: NDArray[np.float32]  # [T], as long as the reference
    delay: int  # samples that were taken off the start; negative: silence was put there


class Scores(NamedTuple):
    values: dict[str, float]
    failures: dict[str, str]  # metric to reason


def align(estimate: Samples, reference: Samples, sample_rate: int) -> Aligned:
    """Shift an estimate to where it matches the reference best, and cut it to the same length.

    The shift is the peak of the cross-correlation of the waveforms; where that is weak, as with a
    vocoder that keeps no phase, of their envelopes of 2 ms.
    """
    longest = round(LONGEST_DELAY_SECONDS * sample_rate)
    delay, strength = _best_shift(estimate, reference, longest)
    if strength < 0.3:
        step = max(sample_rate // 500, 1)
        envelope, wanted = _envelope(estimate, step), _envelope(reference, step)
        delay = _best_shift(envelope, wanted, longest // step)[0] * step
    shifted = estimate[delay:] if delay >= 0 else np.pad(estimate, (-delay, 0))
    shifted = shifted[: len(reference)]
    padded = np.pad(shifted, (0, len(reference) - len(shifted)))
    return Aligned(padded.astype(np.float32), delay)


def scored(row: Row, clip: Clip) -> Row:
    """A coded clip, aligned with its original, with all scores and what is broken about it."""
    heard = np.nan_to_num(row.samples, nan=0.0, posinf=1.0, neginf=-1.0)
    aligned = align(heard, clip.samples, clip.sample_rate)
    found = score(aligned.samples, clip.samples, clip.sample_rate)
    return dataclasses.replace(
        row,
        samples=aligned.samples,
        delay=aligned.delay,
        values=found.values,
        levels=tuple(stress.levels(row.samples, clip.samples)),
        faults=tuple(stress.faults(row.samples, clip.samples, found.values.get("estoi"))),
        failures=found.failures,
    )


def score(estimate: Samples, reference: Samples, sample_rate: int) -> Scores:
    """All metrics of an aligned estimate [T] against its reference [T].

    A metric that fails or gives no number is named in `failures` with its reason.
    """
    values, failures = {}, {}
    for metric in METRICS:
        try:
            value = metric.measure(estimate, reference, sample_rate)
        # Third-party code over whatever audio users have: any error there is this clip's failure.
        except Exception as error:
            failures[metric.key] = _one_line(error)
            continue
        if np.isfinite(value):
            values[metric.key] = float(value)
        else:
            failures[metric.key] = f"gave {value}"
    return Scores(values, failures)


def _pesq_wb(estimate: Samples, reference: Samples, sample_rate: int) -> float:
    from pesq import pesq

    original = _resampled(reference, sample_rate, PESQ_RATE)
    return float(pesq(PESQ_RATE, original, _resampled(estimate, sample_rate, PESQ_RATE), "wb"))


def _visqol(estimate: Samples, reference: Samples, sample_rate: int) -> float:
    original = _resampled(reference, sample_rate, PESQ_RATE)
    decoded = _resampled(estimate, sample_rate, PESQ_RATE)
    return float(_visqol_speech().measure_from_arrays(original, decoded, PESQ_RATE).moslqo)


def _opinion(judge: Callable[[Samples], float]) -> Measure:
    """A judge who does not hear the reference."""

    def measure(estimate: Samples, reference: Samples, sample_rate: int) -> float:
        del reference
        return judge(_resampled(estimate, sample_rate, opinions.RATE))

    return measure


@functools.cache
def _visqol_speech() -> "VisqolApi":
    """ViSQOL in speech mode with its polynomial mapping.

    The reference implementation's newer lattice mapping is not monotonic near transparency: it
    gave originals against themselves 3.8 to 4.7 on ten clips, less than after coding. The
    polynomial is monotonic and gives them 5; its values are higher than the lattice's.
    """
    import visqol as package

    visqol = package.VisqolApi()
    visqol.create(mode="speech", use_lattice_model=False)
    return visqol


def _torch_metric(function: Callable[..., torch.Tensor], *, rated: bool = True) -> Measure:
    def measure(estimate: Samples, reference: Samples, sample_rate: int) -> float:
        pair = [torch.from_numpy(np.asarray(s, dtype=np.float32)) for s in (estimate, reference)]
        return float(function(*pair, sample_rate) if rated else function(*pair))

    return measure


def _distillmos() -> list[Metric]:
    """A third judge, where it is installed."""
    if importlib.util.find_spec("distillmos") is None:
        return []
    return [Metric("distillmos", "DistillMOS", "MOS", True, 2, _opinion(opinions.distillmos))]


METRICS = (
    Metric("pesq_wb", "PESQ-WB", "MOS", True, 2, _pesq_wb),
    Metric("stoi", "STOI", "", True, 3, functools.partial(stoi, extended=False)),
    Metric("estoi", "ESTOI", "", True, 3, functools.partial(stoi, extended=True)),
    Metric("visqol", "ViSQOL speech", "MOS", True, 2, _visqol),
    Metric("dnsmos", "DNSMOS", "MOS", True, 2, _opinion(opinions.dnsmos)),
    Metric("plcmos", "PLCMOS", "MOS", True, 2, _opinion(opinions.plcmos)),
    *_distillmos(),
    Metric("si_sdr", "SI-SDR", "dB", True, 1, _torch_metric(si_sdr, rated=False)),
    Metric("log_mel", "Log-mel distance", "dB", False, 2, _torch_metric(log_mel_distance)),
)


def _best_shift(estimate: Samples, reference: Samples, longest: int) -> tuple[int, float]:
    """Shift with the greatest correlation, and that correlation, 0 to 1."""
    size = 1 << (len(estimate) + len(reference)).bit_length()
    spectrum = np.fft.rfft(estimate, size) * np.conj(np.fft.rfft(reference, size))
    correlation = np.fft.irfft(spectrum, size)
    shifts = np.arange(-longest, longest + 1)
    best = shifts[np.argmax(correlation[shifts])]
    energy = np.sqrt(np.sum(np.square(estimate)) * np.sum(np.square(reference)))
    return int(best), float(correlation[best] / max(energy, 1e-20))


def _envelope(signal: Samples, step: int) -> Samples:
    """Log energy of consecutive blocks, less its mean; 40 dB of it are looked at."""
    blocks = signal[: len(signal) // step * step].reshape(-1, step)
    energy = np.mean(np.square(blocks.astype(np.float64)), axis=1)
    level = 10 * np.log10(np.maximum(energy, energy.max(initial=1e-20) * 1e-4))
    return level - level.mean()


def _resampled(signal: Samples, source_rate: int, target_rate: int) -> NDArray[np.float64]:
    return soxr.resample(np.asarray(signal, dtype=np.float64), source_rate, target_rate)


def _one_line(error: Exception) -> str:
    parts = [p.decode(errors="replace") if isinstance(p, bytes) else str(p) for p in error.args]
    return " ".join([type(error).__name__ + ":", *parts]).replace("\n", " ").strip()
