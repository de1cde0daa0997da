"""Where samples, codes and bytes meet: audio to `.btn` files and back, piece by piece.

    blocks -> resample -> encoder.push -> codes -> writer
    reader -> codes, or what is lost -> decoder.push, conceal -> resample -> blocks

Memory stays the same at any length. Networks come in as an `Engine`, of numpy arrays: no torch here.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from bittern.audio import streams as audio
from bittern.audio.streams import AudioStream, Resampler
from bittern.audio.wav import Block
from bittern.checkpoint import Checkpoint, find_maker
from bittern.config import CodecConfig, CodingOptions, real_number, whole_number
from bittern.errors import AudioError, ConfigError, FormatError, ModelMismatchError
from bittern.format import container
from bittern.format.container import Reader
from bittern.format.entropy import ENTROPY_FILE
from bittern.format.erasures import BurstLoss
from bittern.format.header import most_chunk_frames
from bittern.format.payload import Coder
from bittern.format.salvage import Gap, Salvage
from bittern.model import rate
from bittern.model.allocation import Searched

_MOST_CHUNK_FRAMES = 4096
_PUSHED_FRAMES = 1024  # at once at most, of all streams together; bounds the memory
_DECODE_FRAMES = 512  # at once at most, of all streams, however long chunks claim to be
_RESAMPLER_SECONDS = 0.25  # longer than the resampler's filters look back

Samples = NDArray[np.float32]  # [S streams, C, n] at the model's rate
Codes = NDArray[np.int64]  # [S, k, f]
Arrays = tuple[NDArray[Any], ...]
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Encoder(Protocol[T_co]):
    """Samples in, codes out, streams in step. All codes equal those of all samples at once."""

    def push(self, samples: Samples) -> T_co:
        """What is complete with these samples."""
        ...

    def flush(self) -> T_co:
        """The last of it, once all samples are in."""
        ...


class Decoder(Protocol):
    """Codes in, samples out, streams in step. All samples equal those of all codes at once."""

    def push(self, codes: Codes) -> Samples:
        """The samples that are complete with these codes."""
        ...

    def conceal(self, frames: int, *, silent: bool = False) -> Samples:
        """The same for frames that are lost: sound that fades, or silence at once."""
        ...

    def flush(self) -> Samples:
        """The last samples, once all codes are in."""
        ...


class Engine(Protocol):
    """A model as pipelines see it; what serves one file is made by `encoder` and `decoder`."""

    @property
    def config(self) -> CodecConfig: ...

    def share_threads(self, jobs: int) -> None:
        """Give each of so many jobs its part of the processor's threads."""
        ...

    @property
    def gains(self) -> NDArray[np.float32]:
        """[K], about how much of the latent's squared error each stage takes away."""
        ...

    def encoder(self, streams: int, stages: int, search_width: int) -> Encoder[Codes]: ...

    def searcher(self, streams: int, stages: int, search_width: int) -> Encoder[Searched]:
        """One that also tells what it takes to choose how many of its codes each frame gets."""
        ...

    def decoder(self, streams: int) -> Decoder: ...


