"""The `bittern` command as people type it: exit codes, exact messages, and what is left over."""

import contextlib
import io
import json
import os
import re
import resource
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from synthetic import make_sound

import bittern
from bittern.audio import streams as audio
from bittern.cli import _parser, main
from bittern.cli.options import coding_options
from bittern.config import CodingOptions

USAGE, BAD_AUDIO, BAD_MODEL, DAMAGED = 1, 2, 3, 4


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def model(tiny_checkpoint) -> list[str]:
    return ["--model", str(tiny_checkpoint), "--device", "cpu"]


@pytest.fixture
def run(capsys):
    """Run a command in this process: exit code, standard output, standard error."""

    def run_command(*argv: str | Path) -> tuple[int, str, str]:
        try:
            code = main([str(arg) for arg in argv])
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run_command


@pytest.fixture
def pipe(capfdbinary, monkeypatch):
    """Run a command in this process between two pipes: exit code, standard output, error."""

    def run_command(*argv: str | Path, stdin: bytes = b"") -> tuple[int, bytes, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Pipe(stdin)))
        code = main([str(arg) for arg in argv])
        out, err = capfdbinary.readouterr()
        return code, out, err.decode()

    return run_command


class Pipe(io.BytesIO):
    """Gives up to 1013 bytes at a time, and cannot seek."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(1013 if size is None or size < 0 else min(size, 1013))

    def seekable(self) -> bool:
        return False


def write_wav(path: Path, samples: int, channels: int = 1, rate: int = 16_000, **options) -> Path:
    sf.write(path, make_sound(samples, channels=channels, sample_rate=rate).T, rate, **options)
    return path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_help_and_byte_level_commands_do_not_import_torch(here, tiny_codec):
    sound = make_sound(5_000)
    (here / "a.btn").write_bytes(tiny_codec.compress(sound, 16_000, stages=8))
    (here / "varied.btn").write_bytes(tiny_codec.compress(sound, 16_000, quality=6))
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from bittern.cli import main\n"
        "for argv in (['--help'], ['--version'], ['compress', '--help'], ['info', 'a.btn'],\n"
        "             ['verify', 'a.btn'], ['trim', 'a.btn', 'b.btn', '--stages', '2'],\n"
        "             ['info', 'varied.btn'], ['trim', 'varied.btn', 'e.btn', '--bitrate', '1'],\n"
        "             ['cut', 'a.btn', 'c.btn'], ['cat', 'a.btn', 'a.btn', '-o', 'd.btn']):\n"
        "    try:\n"
        "        assert main(argv) == 0\n"
        "    except SystemExit as stop:\n"
        "        assert not stop.code\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert f"bittern {bittern.__version__}" in done.stdout
    assert (here / "b.btn").exists()


@pytest.mark.parametrize("samples", [0, 1, 319, 320, 321, 20_000])
def test_any_length_comes_back_exactly(here, run, model, samples):
    write_wav(here / "a.wav", samples)
    assert run("compress", "a.wav", *model)[0] == 0
    assert run("decompress", "a.btn", "b.wav", *model)[0] == 0
    assert sf.info("b.wav").frames == samples
    assert names(here) == {"a.wav", "a.btn", "b.wav"}


@pytest.mark.parametrize(
    ("suffix", "rate", "channels", "options"),
    [
        (".wav", 8_000, 1, {}),
        (".wav", 44_100, 2, {}),
        (".wav", 96_000, 1, {"subtype": "PCM_24"}),
        (".wav", 16_000, 1, {"subtype": "PCM_U8"}),
        (".wav", 48_000, 6, {"subtype": "FLOAT"}),
        (".flac", 22_050, 2, {}),
        (".ogg", 16_000, 1, {}),
        (".mp3", 44_100, 2, {}),
    ],
)
def test_any_kind_of_audio_comes_back_at_its_rate_and_length(
    here, run, model, suffix, rate, channels, options
):
    source = write_wav(here / f"a{suffix}", rate // 2 + 7, channels, rate, **options)
    code, out, err = run("compress", source, "a.btn", *model)
    assert (code, out) == (0, "")
    assert (f" s, {channels} channels, 8 stages" in err) == (channels > 1)
    assert run("decompress", "a.btn", "b.wav", *model)[0] == 0
    before, after = sf.info(source), sf.info("b.wav")
    assert (after.frames, after.samplerate) == (before.frames, before.samplerate)
    assert (after.channels, after.subtype) == (channels, "PCM_16")


def test_mono_mixes_channels_down(here, run, model):
    sound = make_sound(20_000, channels=2)
    sf.write("a.wav", sound.T, 16_000, subtype="FLOAT")
    sf.write("mean.wav", sound.mean(axis=0), 16_000, subtype="FLOAT")
    code, _, err = run("compress", "a.wav", "--mono", *model)
    assert (code, ", 2 channels mixed to 1)" in err) == (0, True)
    assert run("compress", "mean.wav", *model)[0] == 0
    assert run("decompress", "a.btn", "b.wav", *model)[0] == 0
    assert run("decompress", "mean.btn", "c.wav", *model)[0] == 0
    assert Path("b.wav").read_bytes() == Path("c.wav").read_bytes()


def test_channels_share_the_bitrate(here, run, model):
    write_wav(here / "a.wav", 20_000, 2)
    assert run("compress", "a.wav", "--bitrate", "1.9", "--cbr", *model)[0] == 0
    run("compress", "a.wav", "b.btn", "--stages", "3", *model)
    assert Path("a.btn").read_bytes() == Path("b.btn").read_bytes()
    assert json.loads(run("info", "a.btn", "--json")[1])["nominal_kbps"] == 1.8
    code, _, err = run("compress", "a.wav", "c.btn", "--bitrate", "0.5", "--cbr", *model)
    assert (code, "give 0.6 to 4.8 for 2 channels" in err) == (USAGE, True)
    assert run("trim", "a.btn", "d.btn", "--bitrate", "1.3")[0] == 0
    run("trim", "a.btn", "e.btn", "--stages", "2")
    assert Path("d.btn").read_bytes() == Path("e.btn").read_bytes()
    assert json.loads(run("info", "d.btn", "--json")[1])["nominal_kbps"] == 1.2


def test_the_receipt_counts_bytes(here, run, model):
    write_wav(here / "a.wav", 16_000)
    _, _, err = run("compress", "a.wav", "--stages", "4", *model)
    size = (here / "a.btn").stat().st_size
    assert f"a.wav -> a.btn: 1.00 s, 4 stages, {size * 8 / 1000:.2f} kbit/s ({size} bytes, " in err
    assert err.count("\n") == 1
    _, _, err = run("decompress", "a.btn", "b.wav", *model)
    assert f"a.btn -> b.wav: 1.00 s at 16000 Hz, channels: 1, from {size * 8 / 1000:.2f}" in err
    assert run("decompress", "a.btn", "c.wav", "-q", *model) == (0, "", "")
    _, _, err = run("decompress", "a.btn", "d.wav", "-v", *model)
    assert err.startswith("tiny-test (")


def test_bitrate_and_stages_choose_the_size(here, run, model):
    write_wav(here / "a.wav", 16_000)
    sizes = []
    for option in (["--bitrate", "0.9", "--cbr"], *(["--stages", k] for k in "368")):
        run("compress", "a.wav", "-f", *option, *model)
        sizes.append((here / "a.btn").stat().st_size)
    assert sizes[0] == sizes[1] < sizes[2] < sizes[3]
    run("decompress", "a.btn", "full.wav", *model)
    run("decompress", "a.btn", "less.wav", "--stages", "2", *model)
    assert Path("full.wav").read_bytes() != Path("less.wav").read_bytes()


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
def test_outputs_are_of_the_kind_that_their_name_says(here, run, model, suffix):
    write_wav(here / "a.wav", 5_000)
    run("compress", "a.wav", *model)
    assert run("decompress", "a.btn", "-o", f"b{suffix}", *model)[0] == 0
    assert sf.info(f"b{suffix}").format == suffix[1:].upper()


def test_many_inputs_go_to_a_folder_and_failures_are_told_at_the_end(here, run, model):
    for name in ("a.wav", "b.wav"):
        write_wav(here / name, 3_000)
    (here / "text.wav").write_text("no audio")
    (here / "out").mkdir()
    code, _, err = run("compress", "a.wav", "text.wav", "b.wav", "--output-dir", "out", *model)
    assert code == BAD_AUDIO
    assert [line.split(":")[0] for line in err.splitlines()[:2]] == [
        "a.wav -> out/a.btn",
        "b.wav -> out/b.btn",
    ]
    assert err.splitlines()[2:] == [
        "bittern: text.wav: not audio that can be read (Format not recognised)",
        "bittern: 1 of 3 files failed",
    ]
    assert names(here / "out") == {"a.btn", "b.btn"}


def test_jobs_at_once_give_the_same_files_in_the_same_order(here, run, model):
    sources = [f"{item:02}.wav" for item in range(12)]
    for item, name in enumerate(sources):
        write_wav(here / name, 2_000 + 3_001 * (item % 5))
    (here / "07.wav").write_text("no audio")
    (here / "one").mkdir()
    (here / "many").mkdir()
    code, _, err = run("compress", *sources, "--output-dir", "one", *model)
    code_many, _, err_many = run(
        "compress", *sources, "--output-dir", "many", "--jobs", "3", *model
    )
    assert code == code_many == BAD_AUDIO
    heads = [line.split(" ->")[0] for line in err_many.splitlines()]
    assert heads == [line.split(" ->")[0] for line in err.splitlines()]
    assert heads[:11] == [name for name in sources if name != "07.wav"]
    assert names(here / "one") == names(here / "many")
    assert len(names(here / "one")) == 11
    for path in (here / "one").iterdir():
        assert path.read_bytes() == (here / "many" / path.name).read_bytes()


def test_progress_is_one_line_on_a_terminal_alone(here, run, model):
    import pty
    import termios

    write_wav(here / "a.wav", 32_000)
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 80))
    command = [sys.executable, "-m", "bittern", "compress", "a.wav", *model]
    with os.fdopen(master, "rb", buffering=0) as terminal:
        done = subprocess.run(command, stderr=slave, timeout=120)
        os.close(slave)
        shown = b""
        with contextlib.suppress(OSError):  # what a closed terminal reads as
            while part := terminal.read(4096):
                shown += part
    assert done.returncode == 0
    first, *lines = shown.decode().split("\r")
    assert not first
    assert re.match(r" *0%\|.*\| 0\.00/2\.00 \[00:00<\?, \? s of audio/s\]$", lines[0])
    assert not lines[-3].strip()  # wiped out
    assert lines[-2].startswith("a.wav -> a.btn: 2.00 s")
    assert lines[-1] == "\n"
    assert run("decompress", "a.btn", *model, "-f")[2].count("\r") == 0


# wrong input: one line, an exit code, nothing left


def bad_sample(value: float):
    def write(path: Path) -> None:
        sound = make_sound(2_000)
        sound[0, 1_234] = value
        sf.write(path, sound.T, 16_000, subtype="FLOAT")

    return write


@pytest.mark.parametrize(
    ("make", "code", "message"),
    [
        (lambda p: None, BAD_AUDIO, "cannot be read (No such file or directory)"),
        (lambda p: p.mkdir(), BAD_AUDIO, "is a directory; give audio files"),
        (
            lambda p: p.write_text("words"),
            BAD_AUDIO,
            "not audio that can be read (Format not recognised)",
        ),
        (
            lambda p: p.write_bytes(b""),
            BAD_AUDIO,
            "not audio that can be read (Format not recognised)",
        ),
        (
            bad_sample(np.nan),
            BAD_AUDIO,
            "sample 1234 (0.077 s) of channel 1 is nan, not a number to code",
        ),
        (
            bad_sample(np.inf),
            BAD_AUDIO,
            "sample 1234 (0.077 s) of channel 1 is inf, not a number to code",
        ),
        (
            lambda p: write_wav(p, 100, rate=500),
            BAD_AUDIO,
            "sample rate 500 Hz; expected 1000 to 768000",
        ),
    ],
)
def test_input_that_cannot_be_compressed(here, run, model, make, code, message):
    make(here / "a.wav")
    before = names(here)
    assert run("compress", "a.wav", *model) == (code, "", f"bittern: a.wav: {message}\n")
    assert names(here) == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: d[:-1], "chunk 1 of 1 (0:00.00-0:01.02, byte 52) is cut short at byte "),
        (lambda d: d[:80] + b"\0\0\0\0" + d[84:], "is damaged: the checksum does not match"),
        (lambda d: b"RIFF" + d[4:], "not a .btn file (it begins with 52494646)"),
        (
            lambda d: d[:4] + b"\x09" + d[5:],
            ".btn version 9; this Bittern reads versions 1 and 2. Update Bittern",
        ),
        (lambda d: b"", "not a .btn file (it begins with nothing)"),
    ],
)
def test_files_that_cannot_be_decompressed(here, run, model, tiny_codec, damage, message):
    (here / "a.btn").write_bytes(damage(tiny_codec.compress(make_sound(16_000), 16_000)))
    for command in (["decompress", "a.btn", "b.wav", *model], ["verify", "a.btn"]):
        code, out, err = run(*command)
        assert (code, out) == (DAMAGED, "")
        assert err.startswith("bittern: a.btn: ")
        assert message in err
        assert err.count("\n") == 1
    assert names(here) == {"a.btn"}


def test_another_model_and_no_model(here, run, model, other_checkpoint):
    write_wav(here / "a.wav", 1_000)
    run("compress", "a.wav", *model)
    code, _, err = run("decompress", "a.btn", "b.wav", "--model", other_checkpoint)
    assert code == BAD_MODEL
    assert err.startswith("bittern: a.btn: made by model ")
    code, _, err = run("decompress", "a.btn", "b.wav", "--model", "no-such-model")
    assert code == BAD_MODEL
    assert err.startswith("bittern: model 'no-such-model' is neither a folder")
    assert names(here) == {"a.wav", "a.btn"}


def test_outputs_that_would_hurt_are_refused(here, run, model):
    write_wav(here / "a.wav", 1_000)
    write_wav(here / "b.wav", 1_000)
    (here / "a.btn").write_text("mine")
    (here / "folder").mkdir()
    before = {path: path.read_bytes() for path in here.iterdir() if path.is_file()}
    for argv, message in [
        (["a.wav"], "a.btn: exists; -f overwrites it"),
        (["a.wav", "folder", "-f"], "folder: cannot be written (it is a directory)"),
        (["a.wav", "folder"], "folder: is a directory"),
        (["a.wav", "none/a.btn"], "none/a.btn: cannot be written (No such file or directory)"),
        (["a.btn", "a.btn", "-f"], "a.btn: is the input itself; give another output"),
        (
            ["a.wav", "b.wav", "-f"],
            "b.wav: is an audio file's name, and would get .btn data; for many inputs give "
            "--output-dir DIR",
        ),
        (
            ["a.wav", "b.wav", "c.wav"],
            "one input and one output; for many inputs give --output-dir DIR",
        ),
        (
            ["a.wav", "./a.wav", "--output-dir", "folder"],
            "a.wav and ./a.wav: both would become folder/a.btn",
        ),
        (
            ["a.wav", "--output-dir", "none"],
            "none: is not a directory; --output-dir needs one that exists",
        ),
        (["a.wav", "x.btn", "--stages", "9"], "got 9 stages; tiny-test has 1 to 8"),
        (
            ["a.wav", "x.btn", "--bitrate", "64", "--cbr"],
            "bitrate 64 kbit/s is out of reach of tiny-test; give 0.3 to 2.4",
        ),
        (  # with what stands around a chunk of 6 s
            ["a.wav", "x.btn", "--bitrate", "64"],
            "bitrate 64 kbit/s is out of reach of tiny-test; give 0.33 to 2.42",
        ),
        (
            ["a.wav", "x.btn", "--quality", "9"],
            "quality is 9; tiny-test has 1 to 8, which is the number of stages that frames of "
            "speech have on average",
        ),
        (
            ["a.wav", "x.btn", "--cbr"],
            "cbr holds a bitrate or a number of stages constant; give either",
        ),
    ]:
        assert run("compress", *argv, *model) == (USAGE, "", f"bittern: {message}\n")
    run("compress", "a.wav", "-o", "real.btn", *model)
    assert run("decompress", "real.btn", "b.xyz", *model)[0] == BAD_AUDIO
    assert before == {path: path.read_bytes() for path in before}
    assert names(here) == {"a.wav", "b.wav", "a.btn", "folder", "real.btn"}
    assert not list((here / "folder").iterdir())
    assert run("compress", "a.wav", "-f", *model)[0] == 0
    assert (here / "a.btn").read_bytes() == (here / "real.btn").read_bytes()


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["compress"],
        ["compress", "a.wav", "--stages", "0"],
        ["compress", "a.wav", "--bitrate", "nan"],
        ["compress", "a.wav", "--bitrate", "3", "--stages", "2"],
        ["trim", "a.btn", "b.btn"],
        ["nonsense"],
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_1(run, argv):
    code, out, err = run(*argv)
    assert (code, out, err.count("\n")) == (USAGE, "", 1)
    assert err.rstrip().endswith("--help")


def test_tracebacks_come_only_with_vv(here, run, model):
    assert run("compress", "none.wav", "-v", *model)[0] == BAD_AUDIO
    with pytest.raises(bittern.AudioError):
        run("compress", "none.wav", "-vv", *model)


def test_a_full_disk_is_one_line_and_leaves_nothing(here, run, model):
    write_wav(here / "a.wav", 60_000)
    run("compress", "a.wav", "-o", "good.btn", *model)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for argv in (["compress", "a.wav", "a.btn"], ["decompress", "good.btn", "b.wav"]):
        resource.setrlimit(resource.RLIMIT_FSIZE, (512, hard))
        try:
            code, out, err = run(*argv, *model)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (code, out) == (USAGE, "")
        assert err == f"bittern: {argv[2]}: cannot be written (File too large)\n"
    code, _, err = run("compress", "a.wav", "/dev/full", *model)
    assert code == USAGE
    assert err == "bittern: /dev/full: cannot be written (No space left on device)\n"
    assert Path("/dev/full").is_char_device()
    assert names(here) == {"a.wav", "good.btn"}


# pipes


def test_pipes_give_what_files_give(here, pipe, model):
    write_wav(here / "a.wav", 30_000, 2, 44_100)
    wav = (here / "a.wav").read_bytes()
    assert pipe("compress", "a.wav", *model)[0] == 0
    assert pipe("decompress", "a.btn", "b.wav", *model)[0] == 0

    _, from_file, _ = pipe("compress", "a.wav", "-", *model)
    assert from_file == (here / "a.btn").read_bytes()
    code, live, err = pipe("compress", "-", "-", *model, stdin=wav)
    assert code == 0
    assert err.startswith("standard input -> standard output: 0.68 s")

    assert pipe("decompress", "-", "c.wav", *model, stdin=live)[0] == 0
    assert (here / "c.wav").read_bytes() == (here / "b.wav").read_bytes()
    _, out, _ = pipe("decompress", "-", *model, stdin=from_file)
    assert out == (here / "b.wav").read_bytes()
    _, out, _ = pipe("decompress", "-", "--raw", *model, stdin=live)
    assert out == (here / "b.wav").read_bytes()[44:]


def test_raw_samples_are_read_from_a_pipe(here, pipe, model):
    write_wav(here / "a.wav", 5_000, 2, 8_000)
    raw = (here / "a.wav").read_bytes()[44:]
    rate = ["--raw-rate", "8000", "--raw-channels", "2"]
    assert pipe("compress", "-", "a.btn", *rate, *model, stdin=raw)[0] == 0
    assert pipe("compress", "a.wav", "b.btn", *model)[0] == 0
    assert (here / "a.btn").read_bytes() == (here / "b.btn").read_bytes()


def test_what_is_no_wav_on_a_pipe_is_one_line(here, pipe, model):
    assert pipe("compress", "-", "a.btn", *model, stdin=b"words " * 10) == (
        BAD_AUDIO,
        b"",
        "bittern: standard input: not a WAV stream. Pipe WAV, or raw 16-bit samples with "
        "--raw-rate\n",
    )
    assert names(here) == set()


def test_binary_data_never_goes_to_a_terminal(here, run, model, monkeypatch):
    write_wav(here / "a.wav", 1_000)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert run("compress", "a.wav", "-", *model) == (
        USAGE,
        "",
        "bittern: standard output is a terminal; name a file with -o\n",
    )


def test_the_first_chunk_leaves_before_the_input_ends(here, tiny_checkpoint):
    read_end, write_end = os.pipe()
    command = [sys.executable, "-m", "bittern", "compress", "-", "-", "--raw-rate", "16000"]
    command += ["--chunk-seconds", "0.1", "--model", str(tiny_checkpoint), "--device", "cpu", "-q"]
    with (
        subprocess.Popen(command, stdin=read_end, stdout=subprocess.PIPE) as process,
        os.fdopen(write_end, "wb", buffering=0) as pipe,
    ):
        os.close(read_end)
        pipe.write(make_sound(32_000).astype("<i2").tobytes())
        assert process.stdout is not None
        assert process.stdout.read(4) == b"BTRN"
        assert process.poll() is None
        pipe.close()
        process.stdout.read()
        assert process.wait(timeout=30) == 0


# without a model


def test_info_for_people_and_programs(here, run, tiny_codec):
    data = tiny_codec.compress(make_sound(22_050, channels=2), 44_100, stages=3)
    (here / "a.btn").write_bytes(data)
    code, out, err = run("info", "a.btn", "--json")
    facts = json.loads(out)
    assert (code, err) == (0, "")
    assert facts["seconds"] == 0.5
    assert facts["file_bytes"] == len(data)
    assert facts["measured_kbps"] == pytest.approx(len(data) * 16 / 1000, abs=1e-3)
    assert facts["nominal_kbps"] == 1.8
    assert (facts["source_rate"], facts["streams"], facts["stages"]) == (44_100, 2, 3)
    assert facts["model_fingerprint"] == tiny_codec.fingerprint.hex()
    assert re.search(r"source rate: +44100\n", run("info", "a.btn")[1])
    assert len(json.loads(run("info", "a.btn", "a.btn", "--json")[1])) == 2
    assert run("info", "none.btn") == (
        DAMAGED,
        "",
        "bittern: none.btn: cannot be read (No such file or directory)\n",
    )


def test_info_of_a_live_file_finds_its_length(here, run, tiny_codec):
    file = io.BytesIO()
    stream = audio.array_stream(make_sound(8_000), 16_000)
    live = audio.AudioStream(
        name="live", sample_rate=16_000, channels=1, samples=None, blocks=stream.blocks
    )
    tiny_codec.compress_stream(live, file, live=True)
    (here / "a.btn").write_bytes(file.getvalue())
    assert json.loads(run("info", "a.btn", "--json")[1])["samples"] == 8_000
    assert run("verify", "a.btn") == (0, "a.btn: intact, 1 chunks, 0.50 s\n", "")


@pytest.mark.parametrize("option", [["--stages", "3"], ["--bitrate", "1.0"]])
def test_trimming_equals_compressing_with_fewer_stages(here, run, model, option):
    write_wav(here / "a.wav", 30_000)
    nearest = ("--search-width", "1", *model)
    run("compress", "a.wav", "--stages", "8", *nearest)
    run("compress", "a.wav", "b.btn", "--stages", "3", *nearest)
    code, _, err = run("trim", "a.btn", "c.btn", *option)
    assert code == 0
    assert err.startswith("a.btn -> c.btn: 8 -> 3 stages, ")
    assert (here / "c.btn").read_bytes() == (here / "b.btn").read_bytes()
    assert run("trim", "c.btn", "d.btn", "--stages", "4") == (
        USAGE,
        "",
        "bittern: c.btn: has 3 stages of 0.3 kbit/s; cannot keep 4\n",
    )
    assert run("trim", "a.btn", "a.btn", "--stages", "2", "-f")[0] == USAGE
    assert names(here) == {"a.wav", "a.btn", "b.btn", "c.btn"}


def test_cutting_and_joining_give_files_that_decompress(here, run, model):
    write_wav(here / "a.wav", 32_000, 1, 16_000)
    run("compress", "a.wav", "--chunk-seconds", "0.5", *model)  # chunks of 32 frames, 0.64 s
    code, _, err = run("cut", "a.btn", "b.btn", "--start", "0.7", "--duration", "0.5")
    assert code == 0
    assert err.startswith("a.btn -> b.btn: 0.64 s from 0.64 s on, ")
    run("decompress", "a.btn", "a2.wav", *model)
    run("decompress", "b.btn", *model)
    whole, part = sf.read("a2.wav")[0], sf.read("b.wav")[0]
    assert len(part) == 10_240
    # after the receptive field of the networks, which start from silence at the cut
    np.testing.assert_allclose(part[6_400:], whole[10_240 + 6_400 : 20_480], atol=2 / 32768)
    code, _, err = run("cat", "b.btn", "b.btn", "-o", "c.btn")
    assert code == 0
    assert err.startswith("2 files -> c.btn: 1.30 s, ")
    assert run("decompress", "c.btn", *model)[0] == 0
    assert run("cut", "a.btn", "d.btn", "--start", "9") == (
        DAMAGED,
        "",
        "bittern: a.btn: has no audio from chunk 15 on\n",
    )
    assert run("cat", "a.btn", "b.btn", "-o", "a.btn", "-f")[0] == USAGE
    assert not (here / "d.btn").exists()


def test_a_folder_that_may_not_be_written_to_is_one_line(here, run, model):
    write_wav(here / "a.wav", 1_000)
    (here / "locked").mkdir(mode=0o555)
    if os.access(here / "locked", os.W_OK):
        pytest.skip("this user may write anywhere")
    assert run("compress", "a.wav", "locked/a.btn", *model) == (
        USAGE,
        "",
        "bittern: locked/a.btn: cannot be written (Permission denied)\n",
    )


def test_evaluate_is_there(run):
    code, out, _ = run("evaluate", "--help")
    assert code == 0
    assert "bittern evaluate" in out


def test_every_option_of_coding_is_on_the_command_line():
    defaults = coding_options(_parser([]).parse_args(["compress", "a.wav"]))
    assert CodingOptions(**defaults) == CodingOptions()


def test_scripts_do_the_same(here, tiny_checkpoint, monkeypatch, capsys):
    scripts = Path(__file__).parents[2] / "scripts"

    def run_script(name: str, *argv: str) -> None:
        assert len((scripts / name).read_text().splitlines()) <= 30
        monkeypatch.setattr(sys, "argv", [name, *argv, str(tiny_checkpoint)])
        runpy.run_path(str(scripts / name), run_name="__main__")

    write_wav(here / "a.wav", 4_000)
    bittern.load(tiny_checkpoint, "cpu").compress_file("a.wav", "a.btn", bitrate_kbps=1.5)
    run_script("compress.py", "a.wav", "b.btn", "1.5")
    assert (here / "b.btn").read_bytes() == (here / "a.btn").read_bytes()
    run_script("decompress.py", "a.btn", "b.wav")
    assert sf.info("b.wav").frames == 4_000
    assert "kbit/s" in capsys.readouterr().out
    for argv in (["compress.py", "none", "c.btn", "1"], ["decompress.py", "none", "c.wav"]):
        with pytest.raises(
            SystemExit, match=r"^none: cannot be read \(No such file or directory\)$"
        ):
            run_script(*argv)


def test_a_search_too_wide_for_memory_is_refused(here, run, model):
    write_wav(here / "a.wav", 1_000)
    code, _, told = run("compress", "a.wav", "--search-width", "513", *model)
    assert code == USAGE
    assert "'513' is wider than 512" in told
    assert not (here / "a.btn").exists()
    assert run("compress", "a.wav", "--search-width", "512", *model)[0] == 0
