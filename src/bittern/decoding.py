"""From the chunks of a `.btn` file to audio: the whole, a span of it, or with losses concealed.

Blocks come at the source's rate, of the source's length; memory is the same at any length.
"""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import torch

from bittern.audio.streams import Resampler
from bittern.audio.wav import Block
from bittern.errors import ConfigError
from bittern.format import container as bitstream
from bittern.format.container import Chunk, Reader
from bittern.format.erasures import BurstLoss
from bittern.format.payload import Coder
from bittern.format.salvage import Gap, Salvage
from bittern.model.codec_model import CodecModel
from bittern.model.stream import StreamingDecoder
from bittern.shapes import Codes, Waveform

_DECODE_FRAMES = 512  # at once at most, of all streams, however long chunks claim to be
_RESAMPLER_SECONDS = 0.25  # longer than the resampler's filters look back


def decoded(model: CodecModel, reader: Reader, stages: int | None) -> Iterator[Block]:
    """All of a file, as many samples as the source had."""
    header = reader.header
    channels = header.channels * header.streams
    resampler = Resampler(header.sample_rate, header.source_rate, channels)
    for wav in _waveforms(model, reader, stages):
        yield resampler.push(_to_block(wav))
    yield resampler.flush(reader.header.source_samples)


def recovered(model: CodecModel, salvage: Salvage, stages: int | None) -> Iterator[Block]:
    """All of a damaged file, its gaps concealed."""
    header = salvage.header
    if not model.config.streamable:
        raise ConfigError(f"{model.config.name} looks ahead; its damaged files cannot be recovered")
    resampler = Resampler(header.sample_rate, header.source_rate, header.channels * header.streams)
    decoder = StreamingDecoder(model, batch=header.streams, length=header.samples)
    for piece in salvage:
        if isinstance(piece, Gap):
            for begin in range(0, piece.frames, _DECODE_FRAMES):
                count = min(_DECODE_FRAMES, piece.frames - begin)
                yield resampler.push(_to_block(decoder.conceal(count)))
        else:
            for wav in _pushed(decoder, piece, header, stages, salvage.coder):
                yield resampler.push(_to_block(wav))
    yield resampler.flush(header.source_samples)


def with_losses(
    model: CodecModel, reader: Reader, stages: int | None, loss: BurstLoss, *, silent: bool = False
) -> Iterator[Block]:
    """All of a file of known length, with frames lost as drawn and concealed (or silent)."""
    header = reader.header
    if not model.config.streamable:
        raise ConfigError(f"{model.config.name} looks ahead; its losses cannot be concealed")
    resampler = Resampler(header.sample_rate, header.source_rate, header.channels * header.streams)
    decoder = StreamingDecoder(model, batch=header.streams, length=header.samples)
    for chunk in reader:
        codes = torch.from_numpy(bitstream.unpack(chunk, header, stages, reader.coder))
        lost = loss.draw(chunk.frames)
        borders = np.flatnonzero(np.diff(lost, prepend=~lost[:1], append=~lost[-1:]))
        for begin, end in itertools.pairwise(borders.tolist()):
            for portion in _portions(codes[..., begin:end]):
                if lost[begin]:
                    wav = decoder.conceal(portion.shape[-1], silent=silent)
                else:
                    wav = decoder.push(portion)
                yield resampler.push(_to_block(wav))
    yield resampler.flush(reader.header.source_samples)


def decoded_span(
    model: CodecModel, reader: Reader, stages: int | None, start: int, samples: int | None
) -> Iterator[Block]:
    """The samples from `start` on, at the source's rate; equal to that part of the whole.

    Chunks that end before the decoder's receptive field are skipped, those behind are not read.
    """
    header, field = reader.header, model.decoder_field
    hop, rate, source_rate = header.hop_length, header.sample_rate, header.source_rate
    channels = header.channels * header.streams
    grid = rate // math.gcd(rate, source_rate)  # where samples of both rates coincide
    early = 0 if rate == source_rate else round(_RESAMPLER_SECONDS * rate)
    entry = max(start * rate // source_rate - early, 0) // grid * grid  # of the resampler
    chunk = 0 if field is None else max(entry // hop - field, 0) // header.chunk_frames
    reader.skip(chunk)
    resampler = Resampler(rate, source_rate, channels)
    position = chunk * header.chunk_frames * hop  # of the decoder, at the model's rate
    given = entry * source_rate // rate  # of the resampler, at the source's
    end = math.inf if samples is None else start + samples
    for wav in _waveforms(model, reader, stages, position):
        block = _to_block(wav[..., max(entry - position, 0) :])
        position += wav.shape[-1]
        out = resampler.push(block) if len(block) else block
        yield _within(out, given, start, end)
        given += len(out)
        if given >= end:
            return
    total = reader.header.source_samples
    out = resampler.flush(max((total or 0) - entry * source_rate // rate, 0))
    yield _within(out, given, start, end)


def _within(block: Block, position: int, start: int, end: float) -> Block:
    """The part of a block at `position` that lies from `start` up to `end`."""
    first = min(max(start - position, 0), len(block))
    last = int(min(max(end - position, 0), len(block)))
    return block[first : max(first, last)]


def _waveforms(
    model: CodecModel, reader: Reader, stages: int | None, start: int = 0
) -> Iterator[Waveform]:
    """Waveforms [streams, C, n] at the model's rate, up to as many samples as were coded.

    `start` samples lie before the chunk that the reader has come to.
    """
    header = reader.header
    if not model.config.streamable:
        device = model.quantizer.codewords.device
        portions = [
            torch.from_numpy(bitstream.unpack(c, header, stages, reader.coder)) for c in reader
        ]
        codes = torch.cat(portions or [torch.zeros(header.streams, 1, 0).long()], dim=-1)
        yield model.decode(codes.to(device), reader.header.samples)
        return
    length = None if header.samples is None else header.samples - start
    decoder = StreamingDecoder(model, batch=header.streams, length=length)
    held = torch.zeros(header.streams, header.channels, 0)
    given = start
    for chunk in reader:
        for wav in _pushed(decoder, chunk, header, stages, reader.coder):
            out = wav
            if header.samples is None:
                # the end is not known yet, and lies up to one frame before that of the codes
                out = torch.cat([held.to(wav), wav], dim=-1)
                give = max(out.shape[-1] - header.hop_length, 0)
                out, held = out[..., :give], out[..., give:]
            given += out.shape[-1]
            yield out
    if header.samples is None:
        yield held[..., : max((reader.header.samples or 0) - given, 0)]


def _pushed(
    decoder: StreamingDecoder,
    chunk: Chunk,
    header: bitstream.Header,
    stages: int | None,
    coder: Coder | None,
) -> Iterator[Waveform]:
    codes = torch.from_numpy(bitstream.unpack(chunk, header, stages, coder))
    for portion in _portions(codes):
        yield decoder.push(portion)


def _portions(codes: Codes) -> tuple[Codes, ...]:
    """Codes [streams, k, F] in pieces that bound the memory."""
    return codes.split(max(_DECODE_FRAMES // len(codes), 1), dim=-1)


def _to_block(wav: Waveform) -> Block:
    """[streams, C, n] -> [n, streams * C]."""
    return wav.flatten(0, 1).T.contiguous().cpu().numpy()