class Packed(NamedTuple):
    """Codes as they are written."""

    chunk: container.Chunk
    counts: NDArray[np.int64]  # [S, F], stages of each frame

    @property
    def bits(self) -> int:
        return 8 * (container.CHUNK_OVERHEAD_BYTES + len(self.chunk.payload))


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What a compression or decompression came to."""

    seconds: float  # of audio
    sample_rate: int  # of the audio outside the codec, Hz
    source_channels: int  # of the audio that was compressed
    channels: int  # that were coded, and come out again
    stages: int  # the most that any frame has
    fewest_stages: int  # that any frame has
    mean_stages: float  # of all frames
    nominal_kbps: float  # of the codes alone, before entropy coding
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

    reader: Reader | Salvage
    tally: rate.Tally  # of the frames that were decoded
    began: float

    @property
    def lost(self) -> list[Gap]:
        """Spans that could not be read and were concealed."""
        return self.reader.gaps if isinstance(self.reader, Salvage) else []

    def receipt(self) -> Receipt:
        """What it came to."""
        elapsed = time.perf_counter() - self.began
        receipt = _receipt(self.reader.header, self.reader.bytes_read, self.tally, elapsed)
        if self.samples is None:
            return receipt
        return replace(receipt, seconds=self.samples / self.sample_rate)


@dataclass(frozen=True)
class Lost:
    """Frames in place of which sound fades, or there is silence at once."""

    frames: int
    silent: bool = False


def count_streams(source: AudioStream, channels: int, *, mono: bool = False) -> int:
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


def compress(
    engine: Engine,
    checkpoint: Checkpoint,
    source: AudioStream,
    file: BinaryIO,
    options: CodingOptions,
    *,
    live: bool = False,
) -> Receipt:
    """Compress audio as it comes, writing each chunk as soon as it is full.

    Args:
        engine: what codes.
        checkpoint: what the engine was made from.
        source: read to its end; its channels are coded apart where the model has fewer.
        file: where to write.
        options: how to code.
        live: `file` cannot be gone back in, as a pipe; it is flushed after each chunk.

    Raises:
        AudioError: a sample is not finite, rate or channels do not fit, or there are fewer or more
            samples than a live source said.
        ConfigError: stages, bitrate or coder are out of reach.
    """
    began = time.perf_counter()
    _check_source(source)
    known = source.samples if live else None
    coder = _choose_coder(options.coder, checkpoint)
    header = _header(checkpoint, source, options, known, coder)
    writer, tally = container.Writer(file, header, live=live), rate.Tally()
    channels = header.streams * header.channels
    resampler = Resampler(source.sample_rate, header.sample_rate, channels)
    blocks = _to_model(audio.check_samples(source), resampler, channels, mono=options.mono)

    def pack(codes: Codes) -> Packed:
        return Packed(container.pack(codes, header, coder), (codes >= 0).sum(axis=1))

    for packed in _encode(engine, blocks, header, options, source.seconds, pack):
        writer.copy(packed.chunk)
        tally.note(packed.counts)
        if live:
            file.flush()
    if known not in (None, resampler.samples_in):
        raise AudioError(f"{source.name}: said {known} samples but had {resampler.samples_in}")
    header = writer.finish(resampler.samples_out, resampler.samples_in)
    return _receipt(header, writer.bytes_written, tally, time.perf_counter() - began)


def decompress(
    engine: Engine,
    checkpoint: Checkpoint,
    file: BinaryIO,
    name: str,
    *,
    stages: int | None = None,
    start: float = 0.0,
    duration: float | None = None,
    recover: bool = False,
    loss: BurstLoss | None = None,
    silent: bool = False,
) -> DecodedStream:
    """Decompress as bytes come: read the header now, and the rest as `blocks` are taken.

    Args:
        engine: what decodes.
        checkpoint: what the engine was made from.
        file: a `.btn` file or a pipe with one.
        name: for messages.
        stages: decode only the first so many.
        start: seconds to leave out; only the chunks that are needed are read.
        duration: seconds to give at most; by default all up to the end.
        recover: conceal what is damaged or missing; `file` must be able to seek.
        loss: draws what is to be lost, as if on the way, and counts it.
        silent: put silence in place of what is drawn instead of concealing it.

    Raises:
        FormatError: not a `.btn` file, damaged or cut short; also from `blocks`.
        ModelMismatchError: made with another model.
        ConfigError, ValueError: a span before 0 or to be recovered, losses without a streamable model.
    """
    began = time.perf_counter()
    if recover and (start > 0 or duration is not None):
        raise ConfigError("a span cannot be recovered alone; recover the whole file")
    reader = (Salvage if recover else Reader)(file, name, find_coder=checkpoint.entropy_of)
    _check_fits(reader, checkpoint)
    if (recover or loss) and not engine.config.streamable:
        raise ConfigError(f"{engine.config.name} looks ahead; what is lost cannot be concealed")
    header = reader.header
    first = round(real_number(start, "start", 0) * header.source_rate)
    span = None if duration is None else real_number(duration, "duration", 0)
    count = None if span is None else round(span * header.source_rate)
    entry, chunk = _entry(engine, header, first)
    if isinstance(reader, Reader):
        reader.skip(chunk)
    pieces = _read_pieces(reader, stages, tally := rate.Tally())
    if loss:
        pieces = _lose(pieces, loss, silent)
    waves = _decode(engine, pieces, reader, chunk)
    return DecodedStream(
        name=name,
        sample_rate=header.source_rate,
        channels=header.channels * header.streams,
        samples=_count_samples(header, first, count),
        blocks=_from_model(waves, reader, chunk, entry, first, count),
        reader=reader,
        tally=tally,
        began=began,
    )


def _count_samples(header: container.Header, first: int, count: int | None) -> int | None:
    """Samples from `first` on, `count` at most; None where only the end will tell."""
    if header.source_samples is None:
        return None
    rest = max(header.source_samples - first, 0)
    return rest if count is None else min(rest, count)


# from samples to codes


def _check_source(source: AudioStream) -> None:
    low, high = container.RATES
    if not low <= source.sample_rate <= high:
        raise AudioError(
            f"{source.name}: sample rate {source.sample_rate} Hz; expected {low} to {high}"
        )
    if not 1 <= source.channels <= container.MOST_CHANNELS:
        raise AudioError(
            f"{source.name}: {source.channels} channels; expected 1 to {container.MOST_CHANNELS}"
        )


def _choose_coder(name: str, checkpoint: Checkpoint) -> Coder | None:
    """The entropy model to code by, if any."""
    if name == "range" and checkpoint.entropy is None:
        raise ConfigError(
            f"{checkpoint.folder}: has no {ENTROPY_FILE}, which coder range needs. Fit it with "
            "`bittern fit-entropy`, or use coder raw"
        )
    return None if name == "raw" else checkpoint.entropy


def _header(
    checkpoint: Checkpoint,
    source: AudioStream,
    options: CodingOptions,
    known: int | None,
    coder: Coder | None,
) -> container.Header:
    """Of a file with `known` samples for each channel, None where only the end will tell."""
    config = checkpoint.config
    streams = count_streams(source, config.channels, mono=options.mono)
    stages = rate.most_stages(config, streams, options)
    bits = config.quantizer.bits_per_code
    samples = None
    if known is not None:
        samples = audio.resampled_length(known, source.sample_rate, config.sample_rate)
    return container.Header(
        fingerprint=checkpoint.fingerprint,
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
            options.chunk_seconds, config.frame_rate, most_chunk_frames(streams, bits, stages)
        ),
        samples=samples,
        source_samples=known,
        entropy=coder.fingerprint if coder else None,
        version=1 if options.constant else 2,
    )


def _chunk_frames(seconds: float, frame_rate: float, most: int) -> int:
    """Frames to a chunk, from eight on in eights, which are whole bytes at any width of codes."""
    frames = max(round(min(seconds, 3600) * frame_rate), 1)
    return min(frames if frames < 8 else -(-frames // 8) * 8, _MOST_CHUNK_FRAMES, most)


def _to_model(
    source: AudioStream, resampler: Resampler, channels: int, *, mono: bool
) -> Iterator[Block]:
    """Blocks at the model's rate with the channels of all streams."""
    for block in source.blocks:
        mixed = audio.mix(block, 1, source.name) if mono else block
        yield resampler.push(audio.mix(mixed, channels, source.name))
    yield resampler.flush()


