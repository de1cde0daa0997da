"""Short-time spectra, and distances between two waveforms by them and otherwise.

For training's losses and validation and for `bittern evaluate`.

Pure functions; signals must be aligned and equally long. But for `stoi`, each takes [..., T], keeps
the leading axes and gives one number for each signal. What only the evaluation needs (PESQ, ViSQOL
and opinions without an original) is there.
"""

import warnings
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

SILENT_ENERGY = 1e-20  # sum of squares, after the mean is taken off
POWER_FLOOR = 1e-10  # -100 dB; 16-bit rounding noise lies below it


def si_sdr(estimate: Tensor, reference: Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio in dB; higher is better, at most 100.

    The reference is scaled to fit the estimate best; what remains is distortion. Means are taken
    off first. It hears phase: a codec that resynthesises fine structure scores low and may still
    sound well. Ratios are held within -100 to 100 dB; two silent signals score 100, a silent one
    of the two -100.

    Args:
        estimate: [..., T].
        reference: [..., T].

    Returns:
        [...], dB.

    Source: Le Roux et al., "SDR: half-baked or well done?" (arXiv:1811.02508), equation 2.
    """
    _check(estimate, reference)
    estimate = estimate.double() - estimate.double().mean(dim=-1, keepdim=True)
    reference = reference.double() - reference.double().mean(dim=-1, keepdim=True)
    energy = reference.square().sum(dim=-1, keepdim=True)
    scale = (estimate * reference).sum(dim=-1, keepdim=True) / energy.clamp(min=1e-30)
    target = scale * reference
    power = target.square().sum(dim=-1)
    distortion = (estimate - target).square().sum(dim=-1)
    ratio = 10 * torch.log10(power.clamp(min=1e-30) / distortion.clamp(min=1e-30))
    reference_silent = energy.squeeze(-1) < SILENT_ENERGY
    estimate_silent = estimate.square().sum(dim=-1) < SILENT_ENERGY
    ratio = torch.where(reference_silent | estimate_silent, -100.0, ratio.clamp(-100.0, 100.0))
    return torch.where(reference_silent & estimate_silent, 100.0, ratio).float()


def log_mel_distance(
    estimate: Tensor, reference: Tensor, sample_rate: int, *, mels: int = 80
) -> Tensor:
    """Mean absolute difference of the log-mel spectrograms in dB; 0 is equal.

    Hann window of 64 ms, hop of a quarter of it; mel power in dB with a floor of -100.

    Args:
        estimate: [..., T].
        reference: [..., T].
        sample_rate: Hz.
        mels: bands from 0 Hz to half the sample rate.

    Returns:
        [...], dB.
    """
    _check(estimate, reference)
    n_fft = _window_samples(sample_rate, seconds=0.064)
    bank = mel_filterbank(n_fft, mels, sample_rate).to(estimate.device)
    first, second = (
        _decibels(torch.einsum("mf,...ft->...mt", bank, _power(signal, n_fft)))
        for signal in (estimate, reference)
    )
    return (first - second).abs().mean(dim=(-2, -1))


def stoi(
    estimate: NDArray[np.floating],
    reference: NDArray[np.floating],
    sample_rate: int,
    *,
    extended: bool,
) -> float:
    """Short-time objective intelligibility of one signal, up to 1; by the package `pystoi`.

    Args:
        estimate: [T].
        reference: [T], of speech.
        sample_rate: Hz.
        extended: ESTOI, which also compares across bands and is stricter.

    Raises:
        ValueError: too few frames with speech to tell.

    Source: Taal et al. (IEEE TASLP 19(7), 2011); Jensen and Taal (IEEE TASLP 24(11), 2016).
    """
    import pystoi

    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # its way to say so
        try:
            return float(pystoi.stoi(reference, estimate, sample_rate, extended=extended))
        except RuntimeWarning:
            raise ValueError("too few frames with speech; STOI needs 0.4 s of it") from None


def _check(estimate: Tensor, reference: Tensor) -> None:
    if estimate.shape != reference.shape or estimate.shape[-1] == 0:
        raise ValueError(
            f"estimate is {list(estimate.shape)} and reference {list(reference.shape)}; "
            "expected two of the same shape with at least one sample"
        )


def _window_samples(sample_rate: int, *, seconds: float) -> int:
    """The power of two nearest to `seconds`: 1024 for 64 ms at 16 kHz, 2048 at 24 to 44.1 kHz."""
    return 1 << round(torch.tensor(seconds * sample_rate).log2().item())


def _power(signal: Tensor, n_fft: int) -> Tensor:
    """Power [..., n_fft // 2 + 1, frames]; a full-scale sine has a peak of 1/4, or -6 dB."""
    return stft(signal.float(), n_fft).abs().square()


def _decibels(power: Tensor) -> Tensor:
    return 10 * torch.log10(power.clamp(min=POWER_FLOOR))


# spectra


def stft(wav: Tensor, window_length: int, hop: int | None = None) -> Tensor:
    """Hann-windowed spectra, scaled so that a window of constant value v has |X[0]| of about v.

    Args:
        wav: [..., T]; the ends are padded with zeros.
        window_length: samples, even, also the length of the transform.
        hop: samples from one window to the next; a quarter of the window by default.

    Returns:
        Complex [..., window_length // 2 + 1, windows].
    """
    hop = hop or window_length // 4
    window = _hann(window_length, wav.device)
    spectra = _Spectra.apply(wav.reshape(-1, wav.shape[-1]), window, hop)
    return spectra.reshape(*wav.shape[:-1], *spectra.shape[-2:])


class _Spectra(torch.autograd.Function):
    """Spectra of windows of [N, T], as complex [N, bins, windows].

    The same as `torch.stft`, whose gradient takes a transform of complex numbers and adds sample by
    sample, which takes a CPU longer.
    """

    @staticmethod
    def forward(ctx: Any, wav: Tensor, window: Tensor, hop: int) -> Tensor:
        length = len(window)
        frames = F.pad(wav, (length // 2, length // 2)).unfold(1, length, hop) * window
        ctx.save_for_backward(window)
        ctx.hop, ctx.samples = hop, wav.shape[1]
        return torch.fft.rfft(frames).mT

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (window,) = ctx.saved_tensors
        length, hop, samples = len(window), ctx.hop, ctx.samples
        shares = window.new_full((length // 2 + 1, 2), 0.5)  # of bins that stand for two
        shares[[0, -1]] = 1.0
        parts = torch.view_as_real(gradients[0].mT).flatten(2) * shares.flatten()
        halved = torch.view_as_complex(parts.unflatten(2, (-1, 2)))
        frames = torch.fft.irfft(halved, length, norm="forward") * window
        summed = _overlap_add(frames, hop)[:, length // 2 :]
        missing = max(samples - summed.shape[1], 0)
        return F.pad(summed, (0, missing))[:, :samples], None, None


def _overlap_add(frames: Tensor, hop: int) -> Tensor:
    """[N, windows, length] -> [N, (windows - 1) * hop + length], rounded up to whole hops."""
    count, windows, length = frames.shape
    parts = F.pad(frames, (0, -length % hop)).unflatten(2, (-1, hop))
    lapping = parts.shape[2]
    out = frames.new_zeros(count, windows + lapping - 1, hop)
    for part in range(lapping):
        out[:, part : part + windows] += parts[:, :, part]
    return out.flatten(1)


@lru_cache(maxsize=64)
def _hann(length: int, device: torch.device) -> Tensor:
    window = torch.hann_window(length, device=device)
    return window / window.sum()


@lru_cache(maxsize=64)
def mel_filterbank(
    n_fft: int, mels: int, sample_rate: int, low: float = 0.0, high: float | None = None
) -> Tensor:
    """Triangular filters on the HTK mel scale, 2595 log10(1 + f / 700), with peaks of 1.

    Args:
        n_fft: length of the transform.
        mels: number of filters.
        sample_rate: Hz.
        low: lower edge of the first filter, Hz.
        high: upper edge of the last filter, Hz; half the sample rate by default.

    Returns:
        [mels, n_fft // 2 + 1]. With many filters and a short transform the lowest ones may be empty.
    """
    edges_mel = torch.linspace(
        _hz_to_mel(low), _hz_to_mel(high or sample_rate / 2), mels + 2, dtype=torch.float64
    )
    edges = 700 * (10 ** (edges_mel / 2595) - 1)
    bins = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64)
    rising = (bins[None] - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins[None]) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp(min=0).float()


def _hz_to_mel(frequency: float) -> float:
    return float(2595 * torch.log10(torch.tensor(1 + frequency / 700, dtype=torch.float64)))
