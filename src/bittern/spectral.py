"""Short-time spectra and mel filterbanks in plain torch, shared by losses and metrics."""

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


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
