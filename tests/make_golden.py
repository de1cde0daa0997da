"""Make the golden file anew, which only a new version of the format justifies: python tests/make_golden.py.

`golden/speech.btn` holds codes of two streams, range coded by the small model in
`golden/entropy.safetensors`; `golden/codes.npy` is what it must decode to. All come from a seed.
`test_entropy_identity.py` reads and writes it.
"""

import sys
from pathlib import Path

import numpy as np
from entropy_program import CHUNK, write
from test_entropy import golden_weights, likely_codes

from bittern.format.entropy import ENTROPY_FILE, EntropyModel

GOLDEN = Path(__file__).parent / "golden"
FRAMES = 250


def make(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    weights = golden_weights()
    (folder / ENTROPY_FILE).write_bytes(weights)
    model = EntropyModel(weights, "golden")
    sizes = [CHUNK, CHUNK, FRAMES - 2 * CHUNK]
    chunks = [likely_codes(model, 2, frames, seed) for seed, frames in enumerate(sizes)]
    chunks[1][:, 2] = np.random.RandomState(9).randint(model.codebook_size, size=(2, CHUNK))
    codes = np.concatenate(chunks, axis=2)  # all coded but for one stage, which stays raw
    np.save(folder / "codes.npy", codes.astype(np.uint8))
    data = write(codes, model, streams=2)
    (folder / "speech.btn").write_bytes(data)


if __name__ == "__main__":
    sys.exit(make(GOLDEN))
