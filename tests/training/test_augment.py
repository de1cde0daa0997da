"""What augmentation does to a crop, measured on the crop by other means."""

import numpy as np
import pytest
import scipy.signal
import soundfile
import torch

from bittern.errors import AudioError, ConfigError
from bittern.training.augment import Augmentation, AugmentConfig
from bittern.training.corpus import Corpus, open_corpus
from bittern.training.data import Batches, DataConfig

RATE = 16_000


@pytest.fixture
def folders(tmp_path):
    """Noise longer and shorter than a crop, and impulse responses of which one begins late."""
    rng = np.random.default_rng(0)
    for name in ("noise", "rooms"):
        (tmp_path / name).mkdir()
    soundfile.write(tmp_path / "noise" / "long.wav", 0.1 * rng.standard_normal(5 * RATE), RATE)
    soundfile.write(tmp_path / "noise" / "short.flac", 0.1 * rng.standard_normal(4410), 44_100)
    decay = np.exp(-np.arange(3200) / 600) * rng.standard_normal(3200) * 0.2
    decay[0] = 0.9
    decay = np.round(decay * 2**15) / 2**15  # as the decoded corpus keeps it
    soundfile.write(tmp_path / "rooms" / "a.wav", decay, RATE)
    soundfile.write(tmp_path / "rooms" / "late.wav", np.append(np.zeros(500), decay), RATE)
    return tmp_path


@pytest.fixture
def make(folders, speech_folder):
    def batches(items: int = 8, **changes) -> Batches:
        cache = str(folders / "cache")
        data = DataConfig(root=str(speech_folder), cache=cache, gain_db=(0, 0), segment_seconds=0.5)
        corpus = open_corpus(data.root, RATE, cache=cache, minimum_seconds=0.3, quiet=True)
        config = AugmentConfig(**changes)
        augmentation = None
        if config.anything:
            augmentation = Augmentation(config, RATE, cache=cache, quiet=True)
        return Batches(
            corpus, corpus.clips, data, seed=3, items=range(items), augmentation=augmentation
        )

    return batches


def db(power_ratio: float) -> float:
    return 10 * float(np.log10(power_ratio))


