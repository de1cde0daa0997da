"""The recipes of docs/training.md for several processes, started as they are told there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import bittern

ROOT = Path(__file__).parents[2]


@pytest.mark.slow  # two processes import, scan and train
def test_torchrun_starts_two_processes_on_tars_that_are_read_where_they_lie(
    speech_folder, tmp_path
):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pack = [sys.executable, "-m", "bittern", "pack", str(speech_folder), str(tmp_path / "pack")]
    subprocess.run(pack, check=True, env=environment, timeout=120)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
            *(str(ROOT / "scripts" / "train.py"), "model=tiny", "accelerator=cpu", "devices=2"),
            *(f"data.root={tmp_path / 'pack'}", "data.copy=false", "data.workers=2"),
            *(f"data.cache={tmp_path / 'cache'}", f"run={tmp_path / 'run'}", "precision=32-true"),
            *("data.batch_size=4", "data.segment_seconds=0.5", "data.validation_share=0.3"),
            *("steps=4", "codebook.start_step=2", "codebook.kmeans_frames=400", "threads=1"),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    codec = bittern.load(tmp_path / "run" / "last", device="cpu")
    assert codec.encode(torch.zeros(1, 1, 1600)).shape[0] == 1
    assert not list((tmp_path / "cache").rglob("*.bin")) or all(
        path.stat().st_size == 0 for path in (tmp_path / "cache").rglob("*.bin")
    )
