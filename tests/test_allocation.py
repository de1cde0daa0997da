"""Stages go where an error is worth most: against enumeration, and to the bitrate that was asked."""

import itertools

import numpy as np
import pytest

from bittern.model import allocation
from bittern.model.allocation import (
    CHANGE,
    FileRate,
    LiveChoice,
    LiveRate,
    choose,
    frame_weights,
    ladder,
    solve,
)

RUNGS = ladder(32)


def speech_like(frames: int, seed: int = 0, streams: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Errors [S, F, R] that fall with the rung, and levels [S, F] in nepers that come and go."""
    rng = np.random.default_rng(seed)
    wave = np.sin(np.arange(frames) / rng.uniform(5, 40, (streams, 1))) * 2
    levels = wave + rng.normal(0, 0.3, (streams, frames))
    energy = 400 * np.exp(0.3 * levels + rng.normal(0, 0.3, levels.shape))
    slope = rng.uniform(0.06, 0.14, levels.shape)
    return energy[..., None] * np.exp(-slope[..., None] * RUNGS), levels


def cost(errors, weights, rungs, tradeoff, places) -> float:
    """The sum in the module's docstring, term by term, for one stream."""
    total, before = 0.0, places[0]
    for frame, place in enumerate(places):
        total += weights[frame] * errors[frame, place] + tradeoff * rungs[place] ** 2
        total += tradeoff * CHANGE * 2 * rungs[before] * (place != before)
        before = place
    return total


@pytest.mark.parametrize(
    ("stages", "expected"),
    [(1, [1]), (2, [1, 2]), (8, [1, 2, 3, 4, 5, 6, 8]), (12, [1, 2, 3, 4, 5, 6, 8, 10, 12])],
)
def test_the_ladder_rises_by_thirds_of_octaves_to_the_last_stage(stages: int, expected: list[int]):
    assert ladder(stages).tolist() == expected


def test_frames_beside_a_louder_one_count_less():
    levels = np.full((1, 60), 1.0)
    levels[0, 30] = 3.0
    weights = frame_weights(levels)[0]
    near = np.abs(np.arange(60) - 30) <= allocation.NEARBY_FRAMES
    assert weights[30] == 1
    decibels = 20 * np.log10(np.e) * 2
    expected = 10 ** (-allocation.LEVEL_POWER * decibels / 20)
    assert weights[near & (np.arange(60) != 30)] == pytest.approx(expected)
    assert (weights[~near] == 1).all()


@pytest.mark.parametrize("seed", range(8))
def test_what_is_chosen_costs_least_of_all_there_is(seed: int):
    errors, levels = speech_like(6, seed)
    errors, rungs = errors[..., 3:7], RUNGS[3:7]
    weights = frame_weights(levels)
    for tradeoff in (0.3, 1.0, 3.0):
        best = min(
            cost(errors[0], weights[0], rungs, tradeoff, places)
            for places in itertools.product(range(4), repeat=6)
        )
        chosen = choose(errors, weights, rungs, np.array([tradeoff]))[0, 0]
        places = np.searchsorted(rungs, chosen)
        assert cost(errors[0], weights[0], rungs, tradeoff, places) == pytest.approx(best)


def test_streams_and_tradeoffs_are_solved_side_by_side_as_alone():
    errors, levels = speech_like(100, streams=3)
    weights = frame_weights(levels)
    tradeoffs = np.array([0.5, 2.0])
    together = choose(errors, weights, RUNGS, tradeoffs)
    for place, tradeoff in enumerate(tradeoffs):
        for stream in range(3):
            one = slice(stream, stream + 1)
            alone = choose(errors[one], weights[one], RUNGS, np.array([tradeoff]))
            assert np.array_equal(together[place, stream], alone[0, 0])


@pytest.mark.parametrize("target", [2, 6, 11, 20])
def test_a_budget_is_met(target: int):
    errors, levels = speech_like(1_000)
    weights = frame_weights(levels)
    tradeoff, chosen = solve(errors, weights, RUNGS, target * 1_000)
    assert chosen.sum() == pytest.approx(target * 1_000, rel=0.01)
    again, near = solve(errors, weights, RUNGS, target * 1_000, near=tradeoff * 1.3)
    assert again == pytest.approx(tradeoff, rel=0.15)
    assert near.sum() == pytest.approx(target * 1_000, rel=0.07)


def test_a_budget_out_of_reach_gives_the_cheapest_or_the_best():
    errors, levels = speech_like(50)
    weights = frame_weights(levels)
    assert (solve(errors, weights, RUNGS, 0)[1] == 1).all()
    generous = solve(errors, weights, RUNGS, 1e9)[1]
    assert (generous == 32).all()


def test_no_frame_changes_for_what_no_listener_gains():
    """Frames that differ by little hold their rung; where the sound changes, so does the rung."""
    errors, levels = speech_like(32)
    weights = np.ones_like(levels)
    errors[:] = errors[:, :1]
    errors[:, 16:] *= 8
    errors *= np.random.default_rng(0).uniform(0.97, 1.03, (1, 32, 1))
    chosen = choose(errors, weights, RUNGS, np.array([1.0]))[0, 0]
    assert (np.diff(chosen) != 0).nonzero()[0].tolist() == [15]
    assert chosen[20] > chosen[10]


def test_a_stream_decides_as_frames_come_in_any_portions():
    errors, levels = speech_like(200, streams=2)
    whole = LiveChoice(2, RUNGS).push(errors, levels, 1.0)
    live = LiveChoice(2, RUNGS)
    borders = [0, 1, 2, 30, 31, 120, 200]
    parts = [
        live.push(errors[:, begin:end], levels[:, begin:end], 1.0)
        for begin, end in itertools.pairwise(borders)
    ]
    assert np.array_equal(np.concatenate(parts, axis=1), whole)
    future = errors.copy()
    future[:, 100:] *= 9
    assert np.array_equal(LiveChoice(2, RUNGS).push(future, levels, 1.0)[:, :100], whole[:, :100])


def test_a_stream_and_a_file_spend_alike_at_one_tradeoff():
    errors, levels = speech_like(3_000)
    for tradeoff in (0.5, 1.0, 2.0):
        file = choose(errors, frame_weights(levels), RUNGS, np.array([tradeoff]))[0]
        stream = LiveChoice(1, RUNGS).push(errors, levels, tradeoff)
        assert stream.sum() == pytest.approx(file.sum(), rel=0.15)


def packed(counts: np.ndarray) -> float:
    """What a packer might make of a chunk: less than the nominal bits, by how much depends on them."""
    nominal = 10 * counts.sum()
    return 200 + counts.size * 1.7 + nominal * (0.8 + 0.15 * (nominal / counts.size / 320))


@pytest.mark.parametrize("chunk", [50, 304])
@pytest.mark.parametrize("target", [30, 60, 120, 180, 240])
def test_a_file_comes_to_its_bitrate_whatever_packing_saves(target: int, chunk: int):
    errors, levels = speech_like(730)
    budget = target * 730.0
    rate = FileRate(errors, frame_weights(levels), RUNGS, budget, 10)
    spent = 0.0
    for begin in range(0, 730, chunk):
        frames = min(chunk, 730 - begin)
        counts = rate.plan(frames)
        if begin + frames == 730:  # as is tried at the last chunk
            rate.learn(counts, packed(counts))
            counts = rate.plan(frames)
        assert counts.shape == (1, frames)
        spent += packed(counts)
        rate.keep(counts, packed(counts))
    assert spent == pytest.approx(budget, rel=0.02)


@pytest.mark.parametrize("off", [1 / 3, 1, 3])
@pytest.mark.parametrize("portion", [1, 25, 304])
def test_a_stream_comes_to_its_bitrate_within_a_minute(off: float, portion: int):
    """Also from a trade-off that is off by so much at the start."""
    errors, levels = speech_like(6_000, seed=3)
    right, _ = solve(errors, frame_weights(levels), RUNGS, 6_000 * 60 / 9)
    rate, live = LiveRate(60.0, right * off), LiveChoice(1, RUNGS)
    spent = np.zeros(6_000)
    for begin in range(0, 6_000, portion):
        here = slice(begin, begin + portion)
        counts = live.push(errors[:, here], levels[:, here], rate.tradeoff)
        spent[here] = 9.0 * counts[0]
        rate.note(counts.size, spent[here].sum())
    assert spent[3_000:].mean() == pytest.approx(60, rel=0.05)
    if off == 1:
        assert spent[:3_000].mean() == pytest.approx(60, rel=0.05)


def test_what_a_long_silence_saves_is_not_spent_for_minutes():
    errors, levels = speech_like(6_000)
    quiet = errors * 1e-6
    rates = {}
    for most_saved in (500, np.inf):
        rate, live = LiveRate(60.0, 1.0, most_saved=most_saved), LiveChoice(1, RUNGS)
        spent = []
        for frames in (quiet, quiet, errors):
            for begin in range(0, 6_000, 50):
                here = slice(begin, begin + 50)
                counts = live.push(frames[:, here], levels[:, here], rate.tradeoff)
                spent.append(9.0 * counts.sum())
                rate.note(50, spent[-1])
        rates[most_saved] = np.array(spent[-120:]) / 50
    assert rates[500][:30].mean() < 2 * 60  # half a minute: ten seconds of savings are spent
    assert rates[500][30:].mean() == pytest.approx(60, rel=0.1)
    assert rates[np.inf].mean() > 2 * 60


@pytest.mark.parametrize("stages", [8, 32])
def test_higher_qualities_have_lower_tradeoffs(stages: int):
    gains = 100 * np.exp(-0.1 * np.arange(stages))
    qualities = np.linspace(1, stages, 200)
    tradeoffs = [allocation.tradeoff_for(quality, gains) for quality in qualities]
    assert (np.diff(tradeoffs) < 0).all()


@pytest.mark.parametrize("stages", [1, 8, 32])
def test_searching_for_fewer_stages_is_searching_the_same_ladder(stages: int):
    highest = [allocation.highest_rung(most, stages) for most in np.linspace(1, 2 * stages, 200)]
    assert sorted(highest) == highest
    assert highest[-1] == stages
    for most in set(highest):
        assert ladder(most).tolist() == [rung for rung in ladder(stages) if rung <= most]
