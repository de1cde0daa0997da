"""Audio files and streams as blocks of samples: read, resampled, mixed, checked, written.

Blocks are float32 arrays [n samples, C channels] in -1..1, as libsndfile has them; the codec's
waveforms [S, C, n] begin in `pipeline.py`.
"""

import os
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import soundfile as sf
import soxr

from bittern.audio import wav
from bittern.audio.atomic import atomic_file, atomic_path
from bittern.audio.wav import Block
from bittern.errors import AudioError

READABLE = frozenset(f".{name.lower()}" for name in sf.available_formats() if name != "RAW") | {
    ".aif",
    ".aifc",
    ".mp3",
    ".oga",
    ".opus",
    ".snd",
}  # names of files that libsndfile may read
_WRITABLE = {".flac": ("FLAC", "PCM_16"), ".ogg": ("OGG", "VORBIS")}  # and .wav, by ourselves
_READ_SAMPLES = 16384


@dataclass(frozen=True, kw_only=True)
class AudioStream:
    """Audio on its way, to be read once and forwards."""

    name: str  # for messages
    sample_rate: int  # Hz
    channels: int
    samples: int | None  # for each channel; None where only the end will tell
    blocks: Iterator[Block]

    @property
    def seconds(self) -> float | None:
        return None if self.samples is None else self.samples / self.sample_rate


