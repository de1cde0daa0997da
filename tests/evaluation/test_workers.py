"""Processes that are killed in the middle of their work, as a kernel short of memory kills them."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
import soundfile as sf
from synthetic import make_sound

from bittern.corpus import workers
from bittern.corpus.workers import Killed
from bittern.errors import CodecError

FATAL = (3, 7)


def square(number: int, fatal: tuple[int, ...] = FATAL) -> int:
    if number in fatal:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def test_a_worker_that_is_killed_costs_its_item_alone():
    found = dict(workers.share(square, range(10), 2))
    assert {n for n, result in found.items() if isinstance(result, Killed)} == set(FATAL)
    assert "SIGKILL" in found[3].reason
    assert all(found[n] == n * n for n in range(10) if n not in FATAL)


def test_a_map_keeps_its_order_and_says_which_was_killed():
    assert list(workers.in_order(partial(square, fatal=()), range(6), 2)) == [0, 1, 4, 9, 16, 25]
    with pytest.raises(CodecError, match="3: the process at work on it has ended"):
        list(workers.in_order(square, range(5), 2))


def test_leaving_early_ends_the_processes():
    before = set(psutil.Process().children())
    shared = workers.share(partial(square, fatal=()), range(50), 2)
    next(shared)
    shared.close()
    deadline = time.monotonic() + 10
    while any(child.status() != "zombie" for child in set(psutil.Process().children()) - before):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_evaluate_names_the_clip_and_goes_on(tmp_path: Path, tiny_checkpoint: Path):
    for name in "ab":
        sf.write(tmp_path / f"{name}.wav", make_sound(16_000 * 10)[0], 16_000)
    argv = [sys.executable, "-m", "bittern", "evaluate", "a.wav", "b.wav", "--jobs", "2"]
    argv += ["--model", str(tiny_checkpoint), "--stages", "2,4,8", "--no-baselines", "--no-cache"]
    process = subprocess.Popen([*argv, "--out", "o"], cwd=tmp_path, stderr=subprocess.PIPE)
    assert process.stderr
    deadline = time.monotonic() + 300
    while not (busy := [c for c in psutil.Process(process.pid).children() if works(c)]):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    busy[0].kill()
    said = process.stderr.read().decode()
    assert process.wait(300) == 2, said
    assert "Traceback" not in said
    named = [line for line in said.splitlines() if "has ended (SIGKILL)" in line]
    assert len({line.split(",")[0] for line in named}) == 1
    assert (tmp_path / "o" / "report.json").exists()
    process.stderr.close()


def works(process: psutil.Process) -> bool:
    """Whether a worker has been at its item for a while."""
    try:
        return "workers.serve" in " ".join(process.cmdline()) and process.cpu_times().user > 6
    except psutil.Error:
        return False
