import copy
import pickle

import numpy as np
import pytest
import torch

from bittern.config import QuantizerConfig
from bittern.model.quantizer import ResidualQuantizer, code_statistics, nearest, stage_counts

STAGES, ENTRIES, DIM = 6, 64, 16


@pytest.fixture
def quantizer():
    generator = torch.Generator().manual_seed(1)
    quantizer = ResidualQuantizer(QuantizerConfig(stages=STAGES, codebook_size=ENTRIES), DIM)
    sizes = torch.tensor([1.0, 0.8, 0.6, 0.5, 0.4, 0.3])[:, None, None]
    quantizer.codewords.copy_(torch.randn(STAGES, ENTRIES, DIM, generator=generator) * sizes)
    return quantizer


def latents(batch=3, frames=7, seed=0):
    return torch.randn(batch, DIM, frames, generator=torch.Generator().manual_seed(seed))


def test_codes_equal_an_exhaustive_search_in_double_precision(quantizer):
    latent = latents()
    books = quantizer.codewords.double().numpy()
    for b, f in np.ndindex(3, 7):
        rest = latent[b, :, f].double().numpy()
        for k in range(STAGES):
            code = int(np.argmin(((rest - books[k]) ** 2).sum(axis=1)))
            assert quantizer.encode(latent)[b, k, f] == code
            rest = rest - books[k][code]


