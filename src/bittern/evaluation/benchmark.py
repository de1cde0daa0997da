"""How fast a codec is on one thread of this machine, and how much it delays: what `bittern bench` prints.

Engines, and EnCodec where it is installed, take turns, so that what else the machine does slows all alike.
Without torch engine onnx is measured alone.
"""

import contextlib
import importlib.util
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bittern import codec as codecs
from bittern.config import SEARCH_WIDTH

PEER = "EnCodec 24 kHz"
_ROUNDS = 5

Wav = NDArray[np.float32]  # [1, C, T]
Task = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Speed:
    """One kind of work by one engine, on one thread."""

    engine: str  # "torch", "onnx" or `PEER`
    work: str  # "encode" or "decode"
    way: str  # "offline" or "20 ms pushes"
    real_time: float  # seconds of audio in a second, the median of some rounds
    processor: float  # seconds of audio in a second of processor time; other programs matter less


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """All that was measured."""

    model: str
    device: str
    stages: int
    search_width: int
    kbps: float
    frame_ms: float  # audio that has to be there before a frame can be coded
    lookahead_ms: float  # audio after a frame, which the last of its samples wait for
    parameters: dict[str, int]  # of the networks, and of the codebooks that are used
    mega_macs: dict[str, float]  # multiplications a second of audio, in millions; with torch only
    speeds: list[Speed]
    resident_mb: float  # of the process at its peak
    resident_start_mb: float  # of it before any work: Python, engines and the weights

    @property
    def latency_ms(self) -> float:
        """From a sample going in to its coming out, at most, were computing free."""
        return self.frame_ms + self.lookahead_ms

    def find(self, engine: str, work: str, way: str) -> Speed | None:
        """What was measured of it, if anything."""
        wanted = (engine, work, way)
        return next((s for s in self.speeds if (s.engine, s.work, s.way) == wanted), None)


def run(
    model: str,
    device: str = "auto",
    engine: str = "auto",
    *,
    seconds: float = 10.0,
    stages: int | None = None,
    search_width: int = SEARCH_WIDTH,
) -> Benchmark:
    """Measure encoding and decoding, whole and in pushes of one frame.

    Args:
        model: name or folder.
        device: of torch.
        engine: "auto" compares all that there are.
        seconds: of audio to a round.
        stages: to code; all by default.
        search_width: of the encoder.

    Raises:
        ModelError, ConfigError: see `bittern.load`; stages that the model does not have.
    """
    torch = importlib.util.find_spec("torch") is not None
    names = [engine] if engine != "auto" else ["torch", "onnx"] if torch else ["onnx"]
    found = {
        name: codecs.load(model, device if name == "torch" else "auto", name) for name in names
    }
    main = found[names[0]]
    kbps = main.bitrate_kbps(stages)  # refuses stages that it does not have
    coded = main.stages if stages is None else stages
    before = _peak_mb()
    tasks: dict[tuple[str, str, str], Task] = {}
    with _one_thread(torch):
        for name, codec in found.items():
            codec.share_threads(1_000)
            for (work, way), task in _tasks(codec, seconds, coded, search_width).items():
                tasks[name, work, way] = task
        if torch and importlib.util.find_spec("encodec"):
            tasks |= _peer_tasks(seconds)
        clocked = _clock(tasks, seconds)
    return Benchmark(
        model=main.config.name,
        device=str(main.device),
        stages=coded,
        search_width=search_width,
        kbps=kbps,
        frame_ms=1000 / main.frame_rate,
        lookahead_ms=1000 * main.config.delay / main.sample_rate,
        parameters=_parameters(main, coded),
        mega_macs=_mega_macs(found["torch"]) if "torch" in found else {},
        speeds=clocked,
        resident_mb=_peak_mb(),
        resident_start_mb=before,
    )


@contextlib.contextmanager
def _one_thread(torch: bool) -> Iterator[None]:
    if not torch:
        yield
        return
    import torch as library

    threads = library.get_num_threads()
    library.set_num_threads(1)
    try:
        yield
    finally:
        library.set_num_threads(threads)


def _sound(codec: Any, seconds: float) -> Wav:
    """Noise that swells and fades; speed does not depend on what it is."""
    samples = round(seconds * codec.sample_rate)
    noise = np.random.default_rng(0).standard_normal((1, codec.channels, samples))
    swell = 0.1 * np.abs(np.sin(np.arange(samples) * (7 / codec.sample_rate)))
    return (noise * swell).astype(np.float32)


