"""What may be done to a crop of speech before the codec hears it: speed, reverb, a second voice, noise.

The codec is asked to give back what it hears, these included: it does not learn to remove them. Each is
done with its own probability, in this order, and the random gain of `data.py` comes after them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import soxr

from bittern.errors import ConfigError
from bittern.training.corpus import Corpus, open_corpus

_LONGEST_RESPONSE = 2.0  # seconds; the rest of an impulse response is left out
_NOTHING = 1e-10  # power below which a signal has no level to speak of


@dataclass(kw_only=True)
class AugmentConfig:
    """Which there are; none by default."""

    speed_probability: float = 0.0  # of playing it faster or slower, pitch and all, as a tape would
    speed: tuple[float, float] = (0.9, 1.1)  # so many times as fast
    mix_probability: float = 0.0  # of adding a second clip
    mix_db: tuple[float, float] = (-12.0, 0.0)  # its level, over that of the first
    noise_root: str | None = None  # a folder of noise, of any depth, format and rate
    noise_probability: float = 0.5
    noise_snr_db: tuple[float, float] = (5.0, 30.0)
    reverb_root: str | None = None  # a folder of impulse responses
    reverb_probability: float = 0.3

    def __post_init__(self) -> None:
        for kind in ("speed", "mix", "noise", "reverb"):
            name = f"{kind}_probability"
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"augment.{name} is {getattr(self, name)}; give 0 to 1")
        for name in ("speed", "mix_db", "noise_snr_db"):
            given = tuple(getattr(self, name))
            if len(given) != 2 or given[0] > given[1]:
                raise ConfigError(f"augment.{name} is {list(given)}; give [lowest, highest]")
            setattr(self, name, (float(given[0]), float(given[1])))
        if not 0.5 <= self.speed[0] <= self.speed[1] <= 2:
            raise ConfigError(f"augment.speed is {list(self.speed)}; give 0.5 to 2")

    @property
    def anything(self) -> bool:
        noise, reverb = self.noise_root is not None, self.reverb_root is not None
        return (
            self.speed_probability > 0
            or self.mix_probability > 0
            or (noise and self.noise_probability > 0)
            or (reverb and self.reverb_probability > 0)
        )


class Augmentation:
    """Draws crops as `AugmentConfig` says; all randomness is that of the generator given."""

    def __init__(
        self, config: AugmentConfig, sample_rate: int, *, cache: str, quiet: bool = False
    ) -> None:
        """Scan the folders of noise and impulse responses.

        Raises:
            AudioError: one is missing or holds no usable audio.
        """
        self.config = config
        self.longest_response = round(_LONGEST_RESPONSE * sample_rate)
        self.noise, self.responses = (
            None
            if root is None
            else open_corpus(root, sample_rate, cache=cache, what=f"augment.{name}", quiet=quiet)
            for name, root in (
                ("noise_root", config.noise_root),
                ("reverb_root", config.reverb_root),
            )
        )

    def draw(
        self,
        read: Callable[[int, int], np.ndarray],
        another: Callable[[np.random.Generator], np.ndarray],
        *,
        samples: int,
        lead: int,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """A crop of `samples` samples, [samples] float32, at any level.

        Args:
            read: gives (first, count) samples of the clip, the crop beginning at 0.
            another: gives a crop of a second clip.
            samples: length of the crop.
            lead: how far before the crop the clip begins, for the reverb of what came before.
            rng: of this place in this batch.
        """
        config = self.config
        if rng.random() < config.speed_probability:
            speed = rng.uniform(*config.speed)
            read, lead = at_speed(read, speed), int(lead / speed)
        wav = read(0, samples)
        if self.responses is not None and rng.random() < config.reverb_probability:
            response = self._response(self.responses, rng)
            before = min(lead, len(response) - 1)
            heard = convolve(read(-before, before + samples), response)[before : before + samples]
            wav = heard * _amplitude(_power(wav), _power(heard), 0.0)
        if rng.random() < config.mix_probability:
            second = another(rng)
            level = rng.uniform(*config.mix_db)
            wav = wav + second * _amplitude(_power(wav), _power(second), level)
        if self.noise is not None and rng.random() < config.noise_probability:
            noise = _crop(self.noise, samples, rng)
            snr = rng.uniform(*config.noise_snr_db)
            wav = wav + noise * _amplitude(_power(wav), _power(noise), -snr)
        return wav.astype(np.float32)

    def _response(self, responses: Corpus, rng: np.random.Generator) -> np.ndarray:
        """An impulse response from its peak on, so that nothing is delayed."""
        clip = responses.clips[int(rng.integers(len(responses.clips)))]
        whole = responses.read(clip, 0, clip.samples)
        peak = int(np.abs(whole).argmax())
        return whole[peak : peak + self.longest_response]


def at_speed(
    read: Callable[[int, int], np.ndarray], speed: float
) -> Callable[[int, int], np.ndarray]:
    """What gives (first, count) samples of a signal played so many times as fast.

    To a network it is another speaker: shorter or longer throats, faster or slower talk.

    Source: Ko et al., "Audio augmentation for speech recognition" (Interspeech 2015).
    """

    def faster(first: int, count: int) -> np.ndarray:
        wav = read(round(first * speed), math.ceil(count * speed) + 1)
        return soxr.resample(wav, speed, 1.0)[:count]

    return faster


def convolve(wav: np.ndarray, response: np.ndarray) -> np.ndarray:
    """The first `len(wav)` samples of the convolution, through the spectrum: [n], [m] -> [n]."""
    length = 1 << (len(wav) + len(response) - 2).bit_length()
    spectrum = np.fft.rfft(wav, length) * np.fft.rfft(response, length)
    return np.fft.irfft(spectrum, length)[: len(wav)]


def _crop(corpus: Corpus, samples: int, rng: np.random.Generator) -> np.ndarray:
    """A crop of a file, all files alike; a short one is repeated."""
    clip = corpus.clips[int(rng.integers(len(corpus.clips)))]
    if clip.samples >= samples:
        return corpus.read(clip, int(rng.integers(clip.samples - samples + 1)), samples)
    first = int(rng.integers(clip.samples))
    whole = corpus.read(clip, 0, clip.samples)
    return np.resize(np.roll(whole, -first), samples)


def _power(wav: np.ndarray) -> float:
    return float(np.square(wav, dtype=np.float64).mean())


def _amplitude(wanted: float, given: float, db: float) -> float:
    """What brings a power to `db` over a wanted one; 0 where either has no level."""
    if wanted < _NOTHING or given < _NOTHING:
        return 0.0
    return (wanted / given) ** 0.5 * 10 ** (db / 20)
