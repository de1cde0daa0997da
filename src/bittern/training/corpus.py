"""A folder of audio, or a pack of one, scanned and decoded once.

The scan resamples every file to the codec's rate and to one channel and keeps it as 16-bit PCM in one
file that is mapped into memory, so that a crop costs a copy. Files are read block by block.
"""

import fcntl
import hashlib
import json
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr
from tqdm import tqdm

from bittern.audio.atomic import atomic_file
from bittern.audio.streams import READABLE
from bittern.errors import AudioError
from bittern.training import pack

SILENCE = 1e-3  # peak below which there is nothing to learn from (-60 dBFS)
_BLOCK_SECONDS = 30


@dataclass(frozen=True)
class Clip:
    """One usable file of the corpus; `offset` and `samples` are its place in the PCM file."""

    path: str  # below the root, with slashes
    size: int  # bytes of the file, with `modified` to notice a change
    modified: int  # nanoseconds
    offset: int
    samples: int

    @property
    def source(self) -> str:
        head, _, rest = self.path.partition("/")
        return head if rest else ""


@dataclass(frozen=True)
class Skipped:
    """A file that cannot be trained on, and why."""

    path: str
    size: int
    modified: int
    reason: str


@dataclass(frozen=True)
class _Source:
    """A file to be scanned: a path, or a range of a pack's shard."""

    path: str
    size: int
    modified: int
    file: Path | pack.Packed


@dataclass(frozen=True)
class Corpus:
    """All usable clips of a folder, decoded."""

    clips: list[Clip]
    skipped: list[Skipped]
    pcm: np.ndarray  # int16, mapped
    sample_rate: int

    def read(self, clip: Clip, start: int, samples: int) -> np.ndarray:
        """Samples of a clip as float32 [samples], zeros behind its end."""
        held = self.pcm[clip.offset + start : clip.offset + min(start + samples, clip.samples)]
        out = np.zeros(samples, dtype=np.float32)
        out[: len(held)] = held / np.float32(32768)
        return out

    def split(self, share: float) -> tuple[list[Clip], list[Clip]]:
        """Training and validation clips; a clip's side depends on its path alone."""
        held_out = [clip for clip in self.clips if hash_share(clip.path) < share]
        chosen = set(held_out)
        return [clip for clip in self.clips if clip not in chosen], held_out


