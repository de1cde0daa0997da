"""Each metric at its top and its bottom, blind to delay, and its failures told."""

import numpy as np
import pytest

from bittern.evaluation.scores import METRICS, align, score

RATE = 16_000
BEST = {
    "pesq_wb": 4.64,
    "stoi": 1.0,
    "estoi": 1.0,
    "visqol": 5.0,
    "si_sdr": 100.0,
    "log_mel": 0.0,
}
KEYS = [metric.key for metric in METRICS]


def degraded(speech: np.ndarray, level: float = 0.01) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal(len(speech)).astype(np.float32)
    return speech + level * noise


def test_the_original_gets_the_top_score_of_each_metric(speech):
    found = score(speech, speech, RATE)
    assert not found.failures
    assert list(found.values) == KEYS
    for key, best in BEST.items():
        assert found.values[key] == pytest.approx(best, abs=0.005), key
    assert set(KEYS) - set(BEST) <= {"dnsmos", "plcmos", "distillmos"}  # which know no original


def test_white_noise_scores_at_the_bottom(speech):
    noise = np.random.default_rng(0).standard_normal(len(speech)).astype(np.float32) * 0.1
    values = score(align(noise, speech, RATE).samples, speech, RATE).values
    assert values["pesq_wb"] < 1.1
    assert values["visqol"] < 1.1
    assert values["estoi"] < 0.1
    assert values["si_sdr"] < -20
    assert values["log_mel"] > 15


def test_more_noise_scores_worse_on_every_metric(speech):
    near, far = (score(degraded(speech, level), speech, RATE).values for level in (0.003, 0.03))
    for metric in METRICS:
        better = near[metric.key] > far[metric.key]
        assert better == metric.higher_is_better, metric.key


@pytest.mark.parametrize("delay", [40, -40])
def test_a_delay_of_40_samples_changes_no_metric(speech, delay):
    decoded = degraded(speech)
    moved = np.pad(decoded, (delay, 0)) if delay > 0 else decoded[-delay:]
    aligned = align(moved, speech, RATE)
    assert aligned.delay == delay
    assert len(aligned.samples) == len(speech)
    plain = score(align(decoded, speech, RATE).samples, speech, RATE).values
    shifted = score(aligned.samples, speech, RATE).values
    for key in KEYS:
        assert shifted[key] == pytest.approx(plain[key], abs=0.02), key


def test_a_vocoder_without_phase_is_aligned_by_its_envelope(speech):
    generator = np.random.default_rng(1)
    spectrum = np.fft.rfft(speech.reshape(-1, 200), axis=1)
    turned = spectrum * np.exp(2j * np.pi * generator.random(spectrum.shape))
    vocoded = np.fft.irfft(turned, 200, axis=1).reshape(-1)
    assert align(np.pad(vocoded, (640, 0)), speech, RATE).delay == pytest.approx(640, abs=64)


def test_an_estimate_of_any_length_is_cut_or_filled_to_the_reference(speech):
    assert len(align(speech[:-500], speech, RATE).samples) == len(speech)
    assert len(align(np.pad(speech, 500), speech, RATE).samples) == len(speech)
    assert align(np.pad(speech, 500), speech, RATE).delay == 500


def test_silence_and_a_clip_too_short_fail_with_a_reason_and_the_rest_is_scored(speech):
    found = score(np.zeros_like(speech), speech, RATE)
    assert set(found.values) | set(found.failures) == set(KEYS)
    assert {"si_sdr", "log_mel"} <= set(found.values)
    short = speech[8000:10_000]
    found = score(short, short, RATE)
    assert "pesq_wb" in found.failures
    assert all(reason for reason in found.failures.values())
    assert found.values["si_sdr"] == 100


def test_a_signal_at_24_khz_is_scored_too(speech):
    import soxr

    wide = soxr.resample(speech, RATE, 24_000)
    found = score(wide, wide, 24_000)
    assert not found.failures
    assert found.values["pesq_wb"] > 4.6
