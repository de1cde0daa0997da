"""Measure entropy coding: python scripts/measure_entropy.py checkpoint=FOLDER data.root=FOLDER.

Prints what it saves on the audio below data.root at some bitrates, beside order-0 entropy and xz, and
how fast it is on one thread. With fit.root=FOLDER it also counts other designs' tables on that
audio and prints bits and time of each (decisions/002). More settings: rates=2,4,8,16 in kbit/s,
minutes=N of fit.root at most (default: all), clips=8 of data.root for the designs.
"""

import sys
from pathlib import Path

import torch

import bittern
from bittern.audio.streams import gather, open_audio
from bittern.codec import Codec
from bittern.errors import AudioError, ConfigError
from bittern.evaluation import coders, coding
from bittern.training.entropy_fit import encode_folder
from bittern.training.settings import key_values

SPEED_KBPS, SPEED_SECONDS = 8, 20
DESIGN_KBPS, CHUNK_FRAMES = 4, 304


def main(arguments: list[str]) -> None:
    defaults = {"fit.root": "", "minutes": "inf", "rates": "2,4,8,16", "clips": "8"}
    settings = key_values(arguments, ("checkpoint", "data.root"), defaults)
    torch.set_num_threads(1)
    codec = bittern.load(settings["checkpoint"], device="cpu")
    if codec.entropy is None:
        raise ConfigError(f"{settings['checkpoint']}: has no entropy model to measure")
    root = Path(settings["data.root"])
    wavs = [_read(path, codec) for path in sorted(root.rglob("*.flac"))]
    if not wavs:
        raise ConfigError(f"{root}: has no .flac files")
    _print_savings(codec, wavs, [float(rate) for rate in settings["rates"].split(",")])
    _print_speeds(codec, wavs)
    if settings["fit.root"]:
        seconds = 60 * float(settings["minutes"])
        stages = codec.config.stages_for(min(DESIGN_KBPS, codec.bitrate_kbps()))
        clips = encode_folder(codec, Path(settings["fit.root"]), seconds, stages)
        _print_designs(codec, wavs[: int(settings["clips"])], clips)


def _read(path: Path, codec: Codec) -> torch.Tensor:
    with open_audio(path) as stream:
        if stream.sample_rate != codec.sample_rate or stream.channels != codec.channels:
            raise AudioError(f"{path}: is not at the codec's rate and channels")
        return torch.from_numpy(gather(stream.blocks, codec.channels).copy())


def _print_savings(codec: Codec, wavs: list[torch.Tensor], rates: list[float]) -> None:
    print("| nominal | stages | raw | coded | saved | least | order 0 | xz -9 | xz -9, joined |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in coding.savings(codec, wavs, rates):
        raw, coded = (8 * size / row.seconds / 1000 for size in (row.raw, row.coded))
        shares = (row.saved, row.least, row.order0, row.xz, row.xz_joined)
        cells = " | ".join(f"{100 * share:.1f} %" for share in shares)
        nominal = codec.bitrate_kbps(row.stages)
        print(f"| {nominal:g} | {row.stages} | {raw:.2f} | {coded:.2f} | {cells} |", flush=True)


def _print_speeds(codec: Codec, wavs: list[torch.Tensor]) -> None:
    wav = torch.cat(wavs, dim=1)[:, : SPEED_SECONDS * codec.sample_rate]
    rate = min(SPEED_KBPS, codec.bitrate_kbps())
    print(f"\n| at {rate:g} kbit/s, one thread | coder | x real time | by processor time |")
    print("|---|---|---|---|")
    for row in coding.speeds(codec, wav, rate):
        print(f"| {row.work} | {row.coder} | {row.clock:.0f} | {row.processor:.0f} |", flush=True)


def _print_designs(codec: Codec, wavs: list[torch.Tensor], clips: list) -> None:
    assert codec.entropy
    stages, bits = len(clips[0]), codec.config.quantizer.bits_per_code
    codes = [codec.encode(wav[None], stages=stages)[0].numpy() for wav in wavs]
    chunks = [
        clip[:, begin : begin + CHUNK_FRAMES]
        for clip in codes
        for begin in range(0, clip.shape[1], CHUNK_FRAMES)
    ]
    words = codec.model.quantizer.codewords[:stages].numpy()
    minutes = sum(clip.shape[1] for clip in clips) / codec.frame_rate / 60
    print(f"\n{stages} stages, tables counted on {minutes:.0f} minutes\n")
    print("| design | bits per code | saved | encode us | decode us | saved bits per us |")
    print("|---|---|---|---|---|---|")
    found = coders.designs(clips, words)
    costs = [coders.cost(design, chunks) for design in found]
    for row in [*costs, coders.cost_of_model(codec.entropy, chunks, bits)]:
        saved = bits - row.bits
        print(
            f"| {row.design} | {row.bits:.2f} | {100 * saved / bits:.1f} % | {row.encode_us:.1f} | "
            f"{row.decode_us:.1f} | {2 * saved / (row.encode_us + row.decode_us):.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except bittern.CodecError as error:
        print(f"measure_entropy: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
