"""Shards are the same however the work was divided, and whoever was killed over it."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from bittern.corpus import tokenize

SETTINGS = {"shard_mb": 0.05, "stages": 5}
OPTIONS = ("--shard-mb", "0.05", "--stages", "5")
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}


def begin(clips: Path, out: Path, model: Path, *more: str) -> subprocess.Popen:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "bittern", "tokenize", str(clips), str(out)),
            *("--model", str(model), *OPTIONS, *more),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )


def run(*arguments) -> str:
    process = begin(*arguments)
    said, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return said


def wait_for(out: Path, marks: int, process: subprocess.Popen) -> None:
    """Until so many shards are complete."""
    while len(list(out.glob("done/*.json"))) < marks:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def test_two_workers_make_the_same_shards_as_one_process(
    clips, made, tiny_checkpoint, shas, tmp_path
):
    said = run(clips, tmp_path, tiny_checkpoint, "--workers", "2")
    assert "40 recordings" in said
    assert shas(tmp_path) == shas(made)


def test_parts_make_the_same_shards(clips, made, tiny_checkpoint, shas, tmp_path):
    first = tokenize(clips, tmp_path, tiny_checkpoint, part=(0, 2), **SETTINGS)
    assert 0 < first.shards < first.of
    whole = tokenize(clips, tmp_path, tiny_checkpoint, part=(1, 2), **SETTINGS)
    assert whole.shards == whole.of
    assert shas(tmp_path) == shas(made)


@pytest.mark.parametrize("victim", ["worker", "parent"])
def test_after_a_kill_the_same_command_makes_the_same_shards(
    victim, clips, made, tiny_checkpoint, shas, tmp_path
):
    more = ("--workers", "2", "--search-width", "4")
    process = begin(clips, tmp_path, tiny_checkpoint, *more)
    wait_for(tmp_path, random.randint(1, 4), process)
    workers = psutil.Process(process.pid).children()
    assert workers
    if victim == "worker":
        random.choice(workers).kill()
        assert process.wait(timeout=120) == 0  # another took its place
    else:
        process.kill()
        psutil.wait_procs(workers, timeout=20)
        assert not any(worker.is_running() for worker in workers)  # nobody is left behind
        assert shas(tmp_path).items() <= shas(made).items()  # what is there is whole
        assert shas(tmp_path) != shas(made)
        run(clips, tmp_path, tiny_checkpoint, *more)
    process.communicate()
    assert shas(tmp_path) == shas(made)
    assert not list(tmp_path.rglob(".*"))


CLUSTER = """
import sys
from ray.cluster_utils import Cluster

small = {"object_store_memory": 80_000_000, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=small | {"num_cpus": 0})
nodes = [cluster.add_node(num_cpus=1, **small) for _ in range(2)]
print(cluster.address, flush=True)
sys.stdin.readline()
cluster.remove_node(nodes[0], allow_graceful=False)
print("removed", flush=True)
sys.stdin.readline()
cluster.shutdown()
"""


def test_a_cluster_that_loses_a_node_makes_the_same_shards(
    clips, made, tiny_checkpoint, shas, tmp_path
):
    pytest.importorskip("ray", reason="ray is not installed")
    cluster = subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=ENVIRONMENT | {"RAY_USAGE_STATS_ENABLED": "0"},
        start_new_session=True,
    )
    assert cluster.stdin
    assert cluster.stdout
    try:
        address = next(line.strip() for line in cluster.stdout if line[:1].isdigit())
        process = begin(clips, tmp_path, tiny_checkpoint, "--cluster", address)
        wait_for(tmp_path, 2, process)
        cluster.stdin.write("remove\n")
        cluster.stdin.flush()
        assert next(iter(cluster.stdout)).strip() == "removed"
        left = len(shas(made)) - len(list(tmp_path.glob("done/*.json")))
        said, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert left > 1  # shards were to be made when the node went
    finally:
        cluster.stdin.write("end\n")
        cluster.stdin.close()
        try:
            cluster.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(cluster.pid, signal.SIGKILL)
        cluster.stdout.close()
    assert "40 recordings" in said
    assert shas(tmp_path) == shas(made)
