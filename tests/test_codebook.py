import pytest
import torch

from bittern.config import QuantizerConfig
from bittern.model.quantizer import ResidualQuantizer
from bittern.training.codebook import EmaCodebooks, kmeans


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def quantizer_with(entries, *, stages=1, dim=8, seed=5):
    quantizer = ResidualQuantizer(QuantizerConfig(stages=stages, codebook_size=entries), dim)
    quantizer.codewords.copy_(normal(stages, entries, dim, seed=seed))
    return quantizer


def test_an_update_is_the_textbook_moving_average():
    quantizer = quantizer_with(4, dim=2)
    codebooks = EmaCodebooks(quantizer, decay=0.9, epsilon=0.0, revival_threshold=0.0)
    counts, sums = codebooks.counts[0].double(), codebooks.sums[0].double()
    for step in range(3):
        latent = normal(2, 2, 10, seed=step)
        vectors = latent.transpose(1, 2).reshape(-1, 2)
        codes = quantizer.encode(latent)[:, 0].reshape(-1)
        codebooks.update(quantizer(latent))
        for entry in range(4):
            mine = vectors[codes == entry].double()
            counts[entry] = 0.9 * counts[entry] + 0.1 * len(mine)
            sums[entry] = 0.9 * sums[entry] + 0.1 * mine.sum(dim=0)
        expected = (sums / counts[:, None]).float()
        torch.testing.assert_close(quantizer.codewords[0], expected, rtol=1e-4, atol=1e-5)


def test_forced_dead_entries_are_alive_after_two_steps_and_stay_so():
    """In EnCodec and most codecs after it, a revived codeword is overwritten in the same step."""
    torch.manual_seed(0)
    entries, dim = 1024, 16
    quantizer = quantizer_with(entries, dim=dim)
    codebooks = EmaCodebooks(quantizer)
    codebooks.initialise(normal(8192, dim), generator=torch.Generator().manual_seed(0))
    quantizer.codewords[0, :512] = 1e3  # nothing is ever near these
    codebooks.sums[0, :512] = 0
    codebooks.counts[0, :512] = 0

    def after(steps, first):
        """Entries alive by their moving count, and those of the forced 512 that fresh vectors use."""
        for step in range(first, first + steps):
            latent = normal(16, dim, 64, seed=100 + step)
            codebooks.update(quantizer(latent), torch.Generator().manual_seed(step))
        alive = codebooks.counts[0] > 0.1 * codebooks.counts[0].mean()
        chosen = quantizer.encode(normal(64, dim, 2048, seed=7))
        used = torch.bincount(chosen.flatten(), minlength=entries)[:512] > 0
        return int(alive.sum()), int(used.sum())

    chosen = quantizer.encode(normal(64, dim, 2048, seed=7))
    assert int((chosen < 512).sum()) == 0
    alive, used = after(2, first=0)
    assert alive == entries
    assert used > 0.97 * 512  # a vector far out is alive and yet rarely the nearest
    alive, used = after(50, first=2)
    assert alive == entries
    assert used > 0.97 * 512


def test_revival_splits_an_entry_with_its_count_and_sum():
    quantizer = quantizer_with(8, dim=4)
    codebooks = EmaCodebooks(quantizer, decay=0.0, revival_threshold=0.01)
    quantizer.codewords[0, 3] = 50.0  # nothing is ever near this
    latent = normal(2, 4, 200)
    given = latent.transpose(1, 2).reshape(-1, 4)
    codes = quantizer.encode(latent)[:, 0].reshape(-1)
    used = torch.bincount(codes, minlength=8)
    update = codebooks.update(quantizer(latent), torch.Generator().manual_seed(0))
    assert update.dead.tolist() == update.revived.tolist() == [1]
    torch.testing.assert_close(
        codebooks.sums[0] / codebooks.counts[0][:, None], quantizer.codewords[0]
    )
    halved = torch.nonzero(codebooks.counts[0] == used / 2).flatten().tolist()
    assert len(halved) == 1
    parent = halved[0]
    mean = given[codes == parent].mean(dim=0)
    torch.testing.assert_close(quantizer.codewords[0, parent], mean)
    step = quantizer.codewords[0, 3] - mean  # a tenth of the way to one of the parent's vectors
    ways = (mean + 10 * step - given[codes == parent]).norm(dim=1)
    assert float(ways.min()) < 1e-4


