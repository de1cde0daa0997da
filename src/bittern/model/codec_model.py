"""The codec's networks: waveform to codes and back. No files, no logging, no training flags.

    wav [B, C, T] -> latent [B, D, F] -> codes [B, k, F] -> latent -> wav

For files and bytes see `codec.py`; for pushing samples as they come see `stream.py`.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bittern.config import SEARCH_WIDTH, CodecConfig, LinearPath, NetworkInput
from bittern.model.conv import Conv1d, ConvTranspose1d
from bittern.model.envelope import SpectralEnvelope
from bittern.model.mdct import LinearTransform, mdct_basis
from bittern.model.quantizer import ResidualQuantizer
from bittern.model.recurrent import ResidualLSTM
from bittern.model.seanet import Decoder, Encoder, damp_last_layer
from bittern.model.search import search_codes
from bittern.model.state import StreamState, name_states
from bittern.shapes import Codes, Latent, Waveform

_START_GAIN = 0.1  # of the networks' last layers beside a linear path


class CodecModel(nn.Module):
    """Encoder, quantizer and decoder, with a fixed linear path beside the networks.

    latent = A x + encoder(x) and wav = S latent + decoder(latent), A the lowest components of an MDCT
    or principal components, S their inverse: a transform codec before the first step of training.
    With an envelope, A x holds the levels of bands and coefficients evened out by them, and the
    networks, too, work on evened coefficients.
    """

    spread: Tensor  # [M], typical size of each coefficient, set by `fit_transform`
    _chosen: Tensor  # [D - bands], what the linear path takes: the lowest of each channel

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
        self.envelope = None
        if config.envelope_bands:
            self.envelope = SpectralEnvelope(
                hop,
                config.envelope_bands,
                config.sample_rate,
                flattening=config.envelope_flattening,
            )
        encoder_width = self._width(config.encoder.input) + config.envelope_bands
        self.encoder = Encoder(config.encoder, encoder_width, dim)
        self.decoder = Decoder(
            config.decoder_network, self._width(config.decoder_network.input), dim
        )
        self.quantizer = ResidualQuantizer(config.quantizer, dim)
        if self.transform is not None:
            components = width if config.lapped else dim
            each = torch.arange(components).view(channels, -1)
            chosen = each[:, : config.path_components // channels].reshape(-1)
            self.register_buffer("spread", torch.ones(components))
            self.register_buffer("_chosen", chosen, persistent=False)
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
            count = self.config.path_components // self.config.channels
            self.transform.set_basis(vectors.flip(1).T[:count].float())
        frames = self.transform.analyse(wavs)
        spread = frames.square().mean(dim=(0, 2)).sqrt()
        self.spread.copy_(spread.clamp(min=1e-3 * float(spread.max()) + 1e-8))

    def latent(self, wav: Waveform, state: StreamState | None = None) -> Latent:
        """Analyse whole frames: [B, C, F * hop] -> [B, D, F]."""
        frames = None if self.transform is None else self.transform.analyse(wav, state)
        if self.envelope is not None:
            assert frames is not None
            return self._evened_latent(self.envelope, frames, state)
        if self.config.encoder.input is NetworkInput.SPECTRUM:
            assert frames is not None
            latent = self.encoder(frames / self.spread[:, None], state)
        else:
            latent = self.encoder(wav, state)
        if self.config.linear_path is LinearPath.NONE:
            return latent
        assert frames is not None
        path = (frames * self._scale()[:, None])[:, self._chosen]
        return latent.float() + _power(path, self.config.path_power)

    def _evened_latent(
        self, envelope: SpectralEnvelope, frames: Tensor, state: StreamState | None
    ) -> Latent:
        frames = frames * self._scale()[:, None]
        levels = envelope.measure(frames)
        frames = envelope.flatten(frames, levels)
        latent = self.encoder(torch.cat([levels, frames], dim=1), state)
        path = _power(frames[:, self._chosen], self.config.path_power)
        return latent.float() + torch.cat([levels * self.config.envelope_weight, path], dim=1)

    def synthesise(self, latent: Latent, state: StreamState | None = None) -> Waveform:
        """Turn latents into audio that lags by `config.delay`: [B, D, F] -> [B, C, F * hop]."""
        out = self.decoder(latent, state).float()
        if self.transform is None:
            return out
        frames = None
        if self.config.linear_path is not LinearPath.NONE:
            levels, path = latent.float().tensor_split([self.config.envelope_bands], dim=1)
            frames = latent.new_zeros(latent.shape[0], len(self.spread), latent.shape[-1]).float()
            frames[:, self._chosen] = _power(path, 1 / self.config.path_power)
            if self.envelope is not None:
                levels = levels / self.config.envelope_weight
                frames = self.envelope.restore(out + frames, levels)
                return self.transform.synthesise(frames / self._scale()[:, None], state)
            frames = frames / self._scale()[:, None]
        if self.config.decoder_network.input is NetworkInput.SPECTRUM:
            out = out * self.spread[:, None]
            return self.transform.synthesise(out if frames is None else out + frames, state)
        return out if frames is None else out + self.transform.synthesise(frames, state)

    def faded(self, latent: Latent, gains: Tensor) -> Latent:
        """The latents of softer sound: [B, D, F or 1] and gains [F] of amplitude -> [B, D, F].

        Levels are logarithms: to scale them towards 0 would lead to a loud frame, not to silence.
        """
        if self.envelope is None:
            return latent * gains
        levels, shapes = latent.tensor_split([self.config.envelope_bands], dim=1)
        levels = levels + self.config.envelope_weight * gains.log()
        return torch.cat([levels, shapes.expand(-1, -1, len(gains))], dim=1)

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

    def _scale(self) -> Tensor:
        """What coefficients are multiplied by: those of the path get a mean square of 1."""
        weight = self.spread**-self.config.path_weighting
        return weight / (self.spread * weight)[self._chosen].square().mean().sqrt()

    def pad(self, wav: Waveform) -> Waveform:
        """Add zeros up to whole frames, with room for the delay: [B, C, T] -> [B, C, F * hop]."""
        frames = self.config.frame_count(wav.shape[-1])
        return F.pad(wav, (0, frames * self.config.hop_length - wav.shape[-1]))

    @torch.no_grad()
    def encode(
        self, wav: Waveform, stages: int | None = None, search_width: int = SEARCH_WIDTH
    ) -> Codes:
        """Code audio: [B, C, T] -> [B, k, F], F = `config.frame_count(T)`, k = `stages` or K."""
        stages = self.quantizer.stages if stages is None else stages
        if wav.shape[-1] == 0:
            return torch.zeros(wav.shape[0], stages, 0, dtype=torch.long, device=wav.device)
        latent = self.latent(self.pad(wav))
        return search_codes(self.quantizer, latent, stages, width=search_width)

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
