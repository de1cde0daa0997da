"""Every sound is what its name says, and what is broken about a decoding is told apart from noise."""

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from scipy import signal as dsp

from bittern.audio.stress import (
    DTMF,
    Signal,
    faults,
    levels,
    nasty,
    signals,
    tone_errors,
    tone_faults,
)

RATE = 16_000
SPEECH = sf.read(Path(__file__).parents[1] / "examples" / "speech.flac", dtype="float32")[0]
SPEECH = SPEECH[: 4 * RATE]


@pytest.fixture(scope="module")
def sounds() -> dict[str, Signal]:
    return {sound.name: sound for sound in signals(SPEECH, RATE)}


def decibels(ratio: float) -> float:
    return 20 * float(np.log10(ratio))


def rms(wave: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(wave.astype(np.float64)))))


def matching(sounds: dict[str, Signal], pattern: str) -> list[tuple[re.Match[str], np.ndarray]]:
    """Sounds whose whole name fits a pattern; there must be some."""
    found = [(m, s.samples) for name, s in sounds.items() if (m := re.fullmatch(pattern, name))]
    assert found, pattern
    return found


def strongest(wave: np.ndarray) -> float:
    """Hz of the strongest line."""
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave))))
    return float(np.argmax(spectrum) * RATE / len(wave))


def test_all_are_sound_files_of_the_speech_s_length_with_names_of_their_own():
    for rate in (8_000, RATE, 24_000, 48_000):
        made = signals(dsp.resample_poly(SPEECH, rate, RATE)[:rate], rate)
        assert len({sound.name for sound in made}) == len(made) > 150
        for sound in made:
            assert sound.samples.shape == (rate,), sound.name
            assert sound.samples.dtype == np.float32
            assert np.abs(sound.samples).max() <= 1, sound.name
            assert all(tone < rate / 2 for tone in sound.tones)


def test_the_same_seed_makes_the_same_and_another_makes_other_noise():
    first, again, other = (nasty(SPEECH[:RATE], RATE, seed) for seed in (0, 0, 1))
    differ = {name for name in first if not np.array_equal(first[name], other[name])}
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert "white noise, -40 dBFS" in differ
    assert "babble" in differ
    assert not {"speech", "tone of 1000 Hz", "telephone key 5", "digital silence"} & differ


@pytest.mark.parametrize("speech", [np.zeros(RATE), SPEECH[:4000], SPEECH[None]])
def test_what_is_no_speech_is_refused(speech):
    with pytest.raises(ValueError, match="a second or more"):
        signals(speech, RATE)


def test_tones_are_where_and_as_loud_as_they_say(sounds):
    for match, wave in matching(sounds, r"tone of (\d+) Hz(?:, (-\d+) dBFS)?"):
        assert strongest(wave) == pytest.approx(float(match[1]), abs=0.3)
        assert decibels(np.abs(wave).max()) == pytest.approx(float(match[2] or -12), abs=0.1)


def test_telephone_keys_are_decoded_as_an_exchange_does(sounds):
    """Goertzel's algorithm on the eight frequencies of ITU-T Q.23."""
    rows, columns = (697, 770, 852, 941), (1209, 1336, 1477, 1633)
    layout = ("123A", "456B", "789C", "*0#D")
    for match, wave in matching(sounds, r"telephone key (.)"):
        time = np.arange(1600) / RATE
        power = {
            hertz: abs(np.sum(wave[:1600] * np.exp(-2j * np.pi * hertz * time)))
            for hertz in (*rows, *columns)
        }
        row, column = (max(group, key=power.__getitem__) for group in (rows, columns))
        assert layout[rows.index(row)][columns.index(column)] == match[1]
        assert sounds[match[0]].tones == DTMF[match[1]] == (row, column)
    assert len(matching(sounds, r"telephone key (.)")) == 16


