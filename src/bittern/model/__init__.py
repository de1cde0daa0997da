"""Networks, quantizer, allocation and streams: tensors, without files or bytes.

The letters and tensor kinds used in every signature of Bittern:

B batch, C audio channels, T samples, D latent channels, F frames (latent steps),
K codebook stages, k the first stages of K, N codebook entries.

T is never frames and F is never samples.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    Waveform = Tensor  # float32 [B, C, T], nominal range [-1, 1]
    Latent = Tensor  # float [B, D, F]
    Codes = Tensor  # int64 [B, k, F], values in [0, N)
else:  # what needs no torch is here, too
    Waveform = Latent = Codes = Any
