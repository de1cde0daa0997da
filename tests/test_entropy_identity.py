"""The same codes give the same bytes everywhere, and everywhere they decode."""

import io
import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import entropy_program
import numpy as np
import pytest
import reference_entropy
import soundfile as sf
import torch
from entropy_program import CHUNK, digest, read, write
from test_entropy import BITS, STAGES, golden_weights, likely_codes

import bittern
from bittern.codec import Codec
from bittern.format import payload as packing
from bittern.format import ragged
from bittern.format.container import Reader
from bittern.format.entropy import ENTROPY_FILE, EntropyModel

ROOT = Path(__file__).parents[1]
OTHER_PYTHON = os.environ.get("BITTERN_OTHER_PYTHON")  # with another torch; Bittern need not be in


@pytest.fixture(scope="module")
def codec() -> Codec:
    return bittern.load("speech-16khz", device="cpu")


@pytest.fixture(scope="module")
def speech_codes(codec: Codec) -> np.ndarray:
    """[K, F], 3 s of real speech."""
    wav, _ = sf.read(ROOT / "examples/speech.flac", frames=48_000, dtype="float32")
    return codec.encode(torch.from_numpy(wav)[None, None])[0].numpy()


@pytest.fixture(scope="module")
def folder(codec: Codec, speech_codes: np.ndarray, tmp_path_factory) -> Path:
    """What `entropy_program.py` works on."""
    assert codec.entropy
    folder = tmp_path_factory.mktemp("identity")
    weights = (bittern.checkpoint.find("speech-16khz") / ENTROPY_FILE).read_bytes()
    (folder / ENTROPY_FILE).write_bytes(weights)
    wav, rate = sf.read(ROOT / "examples/speech.flac", frames=48_000, dtype="float32")
    sf.write(folder / "speech.wav", wav, rate, subtype="FLOAT")
    np.save(folder / "codes.npy", speech_codes)
    (folder / "here.btn").write_bytes(write(speech_codes[None], codec.entropy))
    return folder


