"""Lost frames: as many and in such bursts as asked for, and concealed better than by silence."""

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
from pystoi import stoi

import bittern
from bittern.audio import streams as audio
from bittern.format.erasures import BurstLoss

SPEECH = Path(__file__).parents[1] / "examples" / "speech.flac"


@pytest.mark.parametrize(("rate", "burst"), [(0.0, 1.0), (0.1, 1.5), (0.2, 4.0), (0.5, 2.0)])
def test_rate_and_bursts_are_those_asked_for(rate, burst):
    loss = BurstLoss(rate, burst, seed=3)
    lost = np.concatenate([loss.draw(frames) for frames in (1, 7, 50_000)])
    assert (loss.lost, loss.total) == (lost.sum(), 50_008)
    assert lost.mean() == pytest.approx(rate, abs=0.02)
    bursts = [sum(1 for _ in run) for state, run in itertools.groupby(lost) if state]
    assert rate == 0 or np.mean(bursts) == pytest.approx(burst, rel=0.1)
    again = BurstLoss(rate, burst, seed=3)
    assert np.array_equal(np.concatenate([again.draw(4), again.draw(50_004)]), lost)


def test_chunks_are_lost_as_a_whole():
    loss = BurstLoss(0.3, 2.0, by_chunk=True)
    draws = [loss.draw(10) for _ in range(2_000)]
    assert all(draw.all() or not draw.any() for draw in draws)
    assert np.mean(draws) == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize(
    ("rate", "burst", "message"),
    [(1.0, 2.0, "loss rate is 1,"), (0.1, 0.5, "give 1 or more"), (0.8, 2.0, "give 4 or more")],
)
def test_losses_that_cannot_be_are_refused(rate, burst, message):
    with pytest.raises(ValueError, match=message):
        BurstLoss(rate, burst)


def test_without_loss_nothing_changes_and_with_loss_the_length_stays(tiny_codec):
    samples, rate = audio.read(SPEECH)
    data = tiny_codec.compress(samples, rate)
    for share in (0.0, 0.3):
        stream = tiny_codec.simulate_loss(io.BytesIO(data), "x", BurstLoss(share, 2.0))
        decoded = audio.gather(stream.blocks, 1)
        assert decoded.shape == samples.shape
        assert np.array_equal(decoded, tiny_codec.decompress(data).wav.numpy()) == (share == 0)


def test_concealment_is_more_intelligible_than_silence():
    codec = bittern.load("speech-16khz", device="cpu")
    samples, rate = audio.read(SPEECH)
    data = codec.compress(samples, rate, stages=8)
    for burst in (1.0, 3.0):
        scores = []
        for silent in (False, True):
            loss = BurstLoss(0.1, burst)
            stream = codec.simulate_loss(io.BytesIO(data), "x", loss, silent=silent)
            decoded = audio.gather(stream.blocks, 1)[0]
            scores.append(stoi(samples[0], decoded, rate, extended=True))
        assert scores[0] > scores[1] + 0.01
