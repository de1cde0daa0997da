"""What the decoder is asked for: spectra that match in level and phase, and the waveform itself.

Sources: log-mel over several windows, SoundStream (arXiv:2107.03312, section III-F) and EnCodec
(arXiv:2210.13438, equation 2). The complex term compares real and imaginary parts, so that it also
asks for the right phase; without it the first hours go into finding one. Compressed spectra, as ESC
(arXiv:2404.19441) and TF-Codec (arXiv:2207.08363) have them, hear soft parts beside loud ones. Contrast is
how much neighbouring bins differ: distances by absolute values alone make spectra too even.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bittern.errors import ConfigError
from bittern.metrics import mel_filterbank, stft
from bittern.model import Waveform
from bittern.training.loudness import disturbance
from bittern.training.ranks import mean_over_ranks

_LOG_FLOOR = 1e-4  # of magnitudes, full scale is about 0.5: below lies what nobody hears
_POWER = 0.3  # of compressed magnitudes
_NEIGHBOURS = 9  # bins or frames whose spread is the contrast
_TERMS = ("mel", "complex_stft", "compressed", "contrast", "waveform", "disturbance", "commitment")
_ADVERSARIAL = ("adversarial", "features")


@dataclass(kw_only=True)
class LossConfig:
    """Weights and windows; a weight of 0 leaves a term out."""

    mel: float = 1.0
    mel_windows: tuple[int, ...] = (128, 256, 512, 1024, 2048)  # samples
    mels: int = 64  # filters at the longest window; fewer at shorter ones
    complex_stft: float = 0.4
    stft_windows: tuple[int, ...] = (64, 128, 256, 512, 1024)  # samples
    compressed: float = 0.0  # magnitudes to the power 0.3, with and without phase
    compressed_windows: tuple[int, ...] = (256, 512)  # samples
    contrast: float = 0.0  # spread of log magnitudes among neighbours
    contrast_windows: tuple[int, ...] = (512,)  # samples
    windows_a_step: int | None = None  # of all of these, drawn anew each step; null: all
    waveform: float = 0.0
    disturbance: float = 1.5  # what of the difference is heard; see `loudness.py`
    commitment: float = 0.25
    adversarial: float = 1.0  # where there are discriminators: to pass as original
    features: float = 2.0  # and to match the features of their layers
    adversarial_share: float | None = None  # of the other terms' gradient; null: as weighted
    balancer: bool = False  # weights are shares of the gradient, all but the commitment's
    balancer_decay: float = 0.999  # of the mean gradient norms

    def __post_init__(self) -> None:
        windows = []
        for name in ("mel_windows", "stft_windows", "compressed_windows", "contrast_windows"):
            setattr(self, name, tuple(getattr(self, name)))
            windows += getattr(self, name)
        for name in (*_TERMS, *_ADVERSARIAL):
            if getattr(self, name) < 0:
                raise ConfigError(f"loss.{name} is {getattr(self, name)}; give 0 or more")
        for window in windows:
            if window < 16 or window % 4:
                raise ConfigError(f"loss windows have {window}; give multiples of 4 from 16 up")
        if self.windows_a_step is not None and self.windows_a_step < 1:
            raise ConfigError(
                f"loss.windows_a_step is {self.windows_a_step}; give 1 or more, or null"
            )


class ReconstructionLoss(nn.Module):
    """Distance of a reconstruction to the original, as named terms to be weighted and summed."""

    def __init__(self, config: LossConfig, sample_rate: int) -> None:
        super().__init__()
        self.config = config
        self.sample_rate = sample_rate
        self._windows = {  # by the term that needs them
            "mel": config.mel_windows if config.mel else (),
            "complex_stft": config.stft_windows if config.complex_stft else (),
            "compressed": config.compressed_windows if config.compressed else (),
            "contrast": config.contrast_windows if config.contrast else (),
        }

    def forward(
        self, output: Waveform, target: Waveform, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Compare [B, C, T] with [B, C, T]; the unweighted terms by the names of their weights.

        With a generator only some windows are looked through (`windows_a_step`), and what they give is
        scaled to what all would give in the mean.
        """
        output, target = output.float(), target.float()
        found: dict[str, list[Tensor]] = {name: [] for name in self._windows}
        chosen, share = self._choose(generator)
        for window in chosen:
            ours = stft(output, window)
            with torch.no_grad():
                theirs = stft(target, window)
            for name, windows in self._windows.items():
                if window in windows:
                    found[name].append(getattr(self, f"_{name}")(ours, theirs, window))
        terms = {
            name: torch.stack(values).sum() / (share * len(self._windows[name]))
            for name, values in found.items()
            if values
        }
        if self.config.waveform:
            terms["waveform"] = _relative(output - target, target)
        if self.config.disturbance:
            terms["disturbance"] = disturbance(output, target, self.sample_rate)
        return terms

    def _choose(self, generator: torch.Generator | None) -> tuple[list[int], float]:
        """Windows to look through, and their share of all."""
        every = sorted({w for windows in self._windows.values() for w in windows})
        count = self.config.windows_a_step
        if generator is None or count is None or count >= len(every):
            return every, 1.0
        order = torch.randperm(len(every), generator=generator)[:count].tolist()
        return sorted(every[place] for place in order), count / len(every)

    def weighted(self, terms: dict[str, Tensor]) -> Tensor:
        """The sum of the terms by their weights, which have the same names."""
        return torch.stack(
            [getattr(self.config, name) * term for name, term in terms.items()]
        ).sum()

    def _mel(self, ours: Tensor, theirs: Tensor, window: int) -> Tensor:
        """Mean absolute difference of natural logarithms."""
        mels = min(self.config.mels, max(window // 16, 4))
        bank = mel_filterbank(window, mels, self.sample_rate).to(ours.device)
        return (_log(bank @ ours.abs()) - _log(bank @ theirs.abs())).abs().mean()

    def _complex_stft(self, ours: Tensor, theirs: Tensor, window: int) -> Tensor:
        return _relative(torch.view_as_real(ours - theirs), torch.view_as_real(theirs))

    def _compressed(self, ours: Tensor, theirs: Tensor, window: int) -> Tensor:
        """Mean square differences of magnitudes ** 0.3, alone and with their phases."""
        (size, wave), (original, phased) = _compress(ours), _compress(theirs)
        distance = (size - original).square().mean() + (wave - phased).square().mean()
        return distance / original.square().mean().clamp(min=1e-4)

    def _contrast(self, ours: Tensor, theirs: Tensor, window: int) -> Tensor:
        """Mean absolute difference of standard deviations over neighbouring bins, and frames."""
        a, b = (_log(spectra.abs()).flatten(0, -3)[:, None] for spectra in (ours, theirs))
        shapes = ((_NEIGHBOURS, 1), (1, _NEIGHBOURS))
        return torch.stack([(_spread(a, s) - _spread(b, s)).abs().mean() for s in shapes]).mean()


def _compress(spectra: Tensor) -> tuple[Tensor, Tensor]:
    """Magnitudes to the power, and real and imaginary parts with such magnitudes, [..., 2]."""
    parts = torch.view_as_real(spectra)
    energy = parts.square().sum(dim=-1) + _LOG_FLOOR**2
    return energy ** (_POWER / 2), parts * energy[..., None] ** ((_POWER - 1) / 2)


def _spread(log: Tensor, window: tuple[int, int]) -> Tensor:
    """Standard deviation over windows of [N, 1, bins, frames]."""
    mean = F.avg_pool2d(log, window, stride=1)
    return (F.avg_pool2d(log.square(), window, stride=1) - mean.square()).clamp(min=1e-4).sqrt()


def _log(magnitudes: Tensor) -> Tensor:
    return magnitudes.clamp(min=_LOG_FLOOR).log()


def _relative(difference: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference over the target's mean size, half that of the item, half of the batch.

    One very loud item does not outweigh all others, and a soft one counts a little more than its size.
    """
    size = target.abs().flatten(1).mean(dim=1)
    size = (size + mean_over_ranks(size.mean())).clamp(min=2e-5) / 2
    return (difference.abs().flatten(1).mean(dim=1) / size).mean()
