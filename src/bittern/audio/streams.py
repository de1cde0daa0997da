"""Audio files and streams as blocks of samples: read, resampled, mixed, checked, written.

Blocks are float32 arrays [n samples, C channels] in -1..1, as libsndfile has them; the codec's
waveforms [S, C, n] begin in `pipeline.py`.
"""

import os
import shutil
import tempfile
import warnings
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import numpy as np
import soundfile as sf
import soxr

from bittern.audio import ffmpeg, wav
from bittern.audio.atomic import atomic_file, atomic_path, is_special
from bittern.audio.names import WAV_HEADS, is_audio_head, needs_ffmpeg
from bittern.audio.ogg import find_links
from bittern.audio.ranges import FileRange
from bittern.audio.wav import Block, Readable
from bittern.config import LOUDEST
from bittern.errors import AudioError, AudioWarning, UnreachableError

_WRITABLE = {".flac": ("FLAC", "PCM_16"), ".ogg": ("OGG", "VORBIS")}  # and .wav, by ourselves
_READ_SAMPLES = 16384
_EXACT = ("WAV", "WAVEX", "FLAC", "AIFF")  # of which libsndfile knows the length
_UNKNOWN = 1 << 62  # samples and more: libsndfile's way to say that it does not know
_OGG_RATE = 200_000  # Hz, above which libvorbis crashes
_PARTLY = (b"OggS", b"caff", b"RIFF", b"FORM", b"ID3")  # of which libsndfile reads some kinds alone


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
def open_audio(path: Path, packed: BinaryIO | None = None) -> Generator[AudioStream, None, None]:
    """Open a file of any format that libsndfile or ffmpeg reads, or a pipe by its name.

    Args:
        path: its name.
        packed: its bytes, where they lie in another file.

    Raises:
        UnreachableError: it is not there, may not be read, or ffmpeg is needed and missing.
        AudioError: it is no audio, or is damaged (the latter also from `blocks`).
    """
    if packed is not None:
        with packed:
            yield from _opened(packed, path, None)
        return
    if path.is_dir():
        raise AudioError(f"{path}: is a directory; give audio files")
    try:
        file = path.open("rb", buffering=0)
    except OSError as error:
        raise UnreachableError(f"{path}: cannot be read ({error.strerror})") from None
    with file:
        if file.seekable():
            yield from _opened(file, path, path)
        else:
            with pipe_stream(file, str(path)) as stream:
                yield stream


def _opened(file: BinaryIO, name: Path, path: Path | None) -> Iterator[AudioStream]:
    """The one stream of a file that can seek; `path` is where programs find it, if it is alone there.

    Each kind goes to who reads it: samples to ourselves, so that files and pipes are read by one rule.
    """
    file.seek(0)
    head = file.read(16)
    file.seek(0)
    if head[:4] in WAV_HEADS and (stream := _plain_wav(file, str(name))):
        yield stream
        return
    kind = needs_ffmpeg(head)
    if kind is None:
        try:
            with _libsndfile(file, str(name)) as stream:
                yield stream
            return
        except _NotKnown as error:
            if path is None or not head.startswith(_PARTLY) or shutil.which("ffmpeg") is None:
                raise AudioError(f"{name}: not audio that can be read ({error})") from None
            kind = "not what libsndfile reads"
    if path is None:
        raise AudioError(f"{name}: is {kind}, which is read from files of its own alone")
    with ffmpeg.decoded(path, kind, str(name)) as pipe:
        yield wav_stream(pipe, str(name))


def _plain_wav(file: BinaryIO, name: str) -> AudioStream | None:
    """A WAV file of plain samples; None where it is for others to read."""
    try:
        header = wav.read_header(file, name)
    except AudioError:
        file.seek(0)
        return None
    begin = file.tell() - len(header.begun)
    held = (file.seek(0, os.SEEK_END) - begin) // header.encoding.width
    file.seek(begin)
    header = wav.Header(header.encoding, held if header.samples is None else header.samples)
    return replace(_from_wav(file, header, name), samples=min(header.samples or 0, held))


class _NotKnown(Exception):
    """libsndfile does not know this format."""


class _Forwards(sf.SoundFile):
    """A file that is read from begin to end.

    soundfile seeks before and after each block where it can. Some codecs cannot though they say so
    (GSM), and some good files end in an error (FLAC whose length was not known when it was begun).
    """

    def seekable(self) -> bool:
        return False


