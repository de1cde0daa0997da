"""Results kept from run to run, found by the content they were made from.

An entry is a folder named by a hash of everything that decides a result: the clip's samples, what
ran (weights' fingerprint, or program, version and command), and the versions of the metrics. So a
second run with one new clip codes and scores that clip only, whatever the files are called.
"""

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from bittern.evaluation import scores
from bittern.evaluation.clips import Clip, to_int16
from bittern.evaluation.systems import System

METRIC_PACKAGES = ("pesq", "pystoi", "visqol-python", "speechmos")


@dataclass(frozen=True, eq=False)
class Entry:
    """A clip coded by a system and scored."""

    payload_bytes: int
    file_bytes: int
    delay: int  # samples by which the decoded audio lagged
    values: dict[str, float]
    failures: dict[str, str]
    samples: NDArray[np.float32]  # [T], aligned; 16 bits are kept
    codes: NDArray[np.int64] | None = None


class Cache:
    """A folder of entries; safe to be used by several processes at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, clip: Clip, system: System) -> Path:
        """Where the entry is or will be."""
        parts = [scores.RECIPE, _versions(), clip.digest, system.identity]
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        return self.folder / key[:2] / key[2:40]

    def get(self, clip: Clip, system: System) -> Entry | None:
        """The entry, or None if there is none that can be read."""
        folder = self.path(clip, system)
        try:
            facts = json.loads((folder / "result.json").read_text())
            samples, _ = sf.read(folder / "audio.flac", dtype="float32")
            codes = None
            if (folder / "codes.npy").exists():
                codes = np.load(folder / "codes.npy", allow_pickle=False).astype(np.int64)
            return Entry(**facts, samples=samples.astype(np.float32), codes=codes)
        except (OSError, ValueError, TypeError, sf.LibsndfileError):
            return None

    def put(self, clip: Clip, system: System, entry: Entry) -> None:
        """Write an entry, which appears whole or not at all."""
        folder = self.path(clip, system)
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".new-"))
        try:
            facts = {
                key: getattr(entry, key)
                for key in ("payload_bytes", "file_bytes", "delay", "values", "failures")
            }
            (temporary / "result.json").write_text(json.dumps(facts))
            sf.write(temporary / "audio.flac", to_int16(entry.samples), clip.sample_rate, "PCM_16")
            if entry.codes is not None:
                np.save(temporary / "codes.npy", entry.codes.astype(np.uint16))
            if folder.exists():  # damaged, or written by another process meanwhile
                shutil.rmtree(folder)
            temporary.replace(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def default_folder() -> Path:
    """`bittern/evaluation` in the user's cache folder ($XDG_CACHE_HOME, else ~/.cache)."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "bittern" / "evaluation"


def _versions() -> list[str]:
    return [f"{name} {metadata.version(name)}" for name in METRIC_PACKAGES]
