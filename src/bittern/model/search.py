"""The encoder's search for codes: several candidates a frame are kept from stage to stage.

The nearest codeword at each stage need not lead to the nearest sum. Keeping the best few partial sums
finds nearer ones, for any decoder and at no bits, at the price of encoding time. A file trimmed to k
stages is then not quite what encoding with k stages gives: it was searched for with more in view.

Codes do not depend on how many frames are searched at once, nor on the library that multiplies, but for
ties: sums that float32 cannot tell apart, which tests count. Arrays are numpy's, or torch's on any
device; this module imports no torch.

Source: M-algorithm for multistage quantizers (LeBlanc et al., IEEE Trans. Speech and Audio Proc. 1993).
"""

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from bittern.config import WIDEST_SEARCH

_CANDIDATES = 2048  # at once, of all frames together, which bounds the memory
_GROUP = 8  # entries whose least is found first; only the best groups are looked into

Array = Any  # of numpy, or a tensor
Steps = list[tuple[Array, Array]]  # of each stage: parents and codes, [M, w]


class Books:
    """Codebooks as the search needs them."""

    def __init__(self, codewords: Array, xp: ModuleType) -> None:
        """Codebooks [K, N, D] in float32, of numpy or of torch, which is `xp`."""
        self.codewords, self._library = codewords, xp.__name__  # a module is never copied
        self.norms = (codewords * codewords).sum(2)  # [K, N]
        self.columns = xp.stack([-2 * xp.swapaxes(book, 0, 1) for book in codewords])  # [K, D, N]

    @property
    def xp(self) -> ModuleType:
        return sys.modules[self._library]

    def scores(self, stage: int, rest: Array) -> Array:
        """Squared distances of [M, D] to the codewords of a stage, less the squares of `rest`: [M, N]."""
        scores = rest @ self.columns[stage]
        scores += self.norms[stage]
        return scores


def search(books: Books, vectors: Array, stages: int, width: int) -> Array:
    """Code [M, D] with `stages` stages, keeping the best `width` partial sums of each frame: [M, stages].

    Args:
        books: what is searched.
        vectors: [M, D] float32, of the library and on the device of the books.
        stages: 1 to K.
        width: 1 to 512; 1 is the nearest codeword at each stage, of equals the first. Time grows about
            in proportion.
    """
    most = len(books.codewords)
    if not 1 <= width <= WIDEST_SEARCH:
        raise ValueError(f"search width is {width}; give 1 to {WIDEST_SEARCH}")
    if not 1 <= stages <= most:
        raise ValueError(f"got {stages} stages; this quantizer has 1 to {most}")
    step, none = max(_CANDIDATES // width, 1), books.xp.zeros((0, stages), dtype=books.xp.int64)
    starts = range(0, len(vectors), step)
    parts = [_search(books, vectors[at : at + step], stages, width) for at in starts]
    return books.xp.concatenate(parts) if parts else none


def errors(codewords: Array, vectors: Array, codes: Array, counts: Sequence[int]) -> list[Array]:
    """What the first so many stages leave over, squared and summed over dimensions.

    Args:
        codewords: [K, N, D].
        vectors: [M, D].
        codes: [M, k], of these vectors.
        counts: R numbers of stages, 1 to k, ascending.

    Returns:
        R arrays [M].
    """
    found, done = [], 0
    for count in counts:
        for stage in range(done, count):
            vectors = vectors - codewords[stage][codes[:, stage]]
        found.append((vectors * vectors).sum(1))
        done = count
    return found


def _search(books: Books, vectors: Array, stages: int, width: int) -> Array:
    """[M, D] -> [M, stages]."""
    xp, entries, dim = books.xp, *books.codewords.shape[1:]
    row = xp.arange(vectors.shape[0], device=vectors.device)[:, None]
    rest = vectors[:, None]  # [M, w, D], what each candidate leaves over
    energy = xp.einsum("mwd,mwd->mw", rest, rest)
    steps: Steps = []
    for stage in range(stages):
        scores = books.scores(stage, rest.reshape(-1, dim))  # [M * w, N]
        place = _least(xp, scores, energy, row, width)
        parent, code = place // entries, place % entries
        steps.append((parent, code))
        rest = rest[row, parent] - books.codewords[stage][code]
        energy = xp.einsum("mwd,mwd->mw", rest, rest)
    return _traced(xp, steps, row, energy.argmin(1)[:, None])


def _least(xp: ModuleType, scores: Array, energy: Array, row: Array, count: int) -> Array:
    """Where the least of scores [M * w, N] + energy [M, w] are, among w * N.

    What is among the least `count` is in one of the `count` groups with the least leasts.
    """
    if count == 1:
        return scores.argmin(1)[:, None]  # of equals the first
    items, width = energy.shape
    entries = scores.shape[1]
    size = min(entries, _GROUP)
    groups = entries // size
    grouped = scores.reshape(items, width, size, groups)
    leasts = xp.amin(grouped, 2) + energy[..., None]  # [M, w, groups]
    group = _smallest(leasts.reshape(items, -1), count)
    parent, group = group // groups, group % groups  # [M, g]
    members = grouped[row, parent, :, group]  # [M, g, size]
    members = (members + energy[row, parent][..., None]).reshape(items, -1)
    place = _smallest(members, count)
    picked, member = place // size, place % size
    return parent[row, picked] * entries + member * groups + group[row, picked]


def _smallest(values: Array, count: int) -> Array:
    """Where the least `count` of each row are."""
    count = min(count, values.shape[1])
    if not isinstance(values, np.ndarray):
        return values.topk(count, dim=1, largest=False).indices
    return values.argpartition(count - 1, axis=1)[:, :count]


def _traced(xp: ModuleType, steps: Steps, row: Array, at: Array) -> Array:
    """The codes that led to candidate `at` [M, 1] of the last stage, [M, k]."""
    picked = []
    for parent, code in reversed(steps):
        picked.append(code[row, at])
        at = parent[row, at]
    return xp.concatenate(picked[::-1], 1)
