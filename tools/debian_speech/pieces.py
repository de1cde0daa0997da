"""From an audio file to pieces of speech: decoded, trimmed, split, judged, fingerprinted.

Signals are float32 [T] at 16 kHz, mono. Which files to take and where the pieces go is
`build.py`.
"""

import itertools
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.lib.stride_tricks import sliding_window_view

from bittern.errors import AudioError, ConfigError

SAMPLE_RATE = 16_000
LONGEST_PAUSE_SECONDS = 0.6
SHORTENED_PAUSE_SECONDS = 0.3
SHORTEST_SECONDS, LONGEST_SECONDS = 0.3, 12.0  # of a piece
DUPLICATE_SHARE = 0.84  # of a fingerprint's bits that agree; strangers measured: up to 0.66

_FRAME = 160  # samples, 10 ms
_EDGE_SECONDS = 0.08  # kept before the first and after the last sound
_HIGHEST_PEAK = 10 ** (-1 / 20)  # -1 dBFS
_SILENT_DBFS = -60.0
_BANDS, _SLOTS = 17, 17  # of a fingerprint


@dataclass(frozen=True)
class Rejected:
    """A file or piece that is left out, and why."""

    reason: str


def decode(path: Path) -> np.ndarray | Rejected:
    """A whole file; what libsndfile does not read goes through ffmpeg.

    Below 16 kHz it is refused: a codec must not learn that speech ends at 4 kHz.

    Raises:
        ConfigError: ffmpeg is needed and not installed.
    """
    if path.suffix.lower() == ".g722":  # has no header, so that nothing recognises it
        return _decode_by_ffmpeg(path, "-f", "g722")
    try:
        wav, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError:
        return _decode_by_ffmpeg(path)
    if rate < SAMPLE_RATE:
        return Rejected("sample rate below 16 kHz")
    if not np.isfinite(wav).all():
        return Rejected("NaN or infinite samples")
    return soxr.resample(wav.mean(axis=1), rate, SAMPLE_RATE)


def _decode_by_ffmpeg(path: Path, *demuxer: str) -> np.ndarray | Rejected:
    if shutil.which("ffmpeg") is None:
        raise ConfigError(f"{path}: needs ffmpeg to be read; apt-get install ffmpeg")
    output = ["-ac", "1", "-ar", str(SAMPLE_RATE), "-f", "f32le", "-bitexact", "-"]
    command = ["ffmpeg", "-nostdin", "-v", "error", *demuxer, "-i", str(path), *output]
    done = subprocess.run(command, capture_output=True, check=False)
    wav = np.frombuffer(done.stdout, dtype="<f4")
    if done.returncode or not np.isfinite(wav).all():
        return Rejected("unreadable")
    return wav


def speech_pieces(wav: np.ndarray) -> list[np.ndarray | Rejected]:
    """Trim, shorten pauses, split at pauses, hold the peak, and judge each piece."""
    active = _active_frames(wav)
    if not active.any():
        return [Rejected("silent")]
    tight, active = _without_long_pauses(wav, active)
    pieces: list[np.ndarray | Rejected] = []
    for piece in _split(tight, active):
        fault = _fault(piece)
        pieces.append(Rejected(fault) if fault else _finish(piece))
    return pieces