def test_hum_is_what_is_added_to_speech(sounds):
    for match, wave in matching(sounds, r"hum of (\d+) Hz at (-\d+) dBFS, alone"):
        assert strongest(wave) == pytest.approx(float(match[1]), abs=0.3)
        assert decibels(np.abs(wave).max()) == pytest.approx(float(match[2]), abs=0.1)
    for match, wave in matching(sounds, r"(hum of \d+ Hz.*), alone"):
        mixed = sounds[f"{match[1]}, under speech"].samples
        np.testing.assert_allclose(mixed, np.clip(SPEECH + wave, -1, 1), atol=1e-6)
    buzz = sounds["hum of 50 Hz and its harmonics at -20 dBFS, alone"].samples
    spectrum = np.abs(np.fft.rfft(buzz))
    lines = dsp.find_peaks(spectrum, height=0.05 * spectrum.max())[0] * RATE / len(buzz)
    np.testing.assert_allclose(lines, 50 * np.arange(1, 9), atol=0.3)


def test_offsets_are_of_their_size_and_sign(sounds):
    for match, wave in matching(sounds, r"offset of ([+-][\d.]+) under speech"):
        np.testing.assert_allclose(wave, np.clip(SPEECH + float(match[1]), -1, 1), atol=1e-6)
    for match, wave in matching(sounds, r"offset of ([+-][\d.]+) alone"):
        assert set(wave) == {np.float32(match[1])}


def test_rumble_is_below_its_frequency_and_in_the_pauses(sounds):
    for match, wave in matching(sounds, r"rumble below (\d+) Hz alone"):
        power = np.square(np.abs(np.fft.rfft(wave)))
        frequency = np.fft.rfftfreq(len(wave), 1 / RATE)
        assert power[frequency > float(match[1]) + 1].sum() < 1e-6 * power.sum()
    for _, wave in matching(sounds, r"rumble below \d+ Hz in the pauses of speech"):
        changed = wave != np.float32(SPEECH)
        assert 0.05 < changed.mean() < 0.7
        assert rms(SPEECH[changed]) < 0.2 * rms(SPEECH)


def test_soft_speech_is_softer_by_so_much(sounds):
    for match, wave in matching(sounds, r"soft speech, (-\d+) dB"):
        assert decibels(rms(wave) / rms(SPEECH)) == pytest.approx(float(match[1]), abs=0.01)


def test_noise_has_its_colour_its_level_and_its_distance_to_speech(sounds):
    slopes = {"white": 0.0, "pink": -3.01, "brown": -6.02, "blue": 3.01}  # dB an octave
    for match, wave in matching(sounds, r"(\w+) noise, (-40) dBFS"):
        assert decibels(rms(wave)) == pytest.approx(float(match[2]), abs=0.1)
        frequency, power = dsp.welch(wave, RATE, nperseg=2048)
        inside = (frequency > 100) & (frequency < 7000)
        octaves = np.log2(frequency[inside])
        weight = 1 / np.sqrt(frequency[inside])  # each octave the same
        slope = np.polyfit(octaves, 10 * np.log10(power[inside]), 1, w=weight)[0]
        assert slope == pytest.approx(slopes[match[1]], abs=0.5), match[1]
    for match, wave in matching(sounds, r"(?:\w+ noise|babble) (\d+) dB below speech"):
        if np.abs(wave).max() < 1:
            assert decibels(rms(SPEECH) / rms(wave - SPEECH)) == pytest.approx(
                float(match[1]), abs=0.1
            )


def test_clipped_speech_stands_at_full_scale_the_more_the_louder(sounds):
    found = matching(sounds, r"speech clipped at full scale, gain (\d+)")
    shares = [np.mean(np.abs(wave) == 1) for _, wave in found]
    assert shares[0] > 0.01
    assert shares == sorted(shares)
    assert shares[-1] > 0.5
    assert np.abs(sounds["speech clipped at -20 dBFS"].samples).max() == np.float32(0.1)


