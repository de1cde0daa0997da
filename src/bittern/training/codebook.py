"""How codebooks come to be: k-means at the start, moving averages after, and revival of dead entries.

A trained codec needs none of this. All statistics are summed over
the ranks of a distributed run, and whatever is drawn is the same on each, so that codebooks stay equal.

Source: EMA codebooks, VQ-VAE (arXiv:1711.00937, appendix A.1); revival, SoundStream
(arXiv:2107.03312, section III-C) with three differences: the threshold is relative to the mean count,
hence independent of the batch size; a revived entry resets its moving averages with its codeword; and
it splits what a living entry codes (as in Linde, Buzo and Gray, IEEE Trans. Communications 1980)
instead of taking the place of a vector.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from bittern.model.quantizer import Quantized, ResidualQuantizer, nearest
from bittern.training.ranks import gather_rows, sum_over_ranks

_STEP = 0.1  # from a centre towards one of its vectors, where an entry is put beside it
_GRACE = 0.5  # of the mean count, which a revived entry begins with at least: time to be found


class CodebookUpdate(NamedTuple):
    """What one update did, per stage."""

    dead: Tensor  # [K] entries found below the threshold
    revived: Tensor  # [K] of these, entries given a new codeword


class EmaCodebooks(nn.Module):
    """Moving averages that are the codebooks of one `ResidualQuantizer`, which it updates in place.

    Args:
        quantizer: whose `codewords` are learnt.
        decay: of the moving averages, per step.
        epsilon: Laplace smoothing of the counts.
        revival_threshold: an entry is dead when its count falls below this share of the mean count;
            0 turns revival off.
    """

    counts: Tensor
    sums: Tensor

    def __init__(
        self,
        quantizer: ResidualQuantizer,
        *,
        decay: float = 0.99,
        epsilon: float = 1e-5,
        revival_threshold: float = 0.1,
    ) -> None:
        super().__init__()
        self._quantizer = [quantizer]  # in a list: its weights belong to the model, not to us
        self.decay = decay
        self.epsilon = epsilon
        self.revival_threshold = revival_threshold
        self.register_buffer("counts", quantizer.codewords.new_ones(quantizer.codewords.shape[:2]))
        self.register_buffer("sums", quantizer.codewords.clone())

    @property
    def quantizer(self) -> ResidualQuantizer:
        return self._quantizer[0]

    @torch.no_grad()
    def initialise(
        self, vectors: Tensor, *, iterations: int = 10, generator: torch.Generator | None = None
    ) -> None:
        """Set every stage by k-means on what the stages before it leave of `vectors`, [M, D].

        In a distributed run `vectors` and `generator` must be alike on all ranks.
        """
        vectors = vectors.float()
        generator = generator or torch.Generator().manual_seed(0)
        for stage in range(self.quantizer.stages):
            centres, indices = kmeans(
                vectors, self.quantizer.codebook_size, iterations=iterations, generator=generator
            )
            self.quantizer.codewords[stage] = centres
            vectors = vectors - centres[indices]
        self.restart()

    @torch.no_grad()
    def restart(self) -> None:
        """Begin the averages anew from the codewords as they are (after k-means, or to fine-tune)."""
        self.counts.fill_(1.0)
        self.sums.copy_(self.quantizer.codewords)

    @torch.no_grad()
    def update(
        self, quantized: Quantized, generator: torch.Generator | None = None
    ) -> CodebookUpdate:
        """Move the codebooks towards the vectors they just coded, then revive the dead entries.

        Args:
            quantized: a training forward of the quantizer.
            generator: on the CPU, seeded alike on all ranks; draws the vectors for revival.
        """
        stages, entries, dim = self.quantizer.codewords.shape
        vectors, sizes = quantized.inputs, torch.tensor(quantized.counts, device=self.counts.device)
        stage = torch.arange(stages, device=sizes.device).repeat_interleave(sizes)
        rows = stage * entries + quantized.codes  # [S]
        counts = torch.bincount(rows, minlength=stages * entries).float()
        sums = vectors.new_zeros(stages * entries, dim).index_add_(0, rows, vectors)
        counts, sums = sum_over_ranks(counts), sum_over_ranks(sums)

        self.counts.lerp_(counts.view(stages, entries), 1 - self.decay)
        self.sums.lerp_(sums.view(stages, entries, dim), 1 - self.decay)
        total = self.counts.sum(dim=1, keepdim=True)
        smoothed = (self.counts + self.epsilon) / (total + entries * self.epsilon) * total
        used = total > 0  # [K, 1]; a stage that no item has used stays as it is
        codewords = self.sums / smoothed.clamp(min=1e-12)[..., None]
        self.quantizer.codewords.copy_(
            torch.where(used[..., None], codewords, self.quantizer.codewords)
        )
        return self._revive(vectors.split(quantized.counts), generator)

    def _revive(
        self, inputs: tuple[Tensor, ...], generator: torch.Generator | None
    ) -> CodebookUpdate:
        """Move dead entries beside living ones, which then share what they coded."""
        mean = self.counts.mean(dim=1)  # [K]
        dead = self.counts < self.revival_threshold * mean[:, None]  # [K, N]
        found = dead.sum(dim=1)
        revived = torch.zeros_like(found)
        for stage in torch.nonzero(found).flatten().tolist():
            pool = gather_rows(inputs[stage])
            places = torch.nonzero(dead[stage]).flatten()
            order = torch.randperm(len(pool), generator=generator)[: len(places)]
            places = places[: len(order)]  # where frames are few, the rest waits for the next step
            living = torch.nonzero(~dead[stage]).flatten()
            self._split(stage, places, living, pool[order.to(pool.device)])
            revived[stage] = len(places)
        return CodebookUpdate(dead=found, revived=revived)

    def _split(self, stage: int, places: Tensor, living: Tensor, vectors: Tensor) -> None:
        """Give entries at `places` [M] a share of what the living ones nearest to `vectors` [M, D] code."""
        codewords, counts, sums = (
            part[stage] for part in (self.quantizer.codewords, self.counts, self.sums)
        )
        parents = living[nearest(vectors, codewords[living])]
        shares = torch.bincount(parents, minlength=len(counts)) + 1.0
        counts /= shares
        sums /= shares[:, None]
        codewords[places] = beside(codewords[parents], vectors)
        counts[places] = counts[parents].clamp(min=_GRACE * float(counts.mean()))
        sums[places] = codewords[places] * counts[places, None]


def beside(centres: Tensor, vectors: Tensor) -> Tensor:
    """Places near `centres` on the way to `vectors` of theirs, each [M, D].

    A vector itself would be a bad place in many dimensions: the means of many lie nearer to all others,
    so that it would code nothing but itself. A place beside a mean takes about a third of its vectors.
    """
    return centres.lerp(vectors, _STEP)


def concatenate(parts: list[Quantized]) -> Quantized:
    """Parts of a batch as one: what each stage was given and chose; the rest is of the first part."""
    if len(parts) == 1:
        return parts[0]
    pieces = [(part.inputs.split(part.counts), part.codes.split(part.counts)) for part in parts]
    stages = range(len(parts[0].counts))
    return parts[0]._replace(
        inputs=torch.cat([inputs[stage] for stage in stages for inputs, _ in pieces]),
        codes=torch.cat([codes[stage] for stage in stages for _, codes in pieces]),
        counts=[sum(part.counts[stage] for part in parts) for stage in stages],
    )


def kmeans(
    vectors: Tensor, clusters: int, *, iterations: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm: [M, D] -> centres [clusters, D] and the nearest centre's index [M].

    Starts from vectors drawn without repetition (with, when there are fewer vectors than clusters);
    an empty cluster is moved beside the centre of a random vector.
    """
    count = len(vectors)
    if count == 0:
        raise ValueError("k-means got no vectors; give at least one")
    order = torch.randperm(count, generator=generator)
    if count < clusters:
        order = torch.cat([order, torch.randint(count, (clusters - count,), generator=generator)])
    centres = vectors[order[:clusters].to(vectors.device)]
    for _ in range(iterations):
        indices = nearest(vectors, centres)
        sizes = torch.bincount(indices, minlength=clusters)
        sums = torch.zeros_like(centres).index_add_(0, indices, vectors)
        means = sums / sizes.clamp(min=1)[:, None]
        spare = torch.randint(count, (clusters,), generator=generator).to(vectors.device)
        split = beside(means[indices[spare]], vectors[spare])
        centres = torch.where(sizes[:, None] > 0, means, split)
    return centres, nearest(vectors, centres)
