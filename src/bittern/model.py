"""The codec's networks: waveform to codes and back. No files, no logging, no training flags.

    wav [B, C, T] -> latent [B, D, F] -> codes [B, k, F] -> latent -> wav

For files and bytes see `codec.py`; for pushing samples as they come see `stream.py`.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bittern.config import CodecConfig, LinearPath, NetworkInput
from bittern.nn.conv import Conv1d, ConvTranspose1d
from bittern.nn.recurrent import ResidualLSTM
from bittern.nn.seanet import Decoder, Encoder, damp_last_layer
from bittern.nn.streaming import StreamState, name_states
from bittern.nn.transform import LinearTransform, mdct_basis
from bittern.quantizer import ResidualQuantizer
from bittern.shapes import Codes, Latent, Waveform

_LEVEL_FLOOR = 1e-4  # of a frame, where typical speech has 1
_START_GAIN = 0.1  # of the networks' last layers beside a linear path


class CodecModel(nn.Module):
    """Encoder, quantizer and decoder, with a fixed linear path beside the networks.

    latent = A x + encoder(x) and wav = S latent + decoder(latent), A the lowest components of an MDCT
    or principal components, S their inverse: a transform codec before the first step of training.
    """

    spread: Tensor

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        hop, channels, dim = config.hop_length, config.channels, config.latent_dim
        if config.lapped:
            self.transform = LinearTransform(mdct_basis(hop), hop, channels)
        elif config.linear_path is LinearPath.PCA:
            start = torch.eye(hop)[: dim // channels]  # until fitted
            self.transform = LinearTransform(start, hop, channels, fitted=True)
        else:
            self.transform = None
        width = hop * channels
        self.encoder = Encoder(config.encoder, self._width(config.encoder.input), dim)
        self.decoder = Decoder(
            config.decoder_network, self._width(config.decoder_network.input), dim
        )
        self.quantizer = ResidualQuantizer(config.quantizer, dim)
        if self.transform is not None:
            # typical size of each coefficient, set by `fit_transform`
            components = width if config.lapped else dim
            self.register_buffer("spread", torch.ones(components))
        if config.linear_path is not LinearPath.NONE:
            damp_last_layer(self.encoder, _START_GAIN)
            damp_last_layer(self.decoder, _START_GAIN)
        name_states(self)

    def _width(self, kind: NetworkInput) -> int:
        channels = self.config.channels
        return channels if kind is NetworkInput.SAMPLES else channels * self.config.hop_length

    @torch.no_grad()
    def fit_transform(self, wavs: Waveform) -> None:
        """Measure the linear path's coefficients (and principal components) on typical audio.

        Args:
            wavs: [B, C, T], some minutes in all; T is cut to whole hops.
        """
        if self.transform is None:
            return
        hop = self.config.hop_length
        wavs = wavs[..., : wavs.shape[-1] // hop * hop]
        if self.config.linear_path is LinearPath.PCA and not self.config.lapped:
            blocks = wavs.reshape(-1, hop).double()
            _, vectors = torch.linalg.eigh(blocks.T @ blocks)
            count = self.config.latent_dim // self.config.channels
            self.transform.set_basis(vectors.flip(1).T[:count].float())
        frames = self.transform.analyse(wavs)
        spread = frames.square().mean(dim=(0, 2)).sqrt()
        self.spread.copy_(spread.clamp(min=1e-3 * float(spread.max()) + 1e-8))

    def latent(self, wav: Waveform, state: StreamState | None = None) -> Latent:
        """Analyse whole frames: [B, C, F * hop] -> [B, D, F]."""
        frames = None if self.transform is None else self.transform.analyse(wav, state)
        if self.config.encoder.input is NetworkInput.SPECTRUM:
            assert frames is not None
            latent = self.encoder(frames / self.spread[:, None], state)
        else:
            latent = self.encoder(wav, state)
        if self.config.linear_path is LinearPath.NONE:
            return latent
        assert frames is not None
        chosen, scale = self._path()
        path = _level(frames[:, chosen] * scale[:, None], self.config.path_level)
        return latent.float() + _power(path, self.config.path_power)

    def synthesise(self, latent: Latent, state: StreamState | None = None) -> Waveform:
        """Turn latents into audio that lags by `config.delay`: [B, D, F] -> [B, C, F * hop]."""
        out = self.decoder(latent, state).float()
        spectral = self.config.decoder_network.input is NetworkInput.SPECTRUM
        if self.transform is None:
            return out
        frames = None
        if self.config.linear_path is not LinearPath.NONE:
            chosen, scale = self._path()
            frames = latent.new_zeros(latent.shape[0], len(self.spread), latent.shape[-1]).float()
            expanded = _power(latent.float(), 1 / self.config.path_power)
            expanded = _level(expanded, 1 / self.config.path_level)
            frames[:, chosen] = expanded / scale[:, None]
        if spectral:
            out = out * self.spread[:, None]
            return self.transform.synthesise(out if frames is None else out + frames, state)
        return out if frames is None else out + self.transform.synthesise(frames, state)

    @property
    def decoder_field(self) -> int | None:
        """Frames of codes before a frame that its samples depend on; None: all, or those behind too.

        A decoder that starts so many frames early, from silence, gives the same samples.
        """
        if not self.config.streamable:
            return None
        field, rate = 0.0, 1  # steps to a frame, at the layer
        for layer in self.decoder.modules():
            if isinstance(layer, ResidualLSTM):
                return None
            if isinstance(layer, Conv1d | ConvTranspose1d):
                field += layer.context / rate
            if isinstance(layer, ConvTranspose1d):
                rate *= layer.stride
        lapping = 0 if self.transform is None else self.transform.synthesis.context
        return math.ceil(field) + lapping

    def _path(self) -> tuple[Tensor, Tensor]:
        """Which coefficients the linear path takes, and what each is multiplied by, [D]."""
        channels, dim = self.config.channels, self.config.latent_dim
        each = len(self.spread) // channels
        chosen = torch.arange(len(self.spread), device=self.spread.device).view(channels, each)
        chosen = chosen[:, : dim // channels].reshape(-1)
        spread = self.spread[chosen]
        weight = spread**-self.config.path_weighting
        return chosen, weight / (spread * weight).square().mean().sqrt()

    def pad(self, wav: Waveform) -> Waveform:
        """Add zeros up to whole frames, with room for the delay: [B, C, T] -> [B, C, F * hop]."""
        frames = self.config.frame_count(wav.shape[-1])
        return F.pad(wav, (0, frames * self.config.hop_length - wav.shape[-1]))

    @torch.no_grad()
    def encode(self, wav: Waveform, stages: int | None = None) -> Codes:
        """Code audio: [B, C, T] -> [B, k, F], F = `config.frame_count(T)`, k = `stages` or K."""
        if wav.shape[-1] == 0:
            k = self.quantizer.stages if stages is None else stages
            return torch.zeros(wav.shape[0], k, 0, dtype=torch.long, device=wav.device)
        return self.quantizer.encode(self.latent(self.pad(wav)), stages)

    @torch.no_grad()
    def decode(self, codes: Codes, length: int | None = None) -> Waveform:
        """Turn codes back into audio.

        Args:
            codes: [B, k, F] with 1 <= k <= K.
            length: samples to return, at most F * hop - delay, which is the default.

        Returns:
            [B, C, length].
        """
        longest = max(codes.shape[-1] * self.config.hop_length - self.config.delay, 0)
        length = longest if length is None else length
        if not 0 <= length <= longest:
            raise ValueError(f"{codes.shape[-1]} frames hold up to {longest} samples, not {length}")
        if length == 0:
            return torch.zeros(codes.shape[0], self.config.channels, 0, device=codes.device)
        wav = self.synthesise(self.quantizer.decode(codes))
        return wav[..., self.config.delay : self.config.delay + length]


def _power(x: Tensor, exponent: float) -> Tensor:
    """sign(x) |x| ** exponent."""
    return x if exponent == 1.0 else x.sign() * x.abs().pow(exponent)


def _level(x: Tensor, exponent: float) -> Tensor:
    """Scale each frame of [B, D, F] so that its root mean square r becomes r ** exponent."""
    if exponent == 1.0:
        return x
    level = (x.square().mean(dim=1, keepdim=True) + _LEVEL_FLOOR**2).sqrt()
    return x * level ** (exponent - 1)
