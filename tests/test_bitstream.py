import io
import struct
import tracemalloc
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bittern.errors import FormatError
from bittern.format.container import (
    CHUNK_OVERHEAD_BYTES,
    HEADER_BYTES,
    Header,
    Reader,
    Writer,
    pack,
    stage_counts,
    unpack,
)

VERSIONS = (1, 2)


def header_of(**changes) -> Header:
    fields = {
        "fingerprint": bytes(range(8)),
        "sample_rate": 16_000,
        "source_rate": 16_000,
        "channels": 1,
        "source_channels": 1,
        "hop_length": 320,
        "bits_per_code": 10,
        "stages": 4,
        "extra_frames": 1,
        "chunk_frames": 16,
    }
    return Header(**{**fields, **changes})


def random_codes(header: Header, frames: int, seed: int = 0) -> np.ndarray:
    """[S, k, F]; in version 2 each frame has 0 to k of them, -1 in place of the others."""
    generator = np.random.default_rng(seed)
    shape = (header.streams, header.stages, frames)
    codes = generator.integers(0, 2**header.bits_per_code, shape)
    if header.version == 1:
        return codes
    counts = generator.integers(0, header.stages + 1, (header.streams, 1, frames))
    return np.where(np.arange(header.stages)[:, None] < counts, codes, -1)


def write_file(header: Header, codes: np.ndarray, samples: int, *, live: bool = False) -> bytes:
    file = io.BytesIO()
    writer = Writer(file, header, live=live)
    for start in range(0, codes.shape[-1], header.chunk_frames):
        writer.write(codes[..., start : start + header.chunk_frames])
    source_samples = samples * header.source_rate // header.sample_rate
    writer.finish(samples, source_samples)
    assert writer.bytes_written == len(file.getvalue())
    return file.getvalue()


def read_file(data: bytes) -> tuple[Header, np.ndarray]:
    reader = Reader(io.BytesIO(data), "x.btn")
    empty = np.zeros((reader.header.streams, reader.header.stages, 0), int)
    codes = np.concatenate([empty, *reader.codes()], axis=2)
    return reader.header, codes


def attempt(data: bytes) -> np.ndarray | str:
    """The codes of a file, or the message of the error."""
    try:
        return read_file(data)[1]
    except FormatError as error:
        return str(error)


def example(samples: int = 20_000, *, live: bool = False, **changes) -> tuple[bytes, np.ndarray]:
    header = header_of(**changes)
    frames = 0 if samples == 0 else -(-samples // header.hop_length) + header.extra_frames
    codes = random_codes(header, frames)
    return write_file(header, codes, samples, live=live), codes


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    bits=st.integers(1, 16),
    stages=st.integers(1, 6),
    streams=st.integers(1, 3),
    hop=st.integers(1, 400),
    chunk_frames=st.integers(1, 40),
    samples=st.integers(0, 2000),
    extra=st.integers(0, 1),
    live=st.booleans(),
    version=st.sampled_from(VERSIONS),
)
def test_what_is_written_is_read(
    bits, stages, streams, hop, chunk_frames, samples, extra, live, version
):
    samples = min(samples, 200 * hop)
    data, codes = example(
        samples,
        live=live,
        bits_per_code=bits,
        stages=stages,
        streams=streams,
        hop_length=hop,
        chunk_frames=chunk_frames,
        extra_frames=extra,
        version=version,
    )
    header, back = read_file(data)
    assert np.array_equal(back, codes)
    assert header.samples == header.source_samples == samples


def test_packing_equals_writing_bits_one_by_one():
    header = header_of(stages=3, streams=2, bits_per_code=7)
    codes = random_codes(header, 5)
    expected = b""
    for stage in range(3):
        text = "".join(f"{code:07b}" for code in codes[:, stage].reshape(-1))
        text += "0" * (-len(text) % 8)
        expected += bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))
    assert pack(codes, header).payload == expected


@pytest.mark.parametrize("version", VERSIONS)
def test_fewer_stages_can_be_unpacked(version: int):
    header = header_of(version=version)
    codes = random_codes(header, 9)
    chunk = pack(codes, header)
    assert np.array_equal(unpack(chunk, header, 2), codes[:, :2])
    assert np.array_equal(unpack(chunk, header, 200), codes)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_stages_of_frames_are_told_without_decoding(version: int):
    header = header_of(version=version, streams=2, entropy=bytes(8))
    codes = random_codes(header, 9)
    chunk = pack(codes, header)
    assert np.array_equal(stage_counts(chunk, header), (codes >= 0).sum(axis=1))


