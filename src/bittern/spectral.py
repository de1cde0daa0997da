"""Short-time spectra and mel filterbanks in plain torch, shared by losses and metrics."""

from functools import lru_cache

import torch
from torch import Tensor


def stft(wav: Tensor, window_length: int, hop: int | None = None) -> Tensor:
    """Hann-windowed spectra, scaled so that a window of constant value v has |X[0]| of about v.

    Args:
        wav: [..., T]; the ends are padded with zeros.
        window_length: samples, also the length of the transform.
        hop: samples from one window to the next; a quarter of the window by default.

    Returns:
        Complex [..., window_length // 2 + 1, windows].
    """
    window = _hann(window_length, wav.device)
    spectra = torch.stft(
        wav.reshape(-1, wav.shape[-1]),
        window_length,
        hop or window_length // 4,
        window=window,
        pad_mode="constant",
        return_complex=True,
    )
    return spectra.reshape(*wav.shape[:-1], *spectra.shape[-2:])


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
