"""Make golden files; only for a new version of the format: python tests/make_golden.py VERSION.

`golden/speech.btn` (version 1) and `golden/ragged.btn` (version 2) hold codes of two streams, range coded
by the small model in `golden/entropy.safetensors`; `codes.npy` and `ragged.npy` are what they must decode
to. All come from a seed. `test_entropy_identity.py` reads and writes them.
"""

import io
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from entropy_program import CHUNK, read, write
from test_entropy import golden_weights, likely_codes

from bittern.format.container import Reader, Writer, prefix
from bittern.format.entropy import ENTROPY_FILE, EntropyModel

GOLDEN = Path(__file__).parent / "golden"
FRAMES = 250


def make(version: int) -> None:
    {1: make_uniform, 2: make_ragged}[version](EntropyModel(golden_weights(), "golden"))


def make_uniform(model: EntropyModel) -> None:
    (GOLDEN / ENTROPY_FILE).write_bytes(golden_weights())
    sizes = [CHUNK, CHUNK, FRAMES - 2 * CHUNK]
    chunks = [likely_codes(model, 2, frames, seed) for seed, frames in enumerate(sizes)]
    chunks[1][:, 2] = np.random.RandomState(9).randint(model.codebook_size, size=(2, CHUNK))
    codes = np.concatenate(chunks, axis=2)  # all coded but for one stage, which stays raw
    np.save(GOLDEN / "codes.npy", codes.astype(np.uint8))
    (GOLDEN / "speech.btn").write_bytes(write(codes, model, streams=2))


def make_ragged(model: EntropyModel) -> None:
    """Three chunks of two layers: the first trimmed to one of them, the last raw."""
    rng = np.random.RandomState(2)
    counts = np.repeat(rng.choice([0, 2, 3, 4, 4, 4, 4, 4, 4, 4], (2, FRAMES // 5)), 5, axis=1)
    codes = np.concatenate([likely_codes(model, 2, FRAMES - 50, 7), noise(rng, model)], axis=2)
    codes = np.where(np.arange(model.stages)[:, None] < counts[:, None], codes, -1)
    whole = Reader(io.BytesIO(write(codes, model, streams=2, version=2)), "golden")
    file = io.BytesIO()
    writer = Writer(file, whole.header)
    for chunk in whole:
        layers = 1 if chunk.index == 0 else chunk.layers
        payload = prefix(chunk, whole.header, layers)
        writer.copy(replace(chunk, layers=layers, payload=payload))
    writer.finish(whole.header.samples, whole.header.source_samples)
    (GOLDEN / "ragged.btn").write_bytes(file.getvalue())
    np.save(GOLDEN / "ragged.npy", read(file.getvalue(), model).astype(np.int8))


def noise(rng: np.random.RandomState, model: EntropyModel) -> np.ndarray:
    return rng.randint(model.codebook_size, size=(2, model.stages, 50))


if __name__ == "__main__":
    sys.exit(make(int(sys.argv[1])))
