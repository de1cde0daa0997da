"""Codes to `.btn` bytes and back in a process of its own; prints what came out as JSON.

    python entropy_program.py FOLDER [CHECKPOINT]

FOLDER has codes.npy [k, F] and entropy.safetensors; every .btn file in it is decoded. With a
CHECKPOINT, torch is loaded as well and used as people use it: example speech to files, with oneDNN
and without, alone and in a batch. Started by `test_entropy_identity.py`, also under another Python.
"""

import hashlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from bittern.format import entropy
from bittern.format.container import Header, Reader, Writer
from bittern.format.entropy import EntropyModel

CHUNK = 96
_ROWS = entropy._ROWS


def header_for(
    model: EntropyModel, stages: int, chunk_frames: int = CHUNK, **fields: Any
) -> Header:
    """Of a mono file at 16 kHz with hop 320."""
    return Header(
        fingerprint=bytes(8),
        sample_rate=16_000,
        source_rate=16_000,
        channels=1,
        source_channels=1,
        hop_length=320,
        bits_per_code=(model.codebook_size - 1).bit_length(),
        stages=stages,
        extra_frames=0,
        chunk_frames=chunk_frames,
        entropy=model.fingerprint,
        **fields,
    )


def write(codes: np.ndarray, model: EntropyModel, *, live: bool = False, **fields: Any) -> bytes:
    """A file of codes [S, k, F]."""
    header = header_for(model, codes.shape[1], **fields)
    samples = codes.shape[2] * header.hop_length
    file = io.BytesIO()
    writer = Writer(file, header, live=live, find_coder=lambda _: model)
    for begin in range(0, codes.shape[2], header.chunk_frames):
        writer.write(codes[..., begin : begin + header.chunk_frames])
    writer.finish(samples, samples)
    return file.getvalue()


def read(data: bytes, model: EntropyModel) -> np.ndarray:
    """The codes [S, k, F] of a file."""
    reader = Reader(io.BytesIO(data), "file", find_coder=lambda _: model)
    empty = np.zeros((reader.header.streams, reader.header.stages, 0), np.int64)
    return np.concatenate([empty, *reader.codes()], axis=2)


def digest(data: bytes | np.ndarray) -> str:
    raw = data if isinstance(data, bytes) else np.ascontiguousarray(data, np.int64).tobytes()
    return hashlib.sha256(raw).hexdigest()[:16]


def files(codes: np.ndarray, model: EntropyModel) -> dict[str, str]:
    """Digests of the same file, its probabilities worked out in portions of several sizes."""
    found = {}
    for rows in (1, 16, _ROWS, 100_000):
        entropy._ROWS = rows
        found[f"{rows} rows"] = digest(write(codes[None], model))
    entropy._ROWS = _ROWS
    return found


def with_torch(folder: Path, checkpoint: str) -> dict[str, Any]:
    """The same file amid torch, and what files come from audio."""
    import os

    import soundfile as sf
    import torch

    import bittern

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    codec = bittern.load(checkpoint, device="cpu")
    model = codec.entropy
    assert model
    codes = np.load(folder / "codes.npy")
    wav, rate = sf.read(folder / "speech.wav", dtype="float32")
    batch = torch.from_numpy(wav)[None, None].repeat(16, 1, 1)
    found: dict[str, Any] = {"torch": torch.__version__, "files": {}, "audio": {}}
    for onednn in (True, False):
        with torch.backends.mkldnn.flags(enabled=onednn):
            way = f"oneDNN {'on' if onednn else 'off'}"
            alone = codec.encode(batch[:1], stages=len(codes)).numpy()
            items = codec.encode(batch, stages=len(codes)).numpy()
            found["files"][way] = digest(write(codes[None], model))
            found["audio"] |= {f"{way}, alone": digest(write(alone, model))}
            found["audio"] |= {
                f"{way}, item {i} of 16": digest(write(items[i : i + 1], model)) for i in (0, 15)
            }
            found["audio"][f"{way}, chunk by chunk"] = digest(
                write(read(codec.compress(wav, rate, stages=len(codes)), model), model)
            )
    return found


def main(folder: Path, checkpoint: str | None = None) -> None:
    model = EntropyModel((folder / "entropy.safetensors").read_bytes(), "entropy")
    found: dict[str, Any] = {
        "numpy": np.__version__,
        "files": files(np.load(folder / "codes.npy"), model),
        "decoded": {
            path.name: digest(read(path.read_bytes(), model)) for path in folder.glob("*.btn")
        },
    }
    if checkpoint:
        more = with_torch(folder, checkpoint)
        found["files"] |= more.pop("files")
        found |= more
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:3])
