"""The spectral envelope of a frame: levels of its bands, and coefficients evened out by them.

A residual quantizer's codebooks have one size a stage, but frames of speech differ by 40 dB and their
bands by as much. Gain-shape coding, as CELT has it (RFC 6716, section 4.3), sends levels and shapes
apart; here both are parts of one latent, and the quantizer shares its bits between them.
"""

import math

import torch
from torch import Tensor, nn

from bittern.config import CodecConfig

_LOG_RANGE = (-9.0, 6.0)  # of a decoded level, at least: keeps any codes from overflowing


class SpectralEnvelope(nn.Module):
    """Log levels of bands that are equally wide in mel, over `coefficients` up to half the rate."""

    _band: Tensor  # [M], which band a coefficient lies in
    _sizes: Tensor  # [bands, 1], coefficients in each

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        coefficients, bands = config.hop_length, config.envelope_bands
        self.bands = bands
        self.flattening = config.envelope_flattening  # 0: of the frame; 1: of each band
        self.floor = config.envelope_floor
        self.range = 10 ** (-config.envelope_range_db / 10)
        nyquist = config.sample_rate / 2
        frequency = (torch.arange(coefficients) + 0.5) * nyquist / coefficients
        place = (1 + frequency / 700).log() / math.log(1 + nyquist / 700) * bands
        band = place.long().clamp(max=bands - 1)
        sizes = torch.bincount(band, minlength=bands)[:, None]
        self.register_buffer("_band", band, persistent=False)
        self.register_buffer("_sizes", sizes, persistent=False)

    def measure(self, frames: Tensor) -> Tensor:
        """Natural logarithms of the root mean squares in the bands: [B, M, F] -> [B, bands, F].

        Silence has a level, too, and bands far below the loudest count as if they were nearer: else
        a tone would be divided by next to nothing.
        """
        power = frames.new_zeros(frames.shape[0], self.bands, frames.shape[2])
        power = power.index_add(1, self._band, frames.square()) / self._sizes + self.floor**2
        return 0.5 * torch.maximum(power, self.range * power.amax(dim=1, keepdim=True)).log()

    def flatten(self, frames: Tensor, levels: Tensor) -> Tensor:
        """Divide the levels out: [B, M, F], [B, bands, F] -> [B, M, F]."""
        return frames * (-self._log_gain(levels)).exp()

    def restore(self, flat: Tensor, levels: Tensor) -> Tensor:
        """Undo `flatten`, with levels that may have been quantized."""
        low, high = _LOG_RANGE
        levels = levels.clamp(min(math.log(self.floor), low), high)
        return flat * self._log_gain(levels).exp()

    def _log_gain(self, levels: Tensor) -> Tensor:
        mean = levels.mean(dim=1, keepdim=True)
        return mean + self.flattening * (levels[:, self._band] - mean)
