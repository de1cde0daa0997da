"""Hear yourself through the codec, frame by frame: python examples/stream_microphone.py [FILE] [SECONDS].

With the package `sounddevice` and no FILE from the microphone to the loudspeakers; otherwise from FILE
(by default the example) to build/streamed.wav. Each push is 20 ms.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch

import bittern

STAGES = 12
EXAMPLE = Path(__file__).with_name("speech.flac")


def from_file(path: Path, rate: int, samples: int) -> Iterator[np.ndarray]:
    """Blocks of a mono file at the codec's rate."""
    wav, given = soundfile.read(path, dtype="float32")
    assert given == rate, f"{path} has {given} Hz; expected {rate}"
    for start in range(0, len(wav), samples):
        yield wav[start : start + samples]


def from_microphone(rate: int, samples: int) -> Iterator[np.ndarray]:
    import sounddevice

    with sounddevice.InputStream(rate, samples, channels=1, dtype="float32") as microphone:
        while True:
            block, _ = microphone.read(samples)
            yield block[:, 0]


@torch.inference_mode()
def main(source: Path | None = None, seconds: float = 10.0) -> None:
    torch.set_num_threads(1)
    codec = bittern.load("speech-16khz", device="cpu")
    encoder = bittern.StreamingEncoder(codec.model, stages=STAGES)
    decoder = bittern.StreamingDecoder(codec.model)
    rate, hop = codec.sample_rate, codec.hop_length
    if source is None:
        import sounddevice

        blocks, out = from_microphone(rate, hop), sounddevice.OutputStream(rate, hop, channels=1)
        write = lambda wav: out.write(wav[:, None])  # noqa: E731
        out.start()
    else:
        blocks, heard = from_file(source, rate, hop), []
        write = heard.append
    slowest, frames = 0.0, 0
    for block in blocks:
        began = time.perf_counter()
        codes = encoder.push(torch.from_numpy(block)[None, None])  # [1, stages, frames]
        write(decoder.push(codes)[0, 0].numpy())
        slowest, frames = max(slowest, time.perf_counter() - began), frames + codes.shape[-1]
        if frames >= seconds * codec.frame_rate:
            break
    kbps = codec.bitrate_kbps(STAGES)
    print(f"{frames} frames at {kbps:g} kbit/s; the slowest push took {1000 * slowest:.1f} ms")
    if source is not None:
        write(decoder.push(encoder.flush())[0, 0].numpy())
        Path("build").mkdir(exist_ok=True)
        soundfile.write("build/streamed.wav", np.concatenate(heard), rate)
        print("build/streamed.wav")


if __name__ == "__main__":
    given = [Path(name) for name in sys.argv[1:2]]
    if not given:
        try:
            import sounddevice

            sounddevice.query_devices(kind="input")
        except Exception:  # no package, no library, no microphone
            given = [EXAMPLE]
    main(*(given or [None]), *(float(text) for text in sys.argv[2:3]))
