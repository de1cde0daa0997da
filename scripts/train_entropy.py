"""Fit an entropy model: python scripts/train_entropy.py checkpoint=FOLDER data.root=FOLDER.

Codes the corpus as files are coded, fits `entropy.safetensors` (a few minutes on one thread) and writes it
beside the weights. Further settings: minutes=N of audio at most (default: all), steps=800 for each
stage, seed=0.
"""

import sys
from pathlib import Path

import torch

import bittern
from bittern.checkpoint import write_atomically
from bittern.format.entropy import ENTROPY_FILE
from bittern.shipped import find
from bittern.training.entropy_fit import FitSettings, encode_folder, fit
from bittern.training.settings import key_values


def main(arguments: list[str]) -> None:
    defaults = {"minutes": "inf", "steps": "800", "seed": "0"}
    settings = key_values(arguments, ("checkpoint", "data.root"), defaults)
    codec = bittern.load(settings["checkpoint"])
    folder = find(settings["checkpoint"])
    clips = encode_folder(codec, Path(settings["data.root"]), 60 * float(settings["minutes"]))
    minutes = sum(clip.shape[1] for clip in clips) / codec.frame_rate / 60
    print(f"{len(clips)} clips, {minutes:.1f} minutes", flush=True)
    torch.set_num_threads(1)  # what is fitted is small
    weights = fit(
        clips,
        codec.model.quantizer.codewords.cpu().numpy(),
        FitSettings(steps=int(settings["steps"]), seed=int(settings["seed"])),
        lambda stage, bits: print(f"stage {stage + 1}: {bits:.2f} bits per code", flush=True),
    )
    data = weights.to_bytes()
    write_atomically(folder / ENTROPY_FILE, data)
    print(f"{folder / ENTROPY_FILE}: {len(data)} bytes")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except bittern.CodecError as error:
        print(f"train_entropy: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