def run_program(python: str, folder: Path, threads: int, *argv: str) -> dict[str, Any]:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = os.environ | dict.fromkeys(names, str(threads))
    environment["PYTHONPATH"] = str(ROOT / "src")
    program = str(Path(entropy_program.__file__))
    done = subprocess.run(
        [python, program, str(folder), *argv], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_second_implementation_gives_the_same_bytes(
    codec: Codec, speech_codes: np.ndarray, folder: Path
) -> None:
    assert codec.entropy
    codes, bits = (
        speech_codes[:16, :150],
        codec.config.quantizer.bits_per_code,
    )  # later ones gain less
    reference = reference_entropy.Reference.read((folder / ENTROPY_FILE).read_bytes())
    payload = packing.pack_ranged(codes[None], bits, codec.entropy)
    raw = packing.stage_bytes(1, codes.shape[1], bits)
    assert sum(coded for _, coded in packing.split(payload, len(codes), raw)) > len(codes) / 2
    assert reference_entropy.encode(reference, codes, bits) == payload
    assert np.array_equal(reference_entropy.decode(reference, payload, *codes.shape, bits), codes)


def test_a_second_implementation_agrees_on_any_weights() -> None:
    model = EntropyModel(golden_weights(), "golden")
    reference = reference_entropy.Reference.read(golden_weights())
    for seed in range(10):
        codes = likely_codes(model, 1, 1 + seed * 12, seed)[0]
        payload = packing.pack_ranged(codes[None], BITS, model)
        size = packing.stage_bytes(1, codes.shape[1], BITS)
        coded = [coded for _, coded in packing.split(payload, STAGES, size)]
        assert all(coded) or seed < 2
        assert reference_entropy.encode(reference, codes, BITS) == payload
        back = reference_entropy.decode(reference, payload, STAGES, codes.shape[1], BITS)
        assert np.array_equal(back, codes)


def test_python_rounds_as_the_reference_takes_for_granted() -> None:
    """Division and product are correctly rounded: against fractions of any length."""
    rng = np.random.default_rng(0)
    for total, weight in rng.integers(1, 2**30, (2000, 2)).tolist():
        scale = (2**24 - 1024) / total
        assert scale == float(Fraction(2**24 - 1024, total))
        assert weight * scale == float(weight * Fraction(scale))
        assert np.float64(weight) * np.float64(scale) == weight * scale


def test_threads_and_portions_do_not_change_a_byte(folder: Path, speech_codes: np.ndarray) -> None:
    expected = digest((folder / "here.btn").read_bytes())
    found = run_program(sys.executable, folder, threads=8)  # this process has one
    assert set(found["files"].values()) == {expected}
    assert found["decoded"] == {"here.btn": digest(speech_codes)}


def test_chunk_by_chunk_equals_whole(codec: Codec, speech_codes: np.ndarray) -> None:
    """A chunk's bytes are those of a file that has no other."""
    assert codec.entropy
    whole = write(speech_codes[None], codec.entropy, live=True)
    for begin in range(0, speech_codes.shape[1], CHUNK):
        part = speech_codes[None, :, begin : begin + CHUNK]
        bits = codec.config.quantizer.bits_per_code
        assert packing.pack_ranged(part, bits, codec.entropy) in whole
    assert np.array_equal(read(whole, codec.entropy)[0], speech_codes)


def test_the_golden_file_is_read_and_written_as_ever() -> None:
    """Made once by `make_golden.py`, and committed."""
    golden = ROOT / "tests/golden"
    weights = (golden / ENTROPY_FILE).read_bytes()
    data, codes = (golden / "speech.btn").read_bytes(), np.load(golden / "codes.npy").astype(int)
    model = EntropyModel(weights, "golden")
    assert np.array_equal(read(data, model), codes)
    assert write(codes, model, streams=len(codes)) == data
    raw = [
        not coded
        for chunk in Reader(io.BytesIO(data), "golden")
        for _, coded in packing.split(chunk.payload, STAGES, 2 * CHUNK * BITS // 8)
    ]
    assert sum(raw) == 1


def test_the_golden_file_of_version_2_is_read_and_written_as_ever() -> None:
    golden = ROOT / "tests/golden"
    model = EntropyModel((golden / ENTROPY_FILE).read_bytes(), "golden")
    data, codes = (golden / "ragged.btn").read_bytes(), np.load(golden / "ragged.npy").astype(int)
    assert np.array_equal(read(data, model), codes)
    chunks = list(Reader(io.BytesIO(data), "golden"))
    pieces = [ragged.split(chunk.payload, chunk.layers) for chunk in chunks]
    assert [(chunk.layers, found.total) for chunk, found in zip(chunks, pieces, strict=True)] == [
        (1, 2),
        (2, 2),
        (2, 2),
    ]
    assert [[layer.coded for layer in found.layers] for found in pieces] == [
        [True],
        [True, True],
        [False, False],
    ]
    for begin, chunk in zip(range(CHUNK, codes.shape[2], CHUNK), chunks[1:], strict=True):
        part = codes[..., begin : begin + CHUNK]  # the first chunk was trimmed
        assert ragged.pack(part, BITS, STAGES, model) == (chunk.payload, chunk.layers)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2, 8])
@pytest.mark.parametrize("which", ["this", "other"])
def test_one_file_from_all(
    folder: Path, speech_codes: np.ndarray, which: str, threads: int
) -> None:
    """Threads, oneDNN, portions, and another torch (`BITTERN_OTHER_PYTHON`): one file, one meaning.

    From audio, whose codes come from floats, the same is asked of batches and portions alone.
    """
    python = sys.executable if which == "this" else OTHER_PYTHON
    if python is None:
        pytest.skip("BITTERN_OTHER_PYTHON does not name an interpreter with another torch")
    found = run_program(python, folder, threads, "speech-16khz")
    print(json.dumps(found, indent=1))
    assert (found["torch"] == torch.__version__) == (which == "this")
    assert set(found["files"].values()) == {digest((folder / "here.btn").read_bytes())}
    assert found["decoded"] == {"here.btn": digest(speech_codes)}
    for onednn in ("on", "off"):
        assert (
            len({found["audio"][way] for way in found["audio"] if f"oneDNN {onednn}" in way}) == 1
        )
