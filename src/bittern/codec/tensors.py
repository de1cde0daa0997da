"""The codec in torch: tensors to codes and back, with networks that can be worked on."""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import pad

from bittern import checkpoint, weights
from bittern.audio import streams as audio
from bittern.codec.files import FileCodec
from bittern.config import SEARCH_WIDTH, CodingOptions, whole_number
from bittern.errors import ConfigError
from bittern.format import ecdc
from bittern.format.ecdc import EcdcSegment
from bittern.model import Codes, Waveform, rate
from bittern.model.allocation import tradeoff_for
from bittern.model.arguments import ArrayLike, as_codes, as_lengths, as_samples, as_wav, check_wav
from bittern.model.codec_model import CodecModel
from bittern.model.engine import TorchEngine, search
from bittern.model.segments import Segment, decode_segments, encode_segments


class Audio(NamedTuple):
    """Decompressed audio."""

    wav: Tensor  # float32 [C, T]
    sample_rate: int  # Hz


def load(name_or_folder: str | Path, device: str = "auto") -> "Codec":
    """The codec of a checkpoint, on a device; see `bittern.load`."""
    _survive_forks()
    chosen = _device(device)
    found = checkpoint.load(name_or_folder)
    return Codec(**vars(found), model=weights.build(found, chosen))


