"""`--save-audio`: what was decoded as WAV files, for scorers that are not here, such as VERSA.

    DIR/original/clip.wav  DIR/speech-16khz_8_stages/clip.wav  DIR/Opus_6_kbit_s/clip.wav

Versions of a clip have one name, as VERSA tells clips by their file's name alone, whatever the folder.
"""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from bittern.evaluation.cache import Cache
from bittern.evaluation.clips import Clip, to_int16
from bittern.evaluation.systems import System

ORIGINAL = "original"


def save(clips: Sequence[Clip], systems: Sequence[System], store: Cache, folder: Path) -> int:
    """Write all versions of all clips, aligned with the original and as long; return how many."""
    count = 0
    for clip, name in zip(clips, _names(clips), strict=True):
        versions = [(ORIGINAL, clip.samples)]
        for system in systems:
            row = store.get(clip, system)
            if row is not None:
                versions.append((_plain(system.name), row.samples))
        for version, samples in versions:
            _write(folder / version / f"{name}.wav", samples, clip.sample_rate)
        count += len(versions)
    return count


def _names(clips: Sequence[Clip]) -> list[str]:
    """A name of its own for each clip, without folders."""
    names = [_plain(PurePosixPath(clip.name).with_suffix("").as_posix()) for clip in clips]
    if len(set(names)) == len(names):
        return names
    return [f"{number:04}_{name}" for number, name in enumerate(names)]


def _plain(text: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", text).strip("_")


def _write(path: Path, samples: NDArray[np.float32], sample_rate: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, to_int16(samples), sample_rate, "PCM_16")