@contextmanager
def open_audio(path: Path) -> Generator[AudioStream, None, None]:
    """Open a file of any format that libsndfile reads.

    Raises:
        AudioError: it is not there, is no audio, or is damaged (the latter also from `blocks`).
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise AudioError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        if path.is_dir():
            raise AudioError(f"{path}: is a directory; give audio files")
        try:
            file = sf.SoundFile(handle, closefd=False)
        except sf.LibsndfileError as error:
            reason = error.error_string.rstrip(".")
            raise AudioError(f"{path}: not audio that can be read ({reason})") from None
        with file:
            yield AudioStream(
                name=str(path),
                sample_rate=file.samplerate,
                channels=file.channels,
                samples=file.frames if file.format in ("WAV", "WAVEX", "FLAC", "AIFF") else None,
                blocks=_file_blocks(file, path),
            )
    finally:
        os.close(handle)


def _file_blocks(file: sf.SoundFile, path: Path) -> Iterator[Block]:
    while True:
        position = file.tell()
        try:
            block = file.read(_READ_SAMPLES, dtype="float32", always_2d=True)
        except sf.LibsndfileError as error:
            place = position / file.samplerate
            raise AudioError(
                f"{path}: damaged after {place:.2f} s ({error.error_string.rstrip('.')})"
            ) from None
        if not len(block):
            return
        yield np.asarray(block, np.float32)


def wav_stream(file: BinaryIO, name: str) -> AudioStream:
    """WAV from a pipe.

    Raises:
        AudioError: it is not WAV.
    """
    encoding, samples = wav.read_header(file, name)
    return AudioStream(
        name=name,
        sample_rate=encoding.sample_rate,
        channels=encoding.channels,
        samples=None,  # what a pipe's header claims is often a guess
        blocks=wav.read_samples(file, encoding, samples),
    )


def raw_stream(file: BinaryIO, name: str, sample_rate: int, channels: int = 1) -> AudioStream:
    """Samples without a header from a pipe: 16-bit little-endian."""
    blocks = wav.read_samples(file, wav.Encoding(sample_rate, channels), None)
    return AudioStream(
        name=name, sample_rate=sample_rate, channels=channels, samples=None, blocks=blocks
    )


def array_stream(samples: np.ndarray, sample_rate: int, name: str = "audio") -> AudioStream:
    """Audio in memory, [C, T]."""
    blocks = (
        np.ascontiguousarray(samples[:, start : start + _READ_SAMPLES].T, dtype=np.float32)
        for start in range(0, samples.shape[1], _READ_SAMPLES)
    )
    return AudioStream(
        name=name,
        sample_rate=sample_rate,
        channels=samples.shape[0],
        samples=samples.shape[1],
        blocks=blocks,
    )


def check_finite(stream: AudioStream) -> AudioStream:
    """The same stream, which stops at the first sample that is not a finite number.

    Raises:
        AudioError: from `blocks`, naming the place.
    """
    return replace(stream, blocks=_finite_blocks(stream))


def _finite_blocks(stream: AudioStream) -> Iterator[Block]:
    start = 0
    for block in stream.blocks:
        finite = np.isfinite(block)
        if not finite.all():
            row, channel = np.argwhere(~finite)[0]
            raise AudioError(
                f"{stream.name}: sample {start + row} ({(start + row) / stream.sample_rate:.3f} s) "
                f"of channel {channel + 1} is {block[row, channel]}, not a number to code"
            )
        yield block
        start += len(block)


def mix(block: Block, channels: int, name: str = "audio") -> Block:
    """To another number of channels: [n, C] -> [n, channels].

    Down to one by the mean, up from one by copying.

    Raises:
        AudioError: neither number is 1, nor are they equal.
    """
    if block.shape[1] == channels:
        return block
    if channels == 1:
        return block.mean(axis=1, keepdims=True, dtype=np.float32)
    if block.shape[1] == 1:
        return np.repeat(block, channels, axis=1)
    raise AudioError(f"{name}: {block.shape[1]} channels cannot be mixed to the model's {channels}")


def resampled_length(samples: int, source_rate: int, target_rate: int) -> int:
    """Samples that `samples` become: what covers the same time, rounded up."""
    return -(-samples * target_rate // source_rate)


class Resampler:
    """Resamples block by block, to an exact count in the end."""

    def __init__(self, source_rate: int, target_rate: int, channels: int) -> None:
        self.source_rate = source_rate
        self.target_rate = target_rate
        self.samples_in = 0
        self.samples_out = 0
        self._channels = channels
        self._soxr = None
        if source_rate != target_rate:
            self._soxr = soxr.ResampleStream(source_rate, target_rate, channels, dtype="float32")

    def push(self, block: Block) -> Block:
        """[n, C] at the source's rate -> [m, C] at the target's; some samples are held back."""
        self.samples_in += len(block)
        if self._soxr is not None:
            block = self._soxr.resample_chunk(np.ascontiguousarray(block))
        self.samples_out += len(block)
        return block

    def flush(self, samples: int | None = None) -> Block:
        """What was held back, so that all blocks together have `samples` samples.

        By default that is `resampled_length` of what went in; more is filled up with silence.
        """
        if samples is None:
            samples = resampled_length(self.samples_in, self.source_rate, self.target_rate)
        due = max(samples - self.samples_out, 0)
        rest = np.zeros((0, self._channels), np.float32)
        if self._soxr is not None and self.samples_in:
            # a little silence after the end: soxr rounds its own count, at times down
            silence = np.zeros(
                (self.source_rate // self.target_rate + 2, self._channels), np.float32
            )
            rest = self._soxr.resample_chunk(silence, last=True)[:due]
        self.samples_out += due
        return np.pad(rest, ((0, due - len(rest)), (0, 0)))


class BlockWriter(Protocol):
    """Takes blocks [n, C]."""

    def write(self, block: Block, /) -> object: ...


class PcmWriter:
    """Writes 16-bit WAV, or samples alone, to a file or a pipe."""

    def __init__(
        self,
        file: BinaryIO,
        sample_rate: int,
        channels: int,
        *,
        samples: int | None,
        raw: bool = False,
    ) -> None:
        """Write the header; `samples` is the count it gives, None if not known."""
        self._file = file
        self._encoding = wav.Encoding(sample_rate, channels)
        self.samples_written = 0
        if not raw:
            file.write(wav.header_bytes(self._encoding, samples))

    def write(self, block: Block) -> None:
        self._file.write(wav.to_pcm16(block))
        self.samples_written += len(block)

    def correct(self) -> None:
        """Go back and put the count of the samples written into the header."""
        self._file.seek(0)
        self._file.write(wav.header_bytes(self._encoding, self.samples_written))


@contextmanager
def create_audio(
    path: Path, sample_rate: int, channels: int, *, samples: int | None = None
) -> Generator[BlockWriter, None, None]:
    """Write a file, which appears whole or not at all: 16-bit .wav or .flac, or .ogg.

    Args:
        path: whose suffix says the format.
        sample_rate: Hz.
        channels: of the blocks to come.
        samples: how many will come, if known, so that too many are refused before the work.

    Raises:
        AudioError: no such format, or more samples than it holds.
        CodecError: it cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix == ".wav":
        with atomic_file(path) as file:
            writer = PcmWriter(file, sample_rate, channels, samples=samples)
            yield writer
            if file.seekable():
                writer.correct()
        return
    if suffix not in _WRITABLE:
        raise AudioError(f"{path}: cannot write {suffix or 'this'}; give .wav, .flac or .ogg")
    kind, subtype = _WRITABLE[suffix]
    with atomic_path(path) as temporary:
        try:
            with sf.SoundFile(
                str(temporary), "w", sample_rate, channels, format=kind, subtype=subtype
            ) as file:
                yield file
                written = file.frames
            if not written and kind == "FLAC":
                raise AudioError(f"{path}: FLAC cannot hold audio of no length; give .wav")
            if sf.info(str(temporary)).frames != written:
                raise OSError(None, "not all samples arrived; is the disk full?")
        except sf.LibsndfileError as error:
            raise OSError(None, error.error_string.rstrip(".")) from None


def read(path: Path) -> tuple[np.ndarray, int]:
    """A whole file: samples [C, T] float32 and its sample rate in Hz.

    Raises:
        AudioError: see `open_audio`.
    """
    with open_audio(path) as stream:
        return gather(stream.blocks, stream.channels), stream.sample_rate


def gather(blocks: Iterable[Block], channels: int) -> np.ndarray:
    """Blocks [n, C] as one array [C, T]."""
    return np.concatenate([np.zeros((0, channels), np.float32), *blocks]).T


def write_pipe(pipe: BinaryIO, stream: AudioStream, *, raw: bool = False) -> None:
    """Write a stream as 16-bit WAV, or samples alone, each block as it comes."""
    out = PcmWriter(pipe, stream.sample_rate, stream.channels, samples=stream.samples, raw=raw)
    for block in stream.blocks:
        out.write(block)
        pipe.flush()


def write_stream(path: Path, stream: AudioStream) -> None:
    """Write a stream to a file as its blocks come.

    Raises:
        AudioError, CodecError: see `create_audio`.
    """
    with create_audio(path, stream.sample_rate, stream.channels, samples=stream.samples) as file:
        for block in stream.blocks:
            file.write(block)
