"""Each distance at its best and worst, its units, and its shape."""

import math

import pytest
import torch

from bittern.metrics import log_mel_distance, si_sdr, stoi

RATE = 16_000


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.1


def test_equal_signals_score_best():
    signal = noise(RATE)
    assert si_sdr(signal, signal) == 100
    assert log_mel_distance(signal, signal, RATE) == 0


def test_si_sdr_is_the_ratio_of_powers_in_decibels():
    signal, distortion = noise(RATE), noise(RATE, seed=1)
    distortion = distortion - signal * (signal @ distortion) / (signal @ signal)
    wanted = 10 * math.log10(signal.var() / (0.1 * distortion).var())
    assert si_sdr(signal + 0.1 * distortion, signal).item() == pytest.approx(wanted, abs=0.01)


def test_si_sdr_ignores_gain_and_offset():
    signal = noise(RATE)
    estimate = signal + noise(RATE, seed=1)
    assert si_sdr(0.01 * estimate + 0.3, signal).item() == pytest.approx(
        si_sdr(estimate, signal).item(), abs=1e-3
    )


def test_a_gain_of_six_decibels_is_a_log_distance_of_six():
    signal = noise(RATE)
    assert log_mel_distance(2 * signal, signal, RATE).item() == pytest.approx(6.02, abs=0.01)


def test_stoi_of_speech_too_short_is_refused():
    with pytest.raises(ValueError, match="too few frames"):
        stoi(noise(2000).numpy(), noise(2000).numpy(), RATE, extended=True)


def test_more_noise_is_farther():
    signal = noise(RATE)
    near, far = signal + 0.01 * noise(RATE, seed=1), signal + noise(RATE, seed=1)
    assert si_sdr(near, signal) > si_sdr(far, signal)
    assert log_mel_distance(near, signal, RATE) < log_mel_distance(far, signal, RATE)


@pytest.mark.parametrize("shape", [(1,), (160,), (2, 1, RATE), (3, 5000)])
def test_leading_axes_are_kept_and_any_length_is_finite(shape):
    signal, other = noise(*shape), noise(*shape, seed=1)
    for values in (
        si_sdr(other, signal),
        log_mel_distance(other, signal, RATE),
    ):
        assert values.shape == shape[:-1]
        assert values.isfinite().all()


def test_silence_is_finite():
    silence, signal = torch.zeros(RATE), noise(RATE)
    assert si_sdr(silence, silence) == 100
    assert si_sdr(silence, signal) == -100
    assert si_sdr(signal, silence) == -100
    assert log_mel_distance(silence, silence, RATE) == 0
    assert 20 < log_mel_distance(silence, signal, RATE) < 100


def test_rows_of_a_batch_do_not_mix():
    signal, other = noise(2, RATE), noise(2, RATE, seed=1)
    rows = [log_mel_distance(o, s, RATE) for o, s in zip(other, signal, strict=True)]
    torch.testing.assert_close(log_mel_distance(other, signal, RATE), torch.stack(rows))


def test_different_or_empty_shapes_are_refused():
    with pytest.raises(ValueError, match="same shape"):
        si_sdr(torch.zeros(10), torch.zeros(11))
    with pytest.raises(ValueError, match="at least one sample"):
        log_mel_distance(torch.zeros(0), torch.zeros(0), RATE)
