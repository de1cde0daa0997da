"""What augmentation does to a crop, measured on the crop by other means."""

from dataclasses import fields

import numpy as np
import pytest
import scipy.signal
import soundfile
import torch

from bittern.errors import ConfigError
from bittern.training.augment import Augmentation, AugmentConfig
from bittern.training.corpus import open_corpus
from bittern.training.data import Batches, DataConfig

RATE, SECONDS = 16_000, 1.0
NOTHING = {kind.name: 0.0 for kind in fields(AugmentConfig)}
ITEMS = 16


def crops(seed=0, items=ITEMS) -> torch.Tensor:
    """Speech-like noise at -26 dBFS, [n, 1, T]."""
    wav = np.random.default_rng(seed).standard_normal((items, round(RATE * SECONDS)))
    wav = scipy.signal.lfilter([1], [1, -0.9], wav)
    wav *= 0.05 / wav.std(axis=1, keepdims=True)
    return torch.from_numpy(wav).float()[:, None]


def done(kind: str, wav: torch.Tensor | None = None, seed: int = 0) -> np.ndarray:
    """Every item with one kind done to it, [n, T]."""
    wav = crops() if wav is None else wav
    augmentation = Augmentation(AugmentConfig(**{**NOTHING, kind: 1.0}), RATE)
    return augmentation(wav, range(len(wav)), [seed, 5], len(wav))[:, 0].numpy()


def db(wanted: np.ndarray, given: np.ndarray) -> np.ndarray:
    return 10 * np.log10(np.square(wanted).mean(axis=-1) / np.square(given).mean(axis=-1))


def bands(wav: np.ndarray, low: float, high: float) -> np.ndarray:
    """Power of each item between two frequencies, by Welch's method."""
    hertz, power = scipy.signal.welch(wav, RATE, nperseg=4096)
    return power[:, (hertz >= low) & (hertz < high)].sum(axis=1)


def test_noise_and_babble_have_the_levels_that_are_promised():
    clean = crops()[:, 0].numpy()
    for kind, low, high in (("noise", -30, -5), ("babble", -20, 0)):
        levels = db(done(kind) - clean, clean)
        assert levels.min() > low - 0.5
        assert levels.max() < high + 0.5
        assert levels.std() > 2  # drawn, not one for all


def test_noise_has_many_colours():
    noise = done("noise") - crops()[:, 0].numpy()
    slope = 10 * np.log10(bands(noise, 3000, 6000) / bands(noise, 200, 400))
    assert slope.min() < -10  # brown: softer by 12 dB over four octaves, but for three of width
    assert slope.max() > 10


def test_hum_has_a_fundamental_of_25_to_400_hertz_and_rumble_lies_below_120():
    hum = done("hum", torch.zeros(ITEMS, 1, 16_000))
    for item in hum:
        hertz, power = scipy.signal.periodogram(item, RATE)
        found = hertz[power.argmax()]
        assert 24 <= found <= 7 * 400
        assert power[hertz > 2801].sum() < 1e-4 * power.sum()
    peaks = np.abs(done("rumble", torch.zeros(ITEMS, 1, 16_000))).max(axis=1)
    assert 20 * np.log10(peaks.min()) > -40.1
    assert 20 * np.log10(peaks.max()) < -7.9
    rumble = done("rumble", torch.zeros(ITEMS, 1, 16_000))
    assert (bands(rumble, 0, 180) > 0.95 * bands(rumble, 0, 8000)).all()


def test_offsets_are_constant_and_of_both_signs():
    added = done("offset") - crops()[:, 0].numpy()
    assert np.abs(added - added[:, :1]).max() < 1e-6
    assert added.min() < -0.2
    assert added.max() > 0.2
    assert np.abs(added).max() <= 0.5


def test_clipped_speech_stands_at_one_level_for_much_of_the_time():
    clipped = done("clipping")
    assert np.abs(clipped).max() <= 1
    peaks = np.abs(clipped).max(axis=1, keepdims=True)
    share = (np.abs(clipped) > 0.999 * peaks).mean(axis=1)
    assert share.max() > 0.3


