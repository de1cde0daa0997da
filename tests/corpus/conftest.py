"""A corpus of forty clips, and what one process makes of it."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import soundfile
from synthetic import make_sound

from bittern.corpus import tokenize

SETTINGS = {"shard_mb": 0.05, "stages": 5}


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> Path:
    """Forty clips of 0.1 to 1.5 s in four folders, of two formats and three sample rates."""
    root = tmp_path_factory.mktemp("clips")
    lengths = np.random.default_rng(0).integers(1600, 24_000, 40)
    for index, samples in enumerate(lengths):
        folder, suffix = root / f"voice{index % 4}", ("wav", "flac")[index % 2]
        folder.mkdir(exist_ok=True)
        rate = (16_000, 16_000, 8000, 44_100)[index % 4]
        soundfile.write(folder / f"{index:02}.{suffix}", make_sound(samples, seed=index)[0], rate)
    return root


@pytest.fixture(scope="session")
def made(clips, tiny_checkpoint, tmp_path_factory) -> Path:
    """The shards of one process, in Parquet."""
    out = tmp_path_factory.mktemp("made")
    summary = tokenize(clips, out, tiny_checkpoint, **SETTINGS)
    assert (summary.shards, summary.recordings, summary.errors) == (summary.of, 40, {})
    assert summary.of > 8
    return out


@pytest.fixture(scope="session")
def shas():
    """The SHA-256 of every file of shards in a folder, by its name."""

    def of(out: Path) -> dict[str, str]:
        files = [p for shard in out.glob("codes-*") for p in (shard, *shard.rglob("*"))]
        return {
            str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in files
            if p.is_file()
        }

    return of
