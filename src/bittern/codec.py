"""The codec as most people use it: tensors, bytes and files to codes and back.

    codec = bittern.load("speech-16khz")
    codes = codec.encode(wav)                      # [B, C, T] -> [B, k, F]
    wav = codec.decode(codes)                      # and back
    data = codec.compress(wav[0], 44_100)          # bytes of a .btn file
    wav, sample_rate = codec.decompress(data)

Files and bytes are worked on chunk by chunk, so that memory stays the same at any length. What the
networks do is in `model.py`, how files are worked on in `transcode.py`, samples as they come in
`stream.py`.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from bittern import checkpoint
from bittern import pipeline as transcode
from bittern.audio import streams as audio
from bittern.audio.atomic import atomic_file, refuse_same_file
from bittern.audio.streams import AudioStream
from bittern.config import SEARCH_WIDTH, CodecConfig
from bittern.errors import ConfigError
from bittern.format import container as bitstream
from bittern.format.entropy import ENTROPY_FILE, EntropyModel
from bittern.format.erasures import BurstLoss
from bittern.model.codec_model import CodecModel
from bittern.pipeline import CHUNK_SECONDS, DecodedStream, Receipt
from bittern.shapes import Codes, Waveform


class Audio(NamedTuple):
    """Decompressed audio."""

    wav: Tensor  # float32 [C, T]
    sample_rate: int  # Hz


def load(name_or_folder: str | Path, device: str = "auto") -> "Codec":
    """Load a codec by the name of a shipped checkpoint or by its folder.

    Args:
        name_or_folder: "speech-16khz", or the folder that a training run wrote.
        device: "auto" takes a GPU if there is one; otherwise as torch names it: "cpu", "cuda:1".

    Raises:
        ModelError: there is no such checkpoint, or it is damaged.
        ConfigError: there is no such device.
    """
    return Codec(checkpoint.load(name_or_folder, _device(device)))


class Codec:
    """A model ready for use, with the fingerprint that ties files to it."""

    def __init__(self, loaded: checkpoint.Checkpoint) -> None:
        self._checkpoint = loaded

    @property
    def model(self) -> CodecModel:
        return self._checkpoint.model

    @property
    def fingerprint(self) -> bytes:
        """Of the weights; files made with them carry it."""
        return self._checkpoint.fingerprint

    @property
    def entropy(self) -> EntropyModel | None:
        """The entropy model beside the weights, if there is one."""
        return self._checkpoint.entropy

    @property
    def config(self) -> CodecConfig:
        return self.model.config

    @property
    def device(self) -> torch.device:
        return self.model.quantizer.codewords.device

    @property
    def sample_rate(self) -> int:
        """Hz, of the waveforms that `encode` takes and `decode` gives."""
        return self.config.sample_rate

    @property
    def channels(self) -> int:
        return self.config.channels

    @property
    def hop_length(self) -> int:
        """Samples to one frame."""
        return self.config.hop_length

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self.config.frame_rate

    @property
    def stages(self) -> int:
        """K, the most stages that a frame can be coded with."""
        return self.config.quantizer.stages

    def bitrate_kbps(self, stages: int | None = None) -> float:
        """The nominal bitrate of so many stages (by default all), for each stream of codes."""
        return self._stages(stages, None) * self.config.kbps_per_stage

    def encode(
        self,
        wav: Waveform,
        *,
        stages: int | None = None,
        bitrate_kbps: float | None = None,
        lengths: Sequence[int] | None = None,
        search_width: int = SEARCH_WIDTH,
    ) -> Codes:
        """Code waveforms.

        Args:
            wav: [B, C, T] at `sample_rate`, in -1..1; C is that of the model, or S times as many,
                which are coded apart.
            stages: how many to code, 1 to K; all by default.
            bitrate_kbps: instead of `stages`: the most that are not above this nominal bitrate,
                all channels together.
            lengths: samples that count in each item; what lies behind is ignored. Each item's
                codes are then those that it has alone, and 0 behind its `config.frame_count`.
            search_width: candidates kept from stage to stage (see `search.py`): more sound better at
                the same bitrate, and take that many times as long to quantize. With 1 each code
                is the nearest, and codes of fewer stages are the first of those of more.

        Returns:
            [B, k, F] with F = `config.frame_count` of T, or of the greatest length;
            [B, S, k, F] if there are more channels than the model has.

        Raises:
            ValueError: wrong rank, channels, type or lengths.
            ConfigError: stages or bitrate out of reach.
        """
        if (
            wav.dim() != 3
            or not wav.is_floating_point()
            or wav.shape[1] % self.channels
            or not wav.shape[1]
        ):
            raise ValueError(
                f"wav is {wav.dtype} {list(wav.shape)}; expected floats [batch, {self.channels} (or "
                f"a multiple), samples] at {self.sample_rate} Hz"
            )
        streams = wav.shape[1] // self.channels
        stages = self._stages(stages, bitrate_kbps, streams)
        if streams > 1:
            batch = rearrange(wav, "b (s c) t -> (b s) c t", s=streams)
            each = None if lengths is None else [n for n in lengths for _ in range(streams)]
            codes = self.encode(batch, stages=stages, lengths=each, search_width=search_width)
            return rearrange(codes, "(b s) k f -> b s k f", s=streams)
        wav = wav.detach().to(self.device, torch.float32)
        if lengths is None:
            return self.model.encode(wav, stages, search_width)
        _check_lengths(lengths, wav.shape[0], wav.shape[-1])
        longest = max(lengths, default=0)
        frames = torch.tensor([self.config.frame_count(n) for n in lengths], device=self.device)
        if self.config.streamable:
            inside = torch.arange(longest, device=self.device) < self._column(lengths)
            wav = wav[..., :longest].masked_fill(~inside[:, None], 0.0)
            codes = self.model.encode(wav, stages, search_width)
            counted = torch.arange(codes.shape[-1], device=self.device) < frames[:, None]
            return codes * counted[:, None]
        shape = (len(lengths), stages, self.config.frame_count(longest))
        codes = torch.zeros(shape, dtype=torch.long, device=self.device)
        for item, length in enumerate(lengths):  # a model that looks ahead sees each item's end
            codes[item, :, : frames[item]] = self.model.encode(
                wav[item, None, :, :length], stages, search_width
            )
        return codes

    def decode(
        self,
        codes: Codes,
        *,
        length: int | None = None,
        lengths: Sequence[int] | None = None,
    ) -> Waveform:
        """Turn codes back into waveforms.

        Any prefix of the stages decodes: `codes[:, :k]` is the same audio at a lower bitrate.

        Args:
            codes: [B, k, F] with 1 <= k <= K, or [B, S, k, F] of S times the model's channels.
            length: samples to return; by default all that the frames hold, F * hop less the delay.
            lengths: samples of each item, as given to `encode`; silence behind.

        Returns:
            [B, C, length], or [B, C, greatest of lengths]; of codes with S, [B, S * C, length].

        Raises:
            ValueError: wrong rank, stages, codes or lengths.
        """
        if codes.dim() == 4:
            each = None if lengths is None else [n for n in lengths for _ in codes[0]]
            wav = self.decode(codes.flatten(0, 1), length=length, lengths=each)
            return rearrange(wav, "(b s) c t -> b (s c) t", b=codes.shape[0])
        if codes.dim() != 3:
            raise ValueError(
                f"codes are {list(codes.shape)}; expected [batch, stages, frames], with streams "
                "before the stages where there are several"
            )
        codes = codes.to(self.device)
        if lengths is None:
            return self.model.decode(codes, length)
        if length is not None:
            raise ValueError("give length or lengths, not both")
        most = codes.shape[-1] * self.hop_length - self.config.delay
        _check_lengths(lengths, codes.shape[0], max(most, 0))
        longest = max(lengths, default=0)
        if self.config.streamable:
            wav = self.model.decode(codes, longest)
            inside = torch.arange(longest, device=self.device) < self._column(lengths)
            return wav * inside[:, None]
        wav = torch.zeros(len(lengths), self.channels, longest, device=self.device)
        for item, own in enumerate(lengths):
            counted = codes[item, None, :, : self.config.frame_count(own)]
            wav[item, :, :own] = self.model.decode(counted, own)[0]
        return wav

    def compress(
        self,
        wav: np.ndarray | Tensor,
        sample_rate: int,
        *,
        stages: int | None = None,
        bitrate_kbps: float | None = None,
        coder: str = "auto",
        mono: bool = False,
        search_width: int = SEARCH_WIDTH,
    ) -> bytes:
        """Compress audio in memory to the bytes of a `.btn` file.

        Args:
            wav: floats [T] or [C, T] in -1..1; channels beyond the model's are coded apart, in one
                file and in step.
            sample_rate: of `wav`, Hz; it is resampled to the model's.
            stages: how many to code, 1 to K; all by default.
            bitrate_kbps: instead of `stages`: the most that are not above this nominal bitrate,
                all channels together.
            coder: "range" codes losslessly with the checkpoint's entropy model, "raw" does not;
                "auto" does if there is one.
            mono: mix the channels down to one.
            search_width: see `encode`. A file trimmed to fewer stages sounds as coding with fewer
                does, but with widths above 1 it is not the same to the bit.

        Raises:
            ValueError: wrong rank or type.
            AudioError: a sample is not finite, or the channels do not fit.
            ConfigError: stages or bitrate out of reach.
        """
        samples = wav.detach().cpu().numpy() if isinstance(wav, Tensor) else np.asarray(wav)
        samples = samples[None] if samples.ndim == 1 else samples
        if samples.ndim != 2 or not np.issubdtype(samples.dtype, np.floating):
            raise ValueError(
                f"wav is {samples.dtype} {list(np.shape(wav))}; expected floats [samples] or "
                "[channels, samples]"
            )
        file = io.BytesIO()
        stream = audio.array_stream(samples, sample_rate)
        self.compress_stream(
            stream,
            file,
            stages=stages,
            bitrate_kbps=bitrate_kbps,
            coder=coder,
            mono=mono,
            search_width=search_width,
        )
        return file.getvalue()

    def decompress(
        self,
        data: bytes,
        *,
        stages: int | None = None,
        start: float = 0.0,
        duration: float | None = None,
        recover: bool = False,
    ) -> Audio:
        """Bring compressed audio back, at its original sample rate and of its original length.

        Args:
            data: the bytes of a `.btn` file.
            stages: decode only the first so many.
            start: seconds to leave out; what comes equals that part of the whole.
            duration: seconds to give at most; by default all up to the end.
            recover: conceal what is damaged instead of raising an error.

        Raises:
            FormatError: not a `.btn` file, damaged or cut short.
            ModelMismatchError: made with another model.
        """
        stream = self.decompress_stream(
            io.BytesIO(data), "data", stages=stages, start=start, duration=duration, recover=recover
        )
        samples = audio.gather(stream.blocks, stream.channels)
        return Audio(torch.from_numpy(np.ascontiguousarray(samples)), stream.sample_rate)

    def compress_file(
        self,
        source: str | Path,
        target: str | Path,
        *,
        stages: int | None = None,
        bitrate_kbps: float | None = None,
        chunk_seconds: float = CHUNK_SECONDS,
        coder: str = "auto",
        mono: bool = False,
        search_width: int = SEARCH_WIDTH,
    ) -> Receipt:
        """Compress an audio file; the target is replaced, whole or not at all.

        Raises:
            AudioError: the source cannot be read or used.
            CodecError: the target cannot be written, or is the source.
            ConfigError: see `compress`.
        """
        refuse_same_file(Path(source), Path(target))
        with audio.open_audio(Path(source)) as stream, atomic_file(Path(target)) as file:
            return self.compress_stream(
                stream,
                file,
                stages=stages,
                bitrate_kbps=bitrate_kbps,
                chunk_seconds=chunk_seconds,
                live=not file.seekable(),
                coder=coder,
                mono=mono,
                search_width=search_width,
            )

    def decompress_file(
        self, source: str | Path, target: str | Path, *, stages: int | None = None
    ) -> Receipt:
        """Bring a `.btn` file back as .wav (16 bit), .flac or .ogg.

        The target is replaced, whole or not at all.

        Raises:
            FormatError, ModelMismatchError: see `decompress`.
            AudioError: the target's format is none of these.
            CodecError: the target cannot be written, or is the source.
        """
        refuse_same_file(Path(source), Path(target))
        with bitstream.open_file(Path(source)) as file:
            stream = self.decompress_stream(file, str(source), stages=stages)
            rate, channels = stream.sample_rate, stream.channels
            with audio.create_audio(Path(target), rate, channels, samples=stream.samples) as out:
                for block in stream.blocks:
                    out.write(block)
        return stream.receipt()

    def compress_stream(
        self,
        source: AudioStream,
        file: BinaryIO,
        *,
        stages: int | None = None,
        bitrate_kbps: float | None = None,
        chunk_seconds: float = CHUNK_SECONDS,
        live: bool = False,
        coder: str = "auto",
        mono: bool = False,
        search_width: int = SEARCH_WIDTH,
    ) -> Receipt:
        """Compress audio as it comes, writing each chunk as soon as it is full.

        Args:
            source: read to its end.
            file: where to write.
            stages: see `compress`.
            bitrate_kbps: see `compress`.
            chunk_seconds: audio to a chunk, down to one frame.
            live: `file` cannot be gone back in, as a pipe; it is flushed after each chunk.
            coder: see `compress`.
            mono: see `compress`.
            search_width: see `compress`.

        Raises:
            AudioError, ConfigError: see `compress`.
        """
        streams = transcode.stream_count(source, self.channels, mono=mono)
        return transcode.compress_stream(
            self._checkpoint,
            source,
            file,
            stages=self._stages(stages, bitrate_kbps, streams),
            chunk_seconds=chunk_seconds,
            live=live,
            coder=self._coder(coder),
            mono=mono,
            search_width=search_width,
        )

    def decompress_stream(
        self,
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
            file: a `.btn` file or a pipe with one.
            name: for messages.
            stages: decode only the first so many.
            start: see `decompress`; the chunks before are skipped.
            duration: see `decompress`; the chunks behind are not read.
            recover: see `decompress`; the file must be able to seek. `lost` of what is returned
                names the spans.

        Raises:
            FormatError, ModelMismatchError: see `decompress`; also from `blocks`.
        """
        return transcode.decompress_stream(
            self._checkpoint,
            file,
            name,
            stages=stages,
            start=start,
            duration=duration,
            recover=recover,
        )

    def simulate_loss(
        self,
        file: BinaryIO,
        name: str,
        loss: BurstLoss,
        *,
        stages: int | None = None,
        silent: bool = False,
    ) -> DecodedStream:
        """Decompress as if frames or chunks had been lost; see `transcode.simulate_loss`."""
        return transcode.simulate_loss(
            self._checkpoint, file, name, loss, stages=stages, silent=silent
        )

    def _coder(self, name: str) -> EntropyModel | None:
        if name not in ("auto", "range", "raw"):
            raise ConfigError(f"coder is {name!r}; give auto, range or raw")
        if name == "range" and self.entropy is None:
            raise ConfigError(
                f"{self._checkpoint.folder}: has no {ENTROPY_FILE}, which coder range needs. Fit it "
                "with scripts/train_entropy.py, or use coder raw"
            )
        return None if name == "raw" else self.entropy

    def _stages(self, stages: int | None, bitrate_kbps: float | None, streams: int = 1) -> int:
        if bitrate_kbps is not None:
            if stages is not None:
                raise ValueError("give stages or bitrate_kbps, not both")
            return self.config.stages_for(bitrate_kbps, streams)
        if stages is None:
            return self.stages
        if not 1 <= stages <= self.stages:
            raise ConfigError(f"got {stages} stages; {self.config.name} has 1 to {self.stages}")
        return stages

    def _column(self, lengths: Sequence[int]) -> Tensor:
        return torch.tensor(list(lengths), device=self.device)[:, None]


def _check_lengths(lengths: Sequence[int], batch: int, most: int) -> None:
    if len(lengths) != batch or not all(0 <= length <= most for length in lengths):
        raise ValueError(f"lengths are {list(lengths)}; expected {batch} of 0 to {most}")


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {name!r} is not to be had ({reason})") from None
    return device
