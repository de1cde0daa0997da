"""Stages of frames in training, against enumeration and known distributions."""

import itertools
import math

import pytest
import torch

from bittern.training.stages import draw_quality, spread_stages


def falling(batch, stages, frames, seed=0):
    """Errors that fall from stage to stage at one pace, from starts that differ: [B, K + 1, F]."""
    generator = torch.Generator().manual_seed(seed)
    start = 10 * torch.rand(batch, 1, frames, generator=generator) + 0.1
    return start * 0.8 ** torch.arange(stages + 1)[:, None]


def test_quality_is_even_on_a_logarithmic_scale_but_for_the_share_of_all():
    drawn = draw_quality(
        20_000,
        32,
        lowest=2,
        highest=24,
        full_share=0.1,
        generator=torch.Generator().manual_seed(0),
    )
    assert float((drawn == 32).float().mean()) == pytest.approx(0.1, abs=0.01)
    spread = drawn[drawn < 32].log2()
    assert float(spread.min()) >= 1
    assert float(drawn[drawn < 32].max()) <= 24
    assert float(spread.median()) == pytest.approx((1 + math.log2(24)) / 2, abs=0.05)


@pytest.mark.parametrize("quality", [1.0, 3.0, 4.5, 6.0])
def test_stages_have_the_mean_that_was_asked_for(quality):
    counts = spread_stages(falling(2, 6, 40), None, torch.tensor([quality, 6.0]))
    assert float(counts[0].float().mean()) == pytest.approx(quality, abs=0.2)
    assert counts[1].tolist() == [6] * 40
    assert int(counts.min()) >= 1


def test_no_other_choice_of_as_many_stages_leaves_less():
    errors = falling(1, 4, 5)
    counts = spread_stages(errors, None, torch.tensor([2.4]))[0]
    assert int(counts.sum()) == 12
    left = float(errors[0, counts, torch.arange(5)].sum())
    every = itertools.product(range(1, 5), repeat=5)
    least = min(
        float(errors[0, list(choice), range(5)].sum()) for choice in every if sum(choice) == 12
    )
    assert left == pytest.approx(least, rel=1e-5)


def test_a_soft_frame_beside_a_loud_one_gets_fewer():
    errors = falling(1, 8, 60).clone()
    errors[:] = errors[..., :1]  # alike in all frames
    levels = torch.zeros(1, 60)
    levels[:, 20:40] = -4.0  # 35 dB
    counts = spread_stages(errors, levels, torch.tensor([4.0]))[0].float()
    assert float(counts[22:38].mean()) < float(counts[:18].mean()) - 1
