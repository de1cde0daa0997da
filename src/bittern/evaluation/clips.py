"""The audio to evaluate on: found, read, brought to one sample rate, or listed with a reason."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

from bittern.audio import streams as audio
from bittern.audio.names import find_audio
from bittern.errors import AudioError
from bittern.format.header import RATES

SHORTEST_SECONDS = 0.5  # PESQ needs 0.25 s, STOI 30 frames of 12.8 ms
LONGEST_SECONDS = 1800  # scores are made for seconds; longer files take memory without end
QUIETEST_RMS = 1e-4  # -80 dB; below, there is no speech to score


@dataclass(frozen=True, eq=False)
class Clip:
    """One mono clip, as every codec gets it and every score compares with."""

    name: str  # path below the folder given
    samples: NDArray[np.float32]  # [T], a whole number of 16-bit steps
    sample_rate: int  # Hz
    note: str = ""  # what was changed on reading

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.sample_rate

    @property
    def digest(self) -> str:
        """Names the content: the same whatever the file is called."""
        data = self.samples.astype("<f4").tobytes()
        return hashlib.sha256(data + str(self.sample_rate).encode()).hexdigest()


@dataclass(frozen=True)
class Rejected:
    """A file that could not be evaluated."""

    name: str
    reason: str


def find(inputs: Sequence[Path]) -> list[tuple[str, Path]]:
    """Name and path of each audio file given, or below a folder given, in order of name.

    A file given by itself is taken whatever its ending, a folder's files by theirs.

    Raises:
        AudioError: an input is not there, or no audio is found.
    """
    found: dict[Path, str] = {}
    for entry in inputs:
        if entry.is_dir():
            for path in find_audio(entry):
                found.setdefault(path.resolve(), path.relative_to(entry).as_posix())
        elif entry.exists():
            found.setdefault(entry.resolve(), entry.name)
        else:
            raise AudioError(f"{entry}: no such file or folder")
    if not found:
        raise AudioError(f"no audio files in {', '.join(map(str, inputs))}")
    names = list(found.values())
    return [(name if names.count(name) == 1 else str(path), path) for path, name in found.items()]


def read(name: str, path: Path, sample_rate: int) -> Clip | Rejected:
    """Read one file as mono at `sample_rate`, or say why it cannot be scored."""
    try:
        with audio.open_audio(path) as stream:
            channels, source_rate = stream.channels, stream.sample_rate
            low, high = RATES
            if not low <= source_rate <= high:
                return Rejected(name, f"sample rate {source_rate} Hz; expected {low} to {high}")
            most = LONGEST_SECONDS * min(source_rate, 48_000)
            mono = _mono(audio.check_samples(stream), most)
    except AudioError as error:
        return Rejected(name, str(error).removeprefix(f"{path}: "))
    if len(mono) > most:
        return Rejected(name, f"longer than {most / source_rate:g} s; give excerpts")
    notes = []
    if channels > 1:
        notes.append(f"mean of {channels} channels")
    if source_rate != sample_rate and len(mono):
        mono = soxr.resample(mono, source_rate, sample_rate)
        notes.append(f"resampled from {source_rate} Hz")
    seconds = len(mono) / sample_rate
    if seconds < SHORTEST_SECONDS:
        return Rejected(name, f"{seconds:.2f} s long; scores need {SHORTEST_SECONDS} s or more")
    if np.sqrt(np.mean(np.square(mono))) < QUIETEST_RMS:
        return Rejected(name, "silent")
    return Clip(name, as_pcm16(mono), sample_rate, ", ".join(notes))


def _mono(stream: audio.AudioStream, most: int) -> NDArray[np.float32]:
    """The mean of all channels, of no more than a block beyond so many samples."""
    blocks, length = [np.zeros(0, np.float32)], 0
    for block in stream.blocks:
        blocks.append(block.mean(axis=1, dtype=np.float32))
        length += len(block)
        if length > most:
            break
    return np.concatenate(blocks)


def as_pcm16(samples: NDArray[np.floating]) -> NDArray[np.float32]:
    """Round to 16 bits, so that no codec is given more than a WAV file holds."""
    return to_int16(samples).astype(np.float32) / np.float32(32768)


def to_int16(samples: NDArray[np.floating]) -> NDArray[np.int16]:
    """The steps themselves. libsndfile, given floats, would scale by 32767 and change loud ones."""
    return np.clip(np.round(samples * 32768.0), -32768, 32767).astype("<i2")
