"""Fit an entropy model: python scripts/train_entropy.py checkpoint=FOLDER data.root=FOLDER.

Codes the corpus, fits `entropy.safetensors` (a few minutes on one thread) and writes it beside the
weights. Further settings: minutes=N of audio at most (default: all), steps=400 for each stage, seed=0.
"""

import sys
from pathlib import Path

import numpy as np
import torch

import bittern
from bittern.audio import READABLE, Resampler, gather, mix, open_audio
from bittern.checkpoint import write_atomically
from bittern.codec import Codec
from bittern.entropy import ENTROPY_FILE
from bittern.errors import ConfigError
from bittern.shipped import find
from bittern.training.entropy_fit import FitSettings, fit


def main(arguments: list[str]) -> None:
    settings = {"minutes": "inf", "steps": "400", "seed": "0"}
    given = {key: value for key, _, value in (argument.partition("=") for argument in arguments)}
    for key in ("checkpoint", "data.root"):
        if not given.get(key):
            raise ConfigError(f"{key} is missing; give {key}=FOLDER")
    for key in given:
        if key not in (*settings, "checkpoint", "data.root"):
            raise ConfigError(f"no setting is called {key}; see the top of this script")
    settings |= given
    torch.set_num_threads(1)
    codec = bittern.load(settings["checkpoint"])
    folder = find(settings["checkpoint"])
    clips = _codes(codec, Path(settings["data.root"]), 60 * float(settings["minutes"]))
    weights = fit(
        clips,
        codec.model.quantizer.codewords.cpu().numpy(),
        FitSettings(steps=int(settings["steps"]), seed=int(settings["seed"])),
        lambda stage, bits: print(f"stage {stage + 1}: {bits:.2f} bits per code", flush=True),
    )
    data = weights.to_bytes()
    write_atomically(folder / ENTROPY_FILE, data)
    print(f"{folder / ENTROPY_FILE}: {len(data)} bytes")


def _codes(codec: Codec, root: Path, seconds: float) -> list[np.ndarray]:
    """Codes [K, F] of audio below a folder, in an order that mixes its parts."""
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in READABLE)
    if not paths:
        raise ConfigError(f"{root}: has no audio")
    clips: list[np.ndarray] = []
    coded = 0.0
    for place in np.random.default_rng(0).permutation(len(paths)):
        if coded >= seconds:
            break
        with open_audio(paths[place]) as stream:
            resampler = Resampler(stream.sample_rate, codec.sample_rate, codec.channels)
            blocks = [resampler.push(mix(block, codec.channels)) for block in stream.blocks]
        samples = gather([*blocks, resampler.flush()], codec.channels)
        wav = torch.from_numpy(np.ascontiguousarray(samples))
        clips.append(codec.encode(wav[None])[0].cpu().numpy())
        coded += wav.shape[-1] / codec.sample_rate
    print(f"{len(clips)} clips, {coded / 60:.1f} minutes", flush=True)
    return clips


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except bittern.CodecError as error:
        print(f"train_entropy: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
