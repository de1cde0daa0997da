"""How fast a codec is on this machine, and how much it delays: what `bittern bench` prints."""

import functools
import io
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from bittern.codec import Codec
from bittern.config import SEARCH_WIDTH
from bittern.format import edit as editing
from bittern.format.container import Reader
from bittern.model import Waveform
from bittern.model.stream import StreamingDecoder, StreamingEncoder

_ROUNDS = 5


@dataclass(frozen=True, kw_only=True)
class Speed:
    """One kind of work, on so many threads."""

    work: str  # "encode" or "decode"
    way: str  # "offline", "batch of 8" or "20 ms pushes"
    threads: int
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
    speeds: list[Speed]
    trim_real_time: float  # of a file to the stages of a fifth of its bitrate, by the clock
    resident_mb: float  # of the process at its peak
    resident_start_mb: float  # of it before any work: Python, torch and the weights

    @property
    def latency_ms(self) -> float:
        """From a sample going in to its coming out, at most, were computing free."""
        return self.frame_ms + self.lookahead_ms


def run(
    codec: Codec,
    *,
    seconds: float = 10.0,
    stages: int | None = None,
    search_width: int = SEARCH_WIDTH,
) -> Benchmark:
    """Measure encoding and decoding, whole, in batches and in pushes of one frame.

    Args:
        codec: on the device that is of interest.
        seconds: of audio to a round.
        stages: to code; all by default.
        search_width: of the encoder.
    """
    stages = codec.stages if stages is None else stages
    before = _peak_mb()
    speeds: list[Speed] = []
    threads = torch.get_num_threads()
    try:
        for count in sorted({1, threads}):
            torch.set_num_threads(count)
            speeds += _speeds(codec, _sound(codec, seconds), stages, search_width, count)
    finally:
        torch.set_num_threads(threads)
    return Benchmark(
        model=codec.config.name,
        device=str(codec.device),
        stages=stages,
        search_width=search_width,
        kbps=codec.bitrate_kbps(stages),
        frame_ms=1000 / codec.frame_rate,
        lookahead_ms=1000 * codec.config.delay / codec.sample_rate,
        speeds=speeds,
        trim_real_time=_trim_speed(codec, seconds, stages),
        resident_mb=_peak_mb(),
        resident_start_mb=before,
    )


def _sound(codec: Codec, seconds: float) -> Waveform:
    """Noise that swells and fades; speed does not depend on what it is."""
    samples = round(seconds * codec.sample_rate)
    noise = np.random.default_rng(0).standard_normal((1, codec.channels, samples))
    swell = 0.1 * np.abs(np.sin(np.arange(samples) * (7 / codec.sample_rate)))
    return torch.from_numpy(noise * swell).float().to(codec.device)


def _speeds(
    codec: Codec, wav: Waveform, stages: int, search_width: int, threads: int
) -> list[Speed]:
    encode = functools.partial(codec.encode, stages=stages, search_width=search_width)
    codes = encode(wav)
    batch, batch_codes = wav.expand(8, -1, -1), codes.expand(8, -1, -1)
    seconds = wav.shape[-1] / codec.sample_rate
    tasks: list[tuple[str, str, float, Callable[[], object]]] = [
        ("encode", "offline", seconds, lambda: encode(wav)),
        ("decode", "offline", seconds, lambda: codec.decode(codes)),
        ("encode", "batch of 8", 8 * seconds, lambda: encode(batch)),
        ("decode", "batch of 8", 8 * seconds, lambda: codec.decode(batch_codes)),
    ]
    if codec.config.streamable:
        way = f"{1000 / codec.frame_rate:g} ms pushes"
        tasks += [
            ("encode", way, seconds, lambda: _push_samples(codec, wav, stages, search_width)),
            ("decode", way, seconds, lambda: _push_codes(codec, codes)),
        ]
    return [
        Speed(work=work, way=way, threads=threads, **_clock(call, audio, codec.device))
        for work, way, audio, call in tasks
    ]


def _trim_speed(codec: Codec, seconds: float, stages: int) -> float:
    sound = _sound(codec, seconds)
    data = codec.compress(sound[0], codec.sample_rate, stages=stages)

    def trim() -> None:
        editing.trim(Reader(io.BytesIO(data), "bench"), io.BytesIO(), max(stages // 5, 1))

    return _clock(trim, seconds, torch.device("cpu"))["real_time"]


def _push_samples(codec: Codec, wav: Waveform, stages: int, search_width: int) -> None:
    encoder = StreamingEncoder(codec.model, stages=stages, search_width=search_width)
    for part in wav.split(codec.hop_length, dim=-1):
        encoder.push(part)


def _push_codes(codec: Codec, codes: torch.Tensor) -> None:
    decoder = StreamingDecoder(codec.model)
    for part in codes.split(1, dim=-1):
        decoder.push(part)


def _clock(call: Callable[[], object], audio: float, device: torch.device) -> dict[str, float]:
    rounds: list[tuple[float, float]] = []
    for _ in range(_ROUNDS + 1):  # the first one warms up
        wall, processor = time.perf_counter(), time.process_time()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        rounds.append((time.perf_counter() - wall, time.process_time() - processor))
    walls, processors = zip(*rounds[1:], strict=True)
    return {
        "real_time": audio / statistics.median(walls),
        "processor": audio / max(statistics.median(processors), 1e-9),
    }


def _peak_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 1024)
