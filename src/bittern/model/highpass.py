"""A constant offset is taken out of audio before the networks see it.

A high-pass of first order (bilinear transform), in the form that convolutions can compute in parallel, on
any device, and push by push exactly as on the whole: within a frame as a matrix, and across frames as one
number that dies away. Nothing is delayed. Steeper filters, or higher ones, turn the phases of low voices
and make peaks of square and clipped waves: of a square wave of 100 Hz, through one of third order at 40 Hz,
2.3 times what they were; through this one at 10 Hz 1.2 times. Rumble is left to the MDCT, whose lowest
coefficients are left out (`path.py`).
"""

import math

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from bittern.model.conv import Conv1d
from bittern.model.state import StatefulModule, StreamState

_FORGOTTEN = 1e-6  # of what came before


class HighPass(StatefulModule):
    """[B, C, F * hop] -> [B, C, F * hop], y[n] = pole y[n - 1] + (x[n] - x[n - 1]) (1 + pole) / 2."""

    decay: Tensor  # [hop, 1], what is left of the past at each sample of a frame

    def __init__(self, hertz: float, sample_rate: int, hop: int) -> None:
        super().__init__()
        self.hop = hop
        k = math.tan(math.pi * hertz / sample_rate)
        pole = (1 - k) / (1 + k)
        first, rest = 1 / (1 + k), -2 * k / (1 + k) / (1 - k)  # response: first, then rest * pole^n
        frames = math.ceil(math.log(_FORGOTTEN) / math.log(pole) / hop)
        place = np.arange(hop)
        lag = place[:, None] - place
        within = np.where(lag > 0, rest * pole ** np.maximum(lag, 0), first * (lag == 0))
        back = np.arange(frames + 1)[::-1]  # frames ago; this one is `within`
        before = rest * pole ** (hop * back - place[:, None]) * (back > 0)
        self.within = _fixed(within[..., None])
        self.before = _fixed(before[None])
        decay = torch.from_numpy(pole ** place[:, None].astype(float)).float()
        self.register_buffer("decay", decay, persistent=False)

    def forward(self, wav: Tensor, state: StreamState | None = None) -> Tensor:
        """In float32 also under autocast."""
        channels = wav.shape[1]
        frames = rearrange(wav.float(), "b c (f h) -> (b c) h f", h=self.hop)
        with torch.autocast(wav.device.type, enabled=False):
            frames = self.within(frames, state) + self.decay * self.before(frames, state)
        return rearrange(frames, "(b c) h f -> b c (f h)", c=channels)


def _fixed(weight: np.ndarray) -> Conv1d:
    """A convolution with weights that are not learnt and not saved, [C', C, k]."""
    outputs, inputs, kernel = weight.shape
    layer = Conv1d(inputs, outputs, kernel)
    del layer.conv.weight
    layer.conv.register_parameter("bias", None)
    layer.conv.register_buffer("weight", torch.from_numpy(weight).float(), persistent=False)
    return layer