def test_revived_entries_win_a_share_of_vectors_in_many_dimensions():
    """An entry in the place of a vector is never again the nearest: means lie nearer to all others."""
    entries, dim = 64, 140
    quantizer = quantizer_with(entries, dim=dim)
    codebooks = EmaCodebooks(quantizer)
    codebooks.initialise(normal(4096, dim), generator=torch.Generator().manual_seed(0))
    quantizer.codewords[0, 32:] = 1e3
    codebooks.counts[0, 32:] = 0
    codebooks.sums[0, 32:] = 0
    for step in range(60):
        latent = normal(8, dim, 64, seed=100 + step)
        codebooks.update(quantizer(latent), torch.Generator().manual_seed(step))
    chosen = torch.bincount(quantizer.encode(normal(1, dim, 4096)).flatten(), minlength=entries)
    assert int((chosen[32:] > 0.1 * 4096 / entries).sum()) == 32
    assert int(chosen[32:].sum()) > 0.4 * 4096


@pytest.mark.parametrize("repeat", [1, 8])
def test_what_counts_as_dead_does_not_depend_on_the_batch_size(repeat):
    quantizer = quantizer_with(64, dim=4)
    codebooks = EmaCodebooks(quantizer, decay=0.5)
    latent = normal(2, 4, 50).repeat(repeat, 1, 1)
    dead = codebooks.update(quantizer(latent), torch.Generator().manual_seed(0)).dead
    codebooks_one = EmaCodebooks(quantizer_with(64, dim=4), decay=0.5)
    once = codebooks_one.update(
        codebooks_one.quantizer(normal(2, 4, 50)), torch.Generator().manual_seed(0)
    ).dead
    # counts start at one each, which weighs less the larger the batch: hence one more step
    for _ in range(12):
        dead = codebooks.update(quantizer(latent), torch.Generator().manual_seed(0)).dead
        once = codebooks_one.update(
            codebooks_one.quantizer(normal(2, 4, 50)), torch.Generator().manual_seed(0)
        ).dead
    assert abs(int(dead) - int(once)) <= 3


def test_revival_can_be_turned_off():
    quantizer = quantizer_with(64, dim=4)
    quantizer.codewords[0, :32] = 1e3
    codebooks = EmaCodebooks(quantizer, decay=0.0, revival_threshold=0.0)
    codebooks.counts[0, :32] = 0.0
    update = codebooks.update(quantizer(normal(2, 4, 50)))
    assert int(update.dead) == int(update.revived) == 0


def test_a_stage_that_no_item_uses_keeps_its_codewords():
    quantizer = quantizer_with(16, stages=3)
    before = quantizer.codewords.clone()
    codebooks = EmaCodebooks(quantizer, decay=0.5)
    for _ in range(3):
        codebooks.update(quantizer(normal(2, 8, 30), torch.tensor([1, 2])))
    torch.testing.assert_close(quantizer.codewords[2], before[2])
    assert not torch.allclose(quantizer.codewords[1], before[1])


def test_kmeans_finds_separated_clusters():
    centres = torch.tensor([[10.0, 0], [0, 10], [-10, 0], [0, -10]])
    vectors = centres.repeat(50, 1) + 0.1 * normal(200, 2)
    best = None
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        found, indices = kmeans(vectors, 4, iterations=20, generator=generator)
        error = float((vectors - found[indices]).square().mean())
        best = error if best is None else min(best, error)
    assert best < 0.02


def test_kmeans_with_fewer_vectors_than_clusters_keeps_every_vector():
    vectors = normal(5, 3)
    found, indices = kmeans(vectors, 16, iterations=3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found[indices], vectors)


def test_initialise_leaves_less_behind_at_every_stage():
    quantizer = ResidualQuantizer(QuantizerConfig(stages=4, codebook_size=32), 8)
    vectors = normal(2000, 8)
    EmaCodebooks(quantizer).initialise(vectors)
    latent = vectors.T[None]
    codes = quantizer.encode(latent)
    left = [float((latent - quantizer.decode(codes[:, :k])).square().mean()) for k in (1, 2, 3, 4)]
    assert left == sorted(left, reverse=True)
    assert left[-1] < 0.35  # a 20-bit code of 8 normal dimensions; the bound of theory is 0.18
