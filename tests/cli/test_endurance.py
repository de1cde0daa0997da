"""Real processes that run long, are killed, or find no room: memory, speed and what is left over."""

import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import soundfile as sf
import torch
from synthetic import make_sound

SPEECH = Path(__file__).parents[2] / "examples" / "speech.flac"
HOURS = float(os.environ.get("BITTERN_LONG_HOURS", "1"))


def command(*argv: str | Path) -> list[str]:
    return [sys.executable, "-m", "bittern", *map(str, argv)]


@pytest.fixture
def model(tiny_checkpoint) -> list[str]:
    return ["--model", str(tiny_checkpoint), "--device", "cpu"]


def write_speech(path: Path, seconds: float) -> Path:
    """The example, again and again."""
    speech, rate = sf.read(SPEECH, dtype="int16")
    left = round(seconds * rate)
    with sf.SoundFile(path, "w", rate, 1, subtype="PCM_16") as file:
        while left:
            file.write(speech[:left])
            left -= len(speech[:left])
    return path


def until_written(folder: Path, least: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until a temporary file has `least` bytes."""
    deadline = time.monotonic() + 120
    while not any(part.stat().st_size >= least for part in folder.glob(".*.part")):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("number", "leftovers"),
    [(signal.SIGKILL, 1), pytest.param(signal.SIGTERM, 0, marks=pytest.mark.slow)],
)
def test_a_killed_command_leaves_nothing_under_the_final_name(
    tmp_path, tiny_codec, model, number, leftovers
):
    write_speech(tmp_path / "a.wav", 1_800)
    (tmp_path / "old.btn").write_bytes(b"old")
    argv = ["compress", tmp_path / "a.wav", tmp_path / "old.btn", "-f", *model]
    with subprocess.Popen(command(*argv), stderr=subprocess.DEVNULL) as process:
        until_written(tmp_path, 1, process)
        process.send_signal(number)
        assert process.wait(60) == (-9 if number == signal.SIGKILL else 143)
    assert (tmp_path / "old.btn").read_bytes() == b"old"
    assert len(list(tmp_path.glob(".*.part"))) == leftovers

    data = tiny_codec.compress(make_sound(16_000 * 60), 16_000)
    (tmp_path / "b.btn").write_bytes(data)
    for part in tmp_path.glob(".*.part"):
        part.unlink()
    read_end, write_end = os.pipe()  # half of the file, and no more: it waits to be killed
    argv = ["decompress", "-", tmp_path / "b.wav", *model]
    with subprocess.Popen(command(*argv), stdin=read_end, stderr=subprocess.DEVNULL) as process:
        os.write(write_end, data[: len(data) // 2])
        until_written(tmp_path, 45, process)
        process.send_signal(number)
        assert process.wait(60) == (-9 if number == signal.SIGKILL else 143)
    os.close(read_end)
    os.close(write_end)
    assert not (tmp_path / "b.wav").exists()
    assert len(list(tmp_path.glob(".*.part"))) == leftovers


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 256 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this user may not mount a tmpfs")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_one_line_and_no_leftovers(small_disk, tmp_path, tiny_codec, model, capsys):
    from bittern.cli import main

    write_speech(tmp_path / "a.wav", 60)
    tiny_codec.compress_file(tmp_path / "a.wav", tmp_path / "a.btn", stages=8)
    (small_disk / "filler").write_bytes(bytes(250_000))
    for argv in (
        ["compress", tmp_path / "a.wav", small_disk / "a.btn", "--stages", "8"],
        ["decompress", tmp_path / "a.btn", small_disk / "a.wav"],
        ["decompress", tmp_path / "a.btn", small_disk / "a.flac"],
        ["trim", tmp_path / "a.btn", small_disk / "b.btn", "--stages", "7"],
    ):
        options = [] if argv[0] == "trim" else model
        assert main([str(arg) for arg in [*argv, *options]]) == 1
        err = capsys.readouterr().err
        assert err.startswith(f"bittern: {argv[2]}: cannot be written (")
        assert err.count("\n") == 1
        assert [path.name for path in small_disk.iterdir()] == ["filler"]


def test_a_pipe_from_compress_to_decompress_equals_the_way_over_files(tmp_path, model):
    write_speech(tmp_path / "a.wav", 4)
    with (
        subprocess.Popen(
            command("compress", tmp_path / "a.wav", "-", "-q", *model), stdout=subprocess.PIPE
        ) as first,
        subprocess.Popen(
            command("decompress", "-", tmp_path / "b.wav", "-q", *model), stdin=first.stdout
        ) as second,
    ):
        assert first.stdout is not None
        first.stdout.close()
        assert second.wait(120) == first.wait(120) == 0
    from bittern.cli import main

    assert main(["compress", str(tmp_path / "a.wav"), "-q", *model]) == 0
    target = str(tmp_path / "c.wav")
    assert main(["decompress", str(tmp_path / "a.btn"), target, "-q", *model]) == 0
    assert (tmp_path / "b.wav").read_bytes() == (tmp_path / "c.wav").read_bytes()


# long


def resident_mb(pid: int) -> tuple[float, float] | None:
    """Anonymous and file-backed memory of a process."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in lines)
    if "RssAnon" not in fields:
        return None
    anonymous, file = (int(fields[key].split()[0]) / 1024 for key in ("RssAnon", "RssFile"))
    return anonymous, file


def watched(argv: list[str]) -> tuple[float, list[tuple[float, float]]]:
    """Run: processor seconds, and memory every half second."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    samples = []
    with subprocess.Popen(argv) as process:
        while process.poll() is None:
            found = resident_mb(process.pid)
            if found is not None:
                samples.append(found)
            time.sleep(0.5)
        assert process.returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, samples


@pytest.mark.slow
def test_long_files_take_no_more_memory_or_time_for_a_second(capfd):
    """One hour, or BITTERN_LONG_HOURS, at 6 kbit/s; prints what it measured."""
    code = "import torch"
    with subprocess.Popen(
        [sys.executable, "-c", f"{code}; print('ok', flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as bare:
        assert bare.stdout is not None
        bare.stdout.readline()
        torch_alone = resident_mb(bare.pid)
        bare.communicate(b"\n")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = ["-q", "-f", "--device", "cpu"]
        for work, suffix, other in (("compress", ".wav", ".btn"), ("decompress", ".btn", ".wav")):
            cost: dict[float, float] = {}
            for seconds in (0.02, 60.0, HOURS * 3600):
                source = folder / f"{seconds}{suffix}"
                if work == "compress":
                    write_speech(source, seconds)
                target = folder / f"{seconds}{other}"
                rate = ["--bitrate", "6"] if work == "compress" else []
                argv = command(work, source, target, *rate, *options)
                runs = [watched(argv) for _ in range(1 if seconds > 60 else 7)]
                cost[seconds], memory = median(run[0] for run in runs), runs[-1][1]
                if work == "compress":
                    source.unlink()
                elif seconds != 0.02:
                    assert sf.info(target).frames == round(seconds * 16_000)
            tenth = max(len(memory) // 10, 1)
            first, last = (
                max(sum(m) for m in part) for part in (memory[tenth : 2 * tenth], memory[-tenth:])
            )
            start = cost[0.02]
            minute, long = (cost[s] - start for s in (60.0, HOURS * 3600))
            ratio = (long / (HOURS * 60)) / minute
            peak = max(memory, key=sum)
            rows.append((work, first, last, peak, HOURS * 3600 / long, ratio))
    with capfd.disabled():
        print(f"\ntorch alone: {sum(torch_alone or (0, 0)):.0f} MB")
        for work, first, last, peak, speed, ratio in rows:
            print(
                f"{work} {HOURS:g} h: peak {sum(peak):.0f} MB ({peak[0]:.0f} of its own, "
                f"{peak[1]:.0f} of files), {first:.0f} early and {last:.0f} MB at the end, "
                f"{speed:.0f}x real time by processor, a second costs {ratio:.2f} of one in a minute"
            )
    for _, first, last, peak, _, ratio in rows:
        assert last < 1.05 * first
        if torch.version.cuda is None:  # a build for GPUs takes more than this by itself
            assert sum(peak) < 500
        assert ratio < 1.1


@pytest.mark.slow
def test_a_thousand_files_in_one_call_take_no_more_memory(tmp_path, model):
    for item in range(1_000):
        sf.write(tmp_path / f"{item:04}.wav", make_sound(8_000, seed=item % 7).T, 16_000)
    (tmp_path / "0500.wav").write_text("no audio")
    (tmp_path / "out").mkdir()
    sources = sorted(tmp_path.glob("*.wav"))
    argv = command("compress", *sources, "--output-dir", tmp_path / "out", "--jobs", "2", *model)
    memory: dict[int, float] = {}
    with (
        (tmp_path / "err").open("wb") as err,
        subprocess.Popen(argv, stderr=err) as process,
    ):
        while process.poll() is None:
            found = resident_mb(process.pid)
            done = len(list((tmp_path / "out").glob("*.btn")))
            if found is not None:
                memory[done] = found[0]  # on its way out, torch reads more of its own files
            time.sleep(0.05)
        assert process.returncode == 2
    early = max(mb for done, mb in memory.items() if 100 <= done < 300)
    late = max(mb for done, mb in memory.items() if done > 900)
    assert late < 1.03 * early
    lines = (tmp_path / "err").read_text().splitlines()
    assert lines[-2:] == [
        f"bittern: {tmp_path}/0500.wav: not audio that can be read (Format not recognised)",
        "bittern: 1 of 1000 files failed",
    ]
    assert [Path(line.split(" -> ")[0]).name for line in lines[:-2]] == [
        source.name for source in sources if source.name != "0500.wav"
    ]


def test_stereo_speech_through_every_command(tmp_path, monkeypatch, capsys):
    """With the shipped codec, range coded."""
    from bittern.cli import main

    monkeypatch.chdir(tmp_path)
    speech = sf.read(SPEECH, dtype="float32")[0]
    left, right = speech[:48_000], speech[48_000:96_000]
    sf.write("a.wav", np.stack([left, right], axis=1), 16_000)
    sf.write("left.wav", left, 16_000)
    nearest = [
        "--cbr",
        "--search-width",
        "1",
        "--chunk-seconds",
        "0.64",
    ]  # trimming is coding with fewer
    for argv in (
        ["compress", "a.wav", "a.btn", "--bitrate", "32", "--cbr", *nearest],
        ["compress", "a.wav", "b.btn", "--bitrate", "6", "--cbr", *nearest],
        ["trim", "a.btn", "c.btn", "--bitrate", "6"],
        ["verify", "c.btn"],
        ["compress", "left.wav", "left.btn", "--bitrate", "3", "--cbr", *nearest],
        ["decompress", "c.btn", "c.wav"],
        ["decompress", "left.btn", "left2.wav"],
        ["decompress", "c.btn", "part.wav", "--start", "1", "--duration", "0.5"],
        ["cut", "c.btn", "first.btn", "--duration", "1.28"],
        ["cut", "c.btn", "rest.btn", "--start", "1.28"],
        ["cat", "first.btn", "rest.btn", "-o", "joined.btn"],
        ["decompress", "joined.btn", "joined.wav"],
    ):
        assert main([*argv, "-q"]) == 0, argv
        capsys.readouterr()
    assert Path("b.btn").read_bytes() == Path("c.btn").read_bytes()
    both = sf.read("c.wav")[0]
    assert both.shape == (48_000, 2)
    np.testing.assert_allclose(both[:, 0], sf.read("left2.wav")[0], atol=1 / 32768)
    np.testing.assert_allclose(sf.read("part.wav")[0], both[16_000:24_000], atol=1 / 32768)
    assert sf.info("joined.wav").channels == 2
    broken = bytearray(Path("c.btn").read_bytes())
    broken[len(broken) // 2] ^= 1
    Path("broken.btn").write_bytes(broken)
    assert main(["decompress", "broken.btn", "d.wav", "--recover"]) == 0
    assert "concealed" in capsys.readouterr().err
    recovered = sf.read("d.wav")[0]
    np.testing.assert_allclose(recovered[:16_000], both[:16_000], atol=1 / 32768)
    assert recovered.shape == both.shape
