"""Entropy coding: lossless, exact, each chunk and each stage by itself."""

import functools
import io
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from entropy_program import read, write
from hypothesis import given, settings
from hypothesis import strategies as st

import bittern
from bittern.cli import main
from bittern.codec import Codec
from bittern.errors import ConfigError, FormatError, ModelError, ModelMismatchError
from bittern.format import container as bitstream
from bittern.format import edit as editing
from bittern.format import payload as packing
from bittern.format.entropy import ENTROPY_FILE, EntropyModel, power_table
from bittern.format.payload import Part
from bittern.format.rangecoder import TOTAL, RangeDecoder, RangeEncoder
from bittern.training.entropy_fit import FitSettings, fit

STAGES, SIZE, BITS = 4, 64, 6
EXAMPLE = Path(__file__).parents[1] / "examples/speech.flac"


def smooth_codes(frames: int, seed: int, stages: int = STAGES, size: int = SIZE) -> np.ndarray:
    """Codes [k, F] that depend on the frame before and the stage before."""
    rng = np.random.default_rng(seed)
    codes = np.zeros((stages, frames), np.int64)
    for stage in range(stages):
        steps = rng.integers(-2, 3, frames).cumsum()
        codes[stage] = (steps + (codes[stage - 1] if stage else 0)) % size
    return codes


@pytest.fixture(scope="module")
def model() -> EntropyModel:
    angles = np.arange(SIZE)[:, None] * 2 * np.pi / SIZE
    circle = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    codewords = np.stack([circle * 0.5**stage for stage in range(STAGES)])
    chosen = FitSettings(steps=60, batch_size=64, width=2, hidden=16, narrow=8)
    clips = [smooth_codes(500, seed) for seed in range(8)]
    return EntropyModel(fit(clips, codewords, chosen).to_bytes(), "test")


def test_codes_that_depend_on_each_other_get_smaller(model: EntropyModel) -> None:
    codes = smooth_codes(304, seed=99)[None]
    assert len(packing.pack_ranged(codes, BITS, model)) < 0.95 * len(packing.pack_raw(codes, BITS))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    streams=st.integers(1, 3),
    stages=st.integers(1, STAGES),
    frames=st.integers(1, 300),
    seed=st.integers(0, 1000),
    noise=st.booleans(),
)
def test_any_codes_come_back_and_prefixes_need_no_model(
    model: EntropyModel, streams: int, stages: int, frames: int, seed: int, noise: bool
) -> None:
    rng = np.random.default_rng(seed)
    codes = np.stack([smooth_codes(frames, seed + s)[:stages] for s in range(streams)])
    if noise:
        codes = rng.integers(0, SIZE, codes.shape)
    payload = packing.pack_ranged(codes, BITS, model)
    raw = packing.stage_bytes(streams, frames, BITS)
    assert len(payload) <= stages * (raw + 1)
    for kept in range(1, stages + 1):
        cut = payload[: packing.ranged_bytes(payload, kept, raw)]
        assert cut == packing.pack_ranged(codes[:, :kept], BITS, model)
        back = packing.unpack_ranged(cut, streams, kept, frames, BITS, model)
        assert np.array_equal(back, codes[:, :kept])


kinds = st.sampled_from(["smooth", "noise", "constant"])
lengths = st.integers(0, 1000).map(lambda n: round(5001 ** (n / 1000)) - 1)  # short ones mostly


def check_a_file(model: EntropyModel, kind: str, stages: int, frames: int, seed: int) -> None:
    codes = smooth_codes(frames, seed, stages)
    if kind != "smooth":
        rng = np.random.default_rng(seed)
        codes = rng.integers(0, SIZE, (stages, frames if kind == "noise" else 1))
        codes = np.broadcast_to(codes, (stages, frames))
    assert np.array_equal(read(write(codes[None], model), model)[0], codes)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(kind=kinds, stages=st.integers(1, STAGES), frames=lengths, seed=st.integers(0, 10**6))
def test_files_of_any_codes_come_back(
    model: EntropyModel, kind: str, stages: int, frames: int, seed: int
) -> None:
    check_a_file(model, kind, stages, frames, seed)


@pytest.mark.slow
@settings(max_examples=9000, deadline=None, derandomize=True)
@given(kind=kinds, stages=st.integers(1, STAGES), frames=lengths, seed=st.integers(0, 10**6))
def test_9000_files_of_any_codes_come_back(
    model: EntropyModel, kind: str, stages: int, frames: int, seed: int
) -> None:
    check_a_file(model, kind, stages, frames, seed)


