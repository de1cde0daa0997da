"""Convolutions with large weights as matrix products, for use (training has `F.conv1d`).

Two reasons. A library's convolution rearranges its weights at every call, which at one frame a push
costs several times the product itself; here they are arranged once and kept. And its way of summing
depends on the number of steps, so that the same frame comes out a little different in another chunk;
a product of rows does not as long as their number is 2 or a multiple of `_ROWS` (measured with oneDNN
on AVX-512; elsewhere they agree to float32 rounding). Codes are then the same, bit for bit,
however audio is pushed.
"""

from collections.abc import MutableMapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

_LARGE = 1 << 16  # weights from which it pays; below, and at high step rates, convolutions win
_ROWS = 4
_BLOCK = 2048  # rows at once, which bounds the memory for windows
_FEW = 8  # rows, at which looking at a whole weight would cost nearly what the product does
_SAMPLED = 256  # pairs of numbers of a weight that are looked at instead


def takes(weight: Tensor, x: Tensor) -> bool:
    """Whether a convolution with this weight on `x` is to be computed here."""
    if weight.numel() < _LARGE or torch.compiler.is_compiling() or x.dtype != torch.float32:
        return False
    return not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, dilation: int) -> Tensor:
    """`F.conv1d` without padding: [B, C, L], [C', C, k] -> [B, C', L']."""
    span = (weight.shape[2] - 1) * dilation + 1
    if len(x) == 1 and x.shape[2] == span:  # one step of one stream, where little calls count
        row = x[..., ::dilation].reshape(1, -1)
        return _multiplied(row, _arranged(weight, 1, transposed=False), bias)[..., None]
    windows = x.unfold(2, span, stride)[..., ::dilation].transpose(1, 2)  # [B, L', C, k]
    rows = windows.shape[0] * windows.shape[1]
    return _product(windows, _arranged(weight, rows, transposed=False), bias).transpose(1, 2)


def convolve_transposed(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """`F.conv_transpose1d` for a kernel of n * stride: [B, C, L] -> [B, C', (L + n - 1) * stride]."""
    batch, _, length = x.shape
    channels, kernel = weight.shape[1:]
    lapping = kernel // stride
    parts = _product(x.transpose(1, 2), _arranged(weight, batch * length, transposed=True), None)
    parts = parts.view(batch, length, channels, lapping, stride)
    out = x.new_zeros(batch, length + lapping - 1, channels, stride)
    for part in range(lapping):
        out[:, part : part + length] += parts[:, :, :, part]
    out = out.transpose(1, 2).reshape(batch, channels, -1)
    return out if bias is None else out + bias[:, None]


class _Kept:
    """A weight in oneDNN's order, and how to tell whether the weight is still the one arranged.

    Its version does not move with what is done through `.data` or `.numpy()`, so contents are compared:
    by the sum of their bits, or where few rows do not warrant that, by some of them.
    """

    def __init__(self, weight: Tensor, flat: Tensor) -> None:
        plain = weight.detach()
        self._place, self._version = weight.data_ptr(), _version(weight)
        bits = plain.view(-1).view(torch.int64 if weight.numel() % 2 == 0 else torch.int32)
        self._bits = bits.numpy()  # of the weight itself, where it lies
        self._some = self._bits[:: max(len(self._bits) // _SAMPLED, 1)]
        self._sums = int(self._bits.sum()), self._some.copy()
        with torch.no_grad():
            self.arranged = torch.ops.mkldnn._reorder_linear_weight(
                flat.detach().contiguous(), _ROWS
            )

    def holds(self, weight: Tensor, *, some: bool) -> bool:
        """Whether the weight is as it was; of `some`, in what was looked at."""
        if (weight.data_ptr(), _version(weight)) != (self._place, self._version):
            return False
        whole, sample = self._sums
        return np.array_equal(self._some, sample) and (some or int(self._bits.sum()) == whole)


_kept: MutableMapping[Tensor, _Kept] = WeakTensorKeyDictionary()


def _version(weight: Tensor) -> int:
    return 0 if weight.is_inference() else weight._version


def _arranged(weight: Tensor, rows: int, *, transposed: bool) -> Tensor:
    """The weight as a matrix [N, K]; on CPUs in oneDNN's own order, kept until the weight changes."""
    found = _kept.get(weight)
    if found is None or not found.holds(weight, some=rows <= _FEW):
        flat = weight.flatten(1).T if transposed else weight.flatten(1)
        if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
            return flat
        if not weight.is_contiguous():
            return flat
        found = _kept[weight] = _Kept(weight, flat)
    return found.arranged


def _product(windows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Rows by a matrix: [B, L, ...], [N, K] -> [B, L, N]."""
    batch, length = windows.shape[:2]
    if batch * length > _BLOCK and length > 1:
        step = max(_BLOCK // batch, 1)
        return torch.cat([_product(part, weight, bias) for part in windows.split(step, 1)], dim=1)
    return _multiplied(windows.reshape(batch * length, -1), weight, bias).view(batch, length, -1)


def _multiplied(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """[M, K], [N, K] -> [M, N]."""
    count = len(rows)
    if not weight.is_mkldnn:
        return F.linear(rows, weight, bias)
    if count == 1:
        rows = torch.cat([rows, rows])
    elif count > 2 and count % _ROWS:
        rows = F.pad(rows, (0, 0, 0, -count % _ROWS))
    out = torch.ops.mkldnn._linear_pointwise.default(rows, weight, bias, "none", [], "")
    return out if len(out) == count else out[:count]
