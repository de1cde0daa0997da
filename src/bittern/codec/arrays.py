"""The codec in numpy, of engine onnx: `bittern.load(..., engine="onnx")`. No torch."""

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bittern import checkpoint
from bittern.audio import streams as audio
from bittern.codec.files import FileCodec
from bittern.config import SEARCH_WIDTH, CodingOptions
from bittern.errors import ConfigError
from bittern.model import rate
from bittern.model.allocation import tradeoff_for
from bittern.onnx.engine import OnnxEngine

Samples = NDArray[np.float32]
Codes = NDArray[np.int64]


class Audio(NamedTuple):
    """Decompressed audio."""

    wav: Samples  # [C, T]
    sample_rate: int  # Hz


def load(name_or_folder: str | Path, device: str = "auto") -> "ArrayCodec":
    """The codec of a checkpoint; see `bittern.load`."""
    if device not in ("auto", "cpu"):
        raise ConfigError(
            f"device {device!r} cannot be used by engine onnx; give cpu, or engine torch"
        )
    found = checkpoint.load(name_or_folder)
    return ArrayCodec(**vars(found), engine=OnnxEngine(found))


@dataclass(frozen=True, kw_only=True, eq=False)
class ArrayCodec(FileCodec):
    """A checkpoint with its graphs, ready for use; the same codes and samples as of torch, but for ties."""

    engine: OnnxEngine = field(repr=False)
    device: str = "cpu"

    def encode(
        self,
        wav: NDArray[np.floating],
        *,
        stages: int | None = None,
        bitrate_kbps: float | None = None,
        quality: float | None = None,
        search_width: int = SEARCH_WIDTH,
    ) -> Codes:
        """Code waveforms.

        Args:
            wav: floats [B, C, T] at `sample_rate`, in -1..1; C is that of the model.
            stages: the same for each frame, 1 to K; by default all.
            bitrate_kbps: instead, as many as nominally fit, the same for each frame.
            quality: instead, each frame its own number of stages; -1 stands where a frame has no code.
            search_width: candidates kept from stage to stage.

        Returns:
            [B, k, F] with F = `config.frame_count` of T.

        Raises:
            ValueError: wrong rank, channels or type.
            ConfigError: stages, bitrate or quality out of reach.
        """
        samples = np.asarray(wav)
        if samples.ndim != 3 or samples.dtype.kind != "f" or samples.shape[1] != self.channels:
            raise ValueError(
                f"wav is {samples.dtype} {list(samples.shape)}; expected floats [batch, "
                f"{self.channels}, samples] at {self.sample_rate} Hz"
            )
        options = CodingOptions(
            stages=stages, bitrate_kbps=bitrate_kbps, quality=quality, search_width=search_width
        )
        missing = self.config.frame_count(samples.shape[2]) * self.hop_length - samples.shape[2]
        samples = np.pad(samples.astype(np.float32), ((0, 0), (0, 0), (0, missing)))
        if quality is None:
            most = options.count_stages(self.config)
            return self.engine.encoder(len(samples), most, search_width).push(samples)
        most = rate.most_stages(self.config, 1, options)
        found = self.engine.searcher(len(samples), most, search_width).push(samples)
        return rate.choose_whole(found, tradeoff_for(quality, self.engine.gains))

    def decode(self, codes: NDArray[np.integer], *, length: int | None = None) -> Samples:
        """Turn codes [B, k, F] back into waveforms [B, C, length].

        Args:
            codes: of any prefix of the stages, -1 where a frame has no code.
            length: samples to return; by default all that the frames hold, F * hop less the delay.

        Raises:
            ValueError: wrong rank, stages, codes or length.
        """
        given = np.asarray(codes)
        if (
            given.ndim != 3
            or given.dtype.kind not in "iu"
            or not 1 <= given.shape[1] <= self.stages
        ):
            raise ValueError(
                f"codes are {given.dtype} {list(given.shape)}; expected whole numbers [batch, 1 to "
                f"{self.stages} stages, frames]"
            )
        wav = self.engine.decoder(len(given)).push(given.astype(np.int64))
        if length is not None and not 0 <= length <= wav.shape[2]:
            raise ValueError(
                f"{given.shape[2]} frames hold up to {wav.shape[2]} samples, not {length}"
            )
        return wav[..., :length]

    def compress(self, wav: NDArray[np.floating], sample_rate: int, **options: Any) -> bytes:
        """Compress audio [T] or [C, T] in memory to the bytes of a `.btn` file.

        Args:
            wav: floats in -1..1; channels beyond the model's are coded apart, in step.
            sample_rate: of `wav`, Hz; it is resampled to the model's.
            options: fields of `CodingOptions`, such as `bitrate_kbps=3.0`, `quality=12` or `stages=8`.

        Raises:
            ValueError: wrong rank or type.
            AudioError, ConfigError: see `compress_stream`.
        """
        samples = np.atleast_2d(np.asarray(wav))
        if samples.ndim != 2 or samples.dtype.kind != "f":
            raise ValueError(
                f"wav is {samples.dtype} {list(np.shape(wav))}; expected floats [samples] or "
                "[channels, samples]"
            )
        file = io.BytesIO()
        self.compress_stream(audio.array_stream(samples, sample_rate), file, **options)
        return file.getvalue()

    def decompress(self, data: bytes, **options: Any) -> Audio:
        """Bring compressed audio back, at its original sample rate and of its original length.

        Raises:
            FormatError, ModelMismatchError: see `decompress_stream`, whose options these are.
        """
        stream = self.decompress_stream(io.BytesIO(data), "data", **options)
        return Audio(
            np.ascontiguousarray(audio.gather(stream.blocks, stream.channels)), stream.sample_rate
        )