def unscaled(wav: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """A crop without the gain that keeps peaks below clipping: no test level reaches it."""
    assert max(np.abs(wav).max(), np.abs(clean).max()) < 0.98
    return wav - clean


def test_nothing_is_done_by_default():
    assert not AugmentConfig().anything
    assert not AugmentConfig(noise_root="x", noise_probability=0.0).anything


def test_noise_has_the_signal_to_noise_ratio_asked_for(folders, make):
    clean = make()[5].numpy()
    for low, high in ((10.0, 10.0), (3.0, 20.0)):
        noisy = make(
            noise_root=str(folders / "noise"), noise_probability=1.0, noise_snr_db=(low, high)
        )[5].numpy()
        ratios = [
            db((c**2).mean() / (unscaled(n, c) ** 2).mean())
            for n, c in zip(noisy, clean, strict=True)
        ]
        assert low - 0.01 <= min(ratios) <= max(ratios) <= high + 0.01
        assert (np.std(ratios) > 1) == (low < high)


def test_a_short_noise_is_repeated_to_the_end(folders, make):
    (folders / "noise" / "long.wav").unlink()
    batches = make(noise_root=str(folders / "noise"), noise_probability=1.0, noise_snr_db=(20, 20))
    noise = batches[1].numpy() - make()[1].numpy()
    period = 1600  # 4410 samples at 44.1 kHz
    assert batches.augmentation.noise.clips[0].samples == period
    np.testing.assert_allclose(noise[..., period:], noise[..., :-period], atol=1e-6)


def test_a_second_clip_has_the_level_asked_for_and_is_speech_of_the_corpus(make):
    clean = make()[2].numpy()
    mixed = make(mix_probability=1.0, mix_db=(-6.0, -6.0))[2].numpy()
    corpus = make().corpus
    everything = np.concatenate([corpus.read(c, 0, c.samples) for c in corpus.clips])
    for one, both in zip(clean[:, 0], mixed[:, 0], strict=True):
        second = unscaled(both, one)
        assert db((second**2).mean() / (one**2).mean()) == pytest.approx(-6, abs=0.01)
        match = scipy.signal.correlate(everything, second, mode="valid")
        energy = scipy.signal.convolve(everything**2, np.ones(len(second)), mode="valid")
        cosine = match / np.sqrt(energy.clip(min=1e-6)) / np.linalg.norm(second)
        assert float(cosine.max()) > 0.999


def test_reverb_is_the_convolution_of_the_whole_clip_with_a_response_from_its_peak_on(
    folders, make
):
    (folders / "rooms" / "a.wav").unlink()
    response, _ = soundfile.read(folders / "rooms" / "late.wav")
    response = response[500:]
    dry = make()
    wet = make(reverb_root=str(folders / "rooms"), reverb_probability=1.0)
    samples, late_crops = dry.samples, 0
    for item in range(8):
        rng = np.random.default_rng([3, 4, item])
        clip, start = dry._choose(rng)
        late_crops += start > len(response)
        whole = dry.corpus.read(clip, 0, clip.samples)
        expected = scipy.signal.convolve(whole, response)[start : start + samples]
        crop = whole[start : start + samples]
        expected *= np.sqrt((crop**2).mean() / (expected**2).mean())
        got = wet.draw(4, range(item, item + 1))[0, 0].numpy()
        if np.abs(expected).max() < 0.98:
            np.testing.assert_allclose(got, expected, atol=1e-5)
    assert late_crops > 0


@pytest.mark.parametrize("speed", [0.8, 1.0, 1.25])
def test_a_faster_tape_has_higher_tones_and_words_that_come_sooner(tmp_path, speed):
    time = np.arange(4 * RATE) / RATE
    tone = 0.3 * np.sin(2 * np.pi * 440 * time)
    tone[RATE : RATE + 800] = 0
    soundfile.write(tmp_path / "tone.wav", tone, RATE)
    corpus = open_corpus(tmp_path, RATE, cache=tmp_path / "cache", quiet=True)
    config = AugmentConfig(speed_probability=1.0, speed=(speed, speed))
    wav = Augmentation(config, RATE, cache=str(tmp_path / "cache"), quiet=True).draw(
        lambda first, samples: corpus.read(corpus.clips[0], first, samples),
        lambda rng: np.zeros(0, np.float32),
        samples=2 * RATE,
        lead=0,
        rng=np.random.default_rng(0),
    )
    assert wav.shape == (2 * RATE,)
    frequency = np.abs(np.fft.rfft(wav[-RATE // 2 :] * np.hanning(RATE // 2))).argmax() * 2
    assert frequency == pytest.approx(440 * speed, abs=2)
    loudness = np.convolve(wav**2, np.ones(200), mode="same")[2000:-2000]
    assert int(loudness.argmin()) + 2000 == pytest.approx((RATE + 400) / speed, abs=300)


@pytest.mark.parametrize("name", ["speed", "mix", "noise", "reverb"])
def test_each_is_done_with_its_probability(folders, make, name):
    roots = {"noise_root": str(folders / "noise"), "reverb_root": str(folders / "rooms")}
    others = {f"{other}_probability": 0.0 for other in ("speed", "mix", "noise", "reverb")}
    some = make(100, **roots, **(others | {f"{name}_probability": 0.3}))
    clean = make(100)
    changed = sum(int((some[s] != clean[s]).flatten(1).any(dim=1).sum()) for s in range(3))
    assert 60 < changed < 120  # of 300; 90 is the mean, 8 the deviation


def test_augmented_batches_depend_on_seed_step_and_place_alone(folders, make):
    settings = {
        "speed_probability": 0.5,
        "mix_probability": 0.5,
        "noise_root": str(folders / "noise"),
        "reverb_root": str(folders / "rooms"),
        "reverb_probability": 0.5,
    }
    one, again = make(**settings), make(**settings)
    again[0]  # drawn before or not
    assert torch.equal(one[7], again[7])
    halves = torch.cat([again.draw(7, range(4)), again.draw(7, range(4, 8))])
    assert torch.equal(one[7], halves)
    assert not torch.equal(one[7], one[8])
    assert float(one[7].abs().max()) <= 0.9901


def test_a_silent_crop_gets_no_noise(folders):
    augmentation = Augmentation(
        AugmentConfig(noise_root=str(folders / "noise"), noise_probability=1.0),
        RATE,
        cache=str(folders / "cache"),
        quiet=True,
    )
    wav = augmentation.draw(
        lambda first, samples: np.zeros(samples, np.float32),
        lambda rng: np.ones(800, np.float32),
        samples=800,
        lead=0,
        rng=np.random.default_rng(0),
    )
    assert wav.dtype == np.float32
    assert not wav.any()


def test_wrong_settings_and_folders_are_named(folders, tmp_path):
    with pytest.raises(ConfigError, match=r"augment\.mix_probability is 1\.5"):
        AugmentConfig(mix_probability=1.5)
    with pytest.raises(ConfigError, match=r"augment\.noise_snr_db is \[9, 3\]"):
        AugmentConfig(noise_snr_db=(9, 3))
    with pytest.raises(ConfigError, match=r"augment\.speed is \[0\.1, 1\.0\]"):
        AugmentConfig(speed=(0.1, 1))
    config = AugmentConfig(reverb_root=str(tmp_path / "nowhere"))
    with pytest.raises(AudioError, match=r"augment\.reverb_root .* is not a folder"):
        Augmentation(config, RATE, cache=str(tmp_path / "cache"), quiet=True)


def test_corpus_reads_zeros_after_a_clip_and_none_of_its_neighbours(make):
    corpus: Corpus = make().corpus
    clip = corpus.clips[0]
    end = corpus.read(clip, clip.samples - 10, 30)
    assert end[:10].any()
    assert not end[10:].any()
