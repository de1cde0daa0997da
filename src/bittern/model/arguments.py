"""What callers give, as the networks take it: the one door for audio, codes and lengths of all usual types.

Tensors on any device, numpy arrays, lists; that need gradients, were made for inference alone, are in
half or double precision. Numbers such as rates and stages are `config.whole_number`'s.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bittern.config import LOUDEST, whole_number
from bittern.errors import AudioError

ArrayLike = Tensor | np.ndarray | Sequence[Any]

_FULL_SCALE = {torch.int16: 2**15, torch.int32: 2**31, torch.uint8: 2**7, torch.int8: 2**7}
_STEPS_OF_16_BITS = 2**15  # no recording of 32 bits stays below: these are steps of 16


def as_samples(given: ArrayLike, expected: str) -> Tensor:
    """Audio of any rank as float32: floats as they are, whole numbers by their full scale.

    Args:
        given: floats of any precision in -1..1, or int16, int32, int8 or uint8 (128 is silence).
        expected: its shape, for messages.

    Raises:
        ValueError: another type, or 32-bit numbers that are steps of 16 bits.
    """
    samples = _tensor(given, "wav", expected)
    if samples.dtype.is_floating_point:
        return samples.to(torch.float32)
    scale = _FULL_SCALE.get(samples.dtype)
    if scale is None:
        raise ValueError(
            f"wav is {samples.dtype} {list(samples.shape)}; expected floats {expected}, or int16, "
            "int32, int8 or uint8 at full scale"
        )
    if samples.dtype is torch.int32 and samples.numel():
        low, high = (int(end) for end in samples.aminmax())
        if 0 < max(high, -low) <= _STEPS_OF_16_BITS:
            raise ValueError(
                f"wav is int32 from {low} to {high}, which is next to nothing of its full scale; "
                "expected floats in -1..1. If these are steps of 16 bits, give int16"
            )
    if samples.dtype is torch.uint8:
        samples = samples.to(torch.int16) - scale
    return (samples.to(torch.float64) / scale).to(torch.float32)


def as_wav(
    given: ArrayLike, expected: str, *, batch: int | None, channels: int, many: bool
) -> Tensor:
    """Audio to be coded: float32 [batch, C, T].

    Args:
        given: see `as_samples`.
        expected: its shape, for messages.
        batch: how many items; None: any number.
        channels: how many.
        many: whether a multiple of them does, too.

    Raises:
        ValueError: wrong type or shape.
    """
    samples = as_samples(given, expected)
    shape = samples.shape
    fits = len(shape) == 3 and batch in (None, shape[0])
    if not fits or (shape[1] != channels and (not many or not shape[1] or shape[1] % channels)):
        raise ValueError(f"wav is {samples.dtype} {list(shape)}; expected floats {expected}")
    return samples


def check_wav(wav: Tensor) -> Tensor:
    """The same audio [B, C, T], if it is finite and within what audio can be.

    Raises:
        AudioError: a sample is NaN, infinite or out of all range.
    """
    if wav.numel() == 0 or torch.compiler.is_compiling():
        return wav
    low, high = (float(end) for end in wav.aminmax())
    if -LOUDEST <= low <= high <= LOUDEST:
        return wav
    odd = (~wav.isfinite()).nonzero()
    if not len(odd):
        raise AudioError(
            f"wav: samples reach {max(high, -low):.6g}; expected -1 to 1. Divide them by full scale "
            "(32768 if they are 16-bit steps kept as floats)"
        )
    item, channel, place = odd[0].tolist()
    raise AudioError(
        f"wav: sample {place} of channel {channel + 1} of item {item} is "
        f"{float(wav[item, channel, place])}, not a number to code"
    )


def as_codes(given: ArrayLike, expected: str) -> Tensor:
    """Codes of any rank as int64: whole numbers of any type, or floats that are whole.

    Raises:
        ValueError: another type, or numbers that are not whole.
    """
    codes = _tensor(given, "codes", expected)
    whole = not (codes.dtype.is_floating_point or codes.dtype.is_complex)
    if codes.dtype in (torch.float32, torch.float64):  # half precision has no 1023
        whole = bool((codes == codes.round()).all()) and bool(codes.isfinite().all())
    if not whole or codes.dtype is torch.bool:
        raise ValueError(
            f"codes are {codes.dtype} {list(codes.shape)}; expected whole numbers {expected}"
        )
    return codes.to(torch.int64)


def as_lengths(given: ArrayLike, batch: int, most: int) -> list[int]:
    """Samples of each item of a batch.

    Raises:
        ValueError: not as many as items, not whole, or not 0 to `most`.
    """
    values: Sequence[Any] = given.tolist() if isinstance(given, Tensor | np.ndarray) else given
    try:
        lengths = [whole_number(value, "a length") for value in values]
    except TypeError:
        raise ValueError(f"lengths are {given!r}; expected {batch} of 0 to {most}") from None
    if len(lengths) != batch or not all(0 <= length <= most for length in lengths):
        raise ValueError(f"lengths are {lengths}; expected {batch} of 0 to {most}")
    return lengths


def _tensor(given: ArrayLike, name: str, expected: str) -> Tensor:
    """One that holds no graph, and that training may go on with."""
    try:
        if isinstance(given, list | tuple) and given and isinstance(given[0], Tensor):
            given = torch.stack(list(given))
        if isinstance(given, Tensor):
            return given.clone() if given.is_inference() else given.detach()
        array = np.asarray(given)
        if array.dtype.kind == "f" and array.dtype.itemsize > 8:  # long doubles
            array = array.astype(np.float64)
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        return torch.from_numpy(np.require(array, requirements=["C", "W"]))
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{name} is {type(given).__name__} ({reason}); expected a tensor, an array or lists of "
            f"one length, {expected}"
        ) from None