def _encode(
    engine: Engine,
    blocks: Iterator[Block],
    header: container.Header,
    options: CodingOptions,
    seconds: float | None,
    pack: Callable[[Codes], Packed],
) -> Iterator[Packed]:
    """Packed chunks of blocks that are so many seconds in all, where that is known."""
    args = (header.streams, header.stages, options.search_width)
    if options.constant:
        encoder = engine.encoder(*args)
        pieces = ((codes,) for codes in _push_all(encoder, blocks, header))
        return (pack(codes) for (codes,) in _rechunk(pieces, header.chunk_frames))
    searched = _push_all(engine.searcher(*args), blocks, header)
    chunks = (Searched(*parts) for parts in _rechunk(searched, header.chunk_frames))
    budget = None
    if seconds is not None and options.bitrate_kbps is not None:
        budget = options.bitrate_kbps * 1000 * seconds - 8 * header.size
    config, gains = engine.config, engine.gains
    return rate.allot(chunks, options, config, gains, header.streams, budget, pack)


def _push_all(
    encoder: Encoder[T], blocks: Iterator[Block], header: container.Header
) -> Iterator[T]:
    """What comes of all samples, pushed in the same portions, however the blocks come."""
    portion = max(min(header.chunk_frames, _PUSHED_FRAMES // header.streams), 1)
    samples = ((block.T,) for block in blocks)
    for (wav,) in _rechunk(samples, portion * header.hop_length):
        yield encoder.push(np.ascontiguousarray(wav).reshape(header.streams, -1, wav.shape[1]))
    yield encoder.flush()


def _rechunk(pieces: Iterable[Arrays], size: int) -> Iterator[Arrays]:
    """The same arrays, cut along their last axis to exactly `size`, but for the last of them."""
    rest: Arrays = ()
    for piece in pieces:
        pairs = zip(rest, piece, strict=True) if rest else ((array,) for array in piece)
        rest = tuple(np.concatenate(pair, axis=-1) for pair in pairs)
        whole = rest[0].shape[-1] // size * size
        for end in range(size, whole + 1, size):
            yield tuple(array[..., end - size : end] for array in rest)
        rest = tuple(array[..., whole:] for array in rest)
    if rest and rest[0].shape[-1]:
        yield rest


# from codes to samples


def _check_fits(reader: Reader | Salvage, checkpoint: Checkpoint) -> None:
    header, config, own = reader.header, checkpoint.config, checkpoint.entropy
    if header.fingerprint not in (checkpoint.fingerprint, *checkpoint.decodes):
        maker = find_maker(header.fingerprint)
        raise ModelMismatchError(
            f"{reader.name}: made by model {header.fingerprint.hex()}, but "
            f"{checkpoint.fingerprint.hex()} ({config.name}) was given. Pass --model "
            f"{maker or 'with the name or folder of the model that made it'}"
        )
    if header.entropy and checkpoint.entropy_of(header.entropy) is None:
        has = f"has {own.fingerprint.hex()}" if own else "has none"
        raise ModelMismatchError(
            f"{reader.name}: needs entropy model {header.entropy.hex()}, but {checkpoint.folder} "
            f"{has}. Put the entropy.safetensors that made it beside the weights"
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


def _read_pieces(
    reader: Reader | Salvage, stages: int | None, tally: rate.Tally
) -> Iterator[Codes | Lost]:
    """The codes of each chunk, and the gaps between them, in the order of time."""
    for piece in reader.codes(None if stages is None else whole_number(stages, "stages")):
        if isinstance(piece, Gap):
            yield Lost(piece.frames)
        else:
            tally.note((piece >= 0).sum(axis=1))
            yield piece


def _lose(pieces: Iterable[Codes | Lost], loss: BurstLoss, silent: bool) -> Iterator[Codes | Lost]:
    """The same pieces, of whose frames some are lost as drawn."""
    for piece in pieces:
        if isinstance(piece, Lost):
            yield piece
            continue
        lost = loss.draw(piece.shape[-1])
        borders = np.flatnonzero(np.diff(lost, prepend=~lost[:1], append=~lost[-1:]))
        for begin, end in itertools.pairwise(borders.tolist()):
            yield Lost(end - begin, silent) if lost[begin] else piece[..., begin:end]


def _decode(
    engine: Engine, pieces: Iterable[Codes | Lost], reader: Reader | Salvage, chunk: int
) -> Iterator[Samples]:
    """Waveforms at the model's rate from `chunk` on, up to as many samples as were coded."""
    header = reader.header
    given = chunk * header.chunk_frames * header.hop_length
    held = np.zeros((header.streams, header.channels, 0), np.float32)
    for wav in _decode_all(engine.decoder(header.streams), pieces, header.streams):
        out = np.concatenate([held, wav], axis=-1) if held.size else wav
        if header.samples is None:  # the end lies up to one frame before that of the codes
            give = max(out.shape[-1] - header.hop_length, 0)
        else:
            give = min(out.shape[-1], max(header.samples - given, 0))
        out, held = out[..., :give], out[..., give:]
        given += give
        yield out
    yield held[..., : max((reader.header.samples or 0) - given, 0)]


def _decode_all(
    decoder: Decoder, pieces: Iterable[Codes | Lost], streams: int
) -> Iterator[Samples]:
    """Every sample that codes hold, in portions that bound the memory."""
    portion = max(_DECODE_FRAMES // streams, 1)
    for piece in pieces:
        frames = piece.frames if isinstance(piece, Lost) else piece.shape[-1]
        for begin in range(0, frames, portion):
            end = min(begin + portion, frames)
            if isinstance(piece, Lost):
                yield decoder.conceal(end - begin, silent=piece.silent)
            else:
                yield decoder.push(piece[..., begin:end])
    yield decoder.flush()


def _entry(engine: Engine, header: container.Header, first: int) -> tuple[int, int]:
    """Where to begin so that samples from `first` on, at the source's rate, equal those of the whole.

    Returns:
        The first sample to be resampled, at the model's rate, and the chunk to decode from: that of
        the decoder's receptive field before it.
    """
    field, rate, source_rate = engine.config.decoder_field, header.sample_rate, header.source_rate
    grid = rate // math.gcd(rate, source_rate)  # where samples of both rates coincide
    early = 0 if rate == source_rate else round(_RESAMPLER_SECONDS * rate)
    entry = max(first * rate // source_rate - early, 0) // grid * grid
    if field is None:
        return entry, 0
    return entry, max(entry // header.hop_length - field, 0) // header.chunk_frames


def _from_model(
    waves: Iterator[Samples],
    reader: Reader | Salvage,
    chunk: int,
    entry: int,
    first: int,
    count: int | None,
) -> Iterator[Block]:
    """Blocks at the source's rate, `count` samples from `first` on, of waveforms from `chunk` on.

    What follows is not read. `entry` is where resampling begins, see `_entry`.
    """
    header = reader.header
    resampler = Resampler(header.sample_rate, header.source_rate, header.channels * header.streams)
    position = chunk * header.chunk_frames * header.hop_length  # at the model's rate
    begin = given = entry * header.source_rate // header.sample_rate  # at the source's
    end = math.inf if count is None else first + count
    for wav in waves:
        block = _to_block(wav[..., max(entry - position, 0) :])
        position += wav.shape[-1]
        out = resampler.push(block) if len(block) else block
        yield _within(out, given, first, end)
        given += len(out)
        if given >= end:
            return
    out = resampler.flush(max((reader.header.source_samples or 0) - begin, 0))
    yield _within(out, given, first, end)


def _within(block: Block, position: int, start: int, end: float) -> Block:
    """The part of a block at `position` that lies from `start` up to `end`."""
    first = min(max(start - position, 0), len(block))
    last = int(min(max(end - position, 0), len(block)))
    return block[first : max(first, last)]


def _to_block(wav: Samples) -> Block:
    """[S, C, n] -> [n, S * C]."""
    return np.ascontiguousarray(np.concatenate(wav).T)


def _receipt(
    header: container.Header, file_bytes: int, tally: rate.Tally, elapsed: float
) -> Receipt:
    fewest, most = tally.range
    return Receipt(
        seconds=(header.source_samples or 0) / header.source_rate,
        sample_rate=header.source_rate,
        source_channels=header.source_channels,
        channels=header.channels * header.streams,
        stages=most,
        fewest_stages=fewest,
        mean_stages=tally.mean,
        nominal_kbps=tally.mean * header.kbps_per_stage,
        file_bytes=file_bytes,
        elapsed=elapsed,
    )