def test_overhead_of_a_minute_at_1500_bit_per_second_is_under_two_percent():
    data, _ = example(60 * 16_000, stages=3, chunk_frames=304)
    nominal = 60 * 1500 / 8
    assert nominal < len(data) < 1.02 * nominal


def test_payload_of_ten_seconds_is_within_two_percent_of_nominal():
    data, _ = example(10 * 16_000, stages=4, chunk_frames=304)
    payload = len(data) - HEADER_BYTES - 2 * CHUNK_OVERHEAD_BYTES
    assert payload == pytest.approx(10 * 2000 / 8, rel=0.02)


class OneByteAtATime(io.RawIOBase):
    """A pipe at its slowest: no seeking, one byte a read."""

    def __init__(self, data: bytes) -> None:
        self._inner = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self._inner.read(min(size, 1))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_slow_pipe_reads_the_same(version: int):
    data, codes = example(live=True, version=version)
    reader = Reader(OneByteAtATime(data), "pipe")  # pyright: ignore[reportArgumentType]
    assert reader.header.samples is None
    assert np.array_equal(np.concatenate(list(reader.codes()), axis=2), codes)
    assert reader.header.samples == 20_000
    assert reader.bytes_read == len(data)


def test_chunks_arrive_before_the_rest_is_written():
    file = io.BytesIO()
    writer = Writer(file, header_of(), live=True)
    sizes = []
    for start in range(3):
        writer.write(random_codes(writer.header, 16, start))
        sizes.append(len(file.getvalue()))
    assert sizes[0] == HEADER_BYTES + CHUNK_OVERHEAD_BYTES + 4 * 20
    assert np.diff(sizes).tolist() == [CHUNK_OVERHEAD_BYTES + 80] * 2


def test_the_writer_refuses_codes_that_do_not_fit():
    writer = Writer(io.BytesIO(), header_of())
    with pytest.raises(ValueError, match="streams"):
        writer.write(np.zeros((2, 4, 16), int))
    with pytest.raises(ValueError, match="17 frames"):
        writer.write(np.zeros((1, 4, 17), int))
    writer.write(np.zeros((1, 4, 3), int))
    with pytest.raises(ValueError, match="not full"):
        writer.write(np.zeros((1, 4, 3), int))
    with pytest.raises(ValueError, match="frames"):
        writer.finish(320 * 9, 320 * 9)


def test_frames_that_lack_stages_need_version_2_and_lack_the_last_ones():
    codes = np.zeros((1, 4, 3), int)
    codes[0, 2:, 1] = -1
    with pytest.raises(ValueError, match="must be of version 2"):
        Writer(io.BytesIO(), header_of()).write(codes)
    writer = Writer(io.BytesIO(), header_of(version=2))
    writer.write(codes)
    codes[0, 3, 1] = 0
    with pytest.raises(ValueError, match="but none at the stage before it"):
        pack(codes, writer.header)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 3},
        {"sample_rate": 0},
        {"channels": 256},
        {"streams": 0},
        {"bits_per_code": 17},
        {"chunk_frames": 0},
        {"fingerprint": b"short"},
        {"samples": 5},
        {"samples": 5, "source_samples": 6},
        {"samples": -1, "source_samples": -1},
        {"chunk_frames": 65535, "stages": 255, "bits_per_code": 16},
        {"chunk_frames": 65535, "stages": 128, "bits_per_code": 16, "version": 2},
    ],
)
def test_headers_that_make_no_sense_are_refused(change: dict):
    with pytest.raises(ValueError, match=next(iter(change))):
        header_of(**change)


# damage


@pytest.mark.parametrize("version", VERSIONS)
def test_every_truncation_is_reported(version: int):
    data, _ = example(9_000, version=version)
    for size in range(len(data)):
        with pytest.raises(FormatError, match=r"^x\.btn: ") as caught:
            read_file(data[:size])
        assert "\n" not in str(caught.value)


