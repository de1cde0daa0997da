"""Commands as shells, services and supervisors start and end them: real processes, real descriptors."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from synthetic import make_sound

RATE = 16_000


@pytest.fixture
def shell(tmp_path, tiny_checkpoint):
    """A line of bash in an empty folder with a.wav, a.btn and `$B`: exit code, output, error."""
    sf.write(tmp_path / "a.wav", make_sound(RATE)[0], RATE)

    def run(line: str) -> tuple[int, bytes, str]:
        environment = os.environ | {
            "B": f"{sys.executable} -m bittern",
            "M": f"--model {tiny_checkpoint}",
        }
        done = subprocess.run(
            ["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, timeout=300
        )
        return done.returncode, done.stdout, done.stderr.decode()

    assert run("$B compress --stages 8 a.wav $M -q") == (0, b"", "")
    return run


@pytest.mark.parametrize(
    "line",
    [
        "$B trim a.btn - --stages 2 2>&- > t.btn",
        "$B cat a.btn a.btn -o - 2>&- > t.btn",
        "$B compress --stages 8 a.wav - $M 2>&- > t.btn",
        "$B compress --stages 8 a.wav t.btn $M 2>&- <&- >&-",
        "$B compress --stages 8 a.wav t.btn $M 2< /dev/null",
        "$B trim a.btn t.btn --stages 2 2> /dev/full",
    ],
)
def test_without_standard_error_data_stays_data(shell, line):
    assert shell(line) == (0, b"", "")
    assert shell("$B verify t.btn")[0] == 0


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("$B compress --stages 8 - x.btn $M <&-", 1),
        ("$B trim a.btn - --stages 2 >&-", 1),
        ("$B info a.btn >&-", 1),
        ("$B verify a.btn >&-", 1),
    ],
)
def test_closed_streams_that_are_needed_are_one_line(shell, line, code):
    got, _, said = shell(line)
    assert (got, said.count("\n")) == (code, 1), said
    assert said.startswith("bittern: ")


@pytest.mark.parametrize(
    "line",
    [
        "$B compress --stages 8 a.wav /dev/stdout $M -q | cat > t.btn",
        "$B trim a.btn /dev/stdout --stages 8 -q > t.btn",
        "$B trim a.btn /proc/self/fd/1 --stages 8 -q | cat > t.btn",
        "$B trim a.btn >(cat > t.btn) --stages 8 -q; sleep 1",
        "$B trim <(cat a.btn) /dev/fd/1 --stages 8 -q > t.btn",
        "$B compress --stages 8 <(cat a.wav) t.btn $M -q",
        "cat a.wav | $B compress --stages 8 /dev/stdin t.btn $M -q",
        "$B decompress a.btn /dev/stdout $M -q | $B compress --stages 8 - t.btn $M -q",
    ],
)
def test_pipes_by_name_are_inputs_and_outputs(shell, line):
    assert shell(line) == (0, b"", "")
    code, out, _ = shell("$B verify t.btn && $B info t.btn")
    assert code == 0
    assert b"1.0\n" in out


@pytest.mark.parametrize("name", ["b.aifc", "b.opus", "b.sph", "b.m4a", "b.raw", "b", "b.btn"])
def test_force_does_not_write_over_a_second_recording(shell, tmp_path, name):
    kind = "RAW" if name == "b.raw" else "WAV"
    sf.write(tmp_path / name, make_sound(100)[0], RATE, format=kind, subtype="PCM_16")
    before = (tmp_path / name).read_bytes()
    for line in (f"$B compress --stages 8 a.wav {name} -f", f"$B trim a.btn {name} --stages 2 -f"):
        code, _, said = shell(line)
        assert code == 1
        assert f"{name}: is an audio file's name" in said or f"{name}: is audio" in said
        assert (tmp_path / name).read_bytes() == before


def test_names_of_any_bytes_are_written_and_told(shell, tmp_path):
    for name in (b"caf\xe9.btn", "\U0001f399".encode() * 60 + b".btn"):
        shutil.copy(tmp_path / "a.btn", os.fsencode(tmp_path) + b"/" + name)
    code, out, said = shell("PYTHONIOENCODING=utf-8:strict $B verify caf*.btn a.btn")
    assert (code, said) == (0, "")
    assert b"a.btn: intact" in out
    long = "\U0001f399" * 61
    assert shell(f"$B trim a.btn {long}.btn --stages 2 -q") == (0, b"", "")
    assert (tmp_path / f"{long}.btn").exists()


def test_one_bad_file_does_not_end_info(shell, tmp_path):
    (tmp_path / "bad.btn").write_bytes(b"no")
    code, out, said = shell("$B info bad.btn a.btn none.btn a.btn --json")
    assert code == 4
    assert out.count(b'"file": "a.btn"') == 2
    assert said.count("\n") == 2


def test_a_start_beyond_the_end_is_one_line_and_no_file(shell, tmp_path):
    code, _, said = shell("$B decompress a.btn b.wav --start 1.5 $M")
    assert (code, said) == (1, "bittern: a.btn: ends before --start 1.5\n")
    assert not (tmp_path / "b.wav").exists()


def test_only_endings_that_say_what_a_file_is_are_replaced(shell, tmp_path):
    for name in ("Dr. Smith interview", "talk.2024", "talk.WAV"):
        shutil.copy(tmp_path / "a.wav", tmp_path / name)
    (tmp_path / "o").mkdir()
    line = "$B compress --stages 8 'Dr. Smith interview' talk.2024 talk.WAV --output-dir o $M -q"
    assert shell(line) == (0, b"", "")
    made = {path.name for path in (tmp_path / "o").iterdir()}
    assert made == {"Dr. Smith interview.btn", "talk.2024.btn", "talk.btn"}


def test_a_file_that_is_replaced_leaves_its_mode(shell, tmp_path):
    shutil.copy(tmp_path / "a.btn", tmp_path / "t.btn")
    for mode in (0o600, 0o640, 0o444):
        (tmp_path / "a.btn").chmod(mode)
        assert shell("$B cat t.btn -o a.btn -f -q") == (0, b"", "")
        assert (tmp_path / "a.btn").stat().st_mode & 0o777 == mode


@pytest.mark.parametrize(
    ("number", "jobs"),
    [(signal.SIGINT, 2), (signal.SIGTERM, 2), (signal.SIGHUP, 2), (signal.SIGHUP, 1)],
)
def test_a_signal_ends_the_command_soon_and_leaves_nothing_half(
    tmp_path, tiny_checkpoint, number, jobs
):
    minutes = np.tile(make_sound(60 * RATE)[0], 30)
    for name in "abc":
        sf.write(tmp_path / f"{name}.wav", minutes, RATE)
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-m", "bittern", "compress", "a.wav", "b.wav", "c.wav"]
    options = ["--output-dir", "out", "--jobs", str(jobs), "-q", "--model", str(tiny_checkpoint)]
    process = subprocess.Popen([*command, *options], cwd=tmp_path, stderr=subprocess.PIPE)
    try:
        _wait_for_part(tmp_path / "out")
        process.send_signal(number)
        began = time.monotonic()
        process.wait(60)
    finally:
        process.kill()
    assert time.monotonic() - began < (4 if jobs > 1 else 10)  # 2 s where the machine is not shared
    assert process.returncode == 128 + number
    assert list((tmp_path / "out").glob(".*")) == []
    assert process.stderr
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()


def _wait_for_part(folder: Path) -> None:
    deadline = time.monotonic() + 120
    while not list(folder.glob(".*.part")):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_ogg_of_a_rate_that_crashes_its_library_is_one_line(shell, tmp_path):
    sf.write(tmp_path / "h.wav", make_sound(38_400, sample_rate=384_000)[0], 384_000)
    assert shell("$B compress --stages 8 h.wav $M -q")[0] == 0
    code, _, said = shell("$B decompress h.btn h.ogg $M")
    assert code == 2
    assert (
        said == "bittern: h.ogg: Ogg Vorbis holds up to 200000 Hz, not 384000; give .wav or .flac\n"
    )
    assert not list(tmp_path.glob(".*"))