@pytest.mark.parametrize("frames", [0, 5000])
def test_the_shortest_and_the_longest_come_back(model: EntropyModel, frames: int) -> None:
    for stages in (1, STAGES):
        check_a_file(model, "smooth", stages, frames, seed=5)


@pytest.mark.parametrize("count", [20, pytest.param(1000, marks=pytest.mark.slow)])
def test_files_of_real_codes_come_back(count: int) -> None:
    """The shipped codec's, of the example or of the speech in the folder `BITTERN_SPEECH`."""
    codec = bittern.load("speech-16khz", device="cpu")
    assert codec.entropy
    codes = real_codes(codec, 6000)
    rng = np.random.default_rng(count)
    stages = rng.permutation(np.arange(count) % codec.stages + 1)
    for place, kept in enumerate(stages):
        frames = min(round(5001 ** rng.random()) - 1, 5000 if count > 100 else 200)
        frames = (0, 1)[place] if place < 2 else 5000 if place == 2 and count > 100 else frames
        first = rng.integers(codes.shape[1] - frames)
        part = codes[None, :kept, first : first + frames]
        assert np.array_equal(read(write(part, codec.entropy), codec.entropy), part)


def real_codes(codec: Codec, frames: int) -> np.ndarray:
    """[K, frames]; what there is is taken again and again where it is short of that."""
    folder = os.environ.get("BITTERN_SPEECH")
    paths = sorted(Path(folder).rglob("*.flac")) if folder else [EXAMPLE]
    codes = np.zeros((codec.stages, 0), np.int64)
    for path in paths:
        wav = torch.from_numpy(sf.read(path, dtype="float32")[0])
        codes = np.concatenate([codes, codec.encode(wav[None, None])[0].numpy()], axis=1)
        if codes.shape[1] >= frames:
            break
    return np.tile(codes, -(-frames // codes.shape[1]))[:, :frames]


def test_frequencies_do_not_depend_on_how_many_are_asked_for(model: EntropyModel) -> None:
    context = model.embed(0, smooth_codes(200, seed=3)[0])
    windows = np.lib.stride_tricks.sliding_window_view(context, 3, axis=0).swapaxes(1, 2)
    sums = model.context_sums(1, windows.reshape(len(windows), -1))
    whole = model.frequencies(1, sums)
    alone = np.concatenate([model.frequencies(1, row[None]) for row in sums])
    assert np.array_equal(whole, alone)
    assert whole.min() >= 1
    assert (whole.sum(axis=1) == TOTAL).all()


def test_range_coder_holds_to_the_frequencies() -> None:
    """Against big integers: the bytes lie in the interval that exact arithmetic gives."""
    rng = np.random.default_rng(0)
    frequencies = np.floor(rng.dirichlet(np.full(100, 0.05), 50) * (TOTAL - 200)).astype(int) + 1
    frequencies[:, 7] += TOTAL - frequencies.sum(axis=1)
    symbols = np.array([rng.choice(100, p=row / TOTAL) for row in frequencies])
    encoder = RangeEncoder()
    encoder.push(symbols, frequencies)
    data = encoder.finish()
    low, width, words = 0, 2**64 - 1, 2
    for row, symbol in zip(frequencies.tolist(), symbols, strict=True):
        unit = width >> 24
        low, width = low + unit * sum(row[:symbol]), unit * row[symbol]
        if width < 2**32:
            low, width, words = low << 32, width << 32, words + 1
    assert low <= int.from_bytes(data.ljust(4 * words, b"\0"), "big") < low + width
    assert np.array_equal(RangeDecoder(data).pull(frequencies), symbols)


def test_golden_bytes() -> None:
    """A model of whole numbers made here, without training: its bytes are the same for ever."""
    codes = smooth_codes(100, 1)
    stages = golden_stages()
    assert zlib.crc32(b"".join(stages)) == GOLDEN
    chunk = EntropyModel(golden_weights(), "golden").start(1, 100)
    for stage, data in enumerate(stages):
        assert np.array_equal(chunk.decode(whole_stage(stage, 100), data), codes[stage])


def golden_stages() -> list[bytes]:
    chunk = EntropyModel(golden_weights(), "golden").start(1, 100)
    codes = smooth_codes(100, 1)
    return [chunk.encode(whole_stage(stage, 100), row) for stage, row in enumerate(codes)]


def whole_stage(stage: int, rows: int) -> list[Part]:
    return [Part(stage, np.arange(rows))]


def golden_weights() -> bytes:
    from bittern.format.entropy import EntropyWeights

    rng = np.random.RandomState(0)  # its numbers are frozen

    def whole(dtype: type, most: int, *shape: int) -> np.ndarray:
        return rng.randint(-most, most + 1, shape).astype(dtype)

    shift = np.ones(STAGES, np.uint8)
    return EntropyWeights(
        embed=whole(np.int8, 127, STAGES, SIZE, 4),
        embed_shift=shift,
        first=whole(np.int16, 300, STAGES, 12, 16),
        first_bias=whole(np.int32, 9000, STAGES, 16),
        first_shift=shift * 8,
        second=whole(np.int16, 300, STAGES, 16, 8),
        second_shift=shift * 9,
        output=whole(np.int8, 127, STAGES, SIZE, 8),
        output_bias=whole(np.int32, 5000, STAGES, SIZE),
        output_shift=shift * 8,
        table=power_table(),
    ).to_bytes()


GOLDEN = 2280423543


def likely_codes(model: EntropyModel, streams: int, frames: int, seed: int) -> np.ndarray:
    """Codes [S, K, F] that a model takes for probable: what random bytes decode to."""
    rng = np.random.RandomState(seed)
    chunk = model.start(streams, frames)
    rows = streams * frames
    stages = [chunk.decode(whole_stage(k, rows), rng.bytes(rows)) for k in range(model.stages)]
    return np.stack(stages).reshape(-1, streams, frames).transpose(1, 0, 2)


def test_a_model_whose_sums_are_not_exact_is_refused() -> None:
    from safetensors.numpy import load, save

    tensors = load(golden_weights())
    tensors["output_bias"] = tensors["output_bias"] + 2**23
    with pytest.raises(ModelError, match="not exact"):
        EntropyModel(save(tensors), "big")
    with pytest.raises(ModelError, match="not an entropy model"):
        EntropyModel(b"nonsense", "junk")


@pytest.fixture(scope="module")
def entropy_codec(tiny_codec: Codec, tmp_path_factory: pytest.TempPathFactory) -> Codec:
    """The tiny codec in a folder of its own, with an entropy model."""
    folder = tmp_path_factory.mktemp("models") / "coded"
    bittern.weights.save(tiny_codec.model, folder)
    clip = torch.sin(torch.arange(48_000) * 0.05)[None, None] * torch.rand(48_000)
    codes = tiny_codec.encode(clip)[0].numpy()
    words = tiny_codec.model.quantizer.codewords.numpy()
    chosen = FitSettings(steps=20, batch_size=64, width=8, hidden=16, narrow=8)
    (folder / ENTROPY_FILE).write_bytes(fit([codes], words, chosen).to_bytes())
    return bittern.load(folder, device="cpu")


@pytest.fixture(scope="module")
def speech() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return 0.1 * torch.randn(1, 200_000, generator=generator)  # 12.5 s: 3 chunks


def test_files_decode_alike_trim_and_say_what_they_saved(
    entropy_codec: Codec, speech: torch.Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nearest = functools.partial(entropy_codec.compress, search_width=1)  # trims to the bit
    coded = nearest(speech, 16_000, stages=entropy_codec.stages)
    raw = nearest(speech, 16_000, stages=entropy_codec.stages, coder="raw")
    assert raw[5] == 0
    assert coded[5] == 1
    assert torch.equal(entropy_codec.decompress(coded).wav, entropy_codec.decompress(raw).wav)
    out = io.BytesIO()
    editing.trim(bitstream.Reader(io.BytesIO(coded), "coded"), out, 3)
    assert out.getvalue() == nearest(speech, 16_000, stages=3)
    span = entropy_codec.decompress(coded, start=7.0, duration=1.0).wav
    assert torch.equal(span, entropy_codec.decompress(raw, start=7.0, duration=1.0).wav)
    (tmp_path / "a.btn").write_bytes(coded)
    assert main(["info", str(tmp_path / "a.btn")]) == 0
    assert "saved percent:" in capsys.readouterr().out


def test_a_flipped_bit_damages_its_chunk_alone(entropy_codec: Codec, speech: torch.Tensor) -> None:
    """Anywhere in a chunk: what is given outside it equals what a raw file so damaged gives."""
    clean = entropy_codec.compress(speech, 16_000)
    whole = entropy_codec.decompress(clean).wav
    raw = entropy_codec.compress(speech, 16_000, coder="raw")
    starts = chunk_starts(clean)
    for lost, (begin, end) in enumerate(zip(starts, [*starts[1:], len(clean)], strict=True)):
        raw_damaged = flipped(raw, chunk_starts(raw)[lost] + 20)
        expected = entropy_codec.decompress(raw_damaged, recover=True).wav
        for place in np.linspace(begin, end - 1, 9).astype(int):
            damaged = flipped(clean, place)
            with pytest.raises(FormatError, match=f"chunk {lost + 1}"):
                entropy_codec.decompress(damaged)
            stream = entropy_codec.decompress_stream(io.BytesIO(damaged), "x", recover=True)
            assert [gap.index for gap in stream.lost] == [lost]
            got = torch.from_numpy(np.concatenate(list(stream.blocks))).T
            assert torch.equal(got, expected)
            before = round(stream.lost[0].start * 16_000)
            assert torch.equal(got[:, : max(before - 640, 0)], whole[:, : max(before - 640, 0)])


def chunk_starts(data: bytes) -> list[int]:
    reader = bitstream.Reader(io.BytesIO(data), "x")
    starts = [reader.bytes_read]
    starts += [reader.bytes_read for _ in reader]
    return starts[:-1]


def flipped(data: bytes, place: int) -> bytes:
    damaged = bytearray(data)
    damaged[place] ^= 4
    return bytes(damaged)


def test_bits_flipped_under_a_valid_checksum_are_an_error_or_wrong_codes(
    model: EntropyModel,
) -> None:
    """Bytes that no encoder wrote: never anything but codes in range or a `ValueError`."""
    codes = smooth_codes(100, seed=8)[None]
    payload = packing.pack_ranged(codes, BITS, model)
    rng = np.random.default_rng(0)
    refused = 0
    for place in rng.integers(len(payload), size=60):
        damaged = bytearray(payload)
        damaged[place] ^= 1 << rng.integers(8)
        try:
            back = packing.unpack_ranged(bytes(damaged), 1, STAGES, 100, BITS, model)
        except ValueError:
            refused += 1
            continue
        assert back.shape == codes.shape
        assert back.min() >= 0
        assert back.max() < SIZE
    assert refused < 60


def test_an_empty_file_is_a_file(
    entropy_codec: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sf.write("empty.wav", np.zeros(0), 16_000)
    sf.write("some.wav", np.zeros(700), 16_000)
    model = ["--model", str(entropy_codec.folder)]
    for command in (
        ["compress", "empty.wav", "--stages", "4", "--coder", "range", *model],
        ["compress", "some.wav", "--stages", "4", "--coder", "range", *model],
        ["info", "empty.btn"],
        ["verify", "empty.btn"],
        ["trim", "empty.btn", "trimmed.btn", "--stages", "2"],
        ["cat", "empty.btn", "empty.btn", "-o", "joined.btn", *model],
        ["cat", "empty.btn", "some.btn", "empty.btn", "-o", "around.btn", *model],
        ["decompress", "joined.btn", *model],
        ["decompress", "trimmed.btn", "--recover", *model],
        ["decompress", "trimmed.btn", "span.wav", "--duration", "1", *model],
    ):
        assert main(command) == 0, command
    data = Path("empty.btn").read_bytes()
    assert data[5] == 1
    assert Path("joined.btn").read_bytes() == data
    assert Path("around.btn").read_bytes() == Path("some.btn").read_bytes()
    for name in ("joined", "trimmed", "span"):
        assert sf.info(f"{name}.wav").frames == 0
    live = io.BytesIO()
    silence = bittern.audio.streams.array_stream(np.zeros((1, 0), np.float32), 16_000)
    entropy_codec.compress_stream(silence, live, live=True, coder="range")
    assert entropy_codec.decompress(live.getvalue()).wav.shape == (1, 0)


def test_a_missing_entropy_model_is_one_clear_line(
    entropy_codec: Codec, tiny_codec: Codec, speech: torch.Tensor
) -> None:
    with pytest.raises(ModelMismatchError, match="needs entropy model") as caught:
        tiny_codec.decompress(entropy_codec.compress(speech, 16_000))
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="fit-entropy"):
        tiny_codec.compress(speech, 16_000, coder="range")
