"""Networks that tell a codec's output from the original: by complex spectra, by periods, by bands.

Each member of a set judges its own view of the waveform and gives a map of logits, above 0 for
"original", and the features of its layers, which the generator is asked to match.
"""

import itertools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from bittern.metrics import stft
from bittern.model import Waveform

_BAND_EDGES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)  # shares of the bins (DAC)


class Judgement(NamedTuple):
    """What one member says of a batch."""

    logits: Tensor  # [B, 1, ...], above 0 for "original"
    features: list[Tensor]  # of each layer, [B, channels, ...]


class StftDiscriminator(nn.Module):
    """Convolutions over the complex spectrogram of one window, real and imaginary parts as channels.

    Source: EnCodec (arXiv:2210.13438, section 3.4 and figure 2): kernels of 3 frames x 9 bins,
    strides of 2 over the bins, dilations 1, 2 and 4 over the frames.
    """

    def __init__(self, window: int, channels: int, audio_channels: int, power: float) -> None:
        super().__init__()
        self.window = window
        self.power = power
        wide = [_conv2d(channels, channels, (3, 9), stride=2, dilation=d) for d in (1, 2, 4)]
        self.layers = nn.ModuleList(
            [
                _conv2d(2 * audio_channels, channels, (3, 9)),
                *wide,
                _conv2d(channels, channels, (3, 3)),
            ]
        )
        self.last = _conv2d(channels, 1, (3, 3))

    def forward(self, wav: Waveform) -> Judgement:
        x = _spectrogram(wav, self.window, self.power)
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return Judgement(self.last(x), features)


class LevelDiscriminator(nn.Module):
    """Convolutions over logarithms of magnitudes, without phase, told where in frequency they are.

    Source: the spectrogram discriminators of FARGAN (arXiv:2405.21069) and NoLACE (arXiv:2309.14521):
    kernels of 3 x 3, strides of 2 over the bins, and each layer is given the place in frequency.
    """

    def __init__(self, window: int, channels: int, audio_channels: int) -> None:
        super().__init__()
        self.window = window
        widths = [audio_channels, *(channels * factor for factor in (1, 2, 4, 8, 8))]
        self.layers = nn.ModuleList(
            _conv2d(narrow, wide, (3, 3), stride=2) for narrow, wide in itertools.pairwise(widths)
        )
        self.places = nn.ModuleList(_conv2d(2, wide, (1, 3), stride=2) for wide in widths[1:])
        self.last = _conv2d(widths[-1], 1, (3, 3))

    def forward(self, wav: Waveform) -> Judgement:
        with torch.autocast(wav.device.type, enabled=False):
            power = torch.view_as_real(stft(wav, self.window)).square().sum(dim=-1)
            x = ((power + 1e-9).log10() + 5) / 3  # 0 at -50 dBFS, 1.7 at full scale
        x = rearrange(x, "b c bins frames -> b c frames bins")
        x = x.contiguous(memory_format=torch.channels_last)
        features = []
        for layer, place in zip(self.layers, self.places, strict=True):
            angle = torch.linspace(0, math.pi, x.shape[-1], device=x.device)
            where = torch.stack([angle.sin(), angle.cos()])[None, :, None]
            x = F.leaky_relu(layer(x) + place(where), 0.2)
            features.append(x)
        return Judgement(self.last(x), features)


class BandDiscriminator(nn.Module):
    """The same view, cut into five bands with convolutions of their own.

    Source: multi-band STFT discriminator, DAC (arXiv:2306.06546, section 3.4).
    """

    def __init__(self, window: int, channels: int, audio_channels: int, power: float) -> None:
        super().__init__()
        self.window = window
        self.power = power
        bins = window // 2 + 1
        self.edges = [round(share * bins) for share in _BAND_EDGES]
        self.bands = nn.ModuleList(
            nn.ModuleList(
                [
                    _conv2d(2 * audio_channels, channels, (3, 9)),
                    *[_conv2d(channels, channels, (3, 9), stride=2) for _ in range(3)],
                    _conv2d(channels, channels, (3, 3)),
                ]
            )
            for _ in self.edges[1:]
        )
        self.last = _conv2d(channels, 1, (3, 3))

    def forward(self, wav: Waveform) -> Judgement:
        spectrogram = _spectrogram(wav, self.window, self.power)
        ends, features = [], []
        for low, high, layers in zip(self.edges, self.edges[1:], self.bands, strict=False):
            x = spectrogram[..., low:high]
            assert isinstance(layers, nn.ModuleList)
            for layer in layers:
                x = F.leaky_relu(layer(x), 0.1)
                features.append(x)
            ends.append(x)
        return Judgement(self.last(torch.cat(ends, dim=-1)), features)


