"""Convolutions over time whose output has exactly L / stride (or L * stride) steps.

Causal padding, kernel 3, stride 1 (`.` is the left context: zeros, or the end of the last chunk):

    input     . . a b c d          transposed, kernel 4, stride 2
    output        A B C D          input    . a   b   c
                                   output     AAA BBB CCC (tail of c: next chunk)
"""

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from bittern.config import Norm, Padding
from bittern.model.state import StatefulModule, StreamState


def _with_norm(layer: nn.Module, norm: Norm) -> nn.Module:
    return parametrizations.weight_norm(layer) if norm is Norm.WEIGHT else layer


class Conv1d(StatefulModule):
    """A strided convolution, [B, C, L] -> [B, C', L / stride]; L must be a multiple of stride.

    Causal: step n of the output sees nothing behind input step (n + 1) * stride - 1. Layers that look
    ahead, by reflection or on purpose, take any L and give ceil(L / stride) steps, as EnCodec's do.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        norm: Norm = Norm.NONE,
        padding: Padding = Padding.CONSTANT,
        causal: bool = True,
    ) -> None:
        super().__init__()
        self.conv = _with_norm(
            nn.Conv1d(in_channels, out_channels, kernel_size, stride=stride, dilation=dilation),
            norm,
        )
        self.norm = nn.GroupNorm(1, out_channels) if norm is Norm.TIME_GROUP else nn.Identity()
        self.context = max((kernel_size - 1) * dilation + 1 - stride, 0)  # steps of look-back
        self.stride = stride
        self.dilation = dilation
        self.padding = padding
        self.causal = causal

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        if self.context:
            x = self._with_context(x, state)
        return self.norm(self.conv(x))

    def _with_context(self, x: Tensor, state: StreamState | None) -> Tensor:
        if self.padding is Padding.REFLECT or not self.causal:
            right = 0 if self.causal else self.context // 2
            left, missing = self.context - right, -x.shape[-1] % self.stride
            return _pad(x, left, right + missing, self.padding)
        if state is None:
            return F.pad(x, (self.context, 0))
        return self.after_past(x, state, self.context)


class ConvTranspose1d(StatefulModule):
    """A transposed convolution, [B, C, L] -> [B, C', L * stride], the mirror of `Conv1d`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        norm: Norm = Norm.NONE,
        causal: bool = True,
    ) -> None:
        super().__init__()
        self.conv = _with_norm(
            nn.ConvTranspose1d(in_channels, out_channels, kernel_size, stride=stride), norm
        )
        self.norm = nn.GroupNorm(1, out_channels) if norm is Norm.TIME_GROUP else nn.Identity()
        self.stride = stride
        self.context = -(-kernel_size // stride) - 1  # earlier input steps that reach into a chunk
        surplus = max(kernel_size - stride, 0)
        self.lead = 0 if causal else surplus - surplus // 2  # cut from the front
        self.causal = causal

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        length = x.shape[-1] * self.stride
        lead = self.lead
        if state is not None and self.context and self.causal:
            x = self.after_past(x, state, self.context)
            lead += self.context * self.stride
        return self.norm(self.conv(x))[..., lead : lead + length]


def _pad(x: Tensor, left: int, right: int, padding: Padding) -> Tensor:
    """Pad the ends; clips too short to be reflected are extended by zeros first (as EnCodec does)."""
    if padding is Padding.CONSTANT:
        return F.pad(x, (left, right))
    missing = max(left, right) - x.shape[-1] + 1
    if missing <= 0:
        return F.pad(x, (left, right), mode="reflect")
    padded = F.pad(F.pad(x, (0, missing)), (left, right), mode="reflect")
    return padded[..., : padded.shape[-1] - missing]
