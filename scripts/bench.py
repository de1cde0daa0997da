"""Speed on one CPU thread beside EnCodec 24 kHz, in one process: python scripts/bench.py [MODEL].

Both codecs work on the same ten seconds of speech, each at its own sample rate, at 6 kbit/s, in turns;
speed does not depend on the weights, so EnCodec's are random. Prints medians as times real time, and
their ratio.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import soundfile
import soxr
import torch
from encodec.model import EncodecModel

import bittern

SECONDS, ROUNDS = 10, 7
SPEECH = Path(__file__).parents[1] / "examples" / "speech.flac"


def clock(work: Callable[[], object]) -> float:
    """Seconds that one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@torch.inference_mode()
def main() -> None:
    torch.set_num_threads(1)
    codec = bittern.load(sys.argv[1] if len(sys.argv) > 1 else "speech-16khz", device="cpu")
    peer = EncodecModel.encodec_model_24khz(pretrained=False).eval()
    peer.set_target_bandwidth(6.0)
    speech, rate = soundfile.read(SPEECH, frames=SECONDS * 16_000, dtype="float32")
    wav, wav_peer = (
        torch.from_numpy(soxr.resample(speech, rate, wanted))[None, None]
        for wanted in (codec.sample_rate, peer.sample_rate)
    )
    codes, codes_peer = codec.encode(wav, bitrate_kbps=6.0), peer.encode(wav_peer)
    tasks: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "encode": (lambda: codec.encode(wav, bitrate_kbps=6.0), lambda: peer.encode(wav_peer)),
        "decode": (lambda: codec.decode(codes), lambda: peer.decode(codes_peer)),
    }
    print(f"one thread, {SECONDS} s of audio, 6 kbit/s, medians of {ROUNDS} in turns")
    for name, (ours, theirs) in tasks.items():
        pairs = [(clock(ours), clock(theirs)) for _ in range(ROUNDS + 1)][1:]  # the first warms up
        mine, other = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(
            f"{name}: bittern {SECONDS / mine:.0f}x real time, encodec 24 kHz "
            f"{SECONDS / other:.1f}x, ratio {other / mine:.1f}"
        )


if __name__ == "__main__":
    main()
