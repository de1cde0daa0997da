"""Lyra v2 as a baseline, from its three network files (Apache-2.0), run by the package `ai-edge-litert`.

The files are in `lyra/model_coeffs` of github.com/google/lyra; nothing is downloaded. Frames of 20 ms are
coded and decoded one by one as Lyra's own encoder and decoder do, without its concealment and comfort
noise, which packets that all arrive never ask for.

Source: lyra/{soundstream_encoder,residual_vector_quantizer,lyra_gan_model}.cc of that repository.
"""

import functools
import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from bittern.evaluation.library import Decoded, LibraryFamily, Samples

FILES = ("soundstream_encoder.tflite", "quantizer.tflite", "lyragan.tflite")
QUANTIZERS = {"3.2": 16, "6": 30, "9.2": 46}  # kbit/s: of 4 bits a frame
SAMPLE_RATE, HOP = 16_000, 320


def family(folder: Path) -> LibraryFamily:
    """Lyra at its three rates, from a folder of its network files."""
    name = "Lyra v2"
    version, missing = "", None
    lacking = [file for file in FILES if not (folder / file).is_file()]
    if importlib.util.find_spec("ai_edge_litert") is None:
        missing = f"{name}: not installed; pip install ai-edge-litert"
    elif lacking:
        missing = (
            f"{name}: {folder} lacks {' and '.join(lacking)}; they are in google/lyra on GitHub"
        )
    else:
        data = b"".join((folder / file).read_bytes() for file in FILES)
        version = f"networks {hashlib.sha256(data).hexdigest()[:16]}"
    work = functools.partial(_work, folder)
    return LibraryFamily(name, tuple(QUANTIZERS), version, work, SAMPLE_RATE, missing)


def _work(folder: Path, samples: Samples, sample_rate: int, rate: str) -> Decoded:
    encoder, quantizer, decoder = (_interpreter(folder / file) for file in FILES)
    count = QUANTIZERS[rate]
    extract = encoder.get_signature_runner("serving_default")
    quantize = quantizer.get_signature_runner("encode")
    look_up = quantizer.get_signature_runner("decode")
    generate = decoder.get_signature_runner("serving_default")
    most = look_up.get_input_details()["encoding_indices"]["shape"][0]
    frames = np.pad(samples, (0, -len(samples) % HOP)).astype(np.float32).reshape(-1, HOP)
    decoded = []
    for frame in frames:
        features = extract(input_audio=frame[None])["output_0"]
        found = quantize(input_frames=features, num_quantizers=np.int32(count))["output_0"]
        indices = np.full((most, 1, 1), -1, np.int32)  # -1: not sent
        indices[:count, 0, 0] = found.reshape(-1)[:count]
        features = look_up(encoding_indices=indices)["output_0"]
        decoded.append(generate(input_audio=features)["output_0"].reshape(-1))
    size = len(frames) * count * 4 // 8  # whole bytes a frame: 8, 15 or 23
    return Decoded(np.concatenate(decoded), sample_rate, size, size)


def _interpreter(path: Path) -> Any:
    """A new one for each clip: the networks remember what they heard."""
    module = importlib.import_module("ai_edge_litert.interpreter")
    return module.Interpreter(str(path), num_threads=1)
