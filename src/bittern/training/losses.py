"""What the decoder is asked for: spectra that match in level and phase, and the waveform itself.

Sources: log-mel over several windows, SoundStream (arXiv:2107.03312, section III-F) and EnCodec
(arXiv:2210.13438, equation 2). The complex term compares real and imaginary parts, so that it also
asks for the right phase; without it the first hours go into finding one.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bittern.errors import ConfigError
from bittern.shapes import Waveform
from bittern.spectral import mel_filterbank, stft
from bittern.training.loudness import disturbance
from bittern.training.ranks import mean_over_ranks

_LOG_FLOOR = 1e-4  # of mel magnitudes, full scale is about 0.5: below lies what nobody hears


@dataclass(kw_only=True)
class LossConfig:
    """Weights and windows; a weight of 0 leaves a term out."""

    mel: float = 1.0
    mel_windows: tuple[int, ...] = (128, 256, 512, 1024, 2048)  # samples
    mels: int = 64  # filters at the longest window; fewer at shorter ones
    complex_stft: float = 1.0
    stft_windows: tuple[int, ...] = (64, 128, 256, 512, 1024)  # samples
    waveform: float = 0.0
    disturbance: float = 0.0  # what of the difference is heard; see `loudness.py`
    commitment: float = 0.25
    adversarial: float = 1.0  # where there are discriminators: to pass as original
    features: float = 2.0  # and to match the features of their layers
    balancer: bool = False  # weights are shares of the gradient, all but the commitment's
    balancer_decay: float = 0.999  # of the mean gradient norms
    balancer_norm: float = 1.0  # of the gradient of each item

    def __post_init__(self) -> None:
        self.mel_windows = tuple(self.mel_windows)
        self.stft_windows = tuple(self.stft_windows)
        for name in (
            "mel",
            "complex_stft",
            "waveform",
            "disturbance",
            "commitment",
            "adversarial",
            "features",
        ):
            if getattr(self, name) < 0:
                raise ConfigError(f"loss.{name} is {getattr(self, name)}; give 0 or more")
        for window in (*self.mel_windows, *self.stft_windows):
            if window < 16 or window % 4:
                raise ConfigError(f"loss windows have {window}; give multiples of 4 from 16 up")


class ReconstructionLoss(nn.Module):
    """Distance of a reconstruction to the original, as named terms to be weighted and summed."""

    def __init__(self, config: LossConfig, sample_rate: int) -> None:
        super().__init__()
        self.config = config
        self.sample_rate = sample_rate
        self._mel_windows = config.mel_windows if config.mel else ()
        self._stft_windows = config.stft_windows if config.complex_stft else ()

    def sizes(self, target: Waveform) -> dict[int, Tensor]:
        """Mean magnitudes of a batch [B, C, T] over all ranks, by window; 0 is the waveform's.

        Errors are relative to these, so that a part of a batch weighs what it does in the whole.
        """
        with torch.no_grad():
            sizes = {w: _size(_parts(stft(target.float(), w))) for w in self._stft_windows}
            return sizes | {0: _size(target.float())}

    def forward(
        self, output: Waveform, target: Waveform, sizes: dict[int, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Compare [B, C, T] with [B, C, T].

        Args:
            output: what the codec made.
            target: of what.
            sizes: `sizes` of the batch that `target` is a part of; by default it is the whole.

        Returns:
            Unweighted terms: `mel`, mean absolute difference of natural logarithms; `complex_stft`
            and `waveform`, mean absolute differences relative to the batch's mean magnitude;
            `disturbance`, points of opinion that audible differences cost.
        """
        output, target = output.float(), target.float()
        mel, complex_stft = [], []
        for window in sorted({*self._mel_windows, *self._stft_windows}):
            ours = stft(output, window)
            with torch.no_grad():
                theirs = stft(target, window)
            if window in self._stft_windows:
                size = _size(_parts(theirs)) if sizes is None else sizes[window]
                complex_stft.append(_parts(ours - theirs).abs().mean() / size)
            if window in self._mel_windows:
                mel.append(
                    (self._log_mel(ours, window) - self._log_mel(theirs, window)).abs().mean()
                )
        terms = {}
        if mel:
            terms["mel"] = torch.stack(mel).mean()
        if complex_stft:
            terms["complex_stft"] = torch.stack(complex_stft).mean()
        if self.config.waveform:
            size = _size(target) if sizes is None else sizes[0]
            terms["waveform"] = (output - target).abs().mean() / size
        if self.config.disturbance:
            terms["disturbance"] = disturbance(output, target, self.sample_rate)
        return terms

    def weighted(self, terms: dict[str, Tensor]) -> Tensor:
        """The sum of the terms by their weights."""
        return torch.stack(
            [getattr(self.config, name) * term for name, term in terms.items()]
        ).sum()

    def _log_mel(self, spectra: Tensor, window: int) -> Tensor:
        mels = min(self.config.mels, max(window // 16, 4))
        bank = mel_filterbank(window, mels, self.sample_rate).to(spectra.device)
        return (bank @ spectra.abs()).clamp(min=_LOG_FLOOR).log()


def _parts(spectra: Tensor) -> Tensor:
    """Real and imaginary, [..., 2]."""
    return torch.view_as_real(spectra)


def _size(values: Tensor) -> Tensor:
    return mean_over_ranks(values.abs().mean()).clamp(min=1e-5)