def test_silence_is_digital_and_islands_stand_in_it(sounds):
    assert not sounds["digital silence"].samples.any()
    assert np.count_nonzero(sounds["silence but for one step of one sample"].samples) == 1
    islands = sounds["islands of speech in digital silence"].samples.reshape(4, RATE)
    assert not islands[:, RATE // 4 :].any()
    assert np.array_equal(islands[:, : RATE // 4], SPEECH.reshape(4, RATE)[:, : RATE // 4])
    half = sounds["speech, then digital silence"].samples
    assert not half[len(half) // 2 + 1 :].any()
    assert half[: len(half) // 2 - 1].any()


def test_bands_hold_nothing_outside(sounds):
    frequency = np.fft.rfftfreq(len(SPEECH), 1 / RATE)
    for name, low, high in (
        ("telephone band", 300, 3400),
        ("low-passed at 2 kHz", 0, 2000),
        ("high-passed at 1 kHz", 1000, 8000),
    ):
        power = np.square(np.abs(np.fft.rfft(sounds[f"speech, {name}"].samples)))
        outside = (frequency < low - 1) | (frequency > high + 1)
        assert power[outside].sum() < 1e-6 * power.sum(), name


def test_alternating_samples_squares_and_steps_are_exact(sounds):
    alternating = sounds["samples of alternating sign, full scale"].samples
    assert np.array_equal(alternating[:4], [1, -1, 1, -1])
    square = sounds["square wave of 100 Hz"].samples
    assert np.count_nonzero(np.diff(np.sign(square))) == pytest.approx(2 * 100 * 4, abs=2)
    assert len(set(sounds["steps of the offset"].samples)) == 6


def test_rooms_ring_on_as_long_as_they_say():
    """Of a click in silence: the level falls by 60 dB in the time named (here from 5 to 35 dB down)."""
    click = np.zeros(4 * RATE)
    click[100] = 0.5
    for match, wave in matching(
        {s.name: s for s in signals(click, RATE)}, r"speech in a room of ([\d.]+) s"
    ):
        tail = np.square(wave[200:].astype(np.float64))[::-1].cumsum()[::-1]
        level = 10 * np.log10(tail / tail[0] + 1e-12)
        seconds = 2 * (np.argmax(level < -35) - np.argmax(level < -5)) / RATE
        assert seconds == pytest.approx(float(match[1]), rel=0.15)


def test_what_equals_the_original_is_never_broken(sounds):
    for sound in sounds.values():
        assert levels(sound.samples, sound.samples) == (1, 1)
        assert faults(sound.samples, sound.samples, 1.0) == []
        if sound.tones:
            errors = tone_errors(sound.samples, sound.samples, RATE, sound.tones)
            assert tone_faults(errors, sound.tones) == [], sound.name


def test_blasts_numbers_that_are_none_and_mumbling_are_broken():
    assert faults(2.1 * SPEECH, SPEECH) == [
        "peak 2.1 times the input's",
        "energy 2.1 times the input's",
    ]
    burst = SPEECH.copy()
    burst[100] = 3.0
    assert faults(burst, SPEECH) == ["peak 3.4 times the input's"]
    assert faults(1.6 * SPEECH, SPEECH) == ["energy 1.6 times the input's"]
    assert faults(1.4 * SPEECH, SPEECH, 0.31) == []
    assert faults(SPEECH, SPEECH, 0.29) == ["ESTOI 0.29"]
    for value in (np.nan, np.inf):
        assert faults(np.append(SPEECH, value), SPEECH) == ["samples that are not numbers"]


def test_faint_noise_out_of_silence_is_not_broken_and_audible_noise_is():
    silence = np.zeros(RATE)
    assert faults(np.full(RATE, 0.9e-3), silence) == []
    assert faults(np.full(RATE, 1.1e-3), silence) == [
        "peak inf times the input's",
        "energy inf times the input's",
    ]
    assert faults(silence, SPEECH) == []
    assert levels(silence, silence) == (1, 1)


def test_tones_that_move_fade_or_vanish_are_told(sounds):
    time = np.arange(4 * RATE) / RATE
    key = sounds["telephone key 5"]

    def said(wave: np.ndarray, sound: Signal) -> list[str]:
        return tone_faults(tone_errors(wave, sound.samples, RATE, sound.tones), sound.tones)

    other = 0.2 * np.sin(2 * np.pi * 770 * time) + 0.2 * np.sin(2 * np.pi * 1477 * time)
    assert said(other, key) == ["1336 Hz came back as 1477 Hz"]
    assert said(0.4 * key.samples, key) == ["770 Hz came back -8 dB", "1336 Hz came back -8 dB"]
    assert said(0.6 * key.samples, key) == []
    tone = sounds["tone of 1000 Hz"]
    assert said(0.25 * np.sin(2 * np.pi * 1010 * time), tone) == []
    assert said(0.25 * np.sin(2 * np.pi * 1030 * time), tone) == ["1000 Hz came back as 1030 Hz"]
    assert said(np.roll(tone.samples, 37), tone) == []  # its phase does not matter
    (found,) = said(np.zeros(4 * RATE), tone)
    assert found.startswith("1000 Hz came back as")
