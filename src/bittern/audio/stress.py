"""Sounds that break codecs: what microphones, mixers, networks and programs really deliver.

    for name, wav in nasty(speech, 16_000).items(): ...

Each is made of a seed, a sample rate and some seconds of clean speech, and promises by its name what it
is. `faults` and `tone_faults` say what is broken about a decoding. The evaluation decodes all of them
(`evaluation/nasty.py`), training's validation some. numpy alone.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.floating]  # [T]

DTMF = {  # key: the tones of its row and its column, Hz
    key: (row, column)
    for row, keys in ((697, "123A"), (770, "456B"), (852, "789C"), (941, "*0#D"))
    for column, key in zip((1209, 1336, 1477, 1633), keys, strict=True)
}
TONES = (100, 200, 300, 440, 700, 1000, 1500, 2000, 3000, 4000, 5000, 6000, 7000)  # Hz

# what is broken; decoded audio that stays below AUDIBLE is not
MOST_PEAK, MOST_ENERGY, LEAST_ESTOI = 2.0, 1.5, 0.3
AUDIBLE = 1e-3  # -60 dBFS


@dataclass(frozen=True, eq=False)
class Signal:
    """One sound, and what has to be found in its decoding."""

    name: str
    samples: NDArray[np.float32]  # [T], in -1..1
    speech: bool = False  # words that have to be intelligible
    tones: tuple[float, ...] = ()  # Hz, that have to come back as loud as they are


def nasty(speech: NDArray[np.floating], rate: int, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """All sounds by name, each as long as `speech`; see `signals`."""
    return {signal.name: signal.samples for signal in signals(speech, rate, seed)}


def signals(speech: NDArray[np.floating], rate: int, seed: int = 0) -> list[Signal]:
    """All sounds, kind by kind.

    Args:
        speech: [T] in -1..1, clean, of one talker and a usual level; a second or more.
        rate: Hz, 8,000 or more; tones up to 0.44 of it are made.
        seed: of all noise. A sound depends on its name and the seed, not on the others.

    Raises:
        ValueError: too little speech, or none.
    """
    if speech.ndim != 1 or len(speech) < rate or not np.any(speech):
        raise ValueError(
            f"speech is {list(speech.shape)}; expected a second or more of it at {rate} Hz, [samples]"
        )
    studio = _Studio(np.asarray(speech, dtype=np.float64), rate, seed)
    kinds = (
        *(_speech_levels, _hums, _offsets, _rumbles, _clipped, _shapes, _tones, _keys, _sweeps),
        *(_noises, _events, _silences, _bands, _rooms, _voices, _chords, _steps, _starts),
    )
    return [signal for kind in kinds for signal in kind(studio)]


class Levels(NamedTuple):
    """An output over its input: 1 is right, 0 nothing, infinity sound out of digital silence."""

    peak: float
    energy: float  # root mean squares


def levels(output: Samples, original: Samples) -> Levels:
    """Peak and energy of decoded audio [T'] over those of what was coded [T]."""
    return Levels(
        _over(np.abs(output).max(initial=0), np.abs(original).max(initial=0)),
        _over(_rms(output), _rms(original)),
    )


def faults(output: Samples, original: Samples, estoi: float | None = None) -> list[str]:
    """What is broken about decoded audio, in words; mere coding noise is not.

    Args:
        output: [T'], decoded.
        original: [T], what was coded.
        estoi: of the output against the original, where that is speech.
    """
    if not np.isfinite(output).all():
        return ["samples that are not numbers"]
    found = []
    peak, energy = levels(output, original)
    if np.abs(output).max(initial=0) > AUDIBLE:
        found += [f"peak {peak:.2g} times the input's"] if peak > MOST_PEAK else []
        found += [f"energy {energy:.2g} times the input's"] if energy > MOST_ENERGY else []
    if estoi is not None and estoi < LEAST_ESTOI:
        found.append(f"ESTOI {estoi:.2f}")
    return found


class ToneError(NamedTuple):
    """How a tone comes back."""

    hertz: float  # too high
    decibels: float  # too loud, -99 at least


def tone_errors(
    output: Samples, original: Samples, rate: int, tones: Sequence[float]
) -> list[ToneError]:
    """Look for each tone of the original [T] in the output [T].

    The frequency is that of the strongest part between the neighbouring tones (the whole spectrum for
    a single one), the level that of 2 % around where the tone should be.
    """
    window = np.hanning(len(original))
    frequency = np.fft.rfftfreq(len(original), 1 / rate)
    got, wanted = (np.square(np.abs(np.fft.rfft(window * wave))) for wave in (output, original))
    ordered = sorted(tones)
    edges = [20.0, *np.sqrt(np.multiply(ordered[:-1], ordered[1:])), rate / 2]
    found = []
    for tone, low, high in zip(ordered, edges[:-1], edges[1:], strict=True):
        between = (frequency >= low) & (frequency <= high)
        strongest = frequency[between][np.argmax(got[between])]
        near = np.abs(frequency - tone) <= max(0.02 * tone, 3 * frequency[1])
        ratio = max(got[near].sum() / wanted[near].sum(), 1e-9)
        found.append(ToneError(float(strongest - tone), max(10 * float(np.log10(ratio)), -99.0)))
    return found


def tone_faults(errors: Sequence[ToneError], tones: Sequence[float]) -> list[str]:
    """Which tones do not come back: off by more than a telephone exchange takes, or by 6 dB."""
    found = []
    for (hertz, decibels), tone in zip(errors, sorted(tones), strict=True):
        if abs(hertz) > max(0.015 * tone, 3):
            found.append(f"{tone:g} Hz came back as {tone + hertz:.0f} Hz")
        elif abs(decibels) > 6:
            found.append(f"{tone:g} Hz came back {decibels:+.0f} dB")
    return found


def _over(output: float, original: float) -> float:
    if original == 0:
        return 1.0 if output == 0 else float("inf")
    return float(output / original)


class _Studio:
    """The speech, time, noise and filters that sounds are made of."""

    def __init__(self, speech: Samples, rate: int, seed: int) -> None:
        self.speech, self.rate, self.seed = speech, rate, seed
        self.length = len(speech)
        self.time = np.arange(self.length) / rate  # s
        self.frequency = np.fft.rfftfreq(self.length, 1 / rate)
        loud = np.convolve(np.abs(speech), np.ones(rate // 20) / (rate // 20), "same")
        self.talking = loud > 0.1 * loud.max()  # [T]

    def made(
        self, name: str, wave: Samples, *, speech: bool = False, tones: tuple[float, ...] = ()
    ) -> Signal:
        """What a converter gives: nothing beyond full scale."""
        return Signal(name, np.clip(wave, -1, 1).astype(np.float32), speech, tones)

    def random(self, name: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])

    def tone(self, hertz: float, level: float = -12.0) -> Samples:
        """A sine of so many dBFS at its peak."""
        return _gain(level) * np.sin(2 * np.pi * hertz * self.time)

    def noise(self, name: str, slope: float = 0.0, level: float = -20.0) -> Samples:
        """Noise whose power falls by `slope` x 3 dB an octave from 20 Hz on, of so many dBFS in rms."""
        spectrum = np.fft.rfft(self.random(name).standard_normal(self.length))
        spectrum *= np.maximum(self.frequency, 20.0) ** (-slope / 2)
        wave = np.fft.irfft(spectrum, self.length)
        return _gain(level) * wave / _rms(wave)

    def band(self, wave: Samples, low: float, high: float) -> Samples:
        """What of a wave lies between two frequencies."""
        spectrum = np.fft.rfft(wave)
        spectrum[(self.frequency < low) | (self.frequency > high)] = 0
        return np.fft.irfft(spectrum, self.length)


def _speech_levels(studio: _Studio) -> Iterator[Signal]:
    speech = studio.speech
    yield studio.made("speech", speech, speech=True)
    yield studio.made("speech at full scale", speech / np.abs(speech).max(), speech=True)
    for level in (-20, -40, -60, -80, -100):
        soft = _gain(level) * speech
        yield studio.made(f"soft speech, {level} dB", soft, speech=level >= -60)
    for name, gains in (("40 dB up and down", (-40, 0)), ("60 dB up and down", (-60, 0))):
        level = np.where(studio.time % 1.0 < 0.5, *gains)
        yield studio.made(f"speech with levels that jump {name}", _gain(level) * speech)
    fade = np.linspace(-80, 10, studio.length)
    yield studio.made("speech that swells by 90 dB", _gain(fade) * speech)


def _hums(studio: _Studio) -> Iterator[Signal]:
    for hertz in (25, 50, 60, 100, 180, 400):
        buzz = sum(
            studio.tone(hertz * k, 0) / k for k in range(1, 9) if hertz * k < studio.rate / 2
        )
        buzz = buzz / np.abs(buzz).max()
        for what, wave, level in (
            ("", studio.tone(hertz, 0), -10),
            (" and its harmonics", buzz, -20),
        ):
            name = f"hum of {hertz} Hz{what} at {level} dBFS"
            hum = _gain(level) * wave
            yield studio.made(f"{name}, alone", hum)
            yield studio.made(f"{name}, under speech", studio.speech + hum, speech=True)
        soft = studio.speech + 0.01 * buzz
        yield studio.made(f"hum of {hertz} Hz at -40 dBFS, under speech", soft, speech=True)


def _offsets(studio: _Studio) -> Iterator[Signal]:
    for offset in (0.1, -0.1, 0.3, -0.3, 0.6, -0.6):
        yield studio.made(
            f"offset of {offset:+g} under speech", studio.speech + offset, speech=True
        )
    for offset in (0.5, -0.5):
        yield studio.made(f"offset of {offset:+g} alone", np.full(studio.length, offset))
    slow = 0.4 * np.sin(2 * np.pi * 0.5 * studio.time)
    yield studio.made("offset that wanders under speech", studio.speech + slow, speech=True)


def _rumbles(studio: _Studio) -> Iterator[Signal]:
    for high in (30, 60, 120):
        name = f"rumble below {high} Hz"
        wave = studio.band(studio.random(name).standard_normal(studio.length), 2, high)
        wave /= np.abs(wave).max()
        yield studio.made(f"{name} alone", _gain(-6) * wave)
        wave *= _gain(-10)
        yield studio.made(f"{name} under speech", studio.speech + wave, speech=True)
        gated = studio.speech * studio.talking
        in_pauses = gated + wave * ~studio.talking  # whose empty bands would mislead ESTOI
        yield studio.made(f"{name} in the pauses of speech", in_pauses)


def _clipped(studio: _Studio) -> Iterator[Signal]:
    loud = studio.speech / np.abs(studio.speech).max()
    for gain in (3, 10, 30, 100):
        yield studio.made(f"speech clipped at full scale, gain {gain}", gain * loud, speech=True)
    yield studio.made("speech clipped at -20 dBFS", np.clip(loud, -0.1, 0.1), speech=True)
    yield studio.made("speech of one bit", np.sign(loud) * 0.5)
    wrapped = (2 * loud + 1) % 2 - 1  # whole numbers that ran over
    yield studio.made("speech whose samples wrapped around", wrapped)


def _shapes(studio: _Studio) -> Iterator[Signal]:
    for hertz in (50, 100, 440, 1000):
        phase = (hertz * studio.time) % 1.0
        yield studio.made(f"square wave of {hertz} Hz", np.where(phase < 0.5, 0.3, -0.3))
        yield studio.made(f"sawtooth of {hertz} Hz", 0.6 * phase - 0.3)
    yield studio.made("square wave of 100 Hz, full scale", np.sign(studio.tone(100.001)))
    sign = 1.0 - 2.0 * (np.arange(studio.length) % 2)
    yield studio.made("samples of alternating sign, full scale", sign)
    yield studio.made("samples of alternating sign, -20 dBFS", 0.1 * sign)


def _tones(studio: _Studio) -> Iterator[Signal]:
    highest = 0.44 * studio.rate
    for hertz in TONES:
        if hertz <= highest:
            yield studio.made(f"tone of {hertz} Hz", studio.tone(hertz), tones=(hertz,))
    for hertz in (440, 3000):
        for level in (-1, -40):
            name = f"tone of {hertz} Hz, {level} dBFS"
            yield studio.made(name, studio.tone(hertz, level), tones=(hertz,))
    for pair in ((440, 1000), (1000, 1150), (300, 3300), (2000, 2600)):
        wave = studio.tone(pair[0], -15) + studio.tone(pair[1], -15)
        yield studio.made(f"tones of {pair[0]} and {pair[1]} Hz", wave, tones=pair)
    beeps = np.where(studio.time % 0.5 < 0.25, studio.tone(1000, -6), 0.0)
    yield studio.made("tone of 1000 Hz, on and off", beeps)


def _keys(studio: _Studio) -> Iterator[Signal]:
    for key, (row, column) in DTMF.items():
        wave = studio.tone(row, -14) + studio.tone(column, -14)
        yield studio.made(f"telephone key {key}", wave, tones=(row, column))


def _sweeps(studio: _Studio) -> Iterator[Signal]:
    seconds, top = studio.length / studio.rate, 0.48 * studio.rate
    octaves = np.log(top / 20)
    phase = 20 * seconds / octaves * np.exp(studio.time / seconds * octaves)
    slow = 0.3 * np.sin(2 * np.pi * phase)
    yield studio.made("sweep from 20 Hz up", slow)
    yield studio.made("sweep down to 20 Hz", slow[::-1])
    local = studio.time % 0.1
    chirp = np.sin(2 * np.pi * (100 * local + (top - 100) / 0.1 * local**2 / 2))
    yield studio.made("chirps of 100 ms", 0.3 * chirp)


def _noises(studio: _Studio) -> Iterator[Signal]:
    for colour, slope in (("white", 0.0), ("pink", 1.0), ("brown", 2.0), ("blue", -1.0)):
        name = f"{colour} noise"
        for level in (-12, -40):
            yield studio.made(f"{name}, {level} dBFS", studio.noise(name, slope, level))
        for ratio in (20, 5):
            noise = studio.noise(name, slope, 0) * _rms(studio.speech) * _gain(-ratio)
            yield studio.made(f"{name} {ratio} dB below speech", studio.speech + noise, speech=True)


def _events(studio: _Studio) -> Iterator[Signal]:
    """Short things: static, thumps, clicks."""
    speech, time = studio.speech, studio.time
    static = studio.noise("static", 0, -6) * (time % 0.7 < 0.02)
    yield studio.made("bursts of static", static)
    yield studio.made("bursts of static over speech", speech + static, speech=True)
    after = time % 0.8
    thump = 0.9 * np.sin(2 * np.pi * 35 * after) * np.exp(-after / 0.06)
    yield studio.made("thumps", thump)
    yield studio.made("thumps under speech", speech + thump, speech=True)
    for every in (studio.rate // 100, studio.rate // 3):
        clicks = 0.8 * (np.arange(studio.length) % every == every // 2)
        yield studio.made(f"impulses every {1000 * every // studio.rate} ms", clicks)
    yield studio.made("clicks over speech", speech + clicks, speech=True)
    dropped = np.where(time % 0.5 < 0.03, 0.0, speech)
    yield studio.made("speech with gaps of 30 ms", dropped, speech=True)


def _silences(studio: _Studio) -> Iterator[Signal]:
    nothing = np.zeros(studio.length)
    yield studio.made("digital silence", nothing)
    one = nothing.copy()
    one[studio.length // 2] = 1 / 32768
    yield studio.made("silence but for one step of one sample", one)
    dither = studio.random("dither").integers(-1, 2, studio.length) / 32768
    yield studio.made("silence of dither", dither)
    yield studio.made(
        "digital silence in the pauses of speech", studio.speech * studio.talking, speech=True
    )
    islands = np.where(studio.time % 1.0 < 0.25, studio.speech, 0.0)
    yield studio.made("islands of speech in digital silence", islands)
    half = np.where(studio.time < studio.time[-1] / 2, studio.speech, 0.0)
    yield studio.made("speech, then digital silence", half, speech=True)


def _bands(studio: _Studio) -> Iterator[Signal]:
    for name, low, high in (
        ("telephone band", 300, 3400),
        ("low-passed at 1 kHz", 0, 1000),
        ("low-passed at 2 kHz", 0, 2000),
        ("low-passed at 4 kHz", 0, 4000),
        ("high-passed at 1 kHz", 1000, studio.rate),
    ):
        clear = high - low > 1000  # wide enough for ESTOI, which looks at bands up to 4.3 kHz
        wave = studio.band(studio.speech, low, high)
        yield studio.made(f"speech, {name}", wave, speech=clear)


def _rooms(studio: _Studio) -> Iterator[Signal]:
    for seconds in (0.3, 1.0, 2.5):
        name = f"speech in a room of {seconds:g} s"
        decay = 10 ** (-3 * studio.time / seconds)  # 60 dB
        response = 0.3 * studio.random(name).standard_normal(studio.length) * decay
        response[0] = 4.0
        size = 2 * studio.length
        wave = np.fft.irfft(np.fft.rfft(studio.speech, size) * np.fft.rfft(response, size), size)
        wave = wave[: studio.length]
        yield studio.made(
            name, wave * np.abs(studio.speech).max() / np.abs(wave).max(), speech=True
        )


def _voices(studio: _Studio) -> Iterator[Signal]:
    random = studio.random("babble")
    babble = np.zeros(studio.length)
    for number in range(8):
        voice = np.roll(studio.speech, random.integers(studio.length))
        babble += voice[::-1] if number % 2 else voice
    babble *= _rms(studio.speech) / _rms(babble)
    yield studio.made("babble", babble)
    for ratio in (15, 5):
        wave = studio.speech + _gain(-ratio) * babble
        yield studio.made(f"babble {ratio} dB below speech", wave, speech=True)
    yield studio.made("speech backwards", studio.speech[::-1])


def _chords(studio: _Studio) -> Iterator[Signal]:
    """Music, or nearly."""
    notes = {"C": 261.63, "E": 329.63, "G": 392.0, "A": 440.0, "F": 349.23, "low": 65.41}

    def struck(hertz: float, start: float) -> Samples:
        after = studio.time - start
        parts = sum(np.sin(2 * np.pi * hertz * k * after) / k**1.5 for k in range(1, 7))
        return np.where(after >= 0, parts * np.exp(-np.maximum(after, 0) / 0.5), 0.0)

    held = sum(studio.tone(notes[note] * k, -20) / k for note in "CEG" for k in range(1, 6))
    yield studio.made("chord, held", np.asarray(held))
    piece = np.zeros(studio.length)
    for number in range(int(studio.time[-1] / 0.25) + 1):
        piece += struck(notes["CEGAFE"[number % 6]], 0.25 * number)
        piece += struck(notes["low"], 0.25 * number) if number % 4 == 0 else 0.0
    piece /= np.abs(piece).max()
    yield studio.made("arpeggio", 0.5 * piece)
    drums = studio.noise("drums", 0, -6) * np.exp(-(studio.time % 0.5) / 0.03)
    yield studio.made("arpeggio with drums, full scale", 0.7 * piece + drums)
    yield studio.made("arpeggio 10 dB below speech", studio.speech + 0.1 * piece, speech=True)


def _steps(studio: _Studio) -> Iterator[Signal]:
    stairs = np.array([0.0, 0.5, -0.3, 0.8, -0.8, 0.1])
    place = (studio.time / studio.time[-1] * len(stairs)).astype(int).clip(0, len(stairs) - 1)
    yield studio.made("steps of the offset", stairs[place])
    yield studio.made(
        "steps of the offset under speech", studio.speech + 0.3 * stairs[place], speech=True
    )


def _starts(studio: _Studio) -> Iterator[Signal]:
    """What begins or ends at once, or in the middle of a sound."""
    loudest = int(np.argmax(np.abs(studio.speech)))
    yield studio.made(
        "speech that starts at its loudest", np.roll(studio.speech, -loudest), speech=True
    )
    middle = np.abs(studio.time - studio.time[-1] / 2) < studio.time[-1] / 4
    yield studio.made(
        "tone that starts and stops at once", np.where(middle, studio.tone(700, -3), 0)
    )
    noise = studio.noise("noise at once", 0, -10)
    yield studio.made("noise that starts and stops at once", np.where(middle, noise, 0))
    last = np.zeros(studio.length)
    last[-1] = last[0] = 1.0
    yield studio.made("full scale in the first and last sample alone", last)


def _gain(level: float | Samples) -> np.floating | Samples:
    """Of so many dB."""
    return np.power(10.0, np.asarray(level, dtype=np.float64) / 20)


def _rms(wave: Samples) -> float:
    return float(np.sqrt(np.mean(np.square(wave))))