def test_ties_go_to_the_lowest_index():
    codebook = torch.tensor([[5.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
    assert nearest(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), codebook).tolist() == [1, 1]


def test_a_frame_alone_gets_the_codes_and_the_sum_that_it_gets_among_others(quantizer):
    latent = latents(frames=40)
    latent[0, :, 0] = quantizer.codewords[0, 3:5].mean(dim=0)  # a near tie
    codes = quantizer.encode(latent)
    sums = quantizer.decode(codes)
    for item in range(latent.shape[0]):
        for frame in range(latent.shape[2]):
            own = codes[item, None, :, frame, None]
            assert torch.equal(quantizer.encode(latent[item, None, :, frame, None]), own)
            assert torch.equal(quantizer.decode(own), sums[item, None, :, frame, None])
    assert torch.equal(quantizer.encode(latent[:1, :, :1], 2), codes[:1, :2, :1])


def test_any_prefix_of_the_stages_decodes_to_its_partial_sum(quantizer):
    latent = latents()
    codes = quantizer.encode(latent)
    errors = []
    for k in range(1, STAGES + 1):
        assert torch.equal(quantizer.encode(latent, k), codes[:, :k])
        partial = quantizer.decode(codes[:, :k])
        parts = [quantizer.codewords[j][codes[:, j]].transpose(1, 2) for j in range(k)]
        torch.testing.assert_close(partial, torch.stack(parts).sum(dim=0))
        errors.append(float((latent - partial).square().mean()))
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("k", [0, STAGES + 1])
def test_a_number_of_stages_out_of_range_is_refused(quantizer, k):
    with pytest.raises(ValueError, match="has 1 to 6"):
        quantizer.encode(latents(), k)


def test_a_code_out_of_range_is_refused(quantizer):
    codes = torch.full((1, 2, 3), ENTRIES)
    with pytest.raises(ValueError, match="expected 0 to 63"):
        quantizer.decode(codes)
    with pytest.raises(ValueError, match="codes run from -2"):
        quantizer.decode(torch.full((1, 2, 3), -2))


def test_training_quantizes_each_item_with_its_own_number_of_stages(quantizer):
    latent, stages = latents(batch=5), torch.tensor([2, 6, 1, 6, 3])
    result = quantizer(latent, stages)
    for item, k in enumerate(stages.tolist()):
        single = latent[item : item + 1]
        expected = quantizer.decode(quantizer.encode(single, k))
        torch.testing.assert_close(result.latent[item : item + 1], expected)
    assert result.counts == [35, 28, 21, 14, 14, 14]
    assert len(result.inputs) == len(result.codes) == sum(result.counts)


def test_straight_through_passes_the_gradient_once_whatever_the_stages(quantizer):
    latent = latents().requires_grad_()
    weights = torch.randn(latent.shape)
    result = quantizer(latent, torch.tensor([1, 3, 6]))
    (result.latent * weights).sum().backward()
    torch.testing.assert_close(latent.grad, weights)


def test_commitment_of_every_stage_pulls_on_the_latent(quantizer):
    """The bug of encodec#25: without detaching, only the first stage's term has a gradient."""
    latent = latents().requires_grad_()
    result = quantizer(latent)
    rest = latent.detach()
    for k in range(STAGES):
        chosen = quantizer.encode(latent)[:, k]
        rest = rest - quantizer.codewords[k][chosen].transpose(1, 2)
        commitment = result.commitment[k] / result.counts[k]
        (gradient,) = torch.autograd.grad(commitment, latent, retain_graph=True)
        torch.testing.assert_close(commitment, rest.square().mean())
        torch.testing.assert_close(gradient, 2 * rest / rest.numel())
        assert gradient.norm() > 0.01


def test_commitment_counts_the_items_that_use_a_stage_alone(quantizer):
    latent = latents(batch=2)
    both = quantizer(latent, torch.tensor([1, 4])).commitment
    alone = quantizer(latent[1:], torch.tensor([4])).commitment
    torch.testing.assert_close(both[1:4], alone[1:4])
    assert both[4:].tolist() == [0, 0]


def test_autocast_does_not_change_a_code(quantizer):
    latent = latents(batch=8, frames=50)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(quantizer.encode(latent), quantizer.encode(latent.clone()))
        assert quantizer(latent).latent.dtype == torch.float32
        codes = quantizer.encode(latent)
    assert torch.equal(codes, quantizer.encode(latent))


def test_frames_have_their_own_stages_and_absent_codes_add_nothing(quantizer):
    latent = latents()
    stages = torch.randint(1, STAGES + 1, (3, 7), generator=torch.Generator().manual_seed(4))
    result = quantizer(latent, stages)
    codes = quantizer.encode(latent)
    codes[torch.arange(STAGES)[None, :, None] >= stages[:, None]] = -1
    torch.testing.assert_close(result.latent, quantizer.decode(codes))
    assert torch.equal(stage_counts(codes), stages)
    assert result.counts == [(stages > k).sum() for k in range(STAGES)]
    for item, frame in np.ndindex(3, 7):
        own = codes[item, None, :, frame, None]
        torch.testing.assert_close(quantizer.decode(own), result.latent[item, None, :, frame, None])


def test_stages_can_be_chosen_by_the_errors_that_they_leave(quantizer):
    latent, seen = latents(), []

    def choose(errors):
        seen.append(errors)
        return torch.full((3, 7), 2)

    result = quantizer(latent, choose)
    codes = quantizer.encode(latent)
    assert seen[0].shape == (3, STAGES + 1, 7)
    for k in range(1, STAGES + 1):
        left = (latent - quantizer.decode(codes[:, :k])).square().sum(dim=1)
        torch.testing.assert_close(seen[0][:, k], left)
    torch.testing.assert_close(result.latent, quantizer.decode(codes[:, :2]))


def test_code_statistics_of_known_distributions():
    codes = torch.stack([torch.arange(64) % 8, torch.zeros(64, dtype=torch.long)])[None]
    usage, entropy = code_statistics(codes, 16)
    torch.testing.assert_close(usage, torch.tensor([0.5, 1 / 16], dtype=torch.float64))
    torch.testing.assert_close(entropy, torch.tensor([3.0, 0.0], dtype=torch.float64))


def test_a_quantizer_made_in_inference_mode_works(quantizer):
    with torch.inference_mode():
        made = ResidualQuantizer(QuantizerConfig(stages=STAGES, codebook_size=ENTRIES), DIM)
        made.codewords.copy_(quantizer.codewords)
        codes = made.encode(latents())
    assert torch.equal(codes, quantizer.encode(latents()))


def test_codewords_changed_in_place_are_searched_as_they_are_now(quantizer):
    quantizer.encode(latents())
    quantizer.codewords.mul_(-1)
    fresh = ResidualQuantizer(QuantizerConfig(stages=STAGES, codebook_size=ENTRIES), DIM)
    fresh.codewords.copy_(quantizer.codewords)
    assert torch.equal(quantizer.encode(latents()), fresh.encode(latents()))


def test_errors_are_what_the_first_stages_leave_over(quantizer):
    latent = latents()
    codes = quantizer.encode(latent)
    errors = quantizer.errors(latent, codes, [1, 2, 5, STAGES])
    assert errors.shape == (3, 4, 7)
    for place, count in enumerate([1, 2, 5, STAGES]):
        left = latent.double() - quantizer.decode(codes[:, :count]).double()
        expected = left.square().sum(dim=1).float()
        torch.testing.assert_close(errors[:, place], expected, rtol=1e-5, atol=0)


def test_gains_are_the_energies_of_codewords(quantizer):
    expected = [np.mean([np.sum(word**2) for word in book]) for book in quantizer.codewords.numpy()]
    np.testing.assert_allclose(quantizer.gains.numpy(), expected, rtol=1e-5)


def test_a_model_that_has_coded_can_be_copied_and_pickled(tiny_codec):
    wav = 0.1 * torch.randn(1, 1, 3_200, generator=torch.Generator().manual_seed(0))
    codes = tiny_codec.model.encode(wav)
    for twin in (copy.deepcopy(tiny_codec.model), pickle.loads(pickle.dumps(tiny_codec.model))):
        assert twin.encode(wav).equal(codes)