@contextmanager
def _libsndfile(file: BinaryIO, name: str) -> Generator[AudioStream, None, None]:
    with _sound_file(file) as sound:
        yield AudioStream(
            name=name,
            sample_rate=sound.samplerate,
            channels=sound.channels,
            samples=sound.frames if sound.format in _EXACT and sound.frames < _UNKNOWN else None,
            blocks=_chained_blocks(file, sound, name)
            if sound.format == "OGG"
            else _file_blocks(sound, name),
        )


def _sound_file(file: BinaryIO) -> _Forwards:
    file.seek(0)
    try:
        if isinstance(file, FileIO):
            return _Forwards(file.fileno(), closefd=False)
        return _Forwards(file)
    except sf.LibsndfileError as error:
        raise _NotKnown(error.error_string.rstrip(".")) from None


def _chained_blocks(file: BinaryIO, sound: sf.SoundFile, name: str) -> Iterator[Block]:
    """All links of an Ogg chain, of which libsndfile reads the first alone."""
    place = file.tell()
    links = find_links(file)
    file.seek(place)
    yield from _file_blocks(sound, name)
    for number, (offset, size) in enumerate(links[1:], 2):
        try:
            link = _sound_file(cast(BinaryIO, FileRange(file, offset, size)))
        except _NotKnown as error:
            raise AudioError(f"{name}: part {number} of {len(links)}: damaged ({error})") from None
        with link:
            if (link.samplerate, link.channels) != (sound.samplerate, sound.channels):
                raise AudioError(
                    f"{name}: part {number} of {len(links)} has {link.samplerate} Hz and "
                    f"{link.channels} channels, after {sound.samplerate} Hz and {sound.channels}; "
                    "split the chain"
                )
            yield from _file_blocks(link, name)


def _file_blocks(file: sf.SoundFile, name: str) -> Iterator[Block]:
    position = 0
    while True:
        try:
            block = file.read(_READ_SAMPLES, dtype="float32", always_2d=True)
        except sf.LibsndfileError as error:
            place = position / file.samplerate
            raise AudioError(
                f"{name}: damaged after {place:.2f} s ({error.error_string.rstrip('.')})"
            ) from None
        if not len(block):
            return
        position += len(block)
        yield np.asarray(block, np.float32)


@contextmanager
def pipe_stream(file: BinaryIO, name: str) -> Generator[AudioStream, None, None]:
    """Audio from a pipe: WAV as it comes; other kinds that are known are waited for to their end.

    Raises:
        AudioError: it is none of them.
    """
    head = _Begun(file)
    if head.data[:4] in WAV_HEADS or not is_audio_head(head.data):
        yield wav_stream(head, name)
        return
    with tempfile.NamedTemporaryFile(buffering=0) as spool:
        while data := head.read(1 << 20):
            spool.write(data)
        yield from _opened(cast(BinaryIO, spool), Path(name), Path(spool.name))


class _Begun:
    """A pipe of which the first bytes were looked at and are still to come."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.data = b""
        while len(self.data) < 16 and (part := file.read(16 - len(self.data))):
            self.data += part

    def read(self, size: int) -> bytes:
        if not self.data:
            return self._file.read(size)
        data, self.data = self.data[:size], self.data[size:]
        return data


def wav_stream(file: Readable, name: str) -> AudioStream:
    """WAV from a pipe.

    Raises:
        AudioError: it is not WAV.
    """
    return _from_wav(file, wav.read_header(file, name), name)


def _from_wav(file: Readable, header: wav.Header, name: str) -> AudioStream:
    """Of `samples` that are not known, as what a pipe's header claims is often a guess."""
    return AudioStream(
        name=name,
        sample_rate=header.encoding.sample_rate,
        channels=header.encoding.channels,
        samples=None,
        blocks=_wav_blocks(file, header, name),
    )