@dataclass(frozen=True, kw_only=True, eq=False)
class Codec(FileCodec):
    """A checkpoint with its networks, ready for use."""

    model: CodecModel = field(repr=False)
    engine: TorchEngine = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "engine", TorchEngine(self.model))

    @property
    def device(self) -> torch.device:
        return self.model.quantizer.codewords.device

    def encode(
        self,
        wav: ArrayLike,
        *,
        stages: int | None = None,
        bitrate_kbps: float | None = None,
        quality: float | None = None,
        lengths: Sequence[int] | None = None,
        search_width: int = SEARCH_WIDTH,
    ) -> Codes:
        """Code waveforms.

        Args:
            wav: [B, C, T] at `sample_rate`: tensor, array or lists of floats in -1..1, or of int16,
                int32, int8 or uint8 at full scale; C is that of the model, or S times as many,
                which are coded apart.
            stages: the same for each frame, 1 to K; by default all.
            bitrate_kbps: instead, as many as nominally fit, the same for each frame.
            quality: instead, each frame its own number of stages, see `CodingOptions`; -1 stands where
                a frame has no code.
            lengths: samples that count in each item; what follows is ignored. Each item's codes are
                then those that it has alone, and 0 after its `config.frame_count` (-1 with a quality).
            search_width: candidates kept from stage to stage: more sound better at the same bitrate,
                and take that many times as long to quantize. With 1 each code is the nearest, and
                codes of fewer stages are the first of those of more.

        Returns:
            [B, k, F] with F = `config.frame_count` of T, or of the greatest length;
            [B, S, k, F] if there are more channels than the model has.

        Raises:
            ValueError: wrong rank, channels, type or lengths; networks that are not float32.
            AudioError: a sample is NaN, infinite or out of all range.
            ConfigError: stages, bitrate or quality out of reach.
        """
        expected = f"[batch, {self.channels} (or a multiple), samples] at {self.sample_rate} Hz"
        wav = as_wav(wav, expected, batch=None, channels=self.channels, many=True)
        self._check_precision()
        if lengths is not None:
            lengths = as_lengths(lengths, *wav.shape[::2])
            longest = max(lengths, default=0)
            wav = wav[..., :longest].masked_fill(_outside(lengths, longest, wav.device), 0.0)
        check_wav(wav)
        streams = wav.shape[1] // self.channels
        options = CodingOptions(
            stages=stages, bitrate_kbps=bitrate_kbps, quality=quality, search_width=search_width
        )
        if quality is None:
            most = options.count_stages(self.config, streams)
        else:
            most = rate.most_stages(self.config, streams, options)
        batch = rearrange(wav, "b (s c) t -> (b s) c t", s=streams)
        batch = batch.to(self.device)
        if lengths is None:
            codes = self._encode(batch, options, most, [None] * len(batch))
        else:
            each = [length for length in lengths for _ in range(streams)]
            codes = self._encode_each(batch, each, options, most)
        return rearrange(codes, "(b s) k f -> b s k f", s=streams) if streams > 1 else codes

    def _check_precision(self) -> None:
        dtype = self.model.quantizer.codewords.dtype
        if dtype is not torch.float32:
            raise ValueError(
                f"the networks are {dtype}; they work in float32 (codec.model.float()). Half "
                "precision is torch.autocast's, which leaves codes as they are"
            )

    def _encode(
        self, wav: Waveform, options: CodingOptions, most: int, frames: Sequence[int | None]
    ) -> Codes:
        """Code [B, C, T], of which so many frames of each item count where they are chosen among."""
        if options.quality is None:
            return self.model.encode(wav, most, options.search_width)
        latent = self.model.latent_of(wav)
        searched = search(self.model, latent, most, options.search_width)
        tradeoff = tradeoff_for(options.quality, self.engine.gains)
        codes = np.full_like(searched.codes, -1)
        for item, own in enumerate(frames):
            codes[item, :, :own] = rate.choose_whole(searched.stream(item, own), tradeoff)[0]
        return torch.from_numpy(codes).to(self.device)

    def _encode_each(
        self, wav: Waveform, lengths: list[int], options: CodingOptions, most: int
    ) -> Codes:
        """Code [B, C, T] of which so many samples of each item count, and 0 follows."""
        frames = [self.config.frame_count(length) for length in lengths]
        after = 0 if options.quality is None else -1
        if self.config.streamable:
            codes = self._encode(wav, options, most, frames)
            return codes.masked_fill(_outside(frames, codes.shape[-1], codes.device), after)
        items = [  # a model that looks ahead sees each item's end
            self._encode(wav[item, None, :, :length], options, most, [None])
            for item, length in enumerate(lengths)
        ]
        whole = self.config.frame_count(wav.shape[-1])
        return torch.cat([pad(own, (0, whole - own.shape[-1]), value=after) for own in items])

    def decode(
        self,
        codes: ArrayLike,
        *,
        length: int | None = None,
        lengths: Sequence[int] | None = None,
    ) -> Waveform:
        """Turn codes back into waveforms.

        Any prefix of the stages decodes: `codes[:, :k]` is the same audio at a lower bitrate.

        Args:
            codes: [B, k, F] with 1 <= k <= K, or [B, S, k, F] of S times the model's channels; whole
                numbers of any type.
            length: samples to return; by default all that the frames hold, F * hop less the delay.
            lengths: samples of each item, as given to `encode`; silence follows them.

        Returns:
            [B, C, length], or [B, C, greatest of lengths]; of codes with S, [B, S * C, length].

        Raises:
            ValueError: wrong type, rank, stages, codes or lengths; networks that are not float32.
        """
        expected = "[batch, stages, frames], with streams before the stages where there are several"
        codes = as_codes(codes, expected).to(self.device)
        if codes.dim() == 4:
            streams = codes.shape[1]
            each = None if lengths is None else [n for n in lengths for _ in range(streams)]
            wav = self.decode(codes.flatten(0, 1), length=length, lengths=each)
            return rearrange(wav, "(b s) c t -> b (s c) t", s=streams)
        if codes.dim() != 3:
            raise ValueError(f"codes are {list(codes.shape)}; expected {expected}")
        self._check_precision()
        if lengths is None:
            length = None if length is None else whole_number(length, "length")
            return self.model.decode(codes, length)
        if length is not None:
            raise ValueError("give length or lengths, not both")
        most = codes.shape[-1] * self.hop_length - self.config.delay
        lengths = as_lengths(lengths, codes.shape[0], max(most, 0))
        longest = max(lengths, default=0)
        if self.config.streamable:
            wav = self.model.decode(codes, longest)
            return wav.masked_fill(_outside(lengths, longest, wav.device), 0.0)
        shape = len(lengths), self.channels, longest
        wav = torch.zeros(shape, dtype=torch.float32, device=self.device)
        for item, own in enumerate(lengths):
            counted = codes[item, None, :, : self.config.frame_count(own)]
            wav[item, :, :own] = self.model.decode(counted, own)[0]
        return wav

    def compress(self, wav: ArrayLike, sample_rate: int, **options: Any) -> bytes:
        """Compress audio in memory to the bytes of a `.btn` file.

        Args:
            wav: [T] or [C, T], of what `encode` takes; channels beyond the model's are coded apart,
                in one file and in step.
            sample_rate: of `wav`, Hz, a whole number of any type; it is resampled to the model's.
            options: fields of `CodingOptions`, such as `bitrate_kbps=3.0`, `quality=12` or `stages=8`.

        Raises:
            ValueError: wrong rank or type.
            AudioError: a sample is not finite, or the channels do not fit.
            ConfigError: stages, bitrate or quality out of reach.
        """
        expected = "[samples] or [channels, samples]"
        samples = as_samples(wav, expected)
        samples = samples[None] if samples.dim() == 1 else samples
        if samples.dim() != 2:
            raise ValueError(f"wav is {samples.dtype} {list(samples.shape)}; expected {expected}")
        rate = whole_number(sample_rate, "sample rate")
        file = io.BytesIO()
        stream = audio.array_stream(samples.cpu().numpy(), rate)
        self.compress_stream(stream, file, **options)
        return file.getvalue()

    def decompress(self, data: bytes, **options: Any) -> Audio:
        """Bring compressed audio back, at its original sample rate and of its original length.

        Args:
            data: the bytes of a `.btn` file.
            options: see `decompress_stream`.

        Raises:
            FormatError: not a `.btn` file, damaged or cut short.
            ModelMismatchError: made with another model.
        """
        stream = self.decompress_stream(io.BytesIO(data), "data", **options)
        samples = audio.gather(stream.blocks, stream.channels)
        return Audio(torch.from_numpy(np.ascontiguousarray(samples)), stream.sample_rate)

    def compress_ecdc(self, wav: Tensor, *, stages: int) -> bytes:
        """The bytes of an `.ecdc` file, as the `encodec` package writes them without language model.

        Args:
            wav: floats [C, T] at `sample_rate`, in -1..1.
            stages: 1 to K.

        Raises:
            ConfigError: the model is none whose files the package knows.
        """
        if self.config.name not in ecdc.MODELS:
            raise ConfigError(
                f".ecdc files are of {' and '.join(ecdc.MODELS)}; {self.config.name} writes .btn files"
            )
        found = encode_segments(self.model, wav[None].to(self.device, torch.float32), stages)
        parts = [
            EcdcSegment(codes[0].cpu().numpy(), None if level is None else float(level))
            for codes, level in found
        ]
        return ecdc.write(self.config, wav.shape[-1], parts, stages)

    def decompress_ecdc(self, data: bytes, name: str = "data") -> Audio:
        """Bring the bytes of an `.ecdc` file back.

        Raises:
            FormatError: it is none, is cut short, or needs the language model.
            ModelMismatchError: made with another model.
        """
        samples, parts = ecdc.read(data, name, self.config)
        segments = [
            Segment(
                torch.from_numpy(codes)[None].to(self.device),
                None if level is None else torch.tensor([[level]], device=self.device),
            )
            for codes, level in parts
        ]
        wav = decode_segments(self.model, segments, samples)
        return Audio(wav[0].cpu(), self.sample_rate)


@cache
def _survive_forks() -> None:
    """Let forked processes work on one thread: those that torch shares its work out to are not there."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def _outside(lengths: Sequence[int], longest: int, device: torch.device) -> Tensor:
    """Whether a step comes after the end of its item: [B, 1, longest]."""
    own = torch.tensor(list(lengths), dtype=torch.long, device=device)
    return torch.arange(longest, device=device) >= own[:, None, None]


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"device {name!r} cannot be used ({reason}); give auto, cpu or cuda"
        ) from None
    return device