def frame_levels(wav: np.ndarray) -> np.ndarray:
    """The RMS level of every whole 10 ms in dBFS."""
    frames = wav[: len(wav) // _FRAME * _FRAME].reshape(-1, _FRAME)
    return 10 * np.log10(np.mean(np.square(frames, dtype=np.float64), axis=1) + 1e-10)


def _active_frames(wav: np.ndarray) -> np.ndarray:
    """For every 10 ms, whether something is heard: bool [frames].

    The limit is 10 dB over the background (10th percentile), but 22 to 38 dB below what is loud (95th).
    """
    level = frame_levels(wav)
    if not len(level):
        return np.zeros(0, dtype=bool)
    background, loud = np.percentile(level, (10, 95))
    limit = max(np.clip(background + 10, loud - 38, loud - 22), _SILENT_DBFS)
    heard = (level > limit).astype(np.float64)
    # A lone frame is a click; weak ends of words lie within 40 ms of what is heard.
    steady = np.convolve(heard, np.ones(3), "same") >= 2
    return np.convolve(steady, np.ones(9), "same") > 0.5


def _without_long_pauses(wav: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The wav and its active frames, trimmed, with long pauses cut out in their middle."""
    edge = round(_EDGE_SECONDS * SAMPLE_RATE / _FRAME)
    longest = round(LONGEST_PAUSE_SECONDS * SAMPLE_RATE / _FRAME)
    half = round(SHORTENED_PAUSE_SECONDS * SAMPLE_RATE / _FRAME) // 2
    places = np.flatnonzero(active)
    first, last = max(places[0] - edge, 0), min(places[-1] + 1 + edge, len(active))
    spans, start = [], first
    for before, after in itertools.pairwise(places):
        if after - before - 1 > longest:
            spans.append((start, before + 1 + half))
            start = after - half
    spans.append((start, last))
    parts = [_faded(wav[a * _FRAME : b * _FRAME]) for a, b in spans]
    return np.concatenate(parts), np.concatenate([active[a:b] for a, b in spans])


def _split(wav: np.ndarray, active: np.ndarray) -> list[np.ndarray]:
    """Pieces of at most the longest length, cut in the middle of the longest pause there is."""
    longest = round(LONGEST_SECONDS * SAMPLE_RATE / _FRAME)
    pieces, start = [], 0
    while len(active) - start > longest:
        window = active[start : start + longest].copy()
        window[: longest // 3] = True  # no cut there
        edges = np.diff(np.concatenate([[1], window, [1]]).astype(np.int8))
        begins, ends = np.flatnonzero(edges == -1), np.flatnonzero(edges == 1)
        if len(begins):
            place = int(np.argmax(ends - begins))
            cut = int(begins[place] + ends[place]) // 2
        else:
            level = frame_levels(wav[start * _FRAME : (start + longest) * _FRAME])
            cut = longest // 3 + int(np.argmin(level[longest // 3 :]))
        pieces.append(wav[start * _FRAME : (start + cut) * _FRAME])
        start += cut
    return [*pieces, wav[start * _FRAME :]]


def _faded(wav: np.ndarray) -> np.ndarray:
    ramp = np.linspace(0, 1, min(80, len(wav) // 2), dtype=np.float32)  # 5 ms
    wav = wav.astype(np.float32, copy=True)
    wav[: len(ramp)] *= ramp
    wav[len(wav) - len(ramp) :] *= ramp[::-1]
    return wav


def _finish(piece: np.ndarray) -> np.ndarray:
    piece = _faded(piece)
    return piece * np.float32(min(1.0, _HIGHEST_PEAK / max(float(np.abs(piece).max()), 1e-9)))


def _fault(piece: np.ndarray) -> str | None:
    """Why a piece is no speech to train on, or None.

    Speech is voiced in parts, is no lone tone, and its level moves. That finds beeps, clicks and
    noises; music with a voice-like tune it does not find.
    """
    if len(piece) < SHORTEST_SECONDS * SAMPLE_RATE:
        return "too short"
    level = frame_levels(piece)
    if np.percentile(level, 95) < -50:
        return "too quiet"
    peak = float(np.abs(piece).max())
    if float(np.mean(np.abs(piece) > 0.99 * peak)) > 0.02:
        return "clipped"
    if float(np.std(level)) < 2.5:
        return "level does not move (not speech)"
    frames = sliding_window_view(piece, 640)[::_FRAME]  # 40 ms
    energy = np.mean(np.square(frames), axis=1)
    frames = frames[energy > energy.max() * 1e-3]
    spectrum = np.square(np.abs(np.fft.rfft(frames * np.hanning(640), 2048, axis=1)))
    mean = spectrum.mean(axis=0)
    if float(np.convolve(mean, np.ones(13), "same").max() / mean.sum()) > 0.98:
        return "a tone"
    if _voiced_share(spectrum) < 0.15:
        return "hardly voiced (not speech)"
    return None


def _voiced_share(spectrum: np.ndarray) -> float:
    """The share of frames with a pitch of 70-400 Hz, by their normalised autocorrelation."""
    correlation = np.fft.irfft(spectrum, axis=1)[:, :230]
    window = np.fft.irfft(np.square(np.abs(np.fft.rfft(np.hanning(640), 2048))))[:230]
    correlation = correlation / (correlation[:, :1] + 1e-12) / (window / window[0])
    return float(np.mean(correlation[:, 40:228].max(axis=1) > 0.5))


def fingerprint(piece: np.ndarray) -> np.ndarray:
    """256 signs (+1, -1; int8) that stay the same under gain, resampling and lossy coding.

    The piece is laid on a grid of 17 slots of time, however long it is, by 17 bands from 200 to 3,600 Hz.
    A bit says whether the difference of neighbouring bands grows from one slot to the next.
    Source: Haitsma and Kalker, A highly robust audio fingerprinting system, ISMIR 2002 (the bit);
    the grid stretched over the piece is ours: it compares whole pieces without a search for offsets.
    """
    size, hop = 512, 128
    padded = np.pad(piece, (size // 2, size))
    frames = sliding_window_view(padded, size)[::hop] * np.hanning(size)
    power = np.square(np.abs(np.fft.rfft(frames, axis=1)))
    edges = np.round(np.geomspace(200, 3600, _BANDS + 1) / SAMPLE_RATE * size).astype(int)
    bands = np.stack(
        [power[:, a : max(b, a + 1)].sum(axis=1) for a, b in itertools.pairwise(edges)]
    )
    places = np.linspace(0, bands.shape[1], _SLOTS + 1)
    total = np.concatenate([np.zeros((_BANDS, 1)), np.cumsum(bands, axis=1)], axis=1)
    cumulated = np.stack([np.interp(places, np.arange(total.shape[1]), row) for row in total])
    grid = np.diff(cumulated, axis=1)  # [bands, slots]
    grid = np.log(grid + grid.max() * 1e-5)
    return np.where(np.diff(np.diff(grid, axis=0), axis=1) > 0, 1, -1).astype(np.int8).ravel()


def find_duplicates(prints: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Which pieces repeat an earlier one that is kept: bool [pieces].

    A repetition agrees in most bits of the fingerprint and in length within 8 %.

    Args:
        prints: [pieces, bits], +1 and -1.
        seconds: [pieces].
    """
    repeats = np.zeros(len(prints), dtype=bool)
    signs = prints.astype(np.float32)  # products of whole numbers: exact in any order
    least = (2 * DUPLICATE_SHARE - 1) * prints.shape[1]
    for start in range(0, len(signs), 512):
        alike = signs[start : start + 512] @ signs[: start + 512].T >= least
        for row, matches in enumerate(alike):
            place = start + row
            others = np.flatnonzero(matches[:place])
            close = np.abs(seconds[others] / seconds[place] - 1) < 0.08
            repeats[place] = bool((close & ~repeats[others]).any())
    return repeats


def read_pieces(path: Path) -> list[np.ndarray | Rejected]:
    """All pieces of a file, good and bad, in order.

    Raises:
        ConfigError: ffmpeg is needed and not installed.
        AudioError: the file cannot be opened at all.
    """
    try:
        wav = decode(path)
    except OSError as error:
        raise AudioError(f"{path}: cannot be read ({error.strerror})") from None
    return [wav] if isinstance(wav, Rejected) else speech_pieces(wav)
