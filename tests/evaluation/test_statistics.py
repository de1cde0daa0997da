"""Means, intervals and shares on figures that can be worked out by hand."""

import numpy as np
import pytest

from bittern.evaluation import statistics
from bittern.evaluation.report import codebooks


def test_a_mean_lies_inside_its_interval_which_is_near_the_normal_one():
    values = np.random.default_rng(0).normal(3.0, 0.5, 100)
    found = statistics.mean(values.tolist())
    assert found.low < found.mean < found.high
    assert found.clips == 100
    half = 1.96 * values.std() / 10
    assert found.high - found.low == pytest.approx(2 * half, rel=0.1)


def test_the_same_values_give_the_same_interval():
    assert statistics.mean([1.0, 2.0, 4.0]) == statistics.mean([1.0, 2.0, 4.0])


def test_an_interval_holds_the_true_mean_as_often_as_it_says():
    """Of skewed values, 25 at a time; percentiles of resampled means would hold it less often."""
    held = 0
    for seed in range(300):
        values = np.random.default_rng(seed).exponential(size=25)
        found = statistics.mean(values.tolist())
        held += found.low <= 1.0 <= found.high
    assert 0.90 < held / 300 < 0.98


def test_values_all_the_same_have_an_interval_of_no_width():
    assert statistics.mean([0.1] * 7) == (
        pytest.approx(0.1),
        pytest.approx(0.1),
        pytest.approx(0.1),
        7,
    )


def test_p_is_that_of_the_signed_ranks_by_hand():
    """Eight clips all better: of the 2^8 ways to sign the ranks one is as far out on each side."""
    first = {str(n): 1.0 + 0.1 * n for n in range(8)}
    found = statistics.compare(first, dict.fromkeys(first, 0.5), higher_is_better=True)
    assert found is not None
    assert found.p == pytest.approx(2 / 2**8)
    same = statistics.compare(first, first, higher_is_better=True)
    assert same is not None
    assert (same.p, same.won) == (1.0, 0.5)


def test_one_clip_has_an_interval_of_no_width_and_none_is_refused():
    assert statistics.mean([2.5]) == (2.5, 2.5, 2.5, 1)
    with pytest.raises(ValueError, match="no values"):
        statistics.mean([])


def test_clips_won_are_counted_on_those_in_common_with_ties_as_halves():
    first = {"a": 2.0, "b": 3.0, "c": 1.0, "only here": 9.0}
    second = {"a": 1.0, "b": 3.0, "c": 2.0, "only there": 0.0}
    higher = statistics.compare(first, second, higher_is_better=True)
    assert higher is not None
    assert higher.won == pytest.approx(0.5)
    assert higher.difference.clips == 3
    assert higher.difference.mean == pytest.approx(0.0)


def test_where_lower_is_better_the_lower_wins():
    found = statistics.compare({"a": 1.0}, {"a": 2.0}, higher_is_better=False)
    assert found is not None
    assert found.won == 1.0
    assert found.difference.mean == -1.0


def test_nothing_in_common_is_no_comparison():
    assert statistics.compare({"a": 1.0}, {"b": 1.0}, higher_is_better=True) is None


def test_codes_all_the_same_carry_nothing_and_codes_all_different_carry_all():
    generator = np.random.default_rng(0)
    codes = np.stack([np.zeros(20_000, np.int64), generator.integers(64, size=20_000)])
    found = codebooks([codes[:, :5000], codes[:, 5000:]], 64)
    assert found["frames"] == 20_000
    assert found["bits_per_code"] == 6
    still, busy = found["stages"]
    assert (still["usage"], still["perplexity"], still["entropy"]) == (1 / 64, 1.0, 0.0)
    assert busy["usage"] == 1.0
    assert busy["entropy"] == pytest.approx(6.0, abs=0.005)
    assert found["sent_bits"] == 20_000 * 12
    assert found["entropy_bits"] == pytest.approx(20_000 * 6, rel=0.001)


def test_entropy_is_corrected_for_a_small_sample():
    true = 10.0
    codes = np.random.default_rng(0).integers(1024, size=(1, 6000))
    (stage,) = codebooks([codes], 1024)["stages"]
    counts = np.bincount(codes[0], minlength=1024)
    plain = -sum(c / 6000 * np.log2(c / 6000) for c in counts if c)
    assert abs(stage["entropy"] - true) < 0.3 * abs(plain - true)
