"""The networks as an engine of `pipeline.py`: numpy arrays in and out, one or more streams in step."""

from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from bittern.config import CodecConfig
from bittern.model import Latent, Waveform
from bittern.model.allocation import Searched, ladder
from bittern.model.codec_model import CodecModel
from bittern.model.stream import StreamingDecoder, StreamingEncoder

Samples = NDArray[np.float32]  # [S streams, C, n]
Codes = NDArray[np.int64]  # [S, k, f]
T = TypeVar("T")


class TorchEngine:
    """Serves any number of files at once with one model."""

    def __init__(self, model: CodecModel) -> None:
        """A model in eval mode, on the device that does the work."""
        self.model = model

    @property
    def config(self) -> CodecConfig:
        return self.model.config

    def share_threads(self, jobs: int) -> None:
        if jobs > 1:
            torch.set_num_threads(max(torch.get_num_threads() // jobs, 1))

    @property
    def gains(self) -> NDArray[np.float32]:
        """[K], about how much of the latent's squared error each stage takes away."""
        return _to_numpy(self.model.quantizer.gains)

    def encoder(self, streams: int, stages: int, search_width: int) -> "_Encoder[Codes]":
        def code(latent: Latent) -> Codes:
            return _to_numpy(self.model.quantizer.encode(latent, stages, width=search_width))

        return self._encoder(streams, code)

    def searcher(self, streams: int, stages: int, search_width: int) -> "_Encoder[Searched]":
        return self._encoder(
            streams, lambda latent: search(self.model, latent, stages, search_width)
        )

    def _encoder(self, streams: int, code: "Callable[[Latent], T]") -> "_Encoder[T]":
        self.config.refuse_segments()
        latents = StreamingEncoder if self.config.streamable else _WholeLatents
        return _Encoder(latents(self.model, batch=streams), code)

    def decoder(self, streams: int) -> "_Decoder | _WholeDecoder":
        self.config.refuse_segments()
        if not self.config.streamable:
            return _WholeDecoder(self.model, streams)
        return _Decoder(StreamingDecoder(self.model, batch=streams))


class _Encoder(Generic[T]):
    def __init__(
        self, latents: "StreamingEncoder | _WholeLatents", code: Callable[[Latent], T]
    ) -> None:
        self._latents, self._code = latents, code

    def push(self, samples: Samples) -> T:
        return self._code(self._latents.push_latent(torch.from_numpy(samples)))

    def flush(self) -> T:
        return self._code(self._latents.flush_latent())


class _Decoder:
    def __init__(self, stream: StreamingDecoder) -> None:
        self._stream = stream

    def push(self, codes: Codes) -> Samples:
        return _to_numpy(self._stream.push(torch.from_numpy(codes)))

    def conceal(self, frames: int, *, silent: bool = False) -> Samples:
        return _to_numpy(self._stream.conceal(frames, silent=silent))

    def flush(self) -> Samples:
        return _to_numpy(self._stream.push(torch.zeros(self._stream.batch, 1, 0).long()))


class _WholeLatents:
    """For a model that looks ahead: nothing comes out before all is in."""

    def __init__(self, model: CodecModel, *, batch: int) -> None:
        self._model = model
        self._parts = [torch.zeros(batch, model.config.channels, 0)]

    def push_latent(self, samples: Waveform) -> Latent:
        self._parts.append(samples)
        return samples.new_zeros(len(samples), self._model.config.latent_dim, 0)

    def flush_latent(self) -> Latent:
        wav = torch.cat(self._parts, dim=-1).to(self._model.device)
        return self._model.latent_of(wav)


class _WholeDecoder:
    """For a model that looks ahead: nothing comes out before all is in."""

    def __init__(self, model: CodecModel, streams: int) -> None:
        self._model, self._streams = model, streams
        self._parts: list[Codes] = []

    def push(self, codes: Codes) -> Samples:
        self._parts.append(codes)
        return np.zeros((self._streams, self._model.config.channels, 0), np.float32)

    def conceal(self, frames: int, *, silent: bool = False) -> Samples:
        raise NotImplementedError("a model that looks ahead does not conceal")

    def flush(self) -> Samples:
        parts = self._parts or [np.zeros((self._streams, 1, 0), np.int64)]
        codes = torch.from_numpy(np.concatenate(parts, axis=-1))
        return _to_numpy(self._model.decode(codes.to(self._model.quantizer.codewords.device)))


@torch.no_grad()
def search(model: CodecModel, latent: Latent, stages: int, width: int) -> Searched:
    """Code [B, D, F], with the errors of each number of stages and the frames' levels.

    Where the latent does not tell levels, all are 0: frames weigh alike.
    """
    codes = model.quantizer.encode(latent, stages, width=width)
    errors = model.quantizer.errors(latent, codes, ladder(stages).tolist())
    levels = model.levels(latent)
    levels = torch.zeros_like(errors[:, 0]) if levels is None else levels
    return Searched(_to_numpy(codes), _to_numpy(errors), _to_numpy(levels))


def _to_numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.cpu().numpy()
