"""Audible differences, in the manner of PESQ: what the ear's model makes of an error, as a loss.

Both signals become loudness in sone over time and the Bark scale. Differences that are small beside the
loudness of both count nothing, what the codec adds counts more than what it leaves out, and bad moments
count more than the mean. Log-mel and spectral distances know none of that: to them an error 60 dB below
speech matters as much as one in its middle, or not at all.

Sources: ITU-T P.862 (02/2001, section 10) and P.862.2, from which masking, asymmetry and the weights of
both disturbances are; loudness, Zwicker (Fastl and Zwicker, Psychoacoustics, 2007, section 8.7);
threshold in quiet, Terhardt (Hearing Research 1979); Bark scale, Traunmüller (JASA 1990). As a loss:
PMSQE (Martín-Doñas et al., IEEE Signal Processing Letters 2018). Simplified: no time alignment, no
compensation of filtering and gain, means over frames instead of norms of intervals.
"""

from functools import lru_cache

import torch
from torch import Tensor

from bittern.metrics import stft
from bittern.model import Waveform

_WINDOW_SECONDS = 0.032  # hops of half
_BANDS_PER_BARK = 2
_SPEECH_LEVEL = 79.0  # dB SPL, which the mean square of an original is taken to be
_QUIETEST = 10**-4.5  # of full scale, mean square; what is quieter is not amplified further
_EXPONENT = 0.23  # of loudness over power
_MASKED = 0.25  # of the lower loudness: smaller differences are not heard
_ASYMMETRY = 1.2  # exponent
_ASYMMETRY_FLOOR = 10**2.6  # power that hides what is added, dB SPL / 10
_LEAST, _MOST = 3.0, 12.0  # asymmetry below is none, above is no more
_SYMMETRIC, _ADDED = 0.1, 0.0309  # points of opinion per unit of disturbance


def disturbance(output: Waveform, target: Waveform, sample_rate: int) -> Tensor:
    """Points of opinion that the differences of [B, C, T] to [B, C, T] cost, a mean over the items.

    0 where nothing is heard; speech through `speech-16khz` of 112,000 s was at 0.4 at 3 kbit/s and
    at 0.16 at 16 kbit/s.
    """
    energy = target.square().mean(dim=-1, keepdim=True).clamp(min=_QUIETEST)
    gain = 10 ** (_SPEECH_LEVEL / 20) / energy.sqrt()
    window = round(_WINDOW_SECONDS * sample_rate / 4) * 4
    bands, hearing = _ear(window, sample_rate, output.device)
    ours = _band_powers(output * gain, window, bands)
    with torch.no_grad():
        theirs = _band_powers(target * gain, window, bands)
    louder, loud = _loudness(ours, hearing), _loudness(theirs, hearing)
    difference = louder - loud
    heard = (difference.abs() - _MASKED * torch.minimum(louder, loud)).clamp(min=0)
    width = 1 / _BANDS_PER_BARK
    total = heard.shape[-2] * width
    symmetric = total * ((heard * width).square().sum(dim=-2) / total + 1e-8).sqrt()
    ratio = ((ours + _ASYMMETRY_FLOOR) / (theirs + _ASYMMETRY_FLOOR)) ** _ASYMMETRY
    weight = ratio.detach().clamp(max=_MOST)
    added = (heard * width * weight.where(weight >= _LEAST, 0.0)).sum(dim=-2)
    return _SYMMETRIC * _root_mean_square(symmetric) + _ADDED * _root_mean_square(added)


def _root_mean_square(frames: Tensor) -> Tensor:
    """Over the frames of each item, [B, C, F], then the mean of items."""
    return (frames.square().mean(dim=-1) + 1e-8).sqrt().mean()


def _band_powers(wav: Waveform, window: int, bands: Tensor) -> Tensor:
    """Power by band over time, [B, C, T] -> [B, C, bands, F]; their sum is about the mean square."""
    power = stft(wav, window, window // 2).abs().square()
    return bands @ (power / 0.75)  # what a Hann window makes of the square


def _loudness(power: Tensor, hearing: Tensor) -> Tensor:
    """Sone per Bark of powers over 0 dB SPL, [..., bands, F], with powers at the threshold [bands, 1]."""
    rise = (0.5 + 0.5 * power / hearing) ** _EXPONENT - 1
    return 0.08 * (hearing / 0.5) ** _EXPONENT * rise.clamp(min=0)


@lru_cache(maxsize=8)
def _ear(window: int, sample_rate: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Which bands [bands, window // 2 + 1] a bin belongs to, and the threshold of hearing [bands, 1]."""
    hertz = torch.linspace(0, sample_rate / 2, window // 2 + 1, dtype=torch.float64)
    bark = 26.81 * hertz / (1960 + hertz) - 0.53
    centres = torch.arange(0.5, float(bark[-1]), 1 / _BANDS_PER_BARK, dtype=torch.float64)
    bands = (1 - (bark[None] - centres[:, None]).abs() * _BANDS_PER_BARK).clamp(min=0)
    kilohertz = 1.96 * (centres + 0.53) / (26.81 - centres - 0.53)
    threshold = (
        3.64 * kilohertz**-0.8
        - 6.5 * torch.exp(-0.6 * (kilohertz - 3.3) ** 2)
        + 1e-3 * kilohertz**4
    )
    power = 10 ** (threshold[:, None] / 10)
    return bands.float().to(device), power.float().to(device)
