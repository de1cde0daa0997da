"""Runs that are killed, kill -9 on real processes, end as if nobody had touched them."""

import csv
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bittern import checkpoint
from bittern.training.run import compose
from bittern.training.state import INHERITANCE, NEWEST, load_inheritance, load_state
from bittern.training.trainer import Trainer

SCRIPT = Path(__file__).parents[2] / "scripts" / "train.py"
TIMED = ("rate/audio_seconds", "rate/waiting")  # differ from run to run


class Run:
    """One command, started again and again."""

    def __init__(self, folder: Path, overrides: list[str]) -> None:
        self.folder = folder
        self.overrides = [*overrides, f"run={folder}"]

    def start(self) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, str(SCRIPT), *self.overrides],
            cwd=self.folder.parent,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # ranks are killed together
        )

    def kill_when(self, moment: Callable[[], bool]) -> bool:
        """Start, and kill -9 at a moment; False if the run ended before it came."""
        process, deadline = self.start(), time.monotonic() + 180
        while not moment():
            if process.poll() is not None:
                _, errors = process.communicate()
                assert process.returncode == 0, errors[-3000:]
                return False
            assert time.monotonic() < deadline
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return True

    def finish(self) -> str:
        _, errors = (process := self.start()).communicate(timeout=180)
        assert process.returncode == 0, errors[-3000:]
        return errors

    def step(self) -> int:
        """The last one in curves.csv."""
        curves = self.folder / "curves.csv"
        lines = curves.read_text().splitlines() if curves.exists() else []
        return int(lines[-1].split(",")[0]) if len(lines) > 1 else 0

    def half_written(self) -> list[Path]:
        return list(self.folder.glob(f".{NEWEST}.*"))

    def state(self) -> dict:
        found = load_state(self.folder)
        assert found is not None
        assert found[1] is None  # no warning
        return found[0]

    def rows(self) -> list[list[str]]:
        with (self.folder / "curves.csv").open(newline="") as file:
            return [row for row in csv.reader(file) if row[2] not in TIMED]


@pytest.fixture
def make_run(speech_folder, tmp_path):
    """Runs of 24 steps with augmentation, discriminators, balancer and validation."""

    def make(name: str, *more: str) -> Run:
        overrides = [
            "model=tiny",
            f"data.root={speech_folder}",
            f"data.cache={tmp_path / 'cache'}",
            "data.batch_size=4",
            "data.segment_seconds=0.4",
            "data.validation_share=0.3",
            "data.validation_seconds=2",
            "augment.noise=0.5",
            "codebook.start_step=2",
            "codebook.kmeans_frames=400",
            "codebook.decay=0.9",
            "optimizer.warmup_steps=2",
            "adversary.start_step=4",
            "adversary.head_start=2",
            "adversary.channels=4",
            "adversary.window_ms=[16]",
            "adversary.judged_seconds=0.2",
            "loss.balancer=true",
            "precision=32-true",
            "accelerator=cpu",
            "threads=1",
            "steps=24",
            "log_every=1",
            "validate_every=12",
            "save_every=3",
            *more,
        ]
        return Run(tmp_path / name, overrides)

    return make


def largest_difference(a, b, where="state") -> float:
    """Of all numbers in two states, which must be of one form."""
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert a.shape == b.shape, where
        return float((a.double() - b.double()).abs().max()) if a.numel() else 0.0
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        return max((largest_difference(a[k], b[k], f"{where}.{k}") for k in a), default=0.0)
    if isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        pairs = zip(a, b, strict=True)
        return max((largest_difference(x, y, where) for x, y in pairs), default=0.0)
    if isinstance(a, float):
        return abs(a - b)
    assert a == b, where
    return 0.0


def assert_same_end(run: Run, untouched: Run) -> None:
    """Bit for bit: weights, averages, codebooks, optimizers, discriminators, curves, checkpoints."""
    ours, theirs = run.state(), untouched.state()
    # The score of the best model is a sum in NumPy, whose last bit depends on places in memory.
    assert ours.pop("best") == pytest.approx(theirs.pop("best"), rel=1e-12)
    assert largest_difference(ours, theirs) == 0.0
    assert run.rows() == untouched.rows()
    for kind in ("last", "best"):
        ours, theirs = (checkpoint.load(r.folder / kind).fingerprint for r in (run, untouched))
        assert ours == theirs, kind
    inherited = [load_inheritance(r.folder / "last") for r in (run, untouched)]
    assert largest_difference(*inherited) == 0.0
    assert not [p for p in run.folder.rglob(".*") if p.is_file() and p.name != ".lock"]


def test_a_run_killed_while_it_writes_its_state_ends_as_if_it_had_not(make_run):
    killed, untouched = make_run("killed"), make_run("untouched")
    Trainer(compose(untouched.overrides)).fit()
    assert killed.kill_when(lambda: killed.step() >= 6 and bool(killed.half_written()))
    assert killed.half_written()  # it was hit in the middle
    errors = killed.finish()
    assert "cannot be read" not in errors
    assert_same_end(killed, untouched)


@pytest.mark.slow  # seven processes start one after the other
@pytest.mark.parametrize("workers", [0, 1])
def test_five_kills_at_random_moments_change_nothing(make_run, workers):
    more = f"data.workers={workers}"
    killed, untouched = make_run("killed", more), make_run("untouched", more)
    untouched.finish()
    rng = random.Random(workers)
    kills, in_a_write = 0, 0
    for low in (1, 5, 9, 14, 19):
        step, delay = rng.randint(low, low + 3), rng.uniform(0, 0.2)
        if low == 9:  # this one while a state is being written
            kills += killed.kill_when(lambda: killed.step() >= 9 and bool(killed.half_written()))
            in_a_write += bool(killed.half_written())
            continue
        kills += killed.kill_when(lambda s=step, d=delay: killed.step() >= s and not time.sleep(d))
    assert kills == 5
    assert in_a_write == 1
    killed.finish()
    assert_same_end(killed, untouched)


@pytest.mark.slow  # eight processes start
def test_two_ranks_killed_and_resumed_end_where_untouched_ones_do(make_run):
    killed, untouched = make_run("killed", "devices=2"), make_run("untouched", "devices=2")
    untouched.finish()
    assert killed.kill_when(lambda: killed.step() >= 8)
    assert killed.kill_when(lambda: killed.step() >= 12 and bool(killed.half_written()))
    killed.finish()
    assert largest_difference(killed.state(), untouched.state()) <= 1e-6
    ours, theirs = killed.rows()[1:], untouched.rows()[1:]
    assert [row[:3] for row in ours] == [row[:3] for row in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert float(a[3]) == pytest.approx(float(b[3]), rel=1e-6, abs=1e-6), a


@pytest.mark.slow  # two processes start
def test_a_run_killed_after_its_last_step_still_leaves_what_fine_tuning_needs(make_run):
    run = make_run("run")
    assert run.kill_when(lambda: (run.folder / "last" / INHERITANCE).exists())
    run.finish()
    assert set(load_inheritance(run.folder / "last")) == {"optimizer", "codebooks", "adversary"}
    assert run.state()["step"] == 24
