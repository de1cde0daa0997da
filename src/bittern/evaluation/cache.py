"""Results kept from run to run, found by the content they were made from.

A row is kept in a folder named by a hash of everything that decides it: the clip's samples, what
ran (weights' fingerprint, or program, version and command), and the versions of the metrics. So a
second run with one new clip codes and scores that clip only, whatever the files are called.
"""

import dataclasses
import hashlib
import importlib.util
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from bittern.evaluation import scores
from bittern.evaluation.clips import Clip, to_int16
from bittern.evaluation.systems import Row, System

METRIC_PACKAGES = ["pesq", "pystoi", "visqol-python", "speechmos"]
METRIC_PACKAGES += ["distillmos"] if importlib.util.find_spec("distillmos") else []
_MOST_BYTES = 1 << 36  # of a clip
_UNREADABLE = (
    *(OSError, EOFError, ValueError, TypeError, AttributeError, KeyError, RecursionError),
    sf.LibsndfileError,
)
_KEPT = ("payload_bytes", "file_bytes", "delay", "values", "levels", "faults", "failures")


class Cache:
    """A folder of rows; safe to be used by several processes at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, clip: Clip, system: System) -> Path:
        """Where the row is or will be."""
        parts = [scores.RECIPE, _versions(), clip.digest, system.identity]
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        return self.folder / key[:2] / key[2:40]

    def get(self, clip: Clip, system: System) -> Row | None:
        """The row with its samples, or None if there is none that can be read."""
        folder = self.path(clip, system)
        try:
            facts = _checked(json.loads((folder / "result.json").read_text()))
            samples, _ = sf.read(folder / "audio.flac", dtype="float32")
            codes = None
            if (folder / "codes.npy").exists():
                codes = _read_codes(folder / "codes.npy")
            row = Row(clip.name, system, **facts, codes=codes, from_cache=True)
            return dataclasses.replace(row, samples=samples.astype(np.float32))
        except _UNREADABLE:
            return None

    def put(self, clip: Clip, row: Row) -> None:
        """Write a row, which appears whole or not at all; of its samples 16 bits are kept."""
        folder = self.path(clip, row.system)
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".new-"))
        try:
            facts = {key: getattr(row, key) for key in _KEPT}
            (temporary / "result.json").write_text(json.dumps(facts))
            sf.write(temporary / "audio.flac", to_int16(row.samples), clip.sample_rate, "PCM_16")
            if row.codes is not None:
                np.save(temporary / "codes.npy", row.codes.astype(np.uint16))
            if folder.exists():  # damaged, or written by another process meanwhile
                shutil.rmtree(folder)
            temporary.replace(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _checked(facts: dict[str, Any]) -> dict[str, Any]:
    """What `put` wrote of a row.

    Raises:
        ValueError, TypeError, KeyError: it did not write this.
    """
    for key in ("payload_bytes", "file_bytes", "delay"):
        if type(facts[key]) is not int or abs(facts[key]) >= _MOST_BYTES:
            raise ValueError(key)
    levels, values = tuple(facts["levels"]), tuple(facts["values"].values())
    told = (*facts["faults"], *facts["failures"].values())
    if len(levels) != 2 or not all(type(number) in (int, float) for number in (*levels, *values)):
        raise ValueError("a level or a score is no number")
    if not all(map(math.isfinite, values)) or not all(isinstance(text, str) for text in told):
        raise ValueError("a score is not finite, or what is told is no text")
    return facts | {"levels": levels, "faults": tuple(facts["faults"])}


def _read_codes(path: Path) -> NDArray[np.int64]:
    codes = np.load(path, mmap_mode="r", allow_pickle=False)  # no larger than the file
    if codes.ndim != 2 or codes.dtype != np.uint16:
        raise ValueError("not codes")
    return codes.astype(np.int64)


def save_audio(
    clips: Sequence[Clip], systems: Sequence[System], store: Cache, folder: Path
) -> None:
    """Write what was decoded as WAV files, for scorers that are not here, such as VERSA.

        folder/original/clip.wav  folder/speech-16khz_8_stages/clip.wav  folder/Opus_6_kbit_s/clip.wav

    All are aligned with the original and as long. Versions of a clip have one name, as VERSA tells clips
    by their file's name alone, whatever the folder.
    """
    for clip, name in zip(clips, _names(clips), strict=True):
        rows = [(system.name, store.get(clip, system)) for system in systems]
        versions = [(_plain(version), row.samples) for version, row in rows if row is not None]
        for version, samples in [("original", clip.samples), *versions]:
            path = folder / version / f"{name}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            sf.write(path, to_int16(samples), clip.sample_rate, "PCM_16")


def _names(clips: Sequence[Clip]) -> list[str]:
    """A name of its own for each clip, without folders."""
    names = [_plain(PurePosixPath(clip.name).with_suffix("").as_posix()) for clip in clips]
    if len(set(names)) == len(names):
        return names
    return [f"{number:04}_{name}" for number, name in enumerate(names)]


def _plain(text: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", text).strip("_")


def default_folder() -> Path:
    """`bittern/evaluation` in the user's cache folder ($XDG_CACHE_HOME, else ~/.cache)."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "bittern" / "evaluation"


def _versions() -> list[str]:
    return [f"{name} {metadata.version(name)}" for name in METRIC_PACKAGES]
