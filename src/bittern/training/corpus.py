"""A folder of audio, or a pack of one, scanned and decoded once.

The scan resamples every file to the codec's rate and to one channel and keeps it as 16-bit PCM in one
file that is mapped into memory, so that a crop costs a copy. Files are read block by block.
"""

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np
from tqdm import tqdm

from bittern.audio.atomic import atomic_file
from bittern.audio.names import find_audio
from bittern.audio.streams import AudioStream, Resampler, check_samples, mix, open_audio
from bittern.errors import AudioError, CodecError, ConfigError, UnreachableError
from bittern.training import pack

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

SILENCE = 1e-3  # peak below which there is nothing to learn from (-60 dBFS)
_RATES = (1000, 768_000)  # Hz, of files that are used


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
    lasting: bool = True  # for as long as the file stays as it is; else it is tried again


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
        ConfigError: the cache cannot be written.
    """
    if not str(root):
        raise ConfigError(f"{what} is empty; give a folder of audio files")
    root = Path(root).expanduser()
    if not root.is_dir():
        raise AudioError(f"{what} {str(root)!r} is not a folder; give a folder of audio files")
    key = hashlib.sha256(f"{root.resolve()}:{sample_rate}".encode()).hexdigest()[:16]
    place = Path(cache).expanduser() / key
    sources = _sources(root)
    try:
        place.mkdir(parents=True, exist_ok=True)
        with _alone(place):
            found = _scan(sources, place, sample_rate, quiet=quiet)
    except OSError as error:  # the files' own errors have become reasons to leave them out
        raise ConfigError(
            f"{error.filename or place}: decoded audio cannot be kept there "
            f"({error.strerror or error}); give another folder as data.cache, or make room"
        ) from None
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
            + "); give a folder with speech in any format that libsndfile or ffmpeg reads"
        )
    mapped = np.memmap(place / "pcm.bin", dtype=np.int16, mode="r")
    return Corpus(clips, skipped, mapped, sample_rate)


@contextmanager
def _alone(cache: Path) -> Generator[None]:
    """Hold the cache's lock, or where its file system has none, one of this machine."""
    with (cache / "lock").open("w") as lock:
        if _locked(lock):
            yield
            return
    with (Path(tempfile.gettempdir()) / f"bittern-{cache.name}.lock").open("w") as lock:
        _locked(lock)
        yield


def _locked(file: IO[str]) -> bool:
    """Wait for a file's lock, which is given back when the file is closed; False if it has none."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:
        return False
    return True


def _sources(root: Path) -> list[_Source]:
    """What there is to scan, in an order that a folder and its pack share."""
    if pack.is_pack(root):
        return [_Source(e.path, e.size, e.digest, e) for e in pack.read_index(root).entries]
    stats = [(path, path.stat()) for path in find_audio(root)]
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
        entries = _compacted(entries, cache)
        kept = [e for e in entries if isinstance(e, Clip) or e.lasting]
        rows = [json.dumps({"kind": type(entry).__name__} | asdict(entry)) for entry in kept]
        with atomic_file(cache / "manifest.jsonl") as file:
            file.write("\n".join(rows).encode())
    return entries


def _compacted(entries: list[Clip | Skipped], cache: Path) -> list[Clip | Skipped]:
    """The same entries in a PCM file without what is no longer used, if that is more than half."""
    path = cache / "pcm.bin"
    used = sum(entry.samples for entry in entries if isinstance(entry, Clip))
    if path.stat().st_size <= 2 * 2 * used + (1 << 16):
        return entries
    (cache / "manifest.jsonl").unlink(
        missing_ok=True
    )  # whose offsets are not those of the new file
    moved: list[Clip | Skipped] = []
    offset = 0
    with path.open("rb") as old, atomic_file(path) as new:
        for entry in entries:
            if isinstance(entry, Clip):
                old.seek(2 * entry.offset)
                new.write(old.read(2 * entry.samples))
                entry = replace(entry, offset=offset)
                offset += entry.samples
            moved.append(entry)
    return moved


def _read_manifest(cache: Path) -> dict[tuple[str, int, int], Clip | Skipped]:
    """Entries of the last scan; none if its files are missing, damaged or do not fit each other."""
    manifest, pcm = cache / "manifest.jsonl", cache / "pcm.bin"
    try:
        held = pcm.stat().st_size // 2
        rows = [json.loads(line) for line in manifest.read_text().splitlines()]
        entries = [(Clip if row.pop("kind") == "Clip" else Skipped)(**row) for row in rows]
    except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
        pcm.unlink(missing_ok=True)
        return {}
    return {
        (entry.path, entry.size, entry.modified): entry
        for entry in entries
        if isinstance(entry, Skipped) or entry.offset + entry.samples <= held
    }


def _decode(source: _Source, sample_rate: int, pcm: BinaryIO) -> Clip | Skipped:
    """Append a file's samples to the PCM file, or say why not.

    Raises:
        OSError: the PCM file cannot be written, which is not the file's fault.
    """
    place = (source.path, source.size, source.modified)
    begin = pcm.seek(0, 2)
    loudest = heard = 0.0
    reason, lasting = None, True
    try:
        for block, peak in _mono_blocks(source, sample_rate):
            loudest, heard = max(loudest, peak), max(heard, float(np.abs(block).max(initial=0.0)))
            pcm.write(_to_pcm(block).tobytes())
    except AudioError as error:
        reason = f"unreadable ({_without_name(error, source)})"
        lasting = not isinstance(error, UnreachableError)
    samples = (pcm.tell() - begin) // 2
    if reason is None and samples and heard < SILENCE:
        reason = "silent (peak below -60 dBFS)"
        if loudest >= SILENCE:
            reason = "without sound once mixed to one channel (the channels cancel each other)"
    if reason is not None:
        pcm.truncate(begin)
        pcm.seek(begin)
        return Skipped(*place, reason, lasting)
    return Clip(*place, begin // 2, samples)


def _mono_blocks(source: _Source, sample_rate: int) -> Iterator[tuple[np.ndarray, float]]:
    """A file as blocks [n] at the corpus's rate, and the peak of all channels before they were mixed.

    Raises:
        AudioError: whatever keeps the file from being read.
    """
    try:
        with _opened(source) as stream:
            low, high = _RATES
            if not low <= stream.sample_rate <= high:
                raise AudioError(f"sample rate {stream.sample_rate} Hz; expected {low} to {high}")
            resampler = Resampler(stream.sample_rate, sample_rate, 1)
            for block in check_samples(stream).blocks:
                peak = float(np.abs(block).max(initial=0.0))
                yield resampler.push(mix(block, 1))[:, 0], peak
            yield resampler.flush()[:, 0], 0.0
    except OSError as error:
        raise UnreachableError(error.strerror or str(error)) from None


def _opened(source: _Source) -> AbstractContextManager[AudioStream]:
    if isinstance(source.file, Path):
        return open_audio(source.file)
    return open_audio(Path(source.path), source.file.open())


def _without_name(error: CodecError, source: _Source) -> str:
    name = source.file if isinstance(source.file, Path) else source.path
    return str(error).removeprefix(f"{name}: ")


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
