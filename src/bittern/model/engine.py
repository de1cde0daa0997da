"""The networks as an engine of `pipeline.py`: numpy arrays in and out, one or more streams in step."""

import numpy as np
import torch
from numpy.typing import NDArray

from bittern.config import CodecConfig
from bittern.model.allocation import Searched, ladder
from bittern.model.codec_model import CodecModel
from bittern.model.search import search_codes
from bittern.model.stream import StreamingDecoder, StreamingEncoder
from bittern.shapes import Latent, Waveform

Samples = NDArray[np.float32]  # [S streams, C, n]
Codes = NDArray[np.int64]  # [S, k, f]


class TorchEngine:
    """Serves any number of files at once with one model."""

    def __init__(self, model: CodecModel) -> None:
        """A model in eval mode, on the device that does the work."""
        self.model = model

    @property
    def config(self) -> CodecConfig:
        return self.model.config

    @property
    def decoder_field(self) -> int | None:
        return self.model.decoder_field

    @property
    def gains(self) -> NDArray[np.float32]:
        """[K], about how much of the latent's squared error each stage takes away."""
        return _to_numpy(self.model.quantizer.gains)

    def encoder(self, streams: int, stages: int, search_width: int) -> "_Encoder | _WholeEncoder":
        if not self.config.streamable:
            return _WholeEncoder(self.model, streams, stages, search_width)
        return _Encoder(
            StreamingEncoder(self.model, stages=stages, batch=streams, search_width=search_width)
        )

    def searcher(
        self, streams: int, stages: int, search_width: int
    ) -> "_Searcher | _WholeSearcher":
        if not self.config.streamable:
            return _WholeSearcher(self.model, streams, stages, search_width)
        return _Searcher(
            StreamingEncoder(self.model, stages=stages, batch=streams, search_width=search_width)
        )

    def decoder(self, streams: int) -> "_Decoder | _WholeDecoder":
        if not self.config.streamable:
            return _WholeDecoder(self.model, streams)
        return _Decoder(StreamingDecoder(self.model, batch=streams))


class _Encoder:
    def __init__(self, stream: StreamingEncoder) -> None:
        self._stream = stream

    def push(self, samples: Samples) -> Codes:
        return _to_numpy(self._stream.push(torch.from_numpy(samples)))

    def flush(self) -> Codes:
        return _to_numpy(self._stream.flush())


class _Searcher:
    def __init__(self, stream: StreamingEncoder) -> None:
        self._stream = stream

    def push(self, samples: Samples) -> Searched:
        return self._search(self._stream.push_latent(torch.from_numpy(samples)))

    def flush(self) -> Searched:
        return self._search(self._stream.flush_latent())

    def _search(self, latent: Latent) -> Searched:
        stream = self._stream
        return search(stream.model, latent, stream.stages, stream.search_width)


class _Decoder:
    def __init__(self, stream: StreamingDecoder) -> None:
        self._stream = stream

    def push(self, codes: Codes) -> Samples:
        return _to_numpy(self._stream.push(torch.from_numpy(codes)))

    def conceal(self, frames: int, *, silent: bool = False) -> Samples:
        return _to_numpy(self._stream.conceal(frames, silent=silent))

    def flush(self) -> Samples:
        return _to_numpy(self._stream.push(torch.zeros(self._stream.batch, 1, 0).long()))


class _WholeEncoder:
    """For a model that looks ahead: nothing comes out before all is in."""

    def __init__(self, model: CodecModel, streams: int, stages: int, search_width: int) -> None:
        self._model, self._stages, self._search_width = model, stages, search_width
        self._parts: list[Samples] = [np.zeros((streams, model.config.channels, 0), np.float32)]

    def push(self, samples: Samples) -> Codes:
        self._parts.append(samples)
        return np.zeros((len(samples), self._stages, 0), np.int64)

    def flush(self) -> Codes:
        wav = torch.from_numpy(np.concatenate(self._parts, axis=-1)).to(self._model.device)
        return _to_numpy(self._model.encode(wav, self._stages, self._search_width))


class _WholeSearcher:
    """For a model that looks ahead: nothing comes out before all is in."""

    def __init__(self, model: CodecModel, streams: int, stages: int, search_width: int) -> None:
        self._model, self._stages, self._search_width = model, stages, search_width
        self._parts: list[Samples] = [np.zeros((streams, model.config.channels, 0), np.float32)]

    def push(self, samples: Samples) -> Searched:
        self._parts.append(samples)
        return self._search(samples[..., :0])

    def flush(self) -> Searched:
        return self._search(np.concatenate(self._parts, axis=-1))

    def _search(self, samples: Samples) -> Searched:
        wav = torch.from_numpy(samples).to(self._model.device)
        return search_wav(self._model, wav, self._stages, self._search_width)


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


def search_wav(model: CodecModel, wav: Waveform, stages: int, width: int) -> Searched:
    """Code whole audio, [B, C, T], with what it takes to choose stages; see `search`."""
    if wav.shape[-1] == 0:
        return search(model, wav.new_zeros(len(wav), model.config.latent_dim, 0), stages, width)
    with torch.no_grad():
        return search(model, model.latent(model.pad(wav)), stages, width)


@torch.no_grad()
def search(model: CodecModel, latent: Latent, stages: int, width: int) -> Searched:
    """Code [B, D, F], with the errors of each number of stages and the frames' levels.

    Where the latent does not tell levels, all are 0: frames weigh alike.
    """
    codes = search_codes(model.quantizer, latent, stages, width=width)
    errors = model.quantizer.errors(latent, codes, ladder(stages).tolist())
    levels = model.levels(latent)
    levels = torch.zeros_like(errors[:, 0]) if levels is None else levels
    return Searched(_to_numpy(codes), _to_numpy(errors), _to_numpy(levels))


def _to_numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.cpu().numpy()
