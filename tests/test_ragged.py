"""Chunks whose frames have different numbers of stages: exact, in layers, trimmed without a model."""

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
import reference_entropy
import soundfile as sf
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_bitstream import header_of
from test_entropy import BITS, SIZE, STAGES, golden_weights, likely_codes

import bittern
from bittern.codec import Codec
from bittern.format import ragged
from bittern.format.container import CHUNK_OVERHEAD_BYTES, Reader, Writer, stage_counts
from bittern.format.counts import decode_counts, encode_counts
from bittern.format.edit import cat, trim_to_share
from bittern.format.entropy import EntropyModel
from bittern.model.allocation import frame_weights, ladder, solve

MODEL = EntropyModel(golden_weights(), "golden")
EXAMPLE = Path(__file__).parents[1] / "examples/speech.flac"


def cut_to(codes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Codes [S, k, F] with counts [S, F] of them left, -1 in place of the others."""
    return np.where(np.arange(codes.shape[1])[:, None] < counts[:, None], codes, -1)


def ragged_codes(streams: int, frames: int, seed: int, *, likely: bool = True) -> np.ndarray:
    """Codes [S, STAGES, F] with numbers of stages that mostly stay for some frames."""
    rng = np.random.default_rng(seed)
    held = rng.integers(0, STAGES + 1, (streams, -(-frames // 5))).repeat(5, axis=1)[:, :frames]
    counts = np.where(rng.random(held.shape) < 0.2, rng.integers(0, STAGES + 1, held.shape), held)
    if likely:
        with contextlib.suppress(ValueError):  # not all random bytes decode
            return cut_to(likely_codes(MODEL, streams, frames, seed), counts)
    return cut_to(rng.integers(0, SIZE, (streams, STAGES, frames)), counts)


cases = given(
    streams=st.integers(1, 3),
    frames=st.integers(1, 150),
    seed=st.integers(0, 10**6),
    likely=st.booleans(),
    coder=st.sampled_from([None, MODEL]),
)


@settings(max_examples=60, deadline=None, derandomize=True)
@cases
def test_any_codes_come_back_and_layers_are_shares(streams, frames, seed, likely, coder) -> None:
    codes = ragged_codes(streams, frames, seed, likely=likely)
    counts = (codes >= 0).sum(axis=1)
    payload, layers = ragged.pack(codes, BITS, STAGES, coder)
    shape = (streams, frames)
    assert len(payload) <= ragged.longest(*shape, STAGES, BITS)
    for kept in range(1, layers + 1):
        prefix = ragged.prefix(payload, kept)
        left = np.ceil(counts * kept / layers)
        assert payload.startswith(prefix)
        assert np.array_equal(ragged.read_counts(prefix, kept, shape, STAGES), left)
        back = ragged.unpack(prefix, kept, shape, BITS, STAGES, coder)
        assert np.array_equal(back, cut_to(codes, left))


@pytest.mark.slow
@settings(max_examples=5000, deadline=None, derandomize=True)
@cases
def test_5000_chunks_of_any_codes_come_back(streams, frames, seed, likely, coder) -> None:
    codes = ragged_codes(streams, frames, seed, likely=likely)
    payload, layers = ragged.pack(codes, BITS, STAGES, coder)
    back = ragged.unpack(payload, layers, (streams, frames), BITS, STAGES, coder)
    assert np.array_equal(back, codes)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    most=st.integers(1, 255),
    streams=st.integers(1, 3),
    frames=st.integers(1, 200),
    seed=st.integers(0, 10**6),
)
def test_any_counts_come_back(most: int, streams: int, frames: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, most + 1, (streams, frames))
    counts = counts[:, np.sort(rng.integers(0, frames, frames))]  # some stay
    assert np.array_equal(decode_counts(encode_counts(counts, most), *counts.shape, most), counts)


def test_a_second_implementation_gives_the_same_bytes() -> None:
    reference = reference_entropy.Reference.read(golden_weights())
    for seed in range(12):
        codes = ragged_codes(1, 1 + 12 * seed, seed, likely=seed % 3 > 0)
        for coder, other in ((MODEL, reference), (None, None)):
            payload, layers = ragged.pack(codes, BITS, STAGES, coder)
            args = (layers, STAGES, BITS)
            assert reference_entropy.encode_ragged(other, codes[0], *args) == payload
            for kept in range(1, layers + 1):
                part = ragged.prefix(payload, kept)
                frames = codes.shape[2]
                back = reference_entropy.decode_ragged(reference, part, kept, frames, STAGES, BITS)
                expected = ragged.unpack(part, kept, (1, frames), BITS, STAGES, MODEL)
                assert np.array_equal(back, expected[0])


def test_bits_flipped_under_a_right_checksum_are_an_error_or_codes_in_range() -> None:
    codes = ragged_codes(2, 100, seed=8)
    rng = np.random.default_rng(0)
    refused = 0
    for coder in (MODEL, None):
        payload, layers = ragged.pack(codes, BITS, STAGES, coder)
        for place in rng.integers(len(payload), size=150):
            damaged = bytearray(payload)
            damaged[place] ^= 1 << rng.integers(8)
            try:
                back = ragged.unpack(bytes(damaged), layers, (2, 100), BITS, STAGES, MODEL)
            except ValueError:
                refused += 1
                continue
            assert back.shape == codes.shape
            assert -1 <= back.min() <= back.max() < SIZE
            ragged.count_stages(back)
    assert 20 < refused < 300


def test_nonsense_is_refused() -> None:
    rng = np.random.default_rng(1)
    for size in range(200):
        with pytest.raises(ValueError, match=r"layer|length|stages|range coder"):
            ragged.unpack(rng.bytes(size), 3, (1, 40), 10, 32, MODEL)
    codes = ragged_codes(1, 60, seed=3)
    payload, layers = ragged.pack(codes, BITS, STAGES, MODEL)
    for wrong in (payload + b"\0", payload[:-1], b"\0" + payload[1:], b""):
        with pytest.raises(ValueError, match="layer"):
            ragged.unpack(wrong, layers, (1, 60), BITS, STAGES, MODEL)
    with pytest.raises(ValueError, match="need an entropy model"):
        ragged.unpack(payload, layers, (1, 60), BITS, STAGES, None)


def test_a_chunk_in_which_no_frame_has_a_code() -> None:
    codes = np.full((2, STAGES, 7), -1)
    for coder in (MODEL, None):
        payload, layers = ragged.pack(codes, BITS, STAGES, coder)
        assert np.array_equal(ragged.unpack(payload, layers, (2, 7), BITS, STAGES, coder), codes)


# real speech, with stages as they are allocated


@pytest.fixture(scope="module")
def codec() -> Codec:
    return bittern.load("speech-16khz", device="cpu")


@pytest.fixture(scope="module")
def allocated(codec: Codec) -> dict[float, np.ndarray]:
    """Codes [1, K, F] of the example, by the kbit/s that they were allocated for."""
    wav = torch.from_numpy(sf.read(EXAMPLE, dtype="float32")[0])[None, None]
    latent = codec.model.latent(codec.model.pad(wav))
    codes = codec.encode(wav, search_width=1)
    words = codec.model.quantizer.codewords
    left = [latent] + [latent - codec.model.quantizer.decode(codes[:, :k]) for k in range(1, 33)]
    errors = torch.stack([rest.square().sum(dim=1) for rest in left], dim=-1).numpy()  # [1, F, 33]
    bands = codec.config.envelope_bands
    levels = latent[:, :bands].mean(dim=1).numpy() / codec.config.envelope_weight
    rungs = ladder(len(words))
    weights = frame_weights(levels)
    found = {}
    for kbps in (3.0, 6.0, 9.0):
        budget = kbps * 2 * errors.shape[1]
        found[kbps] = cut_to(codes.numpy(), solve(errors[..., rungs], weights, rungs, budget)[1])
    return found


def write(codes: np.ndarray, codec: Codec, chunk_frames: int = 304) -> bytes:
    entropy = codec.entropy
    assert entropy
    header = header_of(stages=32, chunk_frames=chunk_frames, version=2, entropy=entropy.fingerprint)
    file = io.BytesIO()
    writer = Writer(file, header, find_coder=lambda _: entropy)
    for begin in range(0, codes.shape[2], chunk_frames):
        writer.write(codes[..., begin : begin + chunk_frames])
    samples = (codes.shape[2] - 1) * 320
    writer.finish(samples, samples)
    return file.getvalue()


def read(data: bytes, codec: Codec) -> np.ndarray:
    reader = Reader(io.BytesIO(data), "x", find_coder=lambda _: codec.entropy)
    return np.concatenate(list(reader.codes()), axis=2)


def test_speech_comes_back_and_says_its_stages_in_two_bits_a_frame(codec, allocated) -> None:
    spent = []
    for codes in allocated.values():
        data = write(codes, codec)
        assert np.array_equal(read(data, codec), codes)
        reader = Reader(io.BytesIO(data), "x")
        chunks = list(reader)
        told = np.concatenate([stage_counts(chunk, reader.header) for chunk in chunks], axis=1)
        assert np.array_equal(told, (codes >= 0).sum(axis=1))
        pieces = [ragged.split(chunk.payload, chunk.layers) for chunk in chunks]
        spent.append(8 * sum(len(each.counts.data) for each in pieces) / codes.shape[2])
    assert np.mean(spent) <= 2


def test_speech_agrees_with_the_second_implementation(codec, allocated) -> None:
    weights = bittern.checkpoint.find("speech-16khz") / "entropy.safetensors"
    reference = reference_entropy.Reference.read(weights.read_bytes())
    codes = allocated[6.0][..., 100:250]
    payload, layers = ragged.pack(codes, 10, 32, codec.entropy)
    pieces = ragged.split(payload, layers)
    assert sum(piece.coded for piece in (pieces.counts, *pieces.layers)) > layers / 2
    assert reference_entropy.encode_ragged(reference, codes[0], layers, 32, 10) == payload


@pytest.mark.parametrize("share", [0.2, 1 / 3, 0.5, 0.81, 1.0])
def test_trimming_keeps_the_share_of_bytes_and_of_every_frames_stages(
    codec, allocated, share: float
) -> None:
    data = write(allocated[9.0], codec, chunk_frames=96)
    out = io.BytesIO()
    writer = trim_to_share(Reader(io.BytesIO(data), "x"), out, share)
    assert writer.bytes_written == len(out.getvalue())
    assert len(out.getvalue()) == pytest.approx(share * len(data), rel=0.02)
    before, after = allocated[9.0], read(out.getvalue(), codec)
    counts, left = (before >= 0).sum(axis=1), (after >= 0).sum(axis=1)
    assert np.array_equal(after, cut_to(before, left))
    assert (left >= 1).all()
    for begin in range(0, counts.shape[1], 96):  # a layer more or less, and rounding up
        own, kept = counts[:, begin : begin + 96], left[:, begin : begin + 96]
        ratio = kept.sum() / own.sum()
        assert (abs(kept - own * ratio) <= 1.5).all()
        assert abs(ratio - share) < 0.2


def test_trimming_twice_and_joining_what_was_trimmed(codec, allocated) -> None:
    data = write(allocated[9.0], codec, chunk_frames=96)
    once, twice, joined = io.BytesIO(), io.BytesIO(), io.BytesIO()
    trim_to_share(Reader(io.BytesIO(data), "x"), once, 0.6)
    trim_to_share(Reader(io.BytesIO(once.getvalue()), "x"), twice, 0.5)
    assert len(twice.getvalue()) == pytest.approx(0.3 * len(data), rel=0.04)
    finder = {"find_coder": lambda _: codec.entropy}
    readers = [Reader(io.BytesIO(x.getvalue()), "x", **finder) for x in (once, twice)]
    cat(readers, joined)
    parts = [read(x.getvalue(), codec) for x in (once, twice)]
    assert np.array_equal(read(joined.getvalue(), codec), np.concatenate(parts, axis=2))


def test_a_share_out_of_range_is_refused() -> None:
    file = io.BytesIO()
    Writer(file, header_of(version=2)).finish(0, 0)
    for share in (0, -0.5, 1.01):
        reader = Reader(io.BytesIO(file.getvalue()), "x")
        with pytest.raises(ValueError, match="expected above 0 and up to 1"):
            trim_to_share(reader, io.BytesIO(), share)


def test_layers_cost_little(codec, allocated) -> None:
    """Next to one range coded piece: lengths and ends of layers take under 1.5 %."""
    for codes in allocated.values():
        data = write(codes, codec)
        pieces = [
            piece
            for chunk in Reader(io.BytesIO(data), "x")
            for piece in ragged.split(chunk.payload, chunk.layers).layers
        ]
        ends = len(pieces) * 4  # 2 bytes of length, about 2 of a range coder's end
        assert ends + CHUNK_OVERHEAD_BYTES < 0.015 * len(data) + CHUNK_OVERHEAD_BYTES
