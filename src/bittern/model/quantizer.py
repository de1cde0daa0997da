"""The residual vector quantizer: K codebooks, each coding what the stages before it left over.

Here is what a trained codec needs, and the straight-through forward that training needs. How the
codebooks come to be (k-means, moving averages, revival) is in `training/codebook.py`.

Source: residual VQ with stage dropout, SoundStream (arXiv:2107.03312, section III-C); straight-through
estimator and commitment, VQ-VAE (arXiv:1711.00937).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from bittern.config import QuantizerConfig
from bittern.model import Codes, Latent
from bittern.model.search import Books, errors, search


class Quantized(NamedTuple):
    """What one training forward gives.

    S counts every vector at every stage that it uses: the sum over all frames of their stages.
    """

    latent: Latent  # [B, D, F], sum of the codewords of the stages used, straight-through
    stages: Tensor  # [B, F] int64, how many stages each frame used
    commitment: Tensor  # [K], squared distances of each stage's input to its codeword, summed over
    # vectors and mean over dimensions; divided by `counts` a mean
    inputs: Tensor  # [S, D] float32, what each stage was given to code, detached; stage by stage
    codes: Tensor  # [S] int64 in [0, N), the entry it chose
    counts: list[int]  # K numbers that sum to S: vectors at each stage, in this order


Allocate = Callable[[Tensor], Tensor]  # errors [B, K + 1, F] after 0..K stages -> stages [B, F]


class ResidualQuantizer(nn.Module):
    """Codebooks [K, N, D]; any prefix of the stages decodes."""

    codewords: Tensor

    def __init__(self, config: QuantizerConfig, dim: int) -> None:
        super().__init__()
        self.stages = config.stages
        self.codebook_size = config.codebook_size
        self.register_buffer("codewords", torch.zeros(config.stages, config.codebook_size, dim))
        self._kept: tuple[Tensor, int, Books] | None = None

    @torch.no_grad()
    def encode(self, latent: Latent, stages: int | None = None, *, width: int = 1) -> Codes:
        """Nearest codeword at each stage by squared distance, in float32; ties to the lowest index.

        Args:
            latent: [B, D, F].
            stages: how many stages to use, 1 to K; all by default.
            width: candidates kept from stage to stage, see `search.py`.

        Returns:
            [B, stages, F].
        """
        batch, _, frames = latent.shape
        with torch.autocast(latent.device.type, enabled=False):
            vectors = rearrange(latent.float(), "b d f -> (b f) d")
            stages = self.stages if stages is None else stages
            codes = search(self._books(), vectors, stages, width)
        return codes.unflatten(0, (batch, frames)).transpose(1, 2)

    def _books(self) -> Books:
        """The codebooks for the search, kept until codewords change."""
        codewords = self.codewords
        if torch.compiler.is_compiling():
            return Books(codewords, torch)
        version = 0 if codewords.is_inference() else codewords._version
        if self._kept is None or self._kept[0] is not codewords or self._kept[1] != version:
            with torch.inference_mode(False):
                self._kept = codewords, version, Books(codewords, torch)
        return self._kept[2]

    def decode(self, codes: Codes) -> Latent:
        """Sum the codewords: [B, k, F] with 1 <= k <= K -> [B, D, F]; -1 adds nothing.

        Raises:
            ValueError: k is not in 1..K, or a code is outside [-1, N).
        """
        stages = self._check_stages(codes.shape[1])
        if codes.numel() and not torch.compiler.is_compiling():
            low, high = (int(end) for end in codes.aminmax())
            if low < -1 or high >= self.codebook_size:
                raise ValueError(
                    f"codes run from {low} to {high}; "
                    f"expected 0 to {self.codebook_size - 1}, or -1 where a frame has no code"
                )
        latent = torch.zeros((), device=codes.device)
        for stage in range(stages):
            code = codes[:, stage]  # [B, F]
            latent = latent + self.codewords[stage][code.clamp(min=0)] * (code >= 0)[..., None]
        return rearrange(latent, "b f d -> b d f")

    @torch.no_grad()
    def errors(self, latent: Latent, codes: Codes, counts: Sequence[int]) -> Tensor:
        """What the first so many stages leave over, squared and summed over dimensions.

        Args:
            latent: [B, D, F].
            codes: [B, k, F], of this latent.
            counts: R numbers of stages, 1 to k, ascending.

        Returns:
            [B, R, F] float32.
        """
        vectors, rows = (rearrange(x, "b d f -> (b f) d") for x in (latent.float(), codes))
        found = torch.stack(errors(self.codewords, vectors, rows, counts))
        return found.unflatten(1, codes.shape[::2]).transpose(0, 1)

    @property
    def gains(self) -> Tensor:
        """[K], about how much of the squared error each stage takes away.

        A codeword that is the mean of what it codes takes away its own energy.
        """
        return self.codewords.square().sum(dim=2).mean(dim=1)

    def forward(self, latent: Latent, stages: Tensor | Allocate | None = None) -> Quantized:
        """Quantize for training.

        Each stage sees the latent less the codewords of the stages before it, all detached; the
        commitment of every stage pulls on the latent, and one estimator spans the whole sum.

        Args:
            latent: [B, D, F].
            stages: that each item, [B], or each frame, [B, F], uses, 1 to K, int64; or what chooses
                them once the errors are known; all K by default.
        """
        batch, _, frames = latent.shape
        with torch.autocast(latent.device.type, enabled=False):
            target = rearrange(latent.float(), "b d f -> (b f) d")
            rest, codes = self._search(target.detach())  # [K + 1, M, D], [K, M]
            if callable(stages):
                errors = rest.square().sum(dim=2)
                stages = stages(rearrange(errors, "k (b f) -> b k f", b=batch))
            elif stages is None:
                stages = torch.full((batch,), self.stages)
            stages = stages.to(latent.device)
            stages = (stages if stages.dim() == 2 else stages[:, None]).expand(batch, frames)
            depth = stages.reshape(-1)  # [M]
            used = depth > torch.arange(self.stages, device=depth.device)[:, None]  # [K, M]
            commitment = self._commitment(target, rest[1:], used)
            left = rest[depth, torch.arange(len(depth), device=depth.device)]
            through = target + (target.detach() - left - target).detach()
            through = rearrange(through, "(b f) d -> b d f", b=batch)
            counts = used.sum(dim=1).tolist()
        return Quantized(through, stages, commitment, rest[:-1][used], codes[used], counts)

    @torch.no_grad()
    def _search(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """What each number of stages leaves of [M, D] vectors, [K + 1, M, D], and codes, [K, M]."""
        rest, codes = [vectors], []
        for codebook in self.codewords:
            codes.append(nearest(rest[-1], codebook))
            rest.append(rest[-1] - codebook[codes[-1]])
        return torch.stack(rest), torch.stack(codes)

    def _commitment(self, target: Tensor, left: Tensor, used: Tensor) -> Tensor:
        """Squared distances of `target` [M, D] to the sums of codewords up to each stage, [K].

        Its value is the energy that a stage leaves over, `left` [K, M, D] where `used` [K, M]; its
        gradient, twice what is left, reaches `target` from each stage, as codewords are detached.
        """
        left = left * used[..., None]
        pull = torch.einsum("md,kmd->k", target, left) * 2
        return (left.square().sum(dim=(1, 2)) + pull - pull.detach()) / target.shape[1]

    def _check_stages(self, stages: int | None) -> int:
        if stages is None:
            return self.stages
        if not 1 <= stages <= self.stages:
            raise ValueError(f"got {stages} stages; this quantizer has 1 to {self.stages}")
        return stages


def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Index of the nearest codeword: [M, D], [N, D] -> [M], the lowest index among equals.

    |x - e|^2 = |x|^2 - 2 x.e + |e|^2, of which |x|^2 changes nothing: one matrix product.
    """
    scores = torch.addmm(codebook.square().sum(dim=1), vectors, codebook.T, alpha=-2)
    return scores.argmin(dim=1)


def stage_counts(codes: Codes) -> Tensor:
    """How many stages each frame has: [B, k, F] -> [B, F]."""
    return (codes >= 0).sum(dim=1)


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
