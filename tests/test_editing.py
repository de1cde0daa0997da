import io
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from test_bitstream import VERSIONS, example, header_of, random_codes, read_file, write_file

import bittern
import bittern.cli
from bittern import checkpoint
from bittern.codec import Codec
from bittern.errors import FormatError
from bittern.format.container import Reader, Writer
from bittern.format.edit import cat, cut, trim
from bittern.format.entropy import ENTROPY_FILE

NO_ENTROPY_MODEL = 3
EXAMPLE = Path(__file__).parents[1] / "examples/speech.flac"


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


def test_frames_with_stages_of_their_own_are_not_trimmed_to_a_number_of_them():
    data, _ = example(version=2)
    with pytest.raises(FormatError, match=r"x\.btn: its frames have .* trim it to a bitrate"):
        trim(Reader(io.BytesIO(data), "x.btn"), io.BytesIO(), 2)


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("first", "end"), [(0, 1), (1, 3), (0, None), (2, None), (3, 9), (1, 4)])
def test_cutting_keeps_the_codes_of_the_span_and_the_lap(
    first: int, end: int | None, live: bool, version: int
):
    data, codes = example(20_000, live=live, version=version)  # 64 frames in chunks of 16
    out = io.BytesIO()
    cut(reader_of(data), out, first, end, live=live)
    header, back = read_file(out.getvalue())
    to_the_end = end is None or end >= 4
    assert np.array_equal(back, codes[..., first * 16 : None if to_the_end else end * 16 + 1])
    assert header.samples == (20_000 if to_the_end else end * 5_120) - first * 5_120


def test_cutting_after_the_end_is_an_error():
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


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("live", [False, True])
def test_joining_puts_codes_after_each_other(live: bool, version: int):
    sizes = [(700, 16), (0, 16), (9_000, 7), (1, 9)]
    parts = [example(n, chunk_frames=size, version=version) for n, size in sizes]
    out = io.BytesIO()
    cat([reader_of(data) for data, _ in parts], out, live=live)
    header, back = read_file(out.getvalue())
    assert header.chunk_frames == 16
    assert np.array_equal(back, np.concatenate([codes for _, codes in parts], axis=2))
    assert header.samples == (4 + 30) * 320 + 1


@pytest.mark.parametrize("version", VERSIONS)
def test_joining_one_file_changes_nothing(version: int):
    data, _ = example(version=version)
    out = io.BytesIO()
    cat([reader_of(data)], out)
    assert out.getvalue() == data


def test_files_that_do_not_fit_are_not_joined():
    data, _ = example()
    for change, message in [
        ({"stages": 3}, "b: has stages 3, but a has 4"),
        ({"version": 2}, "b: has version 2, but a has 1"),
        ({"fingerprint": b"12345678"}, "b: has fingerprint"),
        ({"hop_length": 160}, "b: its header does not fit that of a"),
    ]:
        other, _ = example(**change)
        with pytest.raises(FormatError, match=message):
            cat([reader_of(data, "a"), reader_of(other, "b")], io.BytesIO())


# Range coded files, at the command line and without torch, by the shipped codec


@pytest.fixture(scope="module")
def shipped_codec() -> Codec:
    return bittern.load("speech-16khz", device="cpu")


@pytest.fixture
def coded(shipped_codec: Codec, tmp_path: Path) -> np.ndarray:
    """`a.btn`, range coded, and `raw.btn` of 5 s in chunks of 104 frames; their codes [1, k, F]."""
    assert shipped_codec.entropy
    wav, rate = sf.read(EXAMPLE, frames=80_000, dtype="float32")
    sf.write(tmp_path / "a.wav", wav, rate)
    for name, coder in (("a.btn", "range"), ("raw.btn", "raw")):
        source, target = tmp_path / "a.wav", tmp_path / name
        shipped_codec.compress_file(source, target, stages=6, chunk_seconds=2, coder=coder)
    return codes_of(tmp_path / "raw.btn", shipped_codec)


def codes_of(path: Path, codec: Codec) -> np.ndarray:
    reader = Reader(io.BytesIO(path.read_bytes()), path.name, find_coder=lambda _: codec.entropy)
    return np.concatenate(list(reader.codes()), axis=2)


