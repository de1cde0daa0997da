import itertools

import pytest
import torch

from bittern.config import QuantizerConfig
from bittern.quantizer import ResidualQuantizer
from bittern.search import search_codes

STAGES, ENTRIES, DIM = 3, 8, 4


@pytest.fixture
def quantizer():
    generator = torch.Generator().manual_seed(1)
    quantizer = ResidualQuantizer(QuantizerConfig(stages=STAGES, codebook_size=ENTRIES), DIM)
    sizes = torch.tensor([1.0, 0.7, 0.5])[:, None, None]
    quantizer.codewords.copy_(torch.randn(STAGES, ENTRIES, DIM, generator=generator) * sizes)
    return quantizer


def latents(frames=40):
    return torch.randn(2, DIM, frames, generator=torch.Generator().manual_seed(2))


def error(quantizer, latent, codes):
    return (latent - quantizer.decode(codes)).square().sum(dim=1)  # [B, F]


def test_width_one_is_the_plain_search(quantizer):
    latent = latents()
    assert torch.equal(search_codes(quantizer, latent, 2, width=1), quantizer.encode(latent, 2))


def test_a_width_of_all_finds_the_nearest_of_all_sums(quantizer):
    latent = latents(frames=10)
    codes = search_codes(quantizer, latent, STAGES, width=ENTRIES**STAGES)
    books = quantizer.codewords
    sums = torch.stack(
        [
            sum((books[k][c] for k, c in enumerate(choice)), torch.zeros(DIM))
            for choice in itertools.product(range(ENTRIES), repeat=STAGES)
        ]
    )
    vectors = latent.transpose(1, 2).reshape(-1, DIM)
    nearest = torch.cdist(vectors, sums).min(dim=1).values.square()
    torch.testing.assert_close(error(quantizer, latent, codes).flatten(), nearest)


def test_a_wider_search_leaves_less(quantizer):
    latent = latents(frames=400)
    errors = [
        float(error(quantizer, latent, search_codes(quantizer, latent, STAGES, width=w)).mean())
        for w in (1, 2, 4, 16)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < 0.97 * errors[0]


def test_frames_are_searched_each_for_itself(quantizer):
    latent = latents()
    whole = search_codes(quantizer, latent, STAGES, width=4)
    pieces = [search_codes(quantizer, latent[..., f : f + 1], STAGES, width=4) for f in range(40)]
    assert torch.equal(torch.cat(pieces, dim=-1), whole)


def test_an_impossible_width_or_number_of_stages_is_refused(quantizer):
    for width in (0, 513):
        with pytest.raises(ValueError, match="give 1 to 512"):
            search_codes(quantizer, latents(), 2, width=width)
    with pytest.raises(ValueError, match="has 1 to 3"):
        search_codes(quantizer, latents(), 4, width=2)
