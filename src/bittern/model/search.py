"""The encoder's search for codes: several candidates a frame are kept from stage to stage.

The nearest codeword at each stage need not lead to the nearest sum. Keeping the best few partial sums
finds nearer ones, for any decoder and at no bits, at the price of encoding time. A file trimmed to k
stages is then not quite what encoding with k stages gives: it was searched for with more in view.

Codes do not depend on how many frames are searched at once, nor on the library that multiplies: what
float32 cannot tell apart is searched again in float64; graphs of torch.export leave that out.

Source: M-algorithm for multistage quantizers (LeBlanc et al., IEEE Trans. Speech and Audio Proc. 1993).
"""

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from bittern.config import WIDEST_SEARCH
from bittern.model.quantizer import NEAR_TIE, ResidualQuantizer, plain
from bittern.shapes import Codes, Latent

_CANDIDATES = 2048  # at once, of all frames together, which bounds the memory
_GROUP = 32  # entries whose least is found first; only the best groups are looked into


@torch.no_grad()
def search_codes(quantizer: ResidualQuantizer, latent: Latent, stages: int, *, width: int) -> Codes:
    """Code [B, D, F] with `stages` stages, keeping the best `width` partial sums of each frame.

    Args:
        quantizer: whose codebooks are searched.
        latent: [B, D, F].
        stages: 1 to K.
        width: 1 to 512; 1 is the nearest codeword at each stage. Time grows about in proportion.

    Returns:
        [B, stages, F].
    """
    if not 1 <= width <= WIDEST_SEARCH:
        raise ValueError(f"search width is {width}; give 1 to {WIDEST_SEARCH}")
    if not 1 <= stages <= quantizer.stages:
        raise ValueError(f"got {stages} stages; this quantizer has 1 to {quantizer.stages}")
    if latent.shape[0] * latent.shape[2] == 0:
        return latent.new_zeros(len(latent), stages, latent.shape[2], dtype=torch.int64)
    if width == 1:
        return quantizer.encode(latent, stages)
    if latent.shape[0] * latent.shape[2] == 1 and plain(latent):
        return _search_one(quantizer, latent.float().reshape(1, -1), stages, width)[..., None]
    vectors = rearrange(latent.float(), "b d f -> (b f) d")
    with torch.autocast(latent.device.type, enabled=False):
        at_once = max(_CANDIDATES // width, 1)
        parts = [vectors] if torch.compiler.is_compiling() else vectors.split(at_once)
        codes = torch.cat([_search(quantizer, part, stages, width) for part in parts])
    return rearrange(codes, "(b f) k -> b k f", b=latent.shape[0])


def _search(quantizer: ResidualQuantizer, vectors: Tensor, stages: int, width: int) -> Tensor:
    """[M, D] -> [M, stages]."""
    norms, columns = quantizer.tables()
    rest = vectors[:, None]  # [M, w, D], what each candidate leaves over
    energy = rest.square().sum(dim=2)  # [M, w]
    steps: list[tuple[Tensor, Tensor]] = []  # of each stage: parents and codes, [M, w]
    unsure = torch.zeros(len(vectors), dtype=torch.bool, device=vectors.device)
    for codebook, column, norm in zip(quantizer.codewords[:stages], columns, norms, strict=False):
        scores = torch.addmm(norm, rest.flatten(0, 1), column[:-2])  # [M * w, N]
        least, place = _least(scores.view(*energy.shape, -1), energy, width + 1)
        parent, code = place // len(codebook), place % len(codebook)
        if least.shape[1] > width:
            size = energy.amax(dim=1) + norm[code[:, width]]
            unsure |= least[:, width] - least[:, width - 1] <= NEAR_TIE * size
            parent, code = parent[:, :width], code[:, :width]
        steps.append((parent, code))
        rest = _step(rest, parent, codebook, code)
        energy = rest.square().sum(dim=2)
    best = energy.argmin(dim=1)
    unsure |= (energy <= energy.amin(dim=1, keepdim=True) * (1 + NEAR_TIE)).sum(dim=1) > 1
    codes = _traced(steps, best)
    if not torch.compiler.is_compiling() and len(rows := unsure.nonzero().flatten()):
        codes[rows] = _settle(quantizer, vectors[rows], stages, width)
    return codes


def _least(scores: Tensor, energy: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The least of scores [M, w, N] + energy [M, w], in order, and their places among w * N.

    What is among the least `count` is in one of the `count` groups with the least leasts.
    """
    items, width, entries = scores.shape
    size = min(entries, _GROUP)
    groups = entries // size
    grouped = scores.view(items, width, size, groups)
    leasts = (grouped.amin(dim=2) + energy[..., None]).flatten(1)  # [M, w * groups]
    group = leasts.topk(min(count, leasts.shape[1]), dim=1, largest=False).indices
    parent, group = group // groups, group % groups  # [M, g]
    row = torch.arange(items, device=scores.device)[:, None]
    members = grouped[row, parent, :, group]  # [M, g, size]
    flat = (members + energy.gather(1, parent)[..., None]).flatten(1)
    least, place = flat.topk(min(count, flat.shape[1]), dim=1, largest=False, sorted=True)
    picked, member = place // size, place % size
    return least, parent.gather(1, picked) * entries + member * groups + group.gather(1, picked)


def _step(rest: Tensor, parent: Tensor, codebook: Tensor, code: Tensor) -> Tensor:
    """What candidates leave over: rows [M, v, D] by parents [M, w], less codewords by codes [M, w]."""
    first = torch.arange(len(rest), device=rest.device)[:, None] * rest.shape[1]
    flat = rest.flatten(0, 1).index_select(0, (first + parent).flatten())
    return (flat - codebook.index_select(0, code.flatten())).view(*code.shape, -1)


def _traced(steps: list[tuple[Tensor, Tensor]], best: Tensor) -> Tensor:
    """The codes that led to candidate `best` [M] of the last stage, [M, k]."""
    at, picked = best[:, None], []
    for parent, code in reversed(steps):
        picked.append(code.gather(1, at))
        at = parent.gather(1, at)
    return torch.cat(picked[::-1], dim=1)


def _settle(quantizer: ResidualQuantizer, vectors: Tensor, stages: int, width: int) -> Tensor:
    """The same search with scores in float64 rounded to float32, alike whatever M is: [M, D] -> [M, k]."""
    rest = vectors[:, None]
    steps: list[tuple[Tensor, Tensor]] = []
    for codebook in quantizer.codewords[:stages]:
        wide, given = codebook.double(), rest.double()
        scores = wide.square().sum(dim=1) - 2 * (given @ wide.T)
        scores = (scores + given.square().sum(dim=2, keepdim=True)).float().flatten(1)
        place = scores.topk(min(width, scores.shape[1]), dim=1, largest=False).indices
        steps.append((place // len(codebook), place % len(codebook)))
        rest = _step(rest, steps[-1][0], codebook, steps[-1][1])
    energy = rest.double().square().sum(dim=2).float()
    return _traced(steps, energy.argmin(dim=1))


def _search_one(quantizer: ResidualQuantizer, vector: Tensor, stages: int, width: int) -> Tensor:
    """The same for one frame, [1, D] -> [1, stages], where the calls take more time than the arithmetic."""
    norms, columns = (table.numpy() for table in quantizer.tables())
    codewords = quantizer.codewords.numpy()
    entries, dim = codewords.shape[1:]
    given = np.ones((1, dim + 2), np.float32)  # [w, D + 2]: what is left over, its energy, 1
    given[0, :-2] = vector[0].numpy()
    given[0, -2] = given[0, :-2] @ given[0, :-2]
    steps: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for stage in range(stages):
        scores = (given @ columns[stage]).ravel()
        if len(scores) > width:
            place = scores.argpartition(width)[: width + 1]  # the last one is the greatest
            parent, code = place // entries, place % entries
            *least, beyond = scores[place].tolist()
            size = float(given[:, -2].max() + norms[stage, code[width]])
            if beyond - max(least) <= NEAR_TIE * size:
                return _settle(quantizer, vector, stages, width)
            parent, code = parent[:width], code[:width]
        else:
            parent, code = np.divmod(np.arange(len(scores)), entries)
        steps.append((parent, code))
        given = given.take(parent, axis=0)
        rest = given[:, :-2]
        rest -= codewords[stage].take(code, axis=0)
        np.einsum("wd,wd->w", rest, rest, out=given[:, -2])
    energy = given[:, -2]
    best = energy.argmin()
    if np.count_nonzero(energy <= energy[best] * (1 + NEAR_TIE)) > 1:
        return _settle(quantizer, vector, stages, width)
    codes = np.empty((1, stages), np.int64)
    for stage in reversed(range(stages)):
        parent, code = steps[stage]
        codes[0, stage], best = code[best], parent[best]
    return torch.from_numpy(codes)
