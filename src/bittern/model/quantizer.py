"""The residual vector quantizer: K codebooks, each coding what the stages before it left over.

Here is what a trained codec needs, and the straight-through forward that training needs. How the
codebooks come to be (k-means, moving averages, revival) is in `codebook.py`.

Source: residual VQ with stage dropout, SoundStream (arXiv:2107.03312, section III-C); straight-through
estimator and commitment, VQ-VAE (arXiv:1711.00937).
"""

from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from bittern.config import QuantizerConfig
from bittern.shapes import Codes, Latent

NEAR_TIE = 2e-6  # of |x|^2 + |e|^2; scores nearer than that may be in the wrong order in float32


class Quantized(NamedTuple):
    """What one training forward gives.

    S counts every vector at every stage that its item uses: the sum over the frames of the batch of
    the stages of their items.
    """

    latent: Latent  # [B, D, F], sum of the codewords of the stages used, straight-through
    commitment: Tensor  # [K], mean squared distance of each stage's input to its codeword
    inputs: Tensor  # [S, D] float32, what each stage was given to code, detached
    codes: Tensor  # [S] int64 in [0, N), the entry it chose
    counts: list[int]  # K numbers that sum to S: vectors at each stage, in this order


class ResidualQuantizer(nn.Module):
    """Codebooks [K, N, D]; any prefix of the stages decodes."""

    codewords: Tensor

    def __init__(self, config: QuantizerConfig, dim: int) -> None:
        super().__init__()
        self.stages = config.stages
        self.codebook_size = config.codebook_size
        self.register_buffer("codewords", torch.zeros(config.stages, config.codebook_size, dim))
        self._kept: tuple[Tensor, int, Tensor, Tensor] | None = None

    def encode(self, latent: Latent, stages: int | None = None) -> Codes:
        """Nearest codeword at each stage by squared distance, in float32; ties to the lowest index.

        Args:
            latent: [B, D, F].
            stages: how many stages to use, 1 to K; all by default.

        Returns:
            [B, stages, F].
        """
        stages = self._check_stages(stages)
        with torch.no_grad(), torch.autocast(latent.device.type, enabled=False):
            if latent.shape[0] * latent.shape[2] == 1 and _plain(latent):
                return self._encode_one(latent.float().reshape(1, -1), stages)
            vectors = rearrange(latent.float(), "b d f -> (b f) d")
            norms, columns = self.tables()
            given, picked, gaps = [vectors], [], []
            for codebook, column, norm in zip(
                self.codewords[:stages], columns, norms, strict=False
            ):
                scores = torch.addmm(norm, given[-1], column[:-2])
                smallest, indices = scores.min(dim=1)
                second = scores.scatter_(1, indices[:, None], torch.inf).amin(dim=1)
                picked.append(indices)
                gaps.append(second - smallest)
                given.append(given[-1] - codebook.index_select(0, picked[-1]))
            codes, gap = torch.stack(picked), torch.stack(gaps)  # [k, M]
            size = torch.stack(given[:-1]).square().sum(dim=2) + norms[:stages].gather(1, codes)
            rows = (gap <= NEAR_TIE * size).any(dim=0).nonzero().flatten()
            if len(rows):
                codes[:, rows] = self._settle(vectors[rows], stages)
            return rearrange(codes, "k (b f) -> b k f", b=latent.shape[0])

    def _encode_one(self, vector: Tensor, stages: int) -> Tensor:
        """The same for one frame, [1, D] -> [1, stages, 1], in a third of the time.

        Where audio comes frame by frame it is not the arithmetic that takes time, but the calls.
        """
        norms, columns = (table.numpy() for table in self.tables())
        codewords = self.codewords.numpy()
        rest = vector[0].numpy()
        codes = np.zeros((1, stages, 1), np.int64)
        scores = np.empty(self.codebook_size, np.float32)
        for stage in range(stages):
            np.dot(rest, columns[stage, :-2], out=scores)
            np.add(scores, norms[stage], out=scores)
            chosen = scores.argmin()
            size = rest.dot(rest) + norms[stage, chosen]
            if np.count_nonzero(scores <= scores[chosen] + NEAR_TIE * size) > 1:
                return self._settle(vector, stages)[None, :, 0, None]
            codes[0, stage, 0] = chosen
            rest = rest - codewords[stage, chosen]
        return torch.from_numpy(codes)

    def _settle(self, vectors: Tensor, stages: int) -> Tensor:
        """The same search by distances in float64 wherever scores nearly tie: [M, D] -> [k, M].

        What rounding makes of a near tie depends on the library and on how many vectors come at
        once; this does not, and so codes do not depend on how audio is cut into chunks.
        """
        norms, _ = self.tables()
        residual, picked = vectors, []
        for codebook, norm in zip(self.codewords[:stages], norms, strict=False):
            scores = torch.addmm(norm, residual, codebook.T, alpha=-2)
            best, first = scores.min(dim=1, keepdim=True)
            size = residual.square().sum(dim=1, keepdim=True) + norm[first]
            near = scores <= best + NEAR_TIE * size
            indices = torch.cat(
                [
                    _nearest_among(*portion, codebook)
                    for portion in zip(residual.split(64), near.split(64), strict=True)
                ]
            )
            residual = residual - codebook.index_select(0, indices)
            picked.append(indices)
        return torch.stack(picked)

    def tables(self) -> tuple[Tensor, Tensor]:
        """Squared norms [K, N] of codewords e, and what makes distances of vectors, [K, D + 2, N].

        Above each other stand -2 e, 1 and |e|^2, so that [x, |x|^2, 1] times it is |x - e|^2. Both are
        kept until codewords change: one vector by such a table takes a third of the time that it
        takes by codewords in rows.
        """
        codewords = self.codewords
        if torch.compiler.is_compiling():
            return _tables(codewords)
        version = 0 if codewords.is_inference() else codewords._version
        if self._kept is None or self._kept[0] is not codewords or self._kept[1] != version:
            with torch.inference_mode(False):
                self._kept = (codewords, version, *_tables(codewords))
        return self._kept[2:]

    def decode(self, codes: Codes) -> Latent:
        """Sum the codewords: [B, k, F] with 1 <= k <= K -> [B, D, F].

        Raises:
            ValueError: k is not in 1..K, or a code is outside [0, N).
        """
        stages = self._check_stages(codes.shape[1])
        if codes.numel() and (int(codes.min()) < 0 or int(codes.max()) >= self.codebook_size):
            raise ValueError(
                f"codes run from {int(codes.min())} to {int(codes.max())}; "
                f"expected 0 to {self.codebook_size - 1}"
            )
        if codes.shape[0] * codes.shape[2] == 1 and _plain(self.codewords):
            rows = self.codewords.numpy()[np.arange(stages), codes[0, :, 0].numpy()]  # [k, D]
            return torch.from_numpy(np.add.reduce(rows, axis=0, initial=0))[None, :, None]
        latent = torch.zeros((), device=codes.device)
        for stage in range(stages):
            latent = latent + self.codewords[stage][codes[:, stage]]  # [B, F, D]
        return rearrange(latent, "b f d -> b d f")

    def forward(self, latent: Latent, stages: Tensor | None = None) -> Quantized:
        """Quantize for training.

        Each stage sees the latent less the codewords of the stages before it, all detached; the
        commitment of every stage pulls on the latent, and one estimator spans the whole sum.

        Args:
            latent: [B, D, F].
            stages: [B] int64, stages that each item uses, 1 to K; all K by default.
        """
        batch, _, frames = latent.shape
        if stages is None:
            stages = torch.full((batch,), self.stages)
        # Items with more stages come first, so that each stage works on the first rows alone.
        ordered, items = stages.cpu().sort(descending=True, stable=True)
        counts = [frames * int((ordered > stage).sum()) for stage in range(self.stages)]
        items = items.to(latent.device)
        with torch.autocast(latent.device.type, enabled=False):
            target = rearrange(latent.float()[items], "b d f -> (b f) d")
            inputs, codes, rest = self._search(target.detach(), counts)
            commitment = self._commitment(target, inputs, codes, counts)
            coded = target.detach() - rest
            through = target + (coded - target).detach()
            back = torch.empty_like(items).scatter_(
                0, items, torch.arange(batch, device=items.device)
            )
            through = rearrange(through, "(b f) d -> b d f", b=batch)[back]
        return Quantized(through, commitment, inputs, codes, counts)

    @torch.no_grad()
    def _search(self, vectors: Tensor, counts: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Code the first `counts[k]` of [M, D] vectors at stage k; [S, D], [S] and what is left."""
        rest = vectors.clone()
        inputs, codes = [], []
        for codebook, count in zip(self.codewords, counts, strict=True):
            given = rest[:count].clone()
            chosen = nearest(given, codebook)
            rest[:count] = given - codebook[chosen]
            inputs.append(given)
            codes.append(chosen)
        return torch.cat(inputs), torch.cat(codes), rest

    def _commitment(
        self, target: Tensor, inputs: Tensor, codes: Tensor, counts: list[int]
    ) -> Tensor:
        """Mean squared distance of `target` to the sum of codewords up to each stage, [K].

        Its value is the energy that a stage leaves over; its gradient reaches `target` from each
        stage, as all that stands between them is detached.
        """
        device = target.device
        sizes = torch.tensor(counts, device=device)
        stage = torch.arange(len(counts), device=device).repeat_interleave(sizes)
        row = torch.cat([torch.arange(count, device=device) for count in counts])
        left_over = inputs - self.codewords[stage, codes]
        given = target.index_select(0, row)
        distance = (given - (given.detach() - left_over)).square().mean(dim=1)
        sums = distance.new_zeros(len(counts)).index_add(0, stage, distance)
        return sums / sizes.clamp(min=1)

    def _check_stages(self, stages: int | None) -> int:
        if stages is None:
            return self.stages
        if not 1 <= stages <= self.stages:
            raise ValueError(f"got {stages} stages; this quantizer has 1 to {self.stages}")
        return stages


def _tables(codewords: Tensor) -> tuple[Tensor, Tensor]:
    norms = codewords.square().sum(dim=2)
    rows = [-2 * codewords.mT, torch.ones_like(norms)[:, None], norms[:, None]]
    return norms, torch.cat(rows, dim=1)


def _plain(tensor: Tensor) -> bool:
    """Whether numpy may see it: on a CPU, and not while a graph is made."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def _nearest_among(vectors: Tensor, candidates: Tensor, codebook: Tensor) -> Tensor:
    """Nearest of each vector's candidates, the lowest index among equals: [M, D], [M, N] -> [M]."""
    rows, indices = candidates.nonzero(as_tuple=True)
    distances = (vectors[rows].double() - codebook[indices].double()).square().sum(dim=1)
    least = distances.new_full((len(vectors),), torch.inf).scatter_reduce(
        0, rows, distances, "amin"
    )
    indices = indices.where(distances <= least[rows], len(codebook))
    return rows.new_zeros(len(vectors)).scatter_reduce(0, rows, indices, "amin", include_self=False)


def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Index of the nearest codeword: [M, D], [N, D] -> [M], the lowest index among equals.

    |x - e|^2 = |x|^2 - 2 x.e + |e|^2, of which |x|^2 changes nothing: one matrix product.
    """
    scores = torch.addmm(codebook.square().sum(dim=1), vectors, codebook.T, alpha=-2)
    return scores.argmin(dim=1)


def draw_stages(batch: int, stages: int, full_share: float, generator: torch.Generator) -> Tensor:
    """How many stages each item of a batch uses, [B]: all K with probability `full_share`, else 1..K.

    Source: quantizer dropout, SoundStream (arXiv:2107.03312, section III-D), drawn for each item.
    """
    drawn = torch.randint(1, stages + 1, (batch,), generator=generator)
    full = torch.rand(batch, generator=generator) < full_share
    return torch.where(full, stages, drawn)


def code_statistics(codes: Codes, codebook_size: int) -> tuple[Tensor, Tensor]:
    """Usage and entropy of each stage over all frames given.

    Returns:
        Share of the entries that occur, [k] in 0..1, and entropy in bits, [k].
    """
    flat = rearrange(codes, "b k f -> k (b f)")
    counts = torch.stack([torch.bincount(row, minlength=codebook_size) for row in flat]).double()
    share = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
    entropy = -(share * share.clamp(min=1e-300).log2()).sum(dim=1)
    return (counts > 0).double().mean(dim=1), entropy
