"""The engine `onnx` of `pipeline.py`: graphs run by onnxruntime, codes searched by numpy. No torch."""

import os
import threading
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from safetensors import safe_open

from bittern.checkpoint import WEIGHTS_FILE, Checkpoint
from bittern.config import CodecConfig
from bittern.errors import ModelError
from bittern.model.allocation import Searched, ladder
from bittern.model.concealment import Fade
from bittern.model.search import Books, errors, search

_BLOCK = 512  # frames of all streams at once, which bounds the memory

Samples = NDArray[np.float32]  # [S streams, C, n]
Codes = NDArray[np.int64]  # [S, k, f]
Latent = NDArray[np.float32]  # [S, f, D]
Arrays = dict[str, NDArray[Any]]
T = TypeVar("T")


class OnnxEngine:
    """Serves any number of files at once with one model, on a CPU."""

    def __init__(self, found: Checkpoint) -> None:
        """A checkpoint that streams; graphs are loaded when they are first needed.

        Raises:
            ModelError: it looks ahead.
        """
        if not found.config.streamable:
            raise ModelError(
                f"{found.folder}: looks ahead, which engine onnx does not do; give engine torch"
            )
        self.threads = int(os.environ.get("OMP_NUM_THREADS") or 0)  # of each file; 0: all cores
        self._found = found
        self._lock = threading.Lock()
        self._graphs: dict[str, Graph] = {}

    @property
    def config(self) -> CodecConfig:
        return self._found.config

    def share_threads(self, jobs: int) -> None:
        self.threads = max((self.threads or os.cpu_count() or 1) // jobs, 1)

    @property
    def gains(self) -> NDArray[np.float32]:
        return (self.books.codewords**2).sum(2).mean(1)

    @cached_property
    def books(self) -> Books:
        with safe_open(self._found.folder / WEIGHTS_FILE, "numpy") as file:
            return Books(file.get_tensor("quantizer.codewords").astype(np.float32), np)

    def graph(self, side: str) -> "Graph":
        """The "encoder" or the "decoder", ready to run."""
        with self._lock:
            if side not in self._graphs:
                self._graphs[side] = Graph(self._found, side, self.threads)
            return self._graphs[side]

    def encoder(self, streams: int, stages: int, search_width: int) -> "_Encoder[Codes]":
        return _Encoder(
            self, streams, lambda *latent: self._search(latent[0], stages, search_width)
        )

    def searcher(self, streams: int, stages: int, search_width: int) -> "_Encoder[Searched]":
        def code(latent: Latent, levels: NDArray[np.float32]) -> Searched:
            codes = self._search(latent, stages, search_width)
            rows = codes.swapaxes(1, 2).reshape(-1, stages)
            vectors, rungs = latent.reshape(len(rows), -1), ladder(stages).tolist()
            left = np.stack(errors(self.books.codewords, vectors, rows, rungs))
            left = left.reshape(-1, *latent.shape[:2]).swapaxes(0, 1)  # [S, R, f]
            return Searched(codes, left, levels)

        return _Encoder(self, streams, code)

    def _search(self, latent: Latent, stages: int, width: int) -> Codes:
        streams, frames, dim = latent.shape
        codes = search(self.books, latent.reshape(-1, dim), stages, width)
        return codes.reshape(streams, frames, stages).swapaxes(1, 2)

    def decoder(self, streams: int) -> "_Decoder":
        return _Decoder(self, streams)


class Graph:
    """A graph in a session, whose weights are those of the checkpoint's folder."""

    def __init__(self, found: Checkpoint, side: str, threads: int) -> None:
        """Load `side`.onnx, or make it.

        Raises:
            ModelError: it is missing, of other weights or not usable, and cannot be made here.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(found.folder.resolve())
        )
        data = _read(found, side)
        try:
            self.session = onnxruntime.InferenceSession(
                data, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its errors have no class of their own
            raise ModelError(
                f"{found.folder}: {side}.onnx cannot be used ({str(error).splitlines()[0]})"
            ) from None
        self._names = [output.name for output in self.session.get_outputs()]
        self._shapes: dict[str, list[Any]] = {
            each.name: each.shape
            for each in self.session.get_inputs()
            if each.name.startswith("state.")
        }
        self._channels = found.config.channels

    def begin(self, streams: int) -> Arrays:
        """The state before the first frame."""
        sizes = {"streams": streams, "rows": streams * self._channels}
        return {
            name: np.zeros([sizes.get(str(size)) or int(size) for size in shape], np.float32)
            for name, shape in self._shapes.items()
        }

    def run(self, state: Arrays, **given: NDArray[Any]) -> Arrays:
        """What comes of inputs and a state, which moves on."""
        values: list[Any] = list(self.session.run(None, {**given, **state}))
        found: Arrays = dict(zip(self._names, values, strict=True))
        for name in state:
            state[name] = found.pop("next." + name.removeprefix("state."))
        return found


def _read(found: Checkpoint, side: str) -> bytes:
    """A graph that belongs to the weights: that of the folder, or one made for them."""
    path: Path = found.folder / f"{side}.onnx"
    data = path.read_bytes() if path.is_file() else b""
    if found.fingerprint.hex().encode() in data:
        return data
    try:
        from bittern.onnx.networks import build
    except ModuleNotFoundError:
        state = "is of other weights" if data else "is not there"
        raise ModelError(
            f"{path}: {state}; make it with `bittern export {found.folder} {found.folder}` "
            "(pip install onnx), or give engine torch"
        ) from None
    return build(found, side).SerializeToString()


class _Encoder(Generic[T]):
    def __init__(
        self, engine: OnnxEngine, streams: int, code: Callable[[Latent, NDArray[np.float32]], T]
    ) -> None:
        self._graph, self._code, self._config = engine.graph("encoder"), code, engine.config
        self._streams = streams
        self._begin()

    def _begin(self) -> None:
        self._state = self._graph.begin(self._streams)
        self._samples = 0
        self._buffer = np.zeros((self._streams, self._config.channels, 0), np.float32)

    def push(self, samples: Samples) -> T:
        hop = self._config.hop_length
        self._samples += samples.shape[-1]
        pending = np.concatenate([self._buffer, samples], axis=-1) if self._buffer.size else samples
        whole = pending.shape[-1] // hop * hop
        self._buffer = pending[..., whole:].copy()
        return self._analyse(pending[..., :whole])

    def flush(self) -> T:
        hop = self._config.hop_length
        frames = self._config.frame_count(self._samples) - self._samples // hop
        silence = frames * hop - self._buffer.shape[-1]
        coded = self._analyse(np.pad(self._buffer, ((0, 0), (0, 0), (0, silence))))
        self._begin()
        return coded

    def _analyse(self, wav: Samples) -> T:
        step = max(_BLOCK // self._streams, 1) * self._config.hop_length
        latents = [np.zeros((self._streams, 0, self._config.latent_dim), np.float32)]
        levels = [np.zeros((self._streams, 0), np.float32)]
        for begin in range(0, wav.shape[-1], step):
            found = self._graph.run(self._state, samples=wav[..., begin : begin + step])
            latents.append(found["latent"])
            levels.append(found.get("levels", np.zeros(found["latent"].shape[:2], np.float32)))
        return self._code(np.concatenate(latents, axis=1), np.concatenate(levels, axis=1))


class _Decoder:
    def __init__(self, engine: OnnxEngine, streams: int) -> None:
        self._graph, self._config, self._streams = engine.graph("decoder"), engine.config, streams
        self._state = self._graph.begin(streams)
        self._fade = Fade()
        self._due = self._config.delay  # samples that are not to be given

    def push(self, codes: Codes) -> Samples:
        size = self._config.quantizer.codebook_size
        if codes.size and not (codes.min() >= -1 and codes.max() < size):
            raise ValueError(
                f"codes run from {codes.min()} to {codes.max()}; expected -1 to {size - 1}"
            )
        if codes.shape[-1]:
            self._fade.end()
        return self._synthesise(codes, np.ones(codes.shape[-1], np.float32))

    def conceal(self, frames: int, *, silent: bool = False) -> Samples:
        gains = self._fade.gains(frames, silent=silent)
        lost = np.full((self._streams, 1, len(gains)), -1, np.int64)
        wav = self._synthesise(lost, gains.astype(np.float32))
        if self._fade.over:
            self._state = self._graph.begin(self._streams)
        rest = self._given(frames - len(gains))
        return np.concatenate([wav, np.zeros((*wav.shape[:2], rest), np.float32)], axis=-1)

    def flush(self) -> Samples:
        return self._synthesise(np.zeros((self._streams, 1, 0), np.int64), np.zeros(0, np.float32))

    def _synthesise(self, codes: Codes, fade: NDArray[np.float32]) -> Samples:
        step = max(_BLOCK // self._streams, 1)
        parts = [np.zeros((self._streams, self._config.channels, 0), np.float32)]
        for begin in range(0, codes.shape[-1], step):
            here = slice(begin, begin + step)
            found = self._graph.run(self._state, codes=codes[..., here], fade=fade[here])
            parts.append(found["samples"])
        wav = np.concatenate(parts, axis=-1) if len(parts) != 2 else parts[1]
        return wav[..., wav.shape[-1] - self._given(codes.shape[-1]) :]

    def _given(self, frames: int) -> int:
        """How many samples of so many frames are given: all but those that the synthesis lags by."""
        samples = frames * self._config.hop_length
        late = min(self._due, samples)
        self._due -= late
        return samples - late
