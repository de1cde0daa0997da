"""Audio streams to `.btn` bytes and back, chunk by chunk, in the same memory at any length.

Here resampling, the networks' streams (`stream.py`) and the container (`bitstream.py`) meet. Most
people come in through `codec.py`.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

import numpy as np
import torch

from bittern import decoding
from bittern.audio import streams as audio
from bittern.audio.streams import AudioStream, Resampler
from bittern.audio.wav import Block
from bittern.checkpoint import Checkpoint
from bittern.config import SEARCH_WIDTH
from bittern.errors import AudioError, ConfigError, FormatError, ModelMismatchError
from bittern.format import container as bitstream
from bittern.format.erasures import BurstLoss
from bittern.format.header import most_chunk_frames
from bittern.format.payload import Coder
from bittern.format.salvage import Gap, Salvage
from bittern.model.codec_model import CodecModel
from bittern.model.stream import StreamingEncoder
from bittern.shapes import Codes, Waveform

CHUNK_SECONDS = 6.0
_MOST_CHUNK_FRAMES = 4096
_PUSHED_FRAMES = 1024  # at once at most, of all streams together; bounds the memory


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What a compression or decompression came to."""

    seconds: float  # of audio
    sample_rate: int  # of the audio outside the codec, Hz
    source_channels: int  # of the audio that was compressed
    channels: int  # that were coded, and come out again
    stages: int
    nominal_kbps: float  # of the codes alone
    file_bytes: int  # of the .btn file, counted
    elapsed: float  # seconds of work

    @property
    def measured_kbps(self) -> float:
        return self.file_bytes * 8 / 1000 / self.seconds if self.seconds else 0.0

    @property
    def ratio(self) -> float:
        """How many times smaller than the compressed audio as 16-bit PCM."""
        pcm_bytes = 2 * self.source_channels * self.sample_rate * self.seconds
        return pcm_bytes / self.file_bytes

    @property
    def speed(self) -> float:
        """Seconds of audio in a second of work."""
        return self.seconds / self.elapsed


@dataclass(frozen=True, kw_only=True)
class DecodedStream(AudioStream):
    """Audio being decompressed; its receipt is complete once all blocks are taken."""

    reader: bitstream.Reader | Salvage
    began: float

    @property
    def lost(self) -> list[Gap]:
        """Spans that could not be read and were concealed."""
        return self.reader.gaps if isinstance(self.reader, Salvage) else []

    def receipt(self) -> Receipt:
        """What it came to."""
        elapsed = time.perf_counter() - self.began
        receipt = _receipt(self.reader.header, self.reader.bytes_read, elapsed)
        return (
            receipt
            if self.samples is None
            else replace(receipt, seconds=self.samples / self.sample_rate)
        )


def stream_count(source: AudioStream, channels: int, *, mono: bool = False) -> int:
    """How many streams of codes audio takes with a model of `channels` channels.

    A model of fewer channels than the audio codes them as streams side by side, all in step.

    Raises:
        AudioError: the audio's channels cannot be shared out among streams.
    """
    if mono or source.channels <= channels:
        return 1
    if source.channels % channels:
        raise AudioError(
            f"{source.name}: {source.channels} channels are no multiple of the model's {channels}; "
            "mix them down with --mono (mono=True)"
        )
    return source.channels // channels


def compress_stream(
    codec: Checkpoint,
    source: AudioStream,
    file: BinaryIO,
    *,
    stages: int,
    chunk_seconds: float = CHUNK_SECONDS,
    live: bool = False,
    coder: Coder | None = None,
    mono: bool = False,
    search_width: int = SEARCH_WIDTH,
) -> Receipt:
    """Compress audio as it comes, writing each chunk as soon as it is full.

    Args:
        codec: the model and its fingerprint.
        source: read to its end; its channels are coded apart where the model has fewer.
        file: where to write.
        stages: how many to code, 1 to K.
        chunk_seconds: audio to a chunk, down to one frame.
        live: `file` cannot be gone back in, as a pipe; it is flushed after each chunk.
        coder: the codec's entropy model; without one, codes are packed raw.
        mono: mix the channels down to one.
        search_width: candidates kept from stage to stage; see `search.py`.

    Raises:
        AudioError: a sample is not finite, rate or channels do not fit, or there are fewer or more
            samples than a live source said.
    """
    began = time.perf_counter()
    config = codec.model.config
    _check_source(source)
    streams = stream_count(source, config.channels, mono=mono)
    bits = config.quantizer.bits_per_code
    known = source.samples if live else None
    header = bitstream.Header(
        fingerprint=codec.fingerprint,
        sample_rate=config.sample_rate,
        source_rate=source.sample_rate,
        channels=config.channels,
        source_channels=source.channels,
        streams=streams,
        hop_length=config.hop_length,
        bits_per_code=bits,
        stages=stages,
        extra_frames=int(config.lapped),
        chunk_frames=_chunk_frames(
            chunk_seconds, config.frame_rate, most_chunk_frames(streams, bits, stages)
        ),
        samples=None
        if known is None
        else audio.resampled_length(known, source.sample_rate, config.sample_rate),
        source_samples=known,
        entropy=coder.fingerprint if coder else None,
    )
    writer = bitstream.Writer(file, header, live=live, coder=coder)
    channels = streams * config.channels
    resampler = Resampler(source.sample_rate, config.sample_rate, channels)
    blocks = _to_model(audio.checked(source), resampler, channels, mono=mono)
    for codes in _codes(codec.model, blocks, stages, search_width, header):
        writer.write(codes.cpu().numpy())
        if live:
            file.flush()
    if known not in (None, resampler.samples_in):
        raise AudioError(f"{source.name}: said {known} samples but had {resampler.samples_in}")
    header = writer.finish(resampler.samples_out, resampler.samples_in)
    return _receipt(header, writer.bytes_written, time.perf_counter() - began)


