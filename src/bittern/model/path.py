"""The fixed paths beside the networks: latent = A x + encoder(x), wav = S z + decoder(z).

A path shows the encoder its features, gives the latent its first part (A x), and makes audio of what
latent and decoder say together. With an MDCT the codec is a transform codec before its first step of
training; with an envelope, levels of bands are divided out of the coefficients and lead the latent.
"""

import math

import torch
from torch import Tensor, nn

from bittern.config import CodecConfig, LinearPath, NetworkInput
from bittern.model import Latent, Waveform
from bittern.model.mdct import LinearTransform, largest_coefficients, mdct_basis
from bittern.model.state import StreamState

_PEAK = 2.0  # of full scale: what no codes exceed, 6 dB above what a file can hold
_LOG_RANGE = (-9.0, 6.0)  # of a decoded level, at least: keeps any codes from overflowing
_FLATTEST = 256.0  # largest evened coefficient, where those of speech reach 100


class NoPath(nn.Module):
    """Networks alone, on samples: A and S are 0."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.encoder_width = self.decoder_width = config.channels

    def fit(self, wavs: Waveform) -> None:
        """Nothing depends on data."""

    def analyse(
        self, wav: Waveform, state: StreamState | None = None
    ) -> tuple[Tensor, Latent | None]:
        """What the encoder sees, and A x: [B, C, F * hop] -> itself, None."""
        return wav, None

    def synthesise(
        self, latent: Latent, decoded: Tensor, state: StreamState | None = None
    ) -> Waveform:
        """Audio of a latent and of what the decoder made of it."""
        return decoded.float().clamp(-_PEAK, _PEAK)


class MdctPath(nn.Module):
    """MDCT coefficients, the lowest of which may go straight to the latent, scaled and companded.

    Either network works on coefficients or on samples, as its `input` says.
    """

    spread: Tensor  # [M], typical size of each coefficient, set by `fit`
    _chosen: Tensor  # [D - bands], what goes straight to the latent: the lowest of each channel
    _largest: Tensor  # [M, 1], what coefficients stay within: 0 for rumble, else as of +-`_PEAK`
    _kept: Tensor  # [M, 1], 0 for coefficients below the high-pass, else 1

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        hop, channels = config.hop_length, config.channels
        self.linear = config.linear_path is not LinearPath.NONE
        self.encodes_spectra = config.encoder.input is NetworkInput.SPECTRUM
        self.decodes_spectra = config.decoder_network.input is NetworkInput.SPECTRUM
        self.encoder_width = channels * (hop if self.encodes_spectra else 1)
        self.decoder_width = channels * (hop if self.decodes_spectra else 1)
        self.power, self.weighting = config.path_power, config.path_weighting
        basis = mdct_basis(hop)
        self.transform = LinearTransform(basis, hop, channels)
        chosen = torch.arange(hop * channels).view(channels, hop)
        chosen = chosen[:, : config.path_components // channels].reshape(-1)
        self.register_buffer("spread", torch.ones(hop * channels))
        self.register_buffer("_chosen", chosen, persistent=False)
        centres = (torch.arange(hop) + 0.5) * config.sample_rate / (2 * hop)
        kept = (centres >= config.highpass_hz).float().repeat(channels)[:, None]
        largest = _PEAK * largest_coefficients(basis).repeat(channels)[:, None]
        self.register_buffer("_kept", kept, persistent=False)
        self.register_buffer("_largest", largest * kept, persistent=False)

    @torch.no_grad()
    def fit(self, wavs: Waveform) -> None:
        """Measure the size of each coefficient on typical audio, [B, C, T], some minutes in all."""
        hop = self.transform.hop
        frames = self.transform.analyse(wavs[..., : wavs.shape[-1] // hop * hop])
        spread = frames.square().mean(dim=(0, 2)).sqrt()
        self.spread.copy_(spread.clamp(min=1e-3 * float(spread.max()) + 1e-8))

    def analyse(
        self, wav: Waveform, state: StreamState | None = None
    ) -> tuple[Tensor, Latent | None]:
        """What the encoder sees, and A x: [B, C, F * hop] -> [B, features, ...], [B, D, F]."""
        frames = self.transform.analyse(wav, state) * self._kept
        features = frames / self.spread[:, None] if self.encodes_spectra else wav
        if not self.linear:
            return features, None
        return features, _power((frames * self.scale())[:, self._chosen], self.power)

    def synthesise(
        self, latent: Latent, decoded: Tensor, state: StreamState | None = None
    ) -> Waveform:
        """Audio of a latent and of what the decoder made of it, delayed by one hop: [B, C, F * hop]."""
        decoded = decoded.float()
        frames = latent.new_zeros(latent.shape[0], len(self.spread), latent.shape[-1]).float()
        if self.linear:
            frames[:, self._chosen] = _power(latent.float(), 1 / self.power)
            frames = frames / self.scale()
        if self.decodes_spectra:
            return self._bounded(frames + decoded * self.spread[:, None], state)
        wav = decoded if not self.linear else decoded + self._bounded(frames, state)
        return wav.clamp(-_PEAK, _PEAK)

    def scale(self) -> Tensor:
        """What coefficients are multiplied by, [M, 1]: those of the path get a mean square of 1."""
        weight = self.spread**-self.weighting
        return (weight / (self.spread * weight)[self._chosen].square().mean().sqrt())[:, None]

    def _bounded(self, frames: Tensor, state: StreamState | None) -> Waveform:
        """Coefficients to samples, neither of them beyond what samples of +-`_PEAK` can be."""
        frames = frames.clamp(-self._largest, self._largest)
        return self.transform.synthesise(frames, state).clamp(-_PEAK, _PEAK)


class SpectralEnvelope(nn.Module):
    """Levels of a frame's bands, equally wide in mel, and coefficients evened out by them.

    A residual quantizer's codebooks have one size a stage, but frames of speech differ by 40 dB and their
    bands by as much. Gain-shape coding, as CELT has it (RFC 6716, section 4.3), sends levels and shapes
    apart; here both are parts of one latent, and the quantizer shares its bits between them.
    """

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


class EnvelopePath(MdctPath):
    """The same with the levels of bands in front, and all else evened out by them."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__(config)
        self.level_weight = config.envelope_weight
        self.bands = config.envelope_bands
        self.encoder_width += self.bands
        self.envelope = SpectralEnvelope(config)

    def analyse(
        self, wav: Waveform, state: StreamState | None = None
    ) -> tuple[Tensor, Latent | None]:
        """Levels and evened coefficients, and A x, the same with weights and companded."""
        frames = self.transform.analyse(wav, state) * self._kept * self.scale()
        levels = self.envelope.measure(frames)
        flat = self.envelope.flatten(frames, levels).clamp(-_FLATTEST, _FLATTEST)
        path = [levels * self.level_weight, _power(flat[:, self._chosen], self.power)]
        return torch.cat([levels, flat], dim=1), torch.cat(path, dim=1)

    def synthesise(
        self, latent: Latent, decoded: Tensor, state: StreamState | None = None
    ) -> Waveform:
        """Evened coefficients of both, times the levels in the latent."""
        levels, path = latent.float().tensor_split([self.bands], dim=1)
        flat = decoded.float()
        flat = flat.index_add(1, self._chosen, _power(path, 1 / self.power))
        flat = flat.clamp(-_FLATTEST, _FLATTEST)
        frames = self.envelope.restore(flat, levels / self.level_weight)
        return self._bounded(frames / self.scale(), state)


def build_path(config: CodecConfig) -> NoPath | MdctPath:
    """The path that a configuration asks for."""
    if config.envelope_bands:
        return EnvelopePath(config)
    return MdctPath(config) if config.lapped else NoPath(config)


def _power(x: Tensor, exponent: float) -> Tensor:
    """sign(x) |x| ** exponent, with a gradient that is finite at 0."""
    if exponent == 1.0:
        return x
    size = x.abs()
    return (
        x.sign() * size.clamp(min=1e-12).pow(exponent)
        if exponent < 1
        else x.sign() * size.pow(exponent)
    )
