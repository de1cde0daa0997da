"""A corpus in few large files, for data that travels or lies on a network disk.

A pack is a folder of tars, NAME-00000-of-00012.tar, of FLAC or Ogg Opus files: mono at one sample rate.
Whoever reads WebDataset or tars reads it; training reads it file by file, as any folder of tars.
"""

import io
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path

import numpy as np
import soundfile

from bittern.audio.atomic import atomic_folder
from bittern.corpus.shards import write_tar
from bittern.errors import AudioError, ConfigError

_OPUS_RATES = (8000, 12_000, 16_000, 24_000, 48_000)


class Coding(StrEnum):
    FLAC = "flac"  # exact
    OPUS = "opus"  # at libsndfile's own setting, about 29 kbit/s for speech at 16 kHz


_KINDS = {Coding.FLAC: (".flac", "FLAC", "PCM_16"), Coding.OPUS: (".ogg", "OGG", "OPUS")}


def check(folder: Path, sample_rate: int, coding: Coding) -> None:
    """Raise what `write_pack` would, before the work of scanning.

    Raises:
        ConfigError: Opus does not know the sample rate.
        AudioError: the folder is there already.
    """
    if coding is Coding.OPUS and sample_rate not in _OPUS_RATES:
        rates = ", ".join(map(str, _OPUS_RATES))
        raise ConfigError(f"Opus has no sample rate of {sample_rate} Hz; give one of {rates}")
    if folder.exists():
        raise AudioError(f"{folder}: exists already; give another name, or delete it")


def write_pack(
    folder: Path,
    clips: Iterable[tuple[str, np.ndarray]],
    sample_rate: int,
    coding: Coding,
    *,
    shard_bytes: int = 2**28,
) -> None:
    """Write a pack, which appears whole or not at all.

    Args:
        folder: which must not exist yet.
        clips: paths with slashes, and the samples of each, [n] int16. A file of the pack has an ending
            more where its own says otherwise.
        sample_rate: of the clips, Hz.
        coding: how they are kept.
        shard_bytes: a tar is closed when it has grown to this.

    Raises:
        ConfigError, AudioError: see `check`.
        CodecError: the folder cannot be written.
    """
    check(folder, sample_rate, coding)
    with atomic_folder(folder) as temporary:
        for number, members in enumerate(_shards(clips, sample_rate, coding, shard_bytes)):
            with (temporary / f"{number:05d}.tar").open("wb") as file:
                write_tar(file, members)
        tars = sorted(temporary.iterdir())
        for tar in tars:
            tar.rename(tar.with_name(f"{folder.name}-{tar.stem}-of-{len(tars):05d}.tar"))


def _shards(
    clips: Iterable[tuple[str, np.ndarray]], sample_rate: int, coding: Coding, most: int
) -> Iterator[list[tuple[str, bytes]]]:
    members, size = list[tuple[str, bytes]](), 0
    suffix, container, subtype = _KINDS[coding]
    for name, samples in clips:
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, sample_rate, format=container, subtype=subtype)
        data = buffer.getvalue()
        if size and size + len(data) > most:
            yield members
            members, size = [], 0
        members.append((name if Path(name).suffix.lower() == suffix else name + suffix, data))
        size += len(data)
    if members:
        yield members