class PeriodDiscriminator(nn.Module):
    """Convolutions over every p-th sample.

    Source: HiFi-GAN (arXiv:2010.05646, section 2.3), with DAC's widths at 32 channels.
    """

    def __init__(self, period: int, channels: int, audio_channels: int) -> None:
        super().__init__()
        self.period = period
        widths = [audio_channels, *(channels * factor for factor in (1, 4, 16, 32))]
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(narrow, wide, (5, 1), stride=(3, 1), padding=(2, 0)))
            for narrow, wide in itertools.pairwise(widths)
        )
        widest = widths[-1]
        self.layers.append(weight_norm(nn.Conv2d(widest, widest, (5, 1), padding=(2, 0))))
        self.last = weight_norm(nn.Conv2d(widest, 1, (3, 1), padding=(1, 0)))

    def forward(self, wav: Waveform) -> Judgement:
        wav = F.pad(wav, (0, -wav.shape[-1] % self.period))
        x = rearrange(wav, "b c (t p) -> b c t p", p=self.period)
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.1)
            features.append(x)
        return Judgement(self.last(x), features)


class DiscriminatorSet(nn.Module):
    """Members that judge the same waveforms."""

    def __init__(self, members: list[nn.Module], *, level: bool) -> None:
        """With `level` each item loses its mean and is scaled to a peak of 0.8 first, as in DAC."""
        super().__init__()
        self.members = nn.ModuleList(members)
        self.level = level

    def forward(self, wav: Waveform) -> list[Judgement]:
        """Judge [B, C, T], one judgement a member."""
        wav = wav.float()
        if self.level:
            wav = wav - wav.mean(dim=-1, keepdim=True)
            wav = 0.8 * wav / wav.abs().amax(dim=(1, 2), keepdim=True).clamp(min=0.05)
        return [member(wav) for member in self.members]


def stft_set(
    windows: list[int], *, channels: int, audio_channels: int, power: float = 1.0
) -> DiscriminatorSet:
    """EnCodec's: one complex-spectrogram discriminator a window (samples).

    Magnitudes are raised to `power`, phases kept: with 0.3 what is soft is heard, and small
    discriminators learn several times as fast. EnCodec and DAC have 1.
    """
    return DiscriminatorSet(
        [StftDiscriminator(window, channels, audio_channels, power) for window in windows],
        level=False,
    )


def period_and_band_set(
    windows: list[int],
    periods: list[int],
    *,
    channels: int,
    audio_channels: int,
    power: float = 1.0,
) -> DiscriminatorSet:
    """DAC's: one member a period and one, over bands, a window (samples)."""
    members: list[nn.Module] = [PeriodDiscriminator(p, channels, audio_channels) for p in periods]
    members += [BandDiscriminator(window, channels, audio_channels, power) for window in windows]
    return DiscriminatorSet(members, level=True)


def level_set(windows: list[int], *, channels: int, audio_channels: int) -> DiscriminatorSet:
    """One discriminator of levels a window (samples)."""
    return DiscriminatorSet(
        [LevelDiscriminator(window, channels, audio_channels) for window in windows], level=False
    )


def window_samples(milliseconds: float, sample_rate: int) -> int:
    """A window's length in samples, as the nearest multiple of 16: 85.3 ms is 2048 at 24 kHz."""
    return max(16 * round(milliseconds * sample_rate / 16_000), 16)


def _spectrogram(wav: Waveform, window: int, power: float) -> Tensor:
    """[B, C, T] -> [B, 2 C, frames, bins]; white noise of variance v has magnitudes around v ** 0.5."""
    with torch.autocast(wav.device.type, enabled=False):
        spectra = torch.view_as_real(stft(wav, window)) * math.sqrt(2 * window / 3)
        if power != 1.0:
            energy = spectra.square().sum(dim=-1, keepdim=True) + 1e-6
            spectra = spectra * energy ** ((power - 1) / 2)
    return rearrange(spectra, "b c f t part -> b (c part) t f")


def _conv2d(
    narrow: int, wide: int, kernel: tuple[int, int], *, stride: int = 1, dilation: int = 1
) -> nn.Module:
    """Over frames x bins, padded to keep the frames; strides over bins, dilates over frames."""
    padding = (dilation * (kernel[0] // 2), kernel[1] // 2)
    return weight_norm(
        nn.Conv2d(
            narrow,
            wide,
            kernel,
            stride=(1, stride),
            dilation=(dilation, 1),
            padding=padding,
        )
    )
