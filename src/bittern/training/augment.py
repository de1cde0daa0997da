"""What recordings are like and clean corpora are not: hum, rumble, clipping, noise, rooms, telephones.

The codec is asked to give back what it hears, these included: it does not learn to remove them (but for
what its high-pass takes out). Each kind is done to a share of the items of a batch, on the device that
the batch lies on; what is drawn depends on the seed, the step and the place in the batch alone.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from bittern.errors import ConfigError

_NOTHING = 1e-8  # mean square below which a signal has no level to speak of
_KEYS = ((697, 770, 852, 941), (1209, 1336, 1477, 1633))  # Hz, of telephone keys (ITU-T Q.23)

Draw = Callable[[], float]


@dataclass(kw_only=True)
class AugmentConfig:
    """Shares of the items that a kind is done to; 0 leaves it out."""

    speed: float = 0.3  # played a tenth faster or slower, pitch and all, as a tape would
    reverb: float = 0.06  # a small or large room
    band: float = 0.1  # telephone, or a low-pass at 2 to 7 kHz
    babble: float = 0.04  # other clips, 0 to 20 dB below
    noise: float = 0.1  # from brown to blue, 5 to 30 dB below
    hum: float = 0.05  # of 25 to 400 Hz and its harmonics
    rumble: float = 0.04  # noise below 20 to 120 Hz
    offset: float = 0.03  # a constant
    tones: float = 0.04  # not speech at all: one or two tones, telephone keys, square waves, clicks
    gain: float = 0.08  # from 50 dB softer to 20 dB louder
    clipping: float = 0.05  # 6 to 30 dB too loud for the converter
    silence: float = 0.04  # nothing, from some moment or up to it

    def __post_init__(self) -> None:
        for kind in fields(self):
            share = getattr(self, kind.name)
            if not 0 <= share <= 1:
                raise ConfigError(f"augment.{kind.name} is {share}; give 0 to 1")

    @property
    def anything(self) -> bool:
        return any(getattr(self, kind.name) for kind in fields(self))


class Augmentation:
    """Draws what is done to each item of a batch."""

    def __init__(self, config: AugmentConfig, sample_rate: int) -> None:
        self.config = config
        self.rate = sample_rate

    def __call__(self, wav: Tensor, items: range, seed: list[int], batch: int) -> Tensor:
        """Items of a batch with what befalls them, [n, 1, T] -> [n, 1, T].

        Args:
            wav: clean crops, the given places of the batch.
            items: their places.
            seed: of this batch.
            batch: items of the whole batch, for all of which is drawn.
        """
        rng = np.random.default_rng([*seed, 1])
        noise = torch.Generator(wav.device).manual_seed(int(rng.integers(2**62)))
        out = wav[:, 0]
        kinds = (
            self._reverb,
            self._band,
            self._babble,
            self._noise,
            self._hum,
            self._rumble,
            self._tones,
            self._silence,
            self._offset,
            self._gain,
            self._clipping,
        )
        for kind in kinds:
            share = getattr(self.config, kind.__name__.removeprefix("_"))
            chosen = rng.random(batch) < share
            draws = rng.random((batch, 8))[items.start : items.stop]
            rows = np.flatnonzero(chosen[items.start : items.stop])
            salt = int(rng.integers(2**62))
            if len(rows):
                noise.manual_seed(salt + items.start)
                place = torch.from_numpy(rows).to(out.device)
                given = torch.from_numpy(draws[rows]).float().to(out.device)[..., None]
                changed = kind(out.index_select(0, place), given.unbind(1), noise, out)
                out = out.index_copy(0, place, changed.to(out.dtype))
        return out[:, None]

    # Each takes items [n, T], eight uniform draws [n, 1] for them, and a source of noise.

    def _reverb(self, x: Tensor, u: tuple[Tensor, ...], g: torch.Generator, _: Tensor) -> Tensor:
        """Noise that dies away in .1 to .8 s, after the direct sound."""
        t = torch.arange(int(0.8 * self.rate), device=x.device) / self.rate
        tail = torch.randn(len(x), len(t), generator=g, device=x.device)
        tail = tail * torch.exp(-6.9 * t / (0.1 + 0.7 * u[0]))
        tail = tail / tail.norm(dim=1, keepdim=True) * _decibel(-15 * u[1])
        response = torch.cat([torch.ones_like(u[0]), tail], dim=1)
        wet = self._filtered(x, torch.fft.rfft(response, _length(x, response)))
        return wet * (_power(x) / _power(wet)).sqrt()

    def _band(self, x: Tensor, u: tuple[Tensor, ...], g: torch.Generator, _: Tensor) -> Tensor:
        """Half of them a telephone's 300 to 3,400 Hz, the others a low-pass."""
        length = _length(x, x)
        hertz = self._hertz(length, x)
        telephone = u[0] < 0.5
        high = torch.where(telephone, 3400.0, 2000 + 5000 * u[1])
        low = torch.where(telephone, 300.0, 1e-3)
        order = 8
        gain = (1 + (hertz / high) ** (2 * order)).rsqrt()
        gain = gain * (1 + (low / hertz.clamp(min=1e-3)) ** (2 * order)).rsqrt()
        return self._filtered(x, gain)

    def _babble(self, x: Tensor, u: tuple[Tensor, ...], g: torch.Generator, all_: Tensor) -> Tensor:
        """Four other items of the same device at once."""
        others = torch.randint(len(all_), (4, len(x)), generator=g, device=x.device)
        return x + _at_level(all_[others].sum(dim=0), x, -20 * u[0])

    def _noise(self, x: Tensor, u: tuple[Tensor, ...], g: torch.Generator, _: Tensor) -> Tensor:
        return x + _at_level(self._coloured(x, g, 2.5 * u[0] - 0.5), x, -5 - 25 * u[1])

    def _hum(self, x: Tensor, u: tuple[Tensor, ...], g: torch.Generator, _: Tensor) -> Tensor:
        """Mains, in half of them; any other in the rest; up to seven harmonics, -40 to -8 dBFS."""
        mains = torch.where(u[1] < 0.5, 50.0, 60.0)
        base = torch.where(u[0] < 0.5, mains, 25 * 16 ** u[2])
        wave = torch.zeros_like(x)
        for harmonic in range(1, 8):
            size = torch.rand(len(x), 1, generator=g, device=x.device)
            fall = (2.5 * u[4] - 0.1) if harmonic > 1 else torch.zeros_like(base)
            tone = self._sine(x, base * harmonic, size)
            wave = wave + tone * torch.where(fall > 0, size * harmonic**-fall, float(harmonic == 1))
        return x + wave * _decibel(-40 + 32 * u[3])

    def _rumble(self, x: Tensor, u: tuple[Tensor, ...], g: torch.Generator, _: Tensor) -> Tensor:
        length = _length(x, x)
        noise = torch.randn(len(x), length, generator=g, device=x.device)
        edge = 20 * 6 ** u[0]
        spectrum = torch.fft.rfft(noise) * (1 + (self._hertz(length, x) / edge) ** 6).rsqrt()
        low = torch.fft.irfft(spectrum, length)[:, : x.shape[1]]
        return x + low / low.abs().amax(dim=1, keepdim=True) * _decibel(-40 + 32 * u[1])

    def _tones(self, x: Tensor, u: tuple[Tensor, ...], g: torch.Generator, _: Tensor) -> Tensor:
        """Instead of speech: a tone, two, a telephone key, a square wave or clicks; half with gaps."""
        rows, columns = (torch.tensor(k, device=x.device).float() for k in _KEYS)
        high = self.rate * 0.45
        first, second = 60 * (high / 60) ** u[1], 60 * (high / 60) ** u[2]
        one, two = self._sine(x, first, u[4]), self._sine(x, second, u[5])
        key = self._sine(x, rows[(u[1] * 4).long()], u[4])
        key = 0.5 * (key + self._sine(x, columns[(u[2] * 4).long()], u[5]))
        clicks = (self._sine(x, 20 * 20 ** u[1], u[4]) > 0.98).float()
        square = self._sine(x, 60 * 16 ** u[1], u[4]).sign() * 0.5
        kind = (u[0] * 8).long()
        wave = one.where(kind < 3, (one + u[6] * two) / (1 + u[6]))
        wave = key.where((kind == 4) | (kind == 5), wave)
        wave = square.where(kind == 6, wave)
        wave = clicks.where(kind == 7, wave)
        gaps = self._sine(x, 1 + 5 * u[6], u[5]) > -0.2
        return wave * _decibel(-40 + 36 * u[3]) * gaps.where(u[7] < 0.5, torch.ones_like(gaps))

    def _silence(self, x: Tensor, u: tuple[Tensor, ...], g: torch.Generator, _: Tensor) -> Tensor:
        place = torch.arange(x.shape[1], device=x.device) / x.shape[1]
        return x * torch.where(u[1] < 0.5, place < u[0], place >= u[0])

    def _offset(self, x: Tensor, u: tuple[Tensor, ...], g: torch.Generator, _: Tensor) -> Tensor:
        return x + 0.5 * (2 * u[0] - 1)

    def _gain(self, x: Tensor, u: tuple[Tensor, ...], g: torch.Generator, _: Tensor) -> Tensor:
        return (x * _decibel(-50 + 70 * u[0])).clamp(-1, 1)

    def _clipping(self, x: Tensor, u: tuple[Tensor, ...], g: torch.Generator, _: Tensor) -> Tensor:
        """To full scale, then softer in half of them."""
        loud = (x * _decibel(6 + 24 * u[0])).clamp(-1, 1)
        return loud * torch.where(u[1] < 0.5, 1.0, _decibel(-30 * u[2]))

    def _coloured(self, x: Tensor, g: torch.Generator, slope: Tensor) -> Tensor:
        """Noise whose power falls with frequency to the power of `slope`: 0 white, 1 pink, 2 brown."""
        noise = torch.randn(x.shape, generator=g, device=x.device)
        hertz = self._hertz(x.shape[1], x).clamp(min=20)
        return torch.fft.irfft(torch.fft.rfft(noise) * hertz ** (-slope / 2), x.shape[1])

    def _sine(self, x: Tensor, hertz: Tensor, phase: Tensor) -> Tensor:
        time = torch.arange(x.shape[1], device=x.device) / self.rate
        return torch.sin(2 * math.pi * (hertz * time + phase))

    def _hertz(self, length: int, x: Tensor) -> Tensor:
        return torch.arange(length // 2 + 1, device=x.device) * (self.rate / length)

    def _filtered(self, x: Tensor, response: Tensor) -> Tensor:
        length = 2 * (response.shape[-1] - 1)
        return torch.fft.irfft(torch.fft.rfft(x, length) * response, length)[:, : x.shape[1]]


def _length(x: Tensor, response: Tensor) -> int:
    """Of a transform that holds a convolution of rows."""
    return 1 << (x.shape[1] + response.shape[1] - 1).bit_length()


def _power(x: Tensor) -> Tensor:
    return x.square().mean(dim=1, keepdim=True).clamp(min=_NOTHING)


def _decibel(level: Tensor) -> Tensor:
    return 10 ** (level / 20)


def _at_level(added: Tensor, x: Tensor, level: Tensor) -> Tensor:
    """What is added, at a level in dB over that of x."""
    return added * (_power(x) / _power(added)).sqrt() * _decibel(level)
