"""A wider search for codes: several candidates a frame are kept from stage to stage.

The quantizer takes the nearest codeword at each stage, which need not lead to the nearest sum. Keeping
the best few partial sums finds nearer ones, for any decoder and at no bits, at the price of encoding
time. The choice of the first stages then depends on how many stages follow: a file trimmed to k stages
is no longer what encoding with k stages gives, though it decodes as ever.

Source: M-algorithm for multistage quantizers (LeBlanc et al., IEEE Trans. Speech and Audio Proc. 1993).
"""

import torch
from einops import rearrange
from torch import Tensor

from bittern.config import WIDEST_SEARCH
from bittern.quantizer import ResidualQuantizer
from bittern.shapes import Codes, Latent

_CANDIDATES = 4096  # at once, of all frames together, which bounds the memory


@torch.no_grad()
def search_codes(quantizer: ResidualQuantizer, latent: Latent, stages: int, *, width: int) -> Codes:
    """Code [B, D, F] with `stages` stages, keeping the best `width` partial sums of each frame.

    Args:
        quantizer: whose codebooks are searched.
        latent: [B, D, F].
        stages: 1 to K.
        width: 1 to 512; 1 is the plain search. Time grows about in proportion.

    Returns:
        [B, stages, F].
    """
    if not 1 <= width <= WIDEST_SEARCH:
        raise ValueError(f"search width is {width}; give 1 to {WIDEST_SEARCH}")
    if not 1 <= stages <= quantizer.stages:
        raise ValueError(f"got {stages} stages; this quantizer has 1 to {quantizer.stages}")
    if width == 1 or latent.shape[-1] == 0:
        return quantizer.encode(latent, stages)
    vectors = rearrange(latent.float(), "b d f -> (b f) d")
    with torch.autocast(latent.device.type, enabled=False):
        parts = [
            _searched(quantizer, part, stages, width)
            for part in vectors.split(max(_CANDIDATES // width, 1))
        ]
    return rearrange(torch.cat(parts), "(b f) k -> b k f", b=latent.shape[0])


def _searched(quantizer: ResidualQuantizer, vectors: Tensor, stages: int, width: int) -> Tensor:
    """[M, D] -> [M, stages]."""
    rest = vectors[:, None]  # [M, w, D], what each candidate leaves over
    energy = rest.square().sum(dim=2)  # [M, w]
    codes = torch.zeros(*rest.shape[:2], 0, dtype=torch.long, device=rest.device)  # [M, w, k]
    for codebook in quantizer.codewords[:stages]:
        norms = codebook.square().sum(dim=1)
        flat = torch.addmm(norms, rest.flatten(0, 1), codebook.T, alpha=-2)  # [M * w, N]
        scores = flat.view(*rest.shape[:2], -1) + energy[..., None]
        kept = min(width, scores[0].numel())
        energy, place = scores.flatten(1).topk(kept, dim=1, largest=False, sorted=True)
        parent, code = place // len(codebook), place % len(codebook)  # [M, w]
        rest = _take(rest, parent) - codebook[code]
        codes = torch.cat([_take(codes, parent), code[..., None]], dim=2)
    best = rest.square().sum(dim=2).argmin(dim=1)  # exact, not summed from rounded parts
    return _take(codes, best[:, None])[:, 0]


def _take(values: Tensor, index: Tensor) -> Tensor:
    """Rows of [M, w, X] by [M, v] -> [M, v, X]."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))