def test_bands_of_telephones_and_low_passes_are_cut():
    cut = done("band", torch.randn(ITEMS, 1, 16_000, generator=torch.Generator().manual_seed(1)))
    top, low = bands(cut, 7600, 8000), bands(cut, 0, 200)
    middle = bands(cut, 1000, 1400)
    telephones = low < 0.01 * middle
    assert 2 <= telephones.sum() <= ITEMS - 2
    assert (top < 0.3 * middle).all()
    assert (bands(cut, 3800, 4200)[telephones] < 0.1 * middle[telephones]).all()


def test_reverb_keeps_the_level_and_adds_what_dies_away():
    click = torch.zeros(ITEMS, 1, 16_000)
    click[:, :, 1000] = 0.5
    wet = done("reverb", click)
    np.testing.assert_allclose(db(wet, click[:, 0].numpy()), 0, atol=0.01)
    assert np.abs(wet[:, :1000]).max() < 1e-4  # nothing before its cause
    early, late = wet[:, 1001:3000], wet[:, 12_000:]
    assert (np.square(late).mean(axis=1) < 0.3 * np.square(early).mean(axis=1)).all()


def test_gain_reaches_from_soft_to_loud_without_leaving_full_scale():
    changed = db(done("gain"), crops()[:, 0].numpy())
    assert changed.min() < -30
    assert changed.max() > 5
    assert np.abs(done("gain")).max() <= 1


def test_tones_take_the_place_of_speech():
    tones = done("tones")
    flatness = []
    for item in tones:
        _, power = scipy.signal.periodogram(item, RATE)
        flatness.append(np.sort(power)[-20:].sum() / power.sum())
    assert np.median(flatness) > 0.5  # half the power in twenty of 8,001 bins
    assert 20 * np.log10(np.abs(tones).max()) < -3.9


def test_silence_is_a_part_of_the_crop():
    clean, cut = crops()[:, 0].numpy(), done("silence")
    kept = cut != 0
    assert np.array_equal(cut[kept], clean[kept])
    assert 0.1 < kept.mean() < 0.9
    assert (np.abs(np.diff(kept.astype(int), axis=1)).sum(axis=1) <= 1).all()


@pytest.mark.parametrize("kind", [k for k in NOTHING if k != "speed"])
def test_what_is_drawn_depends_on_the_seed_and_the_place_alone(kind):
    whole = done(kind)
    assert np.array_equal(done(kind), whole)
    assert not np.array_equal(done(kind, seed=1), whole)
    assert not np.array_equal(whole, crops()[:, 0].numpy())
    augmentation = Augmentation(AugmentConfig(**{**NOTHING, kind: 0.5}), RATE)
    wav, places = crops(), range(4, 12)
    both = augmentation(wav, range(ITEMS), [0, 5], ITEMS)
    half = augmentation(wav[4:12], places, [0, 5], ITEMS)
    changed = (both != wav).any(dim=2)[:, 0]
    assert torch.equal((half != wav[4:12]).any(dim=2)[:, 0], changed[4:12])


def test_speed_moves_a_tone_by_up_to_a_tenth(tmp_path):
    time = np.arange(8 * RATE) / RATE
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio" / "a.wav", 0.3 * np.sin(2 * np.pi * 1000 * time), RATE)
    data = DataConfig(root=str(tmp_path / "audio"), cache=str(tmp_path / "cache"), gain_db=(0, 0))
    corpus = open_corpus(data.root, RATE, cache=data.cache, quiet=True)
    augmentation = Augmentation(AugmentConfig(**{**NOTHING, "speed": 1.0}), RATE)
    batches = Batches(
        corpus, corpus.clips, data, seed=0, items=range(16), augmentation=augmentation
    )
    found = []
    for item in batches[0][:, 0].numpy():
        hertz, power = scipy.signal.periodogram(item, RATE, "hann")
        found.append(hertz[power.argmax()])
        assert power[np.abs(hertz - found[-1]) > 20].sum() < 1e-3 * power.sum()  # still one tone
    assert 895 <= min(found) < 950
    assert 1050 < max(found) <= 1105


@pytest.mark.parametrize("kind", NOTHING)
def test_a_share_beyond_one_is_refused(kind):
    with pytest.raises(ConfigError, match=rf"augment\.{kind} is 1.5; give 0 to 1"):
        AugmentConfig(**{kind: 1.5})