def _tasks(codec: Any, seconds: float, stages: int, width: int) -> dict[tuple[str, str], Task]:
    wav, engine, hop = _sound(codec, seconds), codec.engine, codec.hop_length
    frames = codec.config.frame_count(wav.shape[-1])
    codes = np.random.default_rng(0).integers(0, 2, (1, stages, frames))

    def encode(size: int) -> None:
        encoder = engine.encoder(1, stages, width)
        for begin in range(0, wav.shape[-1], size):
            encoder.push(wav[..., begin : begin + size])
        encoder.flush()

    def decode(size: int) -> None:
        decoder = engine.decoder(1)
        for begin in range(0, frames, size):
            decoder.push(codes[..., begin : begin + size])
        decoder.flush()

    tasks: dict[tuple[str, str], Task] = {
        ("encode", "offline"): lambda: encode(wav.shape[-1]),
        ("decode", "offline"): lambda: decode(frames),
    }
    if codec.config.streamable:
        way = f"{1000 / codec.frame_rate:g} ms pushes"
        tasks["encode", way] = lambda: encode(hop)
        tasks["decode", way] = lambda: decode(1)
    return tasks


def _peer_tasks(seconds: float) -> dict[tuple[str, str, str], Task]:
    """EnCodec of the same shape as the released one, with random weights, at 6 kbit/s."""
    import torch
    from encodec.model import EncodecModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it uses torch's older weight norm
        model = EncodecModel.encodec_model_24khz(pretrained=False).eval()
    model.set_target_bandwidth(6.0)
    wav = torch.randn(1, 1, round(24_000 * seconds))

    @torch.inference_mode()
    def encode() -> Any:
        return model.encode(wav)

    codes = encode()

    @torch.inference_mode()
    def decode() -> None:
        model.decode(codes)

    return {(PEER, "encode", "offline"): encode, (PEER, "decode", "offline"): decode}


def _clock(tasks: dict[tuple[str, str, str], Task], seconds: float) -> list[Speed]:
    """Rounds in turns; the first one warms up."""
    rounds: dict[tuple[str, str, str], list[tuple[float, float]]] = {key: [] for key in tasks}
    for _ in range(_ROUNDS + 1):
        for key, task in tasks.items():
            wall, processor = time.perf_counter(), time.process_time()
            task()
            taken = time.perf_counter() - wall, time.process_time() - processor
            rounds[key].append(taken)
    speeds: list[Speed] = []
    for (engine, work, way), taken in rounds.items():
        wall, processor = (
            seconds / max(statistics.median(column), 1e-9)
            for column in zip(*taken[1:], strict=True)
        )
        speeds.append(Speed(engine=engine, work=work, way=way, real_time=wall, processor=processor))
    return speeds


def _parameters(codec: Any, stages: int) -> dict[str, int]:
    """How many numbers the weights' file holds of each part."""
    from safetensors import safe_open

    from bittern.checkpoint import WEIGHTS_FILE

    counts = {"encoder": 0, "decoder": 0, "codebooks": 0}
    with safe_open(codec.folder / WEIGHTS_FILE, "numpy") as file:
        for key in list(file.keys()):
            part, size = key.split(".")[0], int(np.prod(file.get_slice(key).get_shape()))
            if part in counts:
                counts[part] += size
            elif part == "quantizer":
                counts["codebooks"] += size * stages // codec.stages
    return counts


def _mega_macs(codec: Any) -> dict[str, float]:
    """Of networks and transforms, for each second of audio."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model = codec.model
    wav = torch.zeros(1, codec.channels, codec.sample_rate, device=codec.device)
    with torch.enable_grad(), FlopCounterMode(display=False) as encoding:
        latent = model.latent(model.pad(wav).requires_grad_())
    with torch.enable_grad(), FlopCounterMode(display=False) as decoding:
        model.synthesise(latent.detach().requires_grad_())
    scale = codec.frame_rate / latent.shape[2] / 2e6
    counted = {"encoder": encoding, "decoder": decoding}
    return {side: counter.get_total_flops() * scale for side, counter in counted.items()}


def _peak_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 1024)