def bittern_without_torch(folder: Path, *argv: str) -> tuple[int, str]:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from bittern.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *argv], cwd=folder, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("command", ["decompress", "trim"])
def test_a_payload_that_makes_no_sense_is_told_with_its_file(
    command: str, coded: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Its checksum holds: whoever wrote it was at fault."""
    reader = reader_of((tmp_path / "a.btn").read_bytes())
    with (tmp_path / "bad.btn").open("wb") as file:
        writer = Writer(file, reader.header)
        for chunk in reader:
            if chunk.index == 1:  # its first stage claims 16,383 bytes
                chunk = replace(chunk, payload=b"\xff\x7f" + chunk.payload[2:])
            writer.copy(chunk)
        writer.finish(reader.header.samples, reader.header.source_samples)
    options = ["--stages", "2"] if command == "trim" else []
    out = tmp_path / ("out.btn" if command == "trim" else "out.wav")
    argv = [command, str(tmp_path / "bad.btn"), str(out), *options]
    assert bittern.cli.main(argv) != 0
    error = capsys.readouterr().err
    assert "bad.btn: chunk 2 " in error
    assert "longer than its payload" in error
    assert not out.exists()


def test_range_coded_files_are_trimmed_cut_and_joined(
    coded: np.ndarray, shipped_codec: Codec, tmp_path: Path
):
    for command in (
        "trim a.btn t.btn --stages 2",
        "cut a.btn front.btn --duration 4",
        "cut a.btn back.btn --start 2.1",
        "cat front.btn back.btn a.btn -o all.btn",
    ):
        code, errors = bittern_without_torch(tmp_path, *command.split())
        assert code == 0, errors
    front, back = coded[..., :209], coded[..., 104:]  # two chunks and the lap; all but the first
    for name, expected in (
        ("t.btn", coded[:, :2]),
        ("front.btn", front),
        ("back.btn", back),
        ("all.btn", np.concatenate([front, back, coded], axis=2)),
    ):
        assert np.array_equal(codes_of(tmp_path / name, shipped_codec), expected), name
        shipped_codec.decompress((tmp_path / name).read_bytes())
    again = io.BytesIO()
    reader = reader_of((tmp_path / "raw.btn").read_bytes())
    cut(reader, again, 0, 2)
    got = shipped_codec.decompress((tmp_path / "front.btn").read_bytes()).wav
    assert got.equal(shipped_codec.decompress(again.getvalue()).wav)


def test_an_entropy_model_is_needed_only_where_codes_are_coded_anew(
    coded: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    home = checkpoint.find("speech-16khz").resolve()
    monkeypatch.setattr(checkpoint, "shipped_folders", lambda: [])
    monkeypatch.chdir(tmp_path)
    for command in (
        "trim a.btn t.btn --stages 2",
        "cut a.btn back.btn --start 2.1",
        "cat a.btn -o same.btn",
    ):
        assert bittern.cli.main(command.split()) == 0
    assert Path("same.btn").read_bytes() == Path("a.btn").read_bytes()
    fingerprint = reader_of(Path("a.btn").read_bytes()).header.entropy.hex()
    (tmp_path / "other").mkdir()
    shutil.copy(home / "config.json", "other")
    capsys.readouterr()
    for command in ("cut a.btn x.btn --duration 1", "cat a.btn a.btn -o x.btn"):
        for option, owner in (([], "no shipped model has"), (["--model", "other"], "other does")):
            assert bittern.cli.main([*command.split(), *option]) == NO_ENTROPY_MODEL
            line = capsys.readouterr().err
            assert line.count("\n") == 1
            assert line.startswith("bittern: a.btn: ")
            assert f"by entropy model {fingerprint}, which {owner}" in line
            assert not Path("x.btn").exists()
        shutil.copy(home / ENTROPY_FILE, "other")
        assert bittern.cli.main([*command.split(), "-q", "--model", "other"]) == 0
        Path("x.btn").unlink()
        Path("other", ENTROPY_FILE).unlink()


def test_range_coded_and_raw_files_are_not_joined(coded: np.ndarray, tmp_path: Path):
    code, errors = bittern_without_torch(tmp_path, "cat", "raw.btn", "a.btn", "-o", "x.btn")
    assert code == FormatError.exit_code
    assert errors.endswith("but raw.btn has none\n")
