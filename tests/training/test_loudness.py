"""The audible difference against PESQ itself, and against what is known of hearing."""

import itertools

import numpy as np
import pytest
import soundfile
import torch
from conftest import EXAMPLE
from pesq import pesq

from bittern.training.loudness import disturbance

RATE = 16_000


def speech(seconds=4.0):
    return torch.from_numpy(soundfile.read(EXAMPLE, dtype="float32")[0])[: int(seconds * RATE)]


def cost(output, target):
    return float(disturbance(output[None, None], target[None, None], RATE))


def noise(like, seed=0):
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed))


def tone(hertz, level_db, seconds=1.0):
    time = torch.arange(int(seconds * RATE)) / RATE
    return 10 ** (level_db / 20) * torch.sin(2 * np.pi * hertz * time)


def damages(wav):
    """Speech made worse in several ways, each in several degrees."""
    spectrum = torch.fft.rfft(wav)
    for share in (0.02, 0.1, 0.5):
        yield wav + share * wav.square().mean().sqrt() * noise(wav)
        yield wav * (1 + share * noise(wav))
        yield torch.sign(wav) * (wav.abs() * 2**15).round().clamp(min=600 * share) / 2**15
        kept = spectrum.clone()
        kept[int(len(kept) * (0.9 - share)) :] = 0
        yield torch.fft.irfft(kept, n=len(wav))


def test_it_ranks_damaged_speech_as_pesq_does():
    wav = speech()
    costs = [cost(other, wav) for other in damages(wav)]
    ratings = [pesq(RATE, wav.numpy(), other.numpy(), "wb") for other in damages(wav)]
    pairs = list(itertools.combinations(range(len(costs)), 2))
    agree = sum((costs[i] < costs[j]) == (ratings[i] > ratings[j]) for i, j in pairs)
    assert agree / len(pairs) > 0.85
    assert float(np.corrcoef(costs, ratings)[0, 1]) < -0.8


def test_nothing_is_heard_of_the_original_itself_or_of_what_hearing_misses():
    wav = speech()
    assert cost(wav, wav) < 1e-3
    level = float(wav.square().mean().log10() * 10)
    faint = wav + tone(60, level - 60, len(wav) / RATE)  # 19 dB SPL at 60 Hz: below the threshold
    assert cost(faint, wav) < 0.02
    audible = wav + tone(3000, level - 30, len(wav) / RATE)
    assert cost(audible, wav) > 5 * cost(faint, wav)


def test_a_loud_neighbour_masks_an_error():
    loud = tone(1000, -20)
    masked = cost(loud + tone(1000, -50), loud)  # a change of level by 0.3 dB
    heard = cost(loud + tone(3000, -50), loud)
    assert masked < 0.1 * heard


def test_what_is_added_costs_more_than_what_is_left_out():
    wav = speech()
    spectrum = torch.fft.rfft(wav)
    band = slice(int(len(spectrum) * 0.2), int(len(spectrum) * 0.3))
    spectrum[band] = 0
    without = torch.fft.irfft(spectrum, n=len(wav))
    left_out, added = cost(without, wav), cost(wav, without)
    assert added > 1.2 * left_out


def test_level_does_not_matter_and_silence_is_harmless():
    wav = speech()
    worse = wav + 0.01 * noise(wav)
    assert cost(0.3 * worse, 0.3 * wav) == pytest.approx(cost(worse, wav), rel=1e-3)
    silence = torch.zeros(RATE, requires_grad=True)
    value = disturbance(silence[None, None], torch.zeros(1, 1, RATE), RATE)
    value.backward()
    assert value.item() < 1e-3
    assert silence.grad is not None
    assert bool(silence.grad.isfinite().all())


def test_its_gradient_is_that_of_finite_differences():
    wav, other = speech(0.5).double(), speech(0.5).double()
    other = (other + 0.01 * noise(other).double()).requires_grad_()
    value = disturbance(other.float()[None, None], wav.float()[None, None], RATE)
    (slope,) = torch.autograd.grad(value, other)
    direction = slope / slope.norm()
    step = 1e-2
    up, down = other.detach() + step * direction, other.detach() - step * direction
    measured = (cost(up.float(), wav.float()) - cost(down.float(), wav.float())) / (2 * step)
    assert measured == pytest.approx(float(slope.norm()), rel=0.35)  # asymmetry is held fixed
