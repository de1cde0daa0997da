"""docs/format.md says what the code does: its dump is parsed and compared, field by field."""

import io
import itertools
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from bittern.format import counts
from bittern.format.container import (
    CHUNK_OVERHEAD_BYTES,
    HEADER_BYTES,
    Header,
    Reader,
    Writer,
)
from bittern.format.edit import trim_to_share

DOCUMENT = (Path(__file__).parents[1] / "docs" / "format.md").read_text()
CODES = np.array([[[1, 2, 3], [1023, 512, 0]]])
RAGGED = np.array([[[1, 2, 3], [1023, 512, 0], [5, -1, 7], [6, -1, -1]]])
HEADER = Header(
    fingerprint=bytes.fromhex("2611faa4f2c4a4fc"),
    sample_rate=16_000,
    source_rate=44_100,
    channels=1,
    source_channels=2,
    hop_length=320,
    bits_per_code=10,
    stages=2,
    extra_frames=1,
    chunk_frames=2,
)


def written(*, live: bool) -> bytes:
    file = io.BytesIO()
    writer = Writer(file, HEADER, live=live)
    writer.write(CODES[..., :2])
    writer.write(CODES[..., 2:])
    writer.finish(363, 1000)
    return file.getvalue()


def written_ragged() -> bytes:
    file = io.BytesIO()
    writer = Writer(file, replace(HEADER, version=2, stages=4, chunk_frames=3))
    writer.write(RAGGED)
    writer.finish(363, 1000)
    return file.getvalue()


def dumps() -> list[list[tuple[int, bytes, str]]]:
    """The document's hex dumps: offset, bytes and note of each line."""
    blocks = re.findall(r"```\n(.*?)```", DOCUMENT, re.DOTALL)
    line = re.compile(r"([0-9a-f]{4})  ((?:[0-9a-f]{2} )*[0-9a-f]{2}) +(.+)")
    return [
        [
            (int(match[1], 16), bytes.fromhex(match[2]), match[3])
            for match in map(line.fullmatch, block.splitlines())
            if match is not None
        ]
        for block in blocks
    ]


def table(section: str) -> list[tuple[int, int | None, str]]:
    """Offset, size and name of each field in a section's table."""
    text = DOCUMENT.split(f"## {section}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\d+) \| (\d*) \| ([a-z_ ]+?) \|", text, re.MULTILINE)
    return [(int(offset), int(size) if size else None, name) for offset, size, name in rows]


def test_the_dump_is_what_the_code_writes():
    file, end, ragged = dumps()
    assert b"".join(data for _, data, _ in file) == written(live=False)
    assert b"".join(data for _, data, _ in ragged) == written_ragged()
    live = written(live=True)
    assert b"".join(data for _, data, _ in end) == live[len(written(live=False)) :]
    assert live[0x20:0x30] == b"\xff" * 16
    for lines in (file, end, ragged):
        for (offset, data, _), (following, _, _) in itertools.pairwise(lines):
            assert following == offset + len(data)


def test_the_notes_of_the_dump_are_true():
    for _, data, note in [line for lines in dumps() for line in lines]:
        number = re.search(r"[a-z:] (\d+)$", note)
        if number is not None and "CRC" not in note:
            assert int.from_bytes(data, "little") == int(number[1]), note
        bits = re.fullmatch(r"(?:stage|layer) \d: ([01 ]+)", note)
        if bits is not None:
            assert int.from_bytes(data, "big") == int(bits[1].replace(" ", ""), 2)


def test_the_dump_reads_as_the_codes_above_it():
    files, sections = dumps(), DOCUMENT.split("\n## A file of version ")[1:]
    for lines, section, expected in zip(files[::2], sections, (CODES, RAGGED), strict=True):
        data = b"".join(data for _, data, _ in lines)
        reader = Reader(io.BytesIO(data), "format.md")
        codes = np.concatenate(list(reader.codes()), axis=2)
        rows = re.findall(r"^    stage \d:((?: +[\d-]+)+)$", section, re.MULTILINE)
        told = [[-1 if code == "-" else int(code) for code in row.split()] for row in rows]
        assert codes[0].tolist() == told
        assert np.array_equal(codes, expected)


def test_trimming_the_dump_does_what_is_said_below_it():
    data = b"".join(data for _, data, _ in dumps()[2])
    out = io.BytesIO()
    trim_to_share(Reader(io.BytesIO(data), "format.md"), out, 0.92)
    end = int(re.search(r"would end before byte ([0-9a-f]{4})", DOCUMENT)[1], 16)
    assert len(out.getvalue()) == end
    chunk = next(iter(Reader(io.BytesIO(out.getvalue()), "trimmed")))
    said = re.search(r"with layers (\d+) and payload length (\d+)", DOCUMENT)
    assert (chunk.layers, len(chunk.payload)) == (int(said[1]), int(said[2]))


def test_the_frequencies_of_counts_are_those_of_the_formula():
    """Weights of 0 to 4 after 2 2 3: 1, 1, 1 + 4 * 2 + (3 is last) 0, 1 + 4 + 128, 1."""
    assert "1 + 4 (times n occurred) + 64 (times n followed" in DOCUMENT
    model = counts._Adaptive(4)
    model.begin()
    for count in (2, 2, 3):
        model.note(count)
    weights = np.array([1, 1, 9, 133, 1])
    expected = weights * (2**24 - 5) // weights.sum() + 1
    expected[3] += 2**24 - expected.sum()
    assert model.frequencies().tolist() == expected.tolist()


def test_the_tables_agree_with_the_dump_and_the_code():
    header = table("Header")
    lines = {offset: (len(data), note) for offset, data, note in dumps()[0]}
    for offset, size, name in header:
        assert lines[offset][0] == size
        assert name in lines[offset][1].lower().replace("crc-32", "crc")
    assert sum(size or 0 for _, size, _ in header) == HEADER_BYTES
    chunk = table("Chunk")
    for offset, size, name in chunk[:-1]:
        assert lines[HEADER_BYTES + offset][0] == size
        assert name in lines[HEADER_BYTES + offset][1].lower().replace("crc-32", "crc")
    assert sum(size or 0 for _, size, _ in chunk) == CHUNK_OVERHEAD_BYTES