def _wav_blocks(file: Readable, header: wav.Header, name: str) -> Iterator[Block]:
    given, rate = 0, header.encoding.sample_rate
    for block in wav.read_samples(file, header.encoding, header.samples, header.begun):
        given += len(block)
        yield block
    if header.samples is not None and given < header.samples:
        warnings.warn(
            f"{name}: ends after {given / rate:.2f} s of the {header.samples / rate:.2f} s that its "
            "header says; is it cut short?",
            AudioWarning,
            stacklevel=2,
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


def check_samples(stream: AudioStream) -> AudioStream:
    """The same stream, which stops at samples that cannot be meant: no numbers, or out of range.

    Raises:
        AudioError: from `blocks`, naming the place.
    """
    return replace(stream, blocks=_checked_blocks(stream))


def _checked_blocks(stream: AudioStream) -> Iterator[Block]:
    start = 0
    for block in stream.blocks:
        finite = np.isfinite(block)
        if not finite.all():
            row, channel = np.argwhere(~finite)[0]
            raise AudioError(
                f"{stream.name}: sample {start + row} ({(start + row) / stream.sample_rate:.3f} s) "
                f"of channel {channel + 1} is {block[row, channel]}, not a number to code"
            )
        peak = float(np.abs(block).max(initial=0.0))
        if peak > LOUDEST:
            raise AudioError(
                f"{stream.name}: samples reach {peak:.6g}; expected -1 to 1. Divide them by full "
                "scale (32768 if they are 16-bit steps kept as floats)"
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
        self._bounded = not raw and file.seekable()
        if not raw:
            file.write(wav.header_bytes(self._encoding, samples))

    def write(self, block: Block) -> None:
        self.samples_written += len(block)
        if self._bounded:  # told at 4 GiB, not after hours more
            wav.header_bytes(self._encoding, self.samples_written)
        self._file.write(wav.to_pcm16(block))

    def correct(self) -> None:
        """Go back and put the count of the samples written into the header."""
        self._file.seek(0)
        self._file.write(wav.header_bytes(self._encoding, self.samples_written))


@contextmanager
def create_audio(
    path: Path,
    sample_rate: int,
    channels: int,
    *,
    samples: int | None = None,
    replace: bool = True,
) -> Generator[BlockWriter, None, None]:
    """Write a file, which appears whole or not at all: 16-bit .wav or .flac, or .ogg.

    Args:
        path: whose suffix says the format.
        sample_rate: Hz.
        channels: of the blocks to come.
        samples: how many will come, if known, so that too many are refused before the work.
        replace: what has come to be there meanwhile.

    Raises:
        AudioError: no such format, more samples than it holds, or a rate that it does not know.
        CodecError: it cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix == ".wav" or is_special(path):  # a pipe has no suffix that would say anything
        with atomic_file(path, replace=replace) as file:
            writer = PcmWriter(file, sample_rate, channels, samples=samples)
            yield writer
            if file.seekable():
                writer.correct()
        return
    if suffix not in _WRITABLE:
        raise AudioError(f"{path}: cannot write {suffix or 'this'}; give .wav, .flac or .ogg")
    kind, subtype = _WRITABLE[suffix]
    if kind == "OGG" and sample_rate > _OGG_RATE:
        raise AudioError(
            f"{path}: Ogg Vorbis holds up to {_OGG_RATE} Hz, not {sample_rate}; give .wav or .flac"
        )
    with atomic_path(path, replace=replace) as temporary:
        name: Any = os.fsencode(temporary)  # names that are no text; its stubs know of none
        try:
            with sf.SoundFile(
                name, "w", sample_rate, channels, format=kind, subtype=subtype
            ) as file:
                yield file
                written = file.frames
            if not written and kind == "FLAC":
                raise AudioError(f"{path}: FLAC cannot hold audio of no length; give .wav")
            if sf.info(name).frames != written:
                raise OSError(None, "not all samples arrived; is the disk full?")
        except sf.LibsndfileError as error:
            raise OSError(None, error.error_string.rstrip(".")) from None


def read(path: Path, *, checked: bool = True) -> tuple[np.ndarray, int]:
    """A whole file: samples [C, T] float32 and its sample rate in Hz.

    Without `checked` also samples that no recording has, for who judges what a codec put out.

    Raises:
        AudioError: see `open_audio` and `check_samples`.
    """
    with open_audio(path) as stream:
        sound = check_samples(stream) if checked else stream
        return gather(sound.blocks, stream.channels), stream.sample_rate


def gather(blocks: Iterable[Block], channels: int) -> np.ndarray:
    """Blocks [n, C] as one array [C, T]."""
    return np.concatenate([np.zeros((0, channels), np.float32), *blocks]).T


def write_pipe(pipe: BinaryIO, stream: AudioStream, *, raw: bool = False) -> None:
    """Write a stream as 16-bit WAV, or samples alone, each block as it comes."""
    out = PcmWriter(pipe, stream.sample_rate, stream.channels, samples=stream.samples, raw=raw)
    for block in stream.blocks:
        out.write(block)
        pipe.flush()


def write_stream(path: Path, stream: AudioStream, *, replace: bool = True) -> None:
    """Write a stream to a file as its blocks come; see `create_audio`.

    Raises:
        AudioError, CodecError: see `create_audio`.
    """
    form = stream.sample_rate, stream.channels
    with create_audio(path, *form, samples=stream.samples, replace=replace) as file:
        for block in stream.blocks:
            file.write(block)
