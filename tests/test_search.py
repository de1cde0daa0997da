import itertools
from pathlib import Path

import pytest
import soundfile
import torch

import bittern
from bittern.config import QuantizerConfig
from bittern.model.quantizer import ResidualQuantizer


def search_codes(quantizer, latent, stages, *, width):
    return quantizer.encode(latent, stages, width=width)


STAGES, ENTRIES, DIM = 3, 8, 4
EXAMPLE = Path(__file__).parents[1] / "examples/speech.flac"


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


def reference(quantizer, vector, width):
    """The M-algorithm as its paper has it, over sorted lists in double precision."""
    kept = [(vector.double().square().sum().item(), (), vector.double())]
    for book in quantizer.codewords.double():
        grown = [
            ((rest - word).square().sum().item(), (*codes, code), rest - word)
            for _, codes, rest in kept
            for code, word in enumerate(book)
        ]
        kept = sorted(grown, key=lambda candidate: candidate[:2])[:width]
    return kept[0][1]


@pytest.mark.parametrize("width", [2, 3, 5])
@pytest.mark.parametrize("entries", [8, 64])
def test_what_is_kept_is_what_the_paper_keeps(width, entries):
    generator = torch.Generator().manual_seed(entries)
    quantizer = ResidualQuantizer(QuantizerConfig(stages=STAGES, codebook_size=entries), DIM)
    quantizer.codewords.copy_(torch.randn(STAGES, entries, DIM, generator=generator))
    latent = latents(frames=12)[:1]
    expected = [reference(quantizer, vector, width) for vector in latent[0].T]
    together = search_codes(quantizer, latent, STAGES, width=width)[0].T
    assert together.tolist() == [list(codes) for codes in expected]


@pytest.mark.parametrize("books", ["random", "all alike", "two of each"])
def test_frames_are_searched_each_for_itself(quantizer, books):
    """Where candidates are equally near, either does."""
    if books == "all alike":
        quantizer.codewords.zero_()
    elif books == "two of each":
        quantizer.codewords[:, 4:] = quantizer.codewords[:, :4].clone()
    latent = latents()
    whole = search_codes(quantizer, latent, STAGES, width=4)
    pieces = [search_codes(quantizer, latent[..., f : f + 1], STAGES, width=4) for f in range(40)]
    pieces = torch.cat(pieces, dim=-1)
    if books == "random":
        assert torch.equal(pieces, whole)
    torch.testing.assert_close(error(quantizer, latent, pieces), error(quantizer, latent, whole))


def test_speech_is_searched_alike_in_whole_and_in_pieces():
    """Real codebooks and 32 stages: of 603 frames one may tie, and is then about as near."""
    model = bittern.load("speech-16khz", "cpu").model
    wav, _ = soundfile.read(EXAMPLE, frames=64_000, dtype="float32")
    latent = model.latent(model.pad(torch.from_numpy(wav)[None, None]))
    whole = search_codes(model.quantizer, latent, 32, width=4)
    left = error(model.quantizer, latent, whole)
    different = 0
    for size in (1, 7, 50):
        pieces = [search_codes(model.quantizer, p, 32, width=4) for p in latent.split(size, 2)]
        codes = torch.cat(pieces, dim=-1)
        different += int((codes != whole).any(dim=1).sum())
        assert (error(model.quantizer, latent, codes) / left - 1).abs().max() < 0.05
    assert different <= 1


def test_an_impossible_width_or_number_of_stages_is_refused(quantizer):
    for width in (0, 513):
        with pytest.raises(ValueError, match="give 1 to 512"):
            search_codes(quantizer, latents(), 2, width=width)
    with pytest.raises(ValueError, match="has 1 to 3"):
        search_codes(quantizer, latents(), 4, width=2)
