"""The codec's networks: waveform to codes and back. No files, no logging, no training flags.

    wav [B, C, T] -> latent [B, D, F] -> codes [B, k, F] -> latent -> wav

For files and bytes see `codec.py`; for pushing samples as they come see `stream.py`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bittern.config import LOUDEST, SEARCH_WIDTH, CodecConfig, LinearPath
from bittern.model import Codes, Latent, Waveform
from bittern.model.highpass import HighPass
from bittern.model.path import EnvelopePath, build_path
from bittern.model.quantizer import ResidualQuantizer, stage_counts
from bittern.model.seanet import Decoder, Encoder, damp_last_layer
from bittern.model.state import StreamState, name_states

_START_GAIN = 0.1  # of the networks' last layers beside a linear path


class CodecModel(nn.Module):
    """Encoder, quantizer and decoder, with a fixed linear path beside the networks.

    latent = A x + encoder(x) and wav = S z + decoder(z), A the lowest coefficients of an MDCT and S its
    inverse (`path.py`): a transform codec before the first step of training.

    Bounded: residual streams stay within their networks' `limit`, coefficients and samples within what
    audio of twice full scale has, whatever the codes are.
    """

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        self.highpass = None
        if config.highpass_hz:
            self.highpass = HighPass(config.highpass_hz / 4, config.sample_rate, config.hop_length)
        self.path = build_path(config)
        dim = config.latent_dim
        self.encoder = Encoder(config.encoder, self.path.encoder_width, dim)
        self.decoder = Decoder(
            config.decoder_network, self.path.decoder_width, dim + int(config.counts_stages)
        )
        self.quantizer = ResidualQuantizer(config.quantizer, dim)
        if config.linear_path is not LinearPath.NONE:
            damp_last_layer(self.encoder, _START_GAIN)
            damp_last_layer(self.decoder, _START_GAIN)
        name_states(self)

    @property
    def device(self) -> torch.device:
        return self.quantizer.codewords.device

    def fit_transform(self, wavs: Waveform) -> None:
        """Measure the path's coefficients on typical audio, [B, C, T], some minutes in all."""
        self.path.fit(wavs)

    def heard(self, wav: Waveform, state: StreamState | None = None) -> Waveform:
        """Whole frames as the networks hear them: without an offset, [B, C, F * hop]."""
        wav = wav.clamp(-LOUDEST, LOUDEST)
        return wav if self.highpass is None else self.highpass(wav, state)

    def latent(self, wav: Waveform, state: StreamState | None = None) -> Latent:
        """Analyse whole frames: [B, C, F * hop] -> [B, D, F]."""
        return self.analyse(self.heard(wav, state), state)

    def analyse(self, heard: Waveform, state: StreamState | None = None) -> Latent:
        """The latent of what `heard` gave: A x + encoder(x)."""
        features, path = self.path.analyse(heard, state)
        encoded = self.encoder(features, state)
        return encoded if path is None else path + encoded.float()

    def synthesise(
        self, latent: Latent, state: StreamState | None = None, *, stages: Tensor | None = None
    ) -> Waveform:
        """Turn latents into audio that lags by `config.delay`: [B, D, F] -> [B, C, F * hop].

        Args:
            latent: sums of codewords, or what the encoder gave.
            state: of a stream.
            stages: [B, F], how many each frame was coded with; all K by default.
        """
        return self.path.synthesise(latent, self.decoder(self._told(latent, stages), state), state)

    def _told(self, latent: Latent, stages: Tensor | None) -> Tensor:
        """The decoder's input: the latent, and where the decoder is told, the count of stages."""
        if not self.config.counts_stages:
            return latent
        if stages is None:
            stages = latent.new_full((len(latent), latent.shape[2]), self.quantizer.stages)
        told = (stages[:, None].to(latent).clamp(min=0.5) / 8).log2()
        return torch.cat([latent, told], dim=1)

    def levels(self, latent: Latent) -> Tensor | None:
        """Natural logarithms of the frames' amplitudes, [B, F]; None where the latent does not tell."""
        if not isinstance(self.path, EnvelopePath):
            return None
        bands = latent[:, : self.path.bands] / self.path.level_weight
        return (2 * bands).logsumexp(dim=1) / 2

    def faded(self, latent: Latent, gains: Tensor) -> Latent:
        """The latents of softer sound: [B, D, F or 1] and gains [F] of amplitude -> [B, D, F].

        Levels are logarithms: to scale them towards 0 would lead to a loud frame, not to silence.
        """
        if not isinstance(self.path, EnvelopePath):
            return latent * gains
        levels, shapes = latent.tensor_split([self.path.bands], dim=1)
        levels = levels + self.path.level_weight * gains.log()
        return torch.cat([levels, shapes.expand(-1, -1, len(gains))], dim=1)

    def pad(self, wav: Waveform) -> Waveform:
        """Add zeros up to whole frames, with room for the delay: [B, C, T] -> [B, C, F * hop].

        Layers that look ahead extend what they are given by themselves.
        """
        if not (self.config.lapped or self.config.encoder.streamable):
            return wav
        frames = self.config.frame_count(wav.shape[-1])
        return F.pad(wav, (0, frames * self.config.hop_length - wav.shape[-1]))

    @torch.no_grad()
    def encode(
        self, wav: Waveform, stages: int | None = None, search_width: int = SEARCH_WIDTH
    ) -> Codes:
        """Code audio: [B, C, T] -> [B, k, F], F = `config.frame_count(T)`, k = `stages` or K."""
        stages = self.quantizer.stages if stages is None else stages
        return self.quantizer.encode(self.latent_of(wav), stages, width=search_width)

    @torch.no_grad()
    def latent_of(self, wav: Waveform) -> Latent:
        """The latent of audio of any length: [B, C, T] -> [B, D, F]."""
        self.config.refuse_segments()
        if wav.shape[0] == 0 or wav.shape[-1] == 0:
            frames = self.config.frame_count(wav.shape[-1])
            return wav.new_zeros(len(wav), self.config.latent_dim, frames)
        return self.latent(self.pad(wav))

    @torch.no_grad()
    def decode(self, codes: Codes, length: int | None = None) -> Waveform:
        """Turn codes back into audio.

        Args:
            codes: [B, k, F] with 1 <= k <= K, -1 where a frame has no code.
            length: samples to return, at most F * hop - delay, which is the default.

        Returns:
            [B, C, length].
        """
        self.config.refuse_segments()
        longest = max(codes.shape[-1] * self.config.hop_length - self.config.delay, 0)
        length = longest if length is None else length
        if not 0 <= length <= longest:
            raise ValueError(f"{codes.shape[-1]} frames hold up to {longest} samples, not {length}")
        if codes.shape[0] == 0 or length == 0:
            shape = codes.shape[0], self.config.channels, length
            return torch.zeros(shape, dtype=torch.float32, device=codes.device)
        wav = self.synthesise(self.quantizer.decode(codes), stages=stage_counts(codes))
        return wav[..., self.config.delay : self.config.delay + length]