def decompress_stream(
    codec: Checkpoint,
    file: BinaryIO,
    name: str,
    *,
    stages: int | None = None,
    start: float = 0.0,
    duration: float | None = None,
    recover: bool = False,
) -> DecodedStream:
    """Decompress as bytes come: read the header now, and the rest as `blocks` are taken.

    Args:
        codec: the model that made the file.
        file: a `.btn` file or a pipe with one.
        name: for messages.
        stages: decode only the first so many.
        start: seconds to leave out; only the chunks that are needed are read.
        duration: seconds to give at most; by default all up to the end.
        recover: conceal what is damaged or missing; `file` must be able to seek.

    Raises:
        FormatError: not a `.btn` file, damaged or cut short; also from `blocks`.
        ModelMismatchError: made with another model.
        ConfigError: `recover` together with a span.
    """
    began = time.perf_counter()
    spanned = start > 0 or duration is not None
    if recover and spanned:
        raise ConfigError("a span cannot be recovered alone; recover the whole file")
    reader = Salvage(file, name) if recover else bitstream.Reader(file, name)
    _check_fits(reader, codec)
    reader.coder = codec.entropy
    header = reader.header
    samples = header.source_samples
    if isinstance(reader, Salvage):
        blocks = decoding.recovered(codec.model, reader, stages)
    elif spanned:
        first = round(start * header.source_rate)
        count = None if duration is None else round(duration * header.source_rate)
        blocks = decoding.decoded_span(codec.model, reader, stages, first, count)
        if samples is not None:
            samples = (
                max(samples - first, 0) if count is None else min(max(samples - first, 0), count)
            )
    else:
        blocks = decoding.decoded(codec.model, reader, stages)
    return DecodedStream(
        name=name,
        sample_rate=header.source_rate,
        channels=header.channels * header.streams,
        samples=samples,
        blocks=blocks,
        reader=reader,
        began=began,
    )


def simulate_loss(
    codec: Checkpoint,
    file: BinaryIO,
    name: str,
    loss: BurstLoss,
    *,
    stages: int | None = None,
    silent: bool = False,
) -> DecodedStream:
    """Decompress an intact file as if some of it had been lost on the way.

    Args:
        codec: the model that made the file.
        file: a `.btn` file that says its length at the start.
        name: for messages.
        loss: draws what is lost, and counts it.
        stages: decode only the first so many.
        silent: put silence in place of what is lost instead of concealing it.

    Raises:
        FormatError: also where the file was written live, without its length.
        ModelMismatchError, ConfigError: see `decompress_stream`.
    """
    began = time.perf_counter()
    reader = bitstream.Reader(file, name)
    _check_fits(reader, codec)
    reader.coder = codec.entropy
    header = reader.header
    if header.samples is None:
        raise FormatError(f"{name}: was written live and does not say its length at the start")
    return DecodedStream(
        name=name,
        sample_rate=header.source_rate,
        channels=header.channels * header.streams,
        samples=header.source_samples,
        blocks=decoding.with_losses(codec.model, reader, stages, loss, silent=silent),
        reader=reader,
        began=began,
    )


def _check_source(source: AudioStream) -> None:
    low, high = bitstream.RATES
    if not low <= source.sample_rate <= high:
        raise AudioError(
            f"{source.name}: sample rate {source.sample_rate} Hz; expected {low} to {high}"
        )
    if not 1 <= source.channels <= bitstream.MOST_CHANNELS:
        raise AudioError(
            f"{source.name}: {source.channels} channels; expected 1 to {bitstream.MOST_CHANNELS}"
        )


