import io

import numpy as np
import pytest
from test_bitstream import example, header_of, random_codes, read_file, write_file

from bittern.bitstream import Reader
from bittern.editing import cat, cut, trim
from bittern.errors import FormatError


def reader_of(data: bytes, name: str = "x.btn") -> Reader:
    return Reader(io.BytesIO(data), name)


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_trimming_equals_writing_fewer_stages(stages: int, live: bool):
    data, codes = example(20_000, live=live)
    out = io.BytesIO()
    trim(Reader(io.BytesIO(data), "x.btn"), out, stages, live=live)
    expected = write_file(header_of(stages=stages), codes[:, :stages], 20_000, live=live)
    assert out.getvalue() == expected


def test_trimming_to_more_stages_than_there_are_is_refused():
    data, _ = example()
    with pytest.raises(ValueError, match="1 to 4"):
        trim(Reader(io.BytesIO(data), "x.btn"), io.BytesIO(), 5)


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize(("first", "end"), [(0, 1), (1, 3), (0, None), (2, None), (3, 9), (1, 4)])
def test_cutting_keeps_the_codes_of_the_span_and_the_lap(first: int, end: int | None, live: bool):
    data, codes = example(20_000, live=live)  # 64 frames in chunks of 16
    out = io.BytesIO()
    cut(reader_of(data), out, first, end, live=live)
    header, back = read_file(out.getvalue())
    to_the_end = end is None or end >= 4
    assert np.array_equal(back, codes[..., first * 16 : None if to_the_end else end * 16 + 1])
    assert header.samples == (20_000 if to_the_end else end * 5_120) - first * 5_120


def test_cutting_behind_the_end_is_an_error():
    data, _ = example(16 * 320)  # the second chunk holds the last lap only
    for first in (1, 2, 100):
        with pytest.raises(FormatError, match=f"has no audio from chunk {first + 1} on"):
            cut(reader_of(data), io.BytesIO(), first, None)


@pytest.mark.parametrize("source_rate", [8_000, 16_000, 44_100])
def test_cutting_and_joining_at_any_source_rate_gives_files_that_read(source_rate: int):
    for samples in range(5_120, 5_120 + 700, 7):
        source_samples = samples * source_rate // 16_000
        samples = -(-source_samples * 16_000 // source_rate)
        header = header_of(source_rate=source_rate)
        frames = -(-samples // 320) + 1
        data = write_file(header, random_codes(header, frames), samples)
        for first in (0, 1):
            if samples - first * 5_120 > 2:
                out = io.BytesIO()
                cut(reader_of(data), out, first, None)
                got = read_file(out.getvalue())[0].samples
                assert abs(got - (samples - first * 5_120)) <= 2
        out = io.BytesIO()
        cat([reader_of(data), reader_of(data)], out)
        assert read_file(out.getvalue())[1].shape[-1] == 2 * frames


@pytest.mark.parametrize("live", [False, True])
def test_joining_puts_codes_behind_each_other(live: bool):
    parts = [example(n, chunk_frames=size) for n, size in [(700, 16), (0, 16), (9_000, 7), (1, 9)]]
    out = io.BytesIO()
    cat([reader_of(data) for data, _ in parts], out, live=live)
    header, back = read_file(out.getvalue())
    assert header.chunk_frames == 16
    assert np.array_equal(back, np.concatenate([codes for _, codes in parts], axis=2))
    assert header.samples == (4 + 30) * 320 + 1


def test_joining_one_file_changes_nothing():
    data, _ = example()
    out = io.BytesIO()
    cat([reader_of(data)], out)
    assert out.getvalue() == data


def test_files_that_do_not_fit_are_not_joined():
    data, _ = example()
    for change, message in [
        ({"stages": 3}, "b: has stages 3, but a has 4"),
        ({"fingerprint": b"12345678"}, "b: has fingerprint"),
        ({"hop_length": 160}, "b: its header does not fit that of a"),
    ]:
        other, _ = example(**change)
        with pytest.raises(FormatError, match=message):
            cat([reader_of(data, "a"), reader_of(other, "b")], io.BytesIO())
