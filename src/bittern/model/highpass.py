"""Constant offset and rumble are taken out of audio before the networks see it.

A Butterworth high-pass of third order (bilinear transform), as its impulse response: that is what a
convolution can do in parallel, on any device, and push by push exactly as on the whole. At the cut-off it
takes 3 dB, an octave below 18 dB; nothing is delayed.
"""

import math

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from bittern.model.conv import Conv1d
from bittern.model.state import StatefulModule, StreamState

_SMALLEST = 1e-6  # of the response, which ends where it stays below


class HighPass(StatefulModule):
    """[B, C, F * hop] -> [B, C, F * hop], frame by frame as products with blocks of the response."""

    def __init__(self, hertz: float, sample_rate: int, hop: int) -> None:
        super().__init__()
        self.hop = hop
        response = impulse_response(hertz, sample_rate)
        blocks = -(-len(response) // hop) + 1
        # Output i of a frame takes input j of the frame `back` frames earlier by response[lag].
        back = np.arange(blocks)[::-1]
        lag = np.arange(hop)[:, None, None] - np.arange(hop)[None, :, None] + hop * back
        inside = (lag >= 0) & (lag < len(response))
        weight = np.where(inside, response[np.clip(lag, 0, len(response) - 1)], 0.0)
        self.filter = Conv1d(hop, hop, blocks)
        del self.filter.conv.weight
        self.filter.conv.register_parameter("bias", None)
        self.filter.conv.register_buffer(
            "weight", torch.from_numpy(weight).float(), persistent=False
        )

    def forward(self, wav: Tensor, state: StreamState | None = None) -> Tensor:
        """In float32 also under autocast."""
        channels = wav.shape[1]
        frames = rearrange(wav.float(), "b c (f h) -> (b c) h f", h=self.hop)
        with torch.autocast(wav.device.type, enabled=False):
            frames = self.filter(frames, state)
        return rearrange(frames, "(b c) h f -> b c (f h)", c=channels)


def impulse_response(hertz: float, sample_rate: int) -> NDArray[np.float64]:
    """Of the filter, up to where it has died away; its sum, the gain of an offset, is 0."""
    k = math.tan(math.pi * hertz / sample_rate)
    # (s^3) / ((s + 1) (s^2 + s + 1)) with s = (1 - z^-1) / (k (1 + z^-1))
    first = np.array([1 + k, k - 1])
    second = np.array([1 + k + k * k, 2 * (k * k - 1), 1 - k + k * k])
    poles = np.convolve(first, second)
    zeros = np.array([1.0, -3.0, 3.0, -1.0])
    length = math.ceil(20 * sample_rate / hertz / math.pi)
    response = np.zeros(length)
    for n in range(length):
        given = zeros[n] if n < 4 else 0.0
        held = response[max(n - 3, 0) : n][::-1]
        response[n] = (given - poles[1 : 1 + len(held)] @ held) / poles[0]
    end = int(np.flatnonzero(np.abs(response) > _SMALLEST)[-1]) + 1
    return response[:end] - response[:end].mean()