def _to_model(
    source: AudioStream, resampler: Resampler, channels: int, *, mono: bool
) -> Iterator[Block]:
    """Blocks at the model's rate with the channels of all streams."""
    for block in source.blocks:
        mixed = audio.mix(block, 1, source.name) if mono else block
        yield resampler.push(audio.mix(mixed, channels, source.name))
    yield resampler.flush()


def _codes(
    model: CodecModel,
    blocks: Iterator[Block],
    stages: int,
    search_width: int,
    header: bitstream.Header,
) -> Iterator[Codes]:
    """Codes [S, k, F], chunk by chunk; pushed in the same portions, however the blocks come."""
    device = model.quantizer.codewords.device
    streams, full = header.streams, header.chunk_frames
    pending: list[Codes] = []
    if model.config.streamable:
        encoder = StreamingEncoder(model, stages=stages, batch=streams, search_width=search_width)
        portion = max(min(full, _PUSHED_FRAMES // streams), 1)
        for block in _regrouped(blocks, portion * header.hop_length):
            pending.append(encoder.push(_to_tensor(block, streams).to(device)))
            if sum(codes.shape[-1] for codes in pending) >= full:
                codes = torch.cat(pending, dim=-1)
                yield codes[..., :full]
                pending = [codes[..., full:]]
        pending.append(encoder.flush())
    else:
        clip = audio.gather(blocks, streams * header.channels).T
        pending.append(model.encode(_to_tensor(clip, streams).to(device), stages, search_width))
    tail = torch.cat(pending, dim=-1)
    if tail.shape[-1]:
        yield from tail.split(full, dim=-1)


def _check_fits(reader: bitstream.Reader | Salvage, codec: Checkpoint) -> None:
    header, config = reader.header, codec.model.config
    if header.fingerprint not in (codec.fingerprint, *codec.decodes):
        raise ModelMismatchError(
            f"{reader.name}: made by model {header.fingerprint.hex()}, but "
            f"{codec.fingerprint.hex()} ({config.name}) was given. Pass --model with the name or "
            "folder of the model that made it"
        )
    if header.entropy and (codec.entropy is None or header.entropy != codec.entropy.fingerprint):
        has = f"has {codec.entropy.fingerprint.hex()}" if codec.entropy else "has none"
        raise ModelMismatchError(
            f"{reader.name}: needs entropy model {header.entropy.hex()}, but {codec.folder} {has}. "
            "Put the entropy.safetensors that made it beside the weights"
        )
    pairs = (
        ("sample rate", header.sample_rate, config.sample_rate),
        ("channels", header.channels, config.channels),
        ("hop length", header.hop_length, config.hop_length),
        ("bits per code", header.bits_per_code, config.quantizer.bits_per_code),
        ("extra frames", header.extra_frames, int(config.lapped)),
        ("stages", header.stages, min(header.stages, config.quantizer.stages)),
    )
    for what, got, expected in pairs:
        if got != expected:
            raise FormatError(
                f"{reader.name}: the header says {what} {got}, but its model has {expected}"
            )


def _receipt(header: bitstream.Header, file_bytes: int, elapsed: float) -> Receipt:
    return Receipt(
        seconds=(header.source_samples or 0) / header.source_rate,
        sample_rate=header.source_rate,
        source_channels=header.source_channels,
        channels=header.channels * header.streams,
        stages=header.stages,
        nominal_kbps=header.stages * header.kbps_per_stage,
        file_bytes=file_bytes,
        elapsed=elapsed,
    )


def _chunk_frames(seconds: float, frame_rate: float, most: int) -> int:
    """Frames to a chunk, from eight on in eights, which are whole bytes at any width of codes."""
    frames = max(round(min(seconds, 3600) * frame_rate), 1)
    return min(frames if frames < 8 else -(-frames // 8) * 8, _MOST_CHUNK_FRAMES, most)


def _regrouped(blocks: Iterator[Block], size: int) -> Iterator[Block]:
    """The same samples in blocks of exactly `size`, but for the last."""
    parts: list[Block] = []
    have = 0
    for block in blocks:
        rest = block
        while len(rest):
            part, rest = rest[: size - have], rest[size - have :]
            parts.append(part)
            have += len(part)
            if have == size:
                yield np.concatenate(parts)
                parts, have = [], 0
    if have:
        yield np.concatenate(parts)


def _to_tensor(block: Block, streams: int) -> Waveform:
    """[n, S * C] -> [S, C, n]."""
    return torch.from_numpy(np.ascontiguousarray(block.T)).unflatten(0, (streams, -1))