def open_corpus(
    root: str | Path,
    sample_rate: int,
    *,
    cache: str | Path,
    minimum_seconds: float = 0.0,
    what: str = "data.root",
    quiet: bool = False,
) -> Corpus:
    """Scan a folder or a pack, or what has changed in it since the last scan.

    Processes that open the same corpus wait for each other, so that one decodes for all.

    Args:
        root: the folder.
        sample_rate: Hz, of the decoded audio.
        cache: where decoded audio is kept.
        minimum_seconds: shorter files are skipped.
        what: the setting that names the folder, for messages.
        quiet: without a bar of progress.

    Raises:
        AudioError: the folder is missing or holds no usable audio, or a pack is incomplete.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise AudioError(f"{what} {str(root)!r} is not a folder; give a folder of audio files")
    key = hashlib.sha256(f"{root.resolve()}:{sample_rate}".encode()).hexdigest()[:16]
    place = Path(cache).expanduser() / key
    place.mkdir(parents=True, exist_ok=True)
    with _alone(place):
        found = _scan(_sources(root), place, sample_rate, quiet=quiet)
    clips, skipped = [], []
    for entry in found:
        if isinstance(entry, Skipped):
            skipped.append(entry)
        elif entry.samples < max(minimum_seconds * sample_rate, 1):
            reason = f"only {entry.samples / sample_rate:.2f} s long"
            skipped.append(Skipped(entry.path, entry.size, entry.modified, reason))
        else:
            clips.append(entry)
    if not clips:
        reasons = "; ".join(f"{s.path}: {s.reason}" for s in skipped[:3])
        raise AudioError(
            f"{what} {str(root)!r} has no usable audio ({len(found)} audio files found"
            + (f"; {reasons}" if reasons else "")
            + "); give a folder with speech in any format that libsndfile reads"
        )
    mapped = np.memmap(place / "pcm.bin", dtype=np.int16, mode="r")
    return Corpus(clips, skipped, mapped, sample_rate)


@contextmanager
def _alone(cache: Path) -> Generator[None]:
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # given back when the file is closed
        yield


def _sources(root: Path) -> list[_Source]:
    """What there is to scan, in an order that a folder and its pack share."""
    if pack.is_pack(root):
        return [_Source(e.path, e.size, e.digest, e) for e in pack.read_index(root).entries]
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() in READABLE and p.is_file())
    stats = [(path, path.stat()) for path in files]
    return [
        _Source(path.relative_to(root).as_posix(), stat.st_size, stat.st_mtime_ns, path)
        for path, stat in stats
    ]


def _scan(
    sources: list[_Source], cache: Path, sample_rate: int, *, quiet: bool
) -> list[Clip | Skipped]:
    """What each source is, decoding those that the last scan did not see."""
    known = _read_manifest(cache)
    entries, fresh = [], False
    with (cache / "pcm.bin").open("ab") as pcm:
        pcm.truncate(pcm.tell() // 2 * 2)  # a killed scan may have left half a sample
        for source in tqdm(sources, desc="scan", unit="file", disable=quiet, leave=False):
            entry = known.get((source.path, source.size, source.modified))
            if entry is None:
                fresh = True
                entry = _decode(source, sample_rate, pcm)
            entries.append(entry)
    if fresh or len(sources) != len(known):
        rows = [json.dumps({"kind": type(entry).__name__} | asdict(entry)) for entry in entries]
        with atomic_file(cache / "manifest.jsonl") as file:
            file.write("\n".join(rows).encode())
    return entries


def _read_manifest(cache: Path) -> dict[tuple[str, int, int], Clip | Skipped]:
    """Entries of the last scan; none if its files are missing or do not fit each other."""
    manifest, pcm = cache / "manifest.jsonl", cache / "pcm.bin"
    entries: dict[tuple[str, int, int], Clip | Skipped] = {}
    if not manifest.exists() or not pcm.exists():
        pcm.unlink(missing_ok=True)
        return entries
    held = pcm.stat().st_size // 2
    for line in manifest.read_text().splitlines():
        row = json.loads(line)
        entry = (Clip if row.pop("kind") == "Clip" else Skipped)(**row)
        if isinstance(entry, Skipped) and entry.reason.startswith("only "):
            continue  # of a version that kept no short clips
        if isinstance(entry, Skipped) or entry.offset + entry.samples <= held:
            entries[entry.path, entry.size, entry.modified] = entry
    return entries


def _decode(source: _Source, sample_rate: int, pcm: BinaryIO) -> Clip | Skipped:
    """Append a file's samples to the PCM file, or say why not."""
    place = (source.path, source.size, source.modified)
    pcm.seek(0, 2)
    begin = pcm.tell()
    reason = None
    peak = 0.0
    try:
        file = source.file if isinstance(source.file, Path) else source.file.open()
        with soundfile.SoundFile(file) as audio:
            resampler = soxr.ResampleStream(audio.samplerate, sample_rate, 1, dtype="float32")
            wanted = _BLOCK_SECONDS * audio.samplerate
            while len(block := audio.read(wanted, dtype="float32", always_2d=True)):
                if not np.isfinite(block).all():
                    reason = "holds NaN or infinite samples"
                    break
                mono = block.mean(axis=1)
                peak = max(peak, float(np.abs(mono).max()))
                pcm.write(_to_pcm(resampler.resample_chunk(mono)).tobytes())
            rest = resampler.resample_chunk(np.zeros(0, np.float32), last=True)
            pcm.write(_to_pcm(rest).tobytes())
    except (soundfile.LibsndfileError, OSError, ValueError) as error:
        reason = f"unreadable ({error})"
    samples = (pcm.tell() - begin) // 2
    if reason is None and samples and peak < SILENCE:
        reason = "silent (peak below -60 dBFS)"
    if reason is not None:
        pcm.truncate(begin)
        pcm.seek(begin)
        return Skipped(*place, reason)
    return Clip(*place, begin // 2, samples)


def _to_pcm(block: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(block * 32768), -32768, 32767).astype("<i2")


def hash_share(path: str) -> float:
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:6]) / 2**48


def too_many_skipped(corpus: Corpus) -> str | None:
    """A warning where more than one file in twenty is of no use."""
    skipped, all_files = len(corpus.skipped), len(corpus.skipped) + len(corpus.clips)
    if skipped <= all_files / 20:
        return None
    reasons = Counter(entry.reason.split(" (")[0] for entry in corpus.skipped)
    reason, count = reasons.most_common(1)[0]
    return (
        f"{skipped} of {all_files} files are of no use, most for this reason: {reason} ({count}); "
        "the others are trained on"
    )
