"""Damaged files: what is intact comes back exactly and in its place, the rest is named."""

import contextlib
import io
import itertools
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from synthetic import make_sound

from bittern.errors import CodecError, FormatError
from bittern.format.container import Chunk, Reader, Writer
from bittern.format.salvage import Salvage

CHUNK = 16  # frames, 0.32 s


@pytest.fixture(params=[1, 2])
def version(request: pytest.FixtureRequest) -> int:
    """Of the files that a test damages."""
    return request.param


def compressed(
    codec, version: int, samples: int = 64_000, *, live: bool = False, rate: int = 16_000
) -> bytes:
    from bittern.audio import streams as audio

    file = io.BytesIO()
    source = audio.array_stream(make_sound(samples, sample_rate=rate), rate)
    source = replace(source, samples=None) if live else source
    codec.compress_stream(source, file, chunk_seconds=0.32, live=live)
    return file.getvalue() if version == 1 else as_version_2(file.getvalue(), live=live)


def as_version_2(data: bytes, *, live: bool) -> bytes:
    """The same codes, each frame's as if it had its own number of stages."""
    reader, file = Reader(io.BytesIO(data), "x"), io.BytesIO()
    writer = Writer(file, replace(reader.header, version=2), live=live)
    for codes in reader.codes():
        writer.write(codes)
    writer.finish(reader.header.samples, reader.header.source_samples)
    return file.getvalue()


def places(data: bytes) -> list[tuple[int, int]]:
    """Where each chunk begins and ends."""
    reader = Reader(io.BytesIO(data), "x")
    ends = [reader.bytes_read]
    ends += [reader.bytes_read for _ in reader]
    return list(itertools.pairwise(ends))


