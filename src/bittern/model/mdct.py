"""The MDCT: an orthonormal basis used through convolutions, so that it streams like any other layer."""

import math

import torch
from einops import rearrange
from torch import Tensor

from bittern.model.conv import Conv1d, ConvTranspose1d
from bittern.model.state import StatefulModule, StreamState


def mdct_basis(hop: int) -> Tensor:
    """The windowed MDCT basis, [hop coefficients, 2 * hop samples], orthonormal over its shifts.

    Source: Princen, Johnson and Bradley 1987; sine window, whose squares of both halves sum to 1.
    """
    n = torch.arange(2 * hop, dtype=torch.float64)
    k = torch.arange(hop, dtype=torch.float64)[:, None]
    window = torch.sin(math.pi / (2 * hop) * (n + 0.5))
    phase = math.pi / hop * (n + 0.5 + hop / 2) * (k + 0.5)
    return (math.sqrt(2 / hop) * window * torch.cos(phase)).float()


def largest_coefficients(basis: Tensor) -> Tensor:
    """Of samples within -1..1: the sum of absolute values of each basis function, [M]."""
    return basis.abs().sum(dim=1)


class LinearTransform(StatefulModule):
    """Frames of coefficients by a fixed basis of [M coefficients, 2 * hop samples].

    Frames lap: frame f covers samples (f - 1) * hop to (f + 1) * hop, and what `synthesise` returns
    lags by one hop. The basis is a buffer: it is not learnt, and not saved.
    """

    def __init__(self, basis: Tensor, hop: int, channels: int) -> None:
        super().__init__()
        coefficients, span = basis.shape
        self.hop = hop
        self.audio_channels = channels
        self.analysis = Conv1d(1, coefficients, span, stride=hop)
        self.synthesis = ConvTranspose1d(coefficients, 1, span, stride=hop)
        for layer in (self.analysis.conv, self.synthesis.conv):
            del layer.weight
            layer.register_parameter("bias", None)
            weight = basis[:, None, :].contiguous().clone()
            layer.register_buffer("weight", weight, persistent=False)

    def analyse(self, wav: Tensor, state: StreamState | None = None) -> Tensor:
        """[B, C, F * hop] -> [B, C * M, F], in float32 also under autocast."""
        with torch.autocast(wav.device.type, enabled=False):
            frames = self.analysis(rearrange(wav.float(), "b c t -> (b c) 1 t"), state)
        return rearrange(frames, "(b c) m f -> b (c m) f", c=self.audio_channels)

    def synthesise(self, frames: Tensor, state: StreamState | None = None) -> Tensor:
        """[B, C * M, F] -> [B, C, F * hop], in float32 also under autocast."""
        frames = rearrange(frames.float(), "b (c m) f -> (b c) m f", c=self.audio_channels)
        with torch.autocast(frames.device.type, enabled=False):
            wav = self.synthesis(frames, state)
        return rearrange(wav, "(b c) 1 t -> b c t", c=self.audio_channels)
