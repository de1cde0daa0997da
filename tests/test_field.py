"""Odd ends that users of other codecs met: each a kind, with instances that the code does not name."""

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from synthetic import make_sound

from bittern.audio import streams as audio
from bittern.cli import main
from bittern.format.container import Reader, Writer
from bittern.format.counts import decode_counts, encode_counts
from bittern.format.rangecoder import TOTAL, RangeDecoder, RangeEncoder

RATE = 16_000


# files of earlier versions


def as_written_before(encoder: RangeEncoder) -> bytes:
    """All zeros at the end left out, as encoders did until they counted what symbols cost."""
    return encoder._encoder.get_compressed().astype(">u4").tobytes().rstrip(b"\0") or b"\0"


@pytest.mark.parametrize("tail", [1, 30, 200])
@pytest.mark.parametrize("head", [0, 1, 40])
@pytest.mark.parametrize("portion", [1, 7, 500])
def test_tails_of_symbol_0_were_written_as_nothing_and_are_read(head, tail, portion):
    rng = np.random.default_rng(head)
    symbols = np.concatenate([rng.integers(1, 16, head), np.zeros(tail, np.int64)])
    frequencies = np.full((len(symbols), 16), TOTAL // 16)  # 4 bits each
    encoder = RangeEncoder()
    encoder.push(symbols, frequencies)
    data = as_written_before(encoder)
    assert len(data) <= head / 2 + 8
    decoder = RangeDecoder(data)
    found = [decoder.pull(frequencies[at : at + portion]) for at in range(0, len(symbols), portion)]
    assert (np.concatenate(found) == symbols).all()
    with pytest.raises(ValueError, match="after its bytes have ended"):
        decoder.pull(np.full((300, 16), TOTAL // 16))


@pytest.mark.parametrize(("streams", "frames"), [(2, 300), (8, 300), (8, 1500)])
def test_silent_channels_after_loud_ones_were_written_as_nothing_and_are_read(
    monkeypatch, streams, frames
):
    counts = np.random.default_rng(0).integers(1, 33, (streams, frames))
    counts[-1] = 0
    monkeypatch.setattr(RangeEncoder, "finish", as_written_before)
    data = encode_counts(counts, 32)
    assert (decode_counts(data, streams, frames, 32) == counts).all()


# standard output


@pytest.fixture
def damaged_dump(tmp_path):
    """A file about whose bad blocks libsndfile prints to standard output."""
    path = tmp_path / "a.sds"
    sf.write(path, 0.3 * make_sound(RATE)[0], RATE, format="SDS", subtype="PCM_16")
    data = bytearray(path.read_bytes())
    for place in np.random.default_rng(0).integers(30, len(data), 200):
        data[place] ^= 1
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("target", ["-", "/dev/stdout", "/dev/fd/1"])
def test_libraries_print_nothing_into_data(damaged_dump, tmp_path, tiny_checkpoint, target):
    command = [sys.executable, "-m", "bittern", "compress", str(damaged_dump), target, "-q"]
    done = subprocess.run(
        [*command, "--model", str(tiny_checkpoint), "--stages", "4"],
        capture_output=True,
        check=True,
    )
    assert b"Error" in done.stderr  # it did print
    reader = Reader(io.BytesIO(done.stdout), "x")
    assert sum(chunk.frames for chunk in reader) > 0
    assert reader.bytes_read == len(done.stdout)


# forks


@pytest.mark.slow  # two threads wait for each other, long where there are not two processors
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
def test_a_process_forked_after_work_on_many_threads_works(tiny_checkpoint):
    program = f"""
import os, sys, torch, bittern
torch.set_num_threads(2)
codec = bittern.load({str(tiny_checkpoint)!r}, device="cpu")
wav = torch.sin(torch.arange(32_000) / 9)[None, None]
def work():
    codes = codec.encode(wav)
    return codes, codec.decode(codes), codec.compress(wav[0], 16_000)
before = work()
child = os.fork()
after = work()
same = (before[0] == after[0]).all() and before[2] == after[2]
if not child:
    os._exit(0 if same else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    process = subprocess.Popen([sys.executable, "-c", program], env=environment, process_group=0)
    try:
        assert process.wait(200) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


# numbers


@pytest.mark.parametrize("value", ["1e308", "1e-320", "9e99", "nan", "-inf", "1e9"])
@pytest.mark.parametrize(
    "option",
    [
        ("compress", "--bitrate"),
        ("compress", "--quality"),
        ("compress", "--chunk-seconds"),
        ("decompress", "--start"),
        ("trim", "--bitrate"),
        ("bench", "--seconds"),
    ],
)
def test_numbers_beyond_all_measure_are_one_line(
    option, value, tmp_path, tiny_checkpoint, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("a.btn").touch()
    sf.write("a.wav", make_sound(800)[0], RATE)
    command, name = option
    if (command, value) == ("bench", "1e-320"):
        pytest.skip("a benchmark of nothing")
    files = {"compress": ["a.wav", "b.btn"], "bench": []}.get(command, ["a.btn", "b.wav"])
    model = ["--model", str(tiny_checkpoint)] if command in ("compress", "bench") else []
    try:
        code = main([command, *files, f"{name}={value}", *model])
    except SystemExit as ended:
        code = ended.code
    said = capsys.readouterr().err
    assert code or (name, value) == ("--chunk-seconds", "1e-320")
    assert said.count("\n") == 1, said


# chunks of nothing


@pytest.mark.parametrize("silent", [[0], [1], [0, 2], [0, 1, 2]])
def test_info_of_chunks_without_codes_counts_the_others(tiny_codec, silent, tmp_path, capsys):
    made = tiny_codec.compress(make_sound(RATE)[0], RATE, quality=4)
    head = dataclasses.replace(
        Reader(io.BytesIO(made), "x").header, samples=None, source_samples=None, chunk_frames=50
    )
    file = io.BytesIO()
    writer = Writer(file, head)
    for index in range(3):
        codes = np.zeros((1, 4, 50), np.int64)
        if index in silent:
            codes[:] = -1
        writer.write(codes)
    writer.finish(149 * head.hop_length, 149 * head.hop_length)
    (tmp_path / "a.btn").write_bytes(file.getvalue())
    assert main(["info", str(tmp_path / "a.btn"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["highest_second_kbps"] > 0) == (len(silent) < 3)
    assert told["fewest_stages"] == 0


@pytest.mark.parametrize("jobs", ["1", "2"])
@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), MemoryError(), OSError("odd")]
)
def test_what_befalls_one_file_of_many_costs_it_alone(
    tmp_path, tiny_checkpoint, monkeypatch, capsys, error, jobs
):
    for name in "abc":
        sf.write(tmp_path / f"{name}.wav", make_sound(800)[0], RATE)
    (tmp_path / "out").mkdir()
    opened = audio.open_audio

    def fails(path: Path, *rest: object):
        if path.name == "b.wav":
            raise error
        return opened(path, *rest)

    monkeypatch.setattr(audio, "open_audio", fails)  # stands in for a disk or memory that is full
    argv = ["compress", *(str(tmp_path / f"{name}.wav") for name in "abc"), "--jobs", jobs]
    code = main([*argv, "--output-dir", str(tmp_path / "out"), "--model", str(tiny_checkpoint)])
    assert code == 1
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.btn", "c.btn"}
    assert "1 of 3 files failed" in capsys.readouterr().err