def damage(data: bytes, chunks: list[int]) -> bytes:
    """Flip a byte in the middle of each chunk."""
    broken = bytearray(data)
    spans = places(data)
    for index in chunks:
        begin, end = spans[index]
        broken[(begin + end) // 2] ^= 0x55
    return bytes(broken)


def test_an_intact_file_is_recovered_as_it_is(tiny_codec, version):
    data = compressed(tiny_codec, version)
    assert torch.equal(
        tiny_codec.decompress(data, recover=True).wav, tiny_codec.decompress(data).wav
    )


@pytest.mark.parametrize("live", [False, True])
def test_what_is_outside_the_lost_spans_equals_the_clean_decode(tiny_codec, version, live):
    data = compressed(tiny_codec, version, live=live)
    clean = tiny_codec.decompress(data).wav
    broken = damage(data, [3, 4, 8])
    with pytest.raises(FormatError):
        tiny_codec.decompress(broken)
    stream = tiny_codec.decompress_stream(io.BytesIO(broken), "x", recover=True)
    recovered = np.concatenate(list(stream.blocks)).T
    assert [(gap.index, gap.chunks, gap.frames) for gap in stream.lost] == [(3, 2, 32), (8, 1, 16)]
    assert [(gap.start, gap.end) for gap in stream.lost] == [(0.96, 1.6), (2.56, 2.88)]
    assert recovered.shape == tuple(clean.shape)
    field = tiny_codec.config.decoder_field
    same = np.ones(clean.shape[-1], bool)
    for gap in stream.lost:  # a frame before, where the transform laps
        begin = gap.index * CHUNK
        same[(begin - 1) * 320 : (begin + gap.frames + field) * 320] = False
    assert same.mean() > 0.3
    assert np.array_equal(recovered[:, same], clean.numpy()[:, same])


def test_a_minute_of_which_a_tenth_of_the_chunks_is_destroyed(tiny_codec, version):
    data = compressed(tiny_codec, version, 960_000)
    clean = tiny_codec.decompress(data).wav.numpy()
    spans = places(data)
    generator = np.random.default_rng(5)
    lost = generator.choice(len(spans), round(len(spans) / 10), replace=False)
    broken = bytearray(data)
    for begin, end in (spans[index] for index in lost):
        broken[begin:end] = generator.bytes(end - begin)
    stream = tiny_codec.decompress_stream(io.BytesIO(broken), "x", recover=True)
    recovered = np.concatenate(list(stream.blocks)).T
    named = [gap.index + i for gap in stream.lost for i in range(gap.chunks)]
    assert named == sorted(lost)
    same = np.ones(clean.shape[1], bool)
    for index in lost:
        begin = max(index * CHUNK - 1, 0)  # a frame before, where the transform laps
        same[begin * 320 : ((index + 1) * CHUNK + tiny_codec.config.decoder_field) * 320] = False
    assert same.mean() > 0.5
    assert np.array_equal(recovered[:, same], clean[:, same])


def test_lost_spans_are_not_silent_and_fade(tiny_codec, version):
    data = compressed(tiny_codec, version)
    broken = damage(data, [3, 4, 5, 6])
    wav = tiny_codec.decompress(broken, recover=True).wav[0]
    begin = 3 * CHUNK * 320
    assert wav[begin : begin + 640].square().mean() > 1e-5
    assert not wav[begin + 45 * 320 : begin + 60 * 320].any()


@pytest.mark.parametrize(
    ("change", "lost"),
    [
        (lambda d, p: d[: p[5][0]], [5, 6, 7, 8, 9, 10, 11, 12]),  # cut on a border
        (lambda d, p: d[: p[5][1] - 1], [5, 6, 7, 8, 9, 10, 11, 12]),  # cut within
        (lambda d, p: d[: p[2][0]] + d[p[4][0] :], [2, 3]),  # lost
        (lambda d, p: d[: p[3][0]] + d[p[2][0] :], []),  # repeated
        (lambda d, p: d[: p[2][0]] + d[p[3][0] : p[3][1]] + d[p[2][0] :], []),  # out of order
        (lambda d, p: d[: p[2][0]] + b"\xb7\x7b" * 99 + d[p[2][0] :], []),  # rubbish between
        (lambda d, p: d[: p[2][0] + 5] + d[p[2][0] + 6 :], [2]),  # a byte is missing
        (lambda d, p: d + b"rubbish", []),
    ],
)
def test_each_kind_of_damage(tiny_codec, version, change, lost):
    data = compressed(tiny_codec, version)
    salvage = Salvage(io.BytesIO(change(data, places(data))), "x")
    original = {chunk.index: chunk for chunk in Reader(io.BytesIO(data), "x")}
    found = {piece.index: piece for piece in salvage if isinstance(piece, Chunk)}
    assert found == {index: chunk for index, chunk in original.items() if index not in lost}
    named = [gap.index + i for gap in salvage.gaps for i in range(gap.chunks)]
    assert named == lost
    frames = sum(piece.frames for piece in salvage)
    assert frames == salvage.header.frames


def test_a_live_file_cut_short_ends_with_its_last_intact_chunk(tiny_codec, version):
    data = compressed(tiny_codec, version, live=True)
    salvage = Salvage(io.BytesIO(data[: places(data)[5][1] - 1]), "x")
    assert salvage.header.chunks == 5
    assert salvage.header.samples == (5 * CHUNK - 1) * 320
    assert not salvage.gaps


def test_hostile_files_are_refused_at_once(tiny_codec, version):
    data = compressed(tiny_codec, version)
    header = Reader(io.BytesIO(data), "x").header
    endless = replace(header, samples=2**40, source_samples=2**40).to_bytes()
    for rest in (b"", data[52:], b"\xb7\x7b" * 200_000):
        began = time.perf_counter()
        with pytest.raises(FormatError):
            tiny_codec.decompress(endless + rest, recover=True)
        assert time.perf_counter() - began < 5
    wide = replace(header, chunk_frames=65_535, stages=8, samples=None, source_samples=None)
    length = wide.payload_bytes(65_535, 8).to_bytes(3, "little")
    bait = b"\xb7\x7b" + bytes(4) + b"\xff\xff\x08" + length + bytes(4)
    with pytest.raises(FormatError, match="looks like chunks"):
        Salvage(io.BytesIO(wide.to_bytes() + bait * 100_000), "x")


def damaged_copies(data: bytes, count: int, seed: int):
    generator = np.random.default_rng(seed)
    spans = places(data)
    for _ in range(count):
        broken = bytearray(data)
        kind = generator.integers(5)
        first, second = spans[generator.integers(len(spans))], spans[generator.integers(len(spans))]
        if kind == 0:
            for _ in range(generator.integers(1, 6)):
                broken[generator.integers(len(broken))] ^= 1 << generator.integers(8)
        elif kind == 1:
            del broken[generator.integers(len(broken)) :]
        elif kind == 2:
            del broken[first[0] : first[1]]
        elif kind == 3:
            broken[second[0] : second[0]] = data[first[0] : first[1]]
        else:
            at = generator.integers(len(broken))
            broken[at : at + generator.integers(1, 40)] = generator.bytes(generator.integers(0, 40))
        yield bytes(broken)


def check_damaged(codec, version: int, count: int, seed: int) -> None:
    for live in (False, True):
        data = compressed(codec, version, 32_000, live=live)
        original = list(Reader(io.BytesIO(data), "x"))
        whole = codec.decompress(data).wav
        for number, broken in enumerate(damaged_copies(data, count // 2, seed)):
            with contextlib.suppress(CodecError):
                assert torch.equal(codec.decompress(broken).wav, whole)
            intact = sum(data[begin:end] in broken for begin, end in places(data))
            try:
                pieces = list(Salvage(io.BytesIO(broken), "x"))
            except CodecError:
                assert broken[:52] != data[:52] or not intact
                continue
            for piece in pieces:
                if isinstance(piece, Chunk):
                    assert piece == original[piece.index]
            assert sum(isinstance(piece, Chunk) for piece in pieces) == intact
            if number % 10 == 0:
                frames = sum(piece.frames for piece in pieces)
                recovered = codec.decompress(broken, recover=True).wav
                assert 0 <= frames * 320 - recovered.shape[-1] < 640
                assert torch.isfinite(recovered).all()


def test_200_damaged_files(tiny_codec, version):
    check_damaged(tiny_codec, version, 200, 0)


@pytest.mark.slow
def test_5000_damaged_files(tiny_codec, version):
    check_damaged(tiny_codec, version, 5000, 1)


@pytest.mark.parametrize("rate", [16_000, 44_100, 8_000])
@pytest.mark.parametrize("live", [False, True])
def test_a_span_equals_that_part_of_the_whole(tiny_codec, version, rate, live):
    data = compressed(tiny_codec, version, 5 * rate, rate=rate, live=live)
    whole = tiny_codec.decompress(data).wav
    spans = [(0.0, 1.0), (1.0, None), (2.345, 0.5), (4.9, 3.0), (3.0, 0.0), (9.0, None), (4.0, 1.0)]
    for start, duration in spans:
        first = round(start * rate)
        end = None if duration is None else first + round(duration * rate)
        part = tiny_codec.decompress(data, start=start, duration=duration).wav
        assert part.shape == whole[:, first:end].shape
        torch.testing.assert_close(
            part, whole[:, first:end], rtol=0, atol=0 if rate == 16_000 else 1e-5
        )


def test_a_span_reads_only_the_chunks_it_needs(tiny_codec, version):
    data = compressed(tiny_codec, version, 160_000)
    broken = damage(data, [2, 25])
    part = tiny_codec.decompress(broken, start=5, duration=1).wav
    assert torch.equal(part, tiny_codec.decompress(data).wav[:, 80_000:96_000])
    with pytest.raises(FormatError):
        tiny_codec.decompress(broken, start=5)