def test_messages_name_the_chunk_its_time_and_its_byte():
    data, _ = example()  # 64 frames: chunks of 96 bytes from byte 52 on
    damaged = bytearray(data)
    damaged[52 + 96 + 30] ^= 4
    with pytest.raises(FormatError) as caught:
        read_file(bytes(damaged))
    assert str(caught.value) == (
        "x.btn: chunk 2 of 4 (0:00.32-0:00.64, byte 148) is damaged: the checksum does not match"
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: b"", "not a .btn file (it begins with nothing)"),
        (lambda d: b"RIFF" + d, "not a .btn file (it begins with 52494646)"),
        (lambda d: d[:4] + b"\x03" + d[5:], "version 3; this Bittern reads versions 1 and 2."),
        (lambda d: d[:20], "cut short in the header (byte 20 of 52)"),
        (lambda d: d[:30] + b"\xff" + d[31:], "the header is damaged (bytes 0-51, checksum)"),
        (lambda d: d + b"\0", "bytes are left over after the last chunk"),
        (lambda d: d[:-1], "cut short at byte"),
        (
            lambda d: d[:52] + d[148:],
            "chunk 1 of 4 (0:00.00-0:00.32, byte 52) is not here: chunk 2 is in its place",
        ),
        (lambda d: d[:148] + d[52:], "is not here: chunk 1 is in its place"),
    ],
)
def test_each_kind_of_damage_has_its_message(damage, message: str):
    data, _ = example()
    with pytest.raises(FormatError) as caught:
        read_file(damage(data))
    assert message in str(caught.value)


def with_header_field(data: bytes, offset: int, value: bytes) -> bytes:
    """Change a field of the header and make its checksum right again."""
    body = data[:offset] + value + data[offset + len(value) : HEADER_BYTES - 4]
    return body + zlib.crc32(body).to_bytes(4, "little") + data[HEADER_BYTES:]


def test_an_unknown_coder_is_refused():
    data, _ = example()
    with pytest.raises(FormatError, match="coder 2; this Bittern knows coders 0 and 1"):
        read_file(with_header_field(data, 5, b"\x02"))


@pytest.mark.parametrize("version", VERSIONS)
def test_hostile_headers_and_chunks_are_refused_without_allocating(version: int):
    data, _ = example(live=True, version=version)
    generator = np.random.default_rng(0)
    tracemalloc.start()
    for trial in range(400):
        if trial % 2:
            offset = int(generator.integers(4, HEADER_BYTES - 4))
            hostile = with_header_field(data, offset, generator.bytes(min(4, 48 - offset)))
        else:  # a chunk with any lengths and a right checksum
            frames, stages, length = (int(generator.integers(0, 2**n)) for n in (16, 8, 24))
            head = struct.pack(
                "<2sIHB3s", b"\xb7\x7b", 0, frames, stages, length.to_bytes(3, "little")
            )
            body = data[68:]
            checksum = zlib.crc32(body, zlib.crc32(head)).to_bytes(4, "little")
            hostile = data[:HEADER_BYTES] + head + checksum + body
        attempt(hostile)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40 * 2**20


def damaged_copies(data: bytes, count: int, seed: int):
    """Flips, cuts, zeroed spans, lost, repeated and swapped pieces, from a seeded generator."""
    generator = np.random.default_rng(seed)
    for kind in range(count):
        start, end = sorted(int(n) for n in generator.integers(0, len(data) + 1, 2))
        match kind % 6:
            case 0:
                copy = bytearray(data)
                for position in generator.integers(0, len(data), generator.integers(1, 9)):
                    copy[position] ^= 1 << int(generator.integers(8))
                yield bytes(copy)
            case 1:
                yield data[:end]
            case 2:
                yield data[:start] + bytes(end - start) + data[end:]
            case 3:
                yield data[:start] + data[end:]
            case 4:
                yield data[:end] + data[start:]
            case _:
                middle = (start + end) // 2
                yield data[:start] + data[middle:end] + data[start:middle] + data[end:]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("live", [False, True])
def test_damaged_files_are_errors_or_exact(live: bool, version: int):
    data, codes = example(live=live, version=version)
    results = [attempt(copy) for copy in damaged_copies(data, 500, seed=int(live))]
    messages = [result for result in results if isinstance(result, str)]
    assert len(messages) > 400
    assert all(message.startswith("x.btn: ") and "\n" not in message for message in messages)
    assert all(np.array_equal(result, codes) for result in results if not isinstance(result, str))


@pytest.mark.parametrize("version", VERSIONS)
def test_chunks_of_a_file_whose_length_is_known_must_be_full(version: int):
    header = header_of(version=version)
    data, codes = example(version=version)
    out = io.BytesIO()
    writer = Writer(out, header)
    writer.write(codes[..., :16])
    short = out.getvalue()
    writer.write(codes[..., 16:20])
    writer.finish(19 * 320, 19 * 320)
    fixed = replace(header, samples=20 * 320, source_samples=20 * 320).to_bytes()
    with pytest.raises(FormatError, match="4 frames are not what the header says"):
        read_file(fixed + out.getvalue()[HEADER_BYTES:])
    assert short[HEADER_BYTES:] == data[HEADER_BYTES : len(short)]
