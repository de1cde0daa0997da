"""Distances between two waveforms, for training's validation and `bittern evaluate`.

Pure functions; signals must be aligned and equally long. But for `stoi`, each takes [..., T], keeps
the leading axes and gives one number for each signal. What only the evaluation needs (PESQ, ViSQOL
and opinions without an original) is there.
"""

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bittern.spectral import mel_filterbank, stft

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
