"""A folder of audio files or tars of such, scanned once.

The scan resamples every file to the codec's rate and to one channel, block by block, and keeps it as
16-bit PCM in one file that is mapped into memory, so that a crop costs a copy. Of a corpus too large for
a second copy only lengths are kept, and crops are read from the files themselves.
"""

import hashlib
import json
import math
import shutil
import tempfile
from collections import Counter
from collections.abc import Generator, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np
import soundfile as sf
import soxr
from tqdm import tqdm

from bittern.audio.atomic import atomic_file
from bittern.audio.streams import Resampler, check_samples, mix
from bittern.corpus.sources import Recording, find_recordings
from bittern.errors import AudioError, CodecError, ConfigError, UnreachableError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

SILENCE = 1e-3  # peak below which there is nothing to learn from (-60 dBFS)
_RATES = (1000, 768_000)  # Hz, of files that are used
_SOUGHT = ("WAV", "WAVEX", "RF64", "FLAC")  # of which any part is read exactly
_PORTION = 16  # files that a process decodes at once


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
class Corpus:
    """All usable clips of a folder, decoded or where they lie."""

    clips: list[Clip]
    skipped: list[Skipped]
    pcm: np.ndarray | None  # int16, mapped; None where crops are read from the files
    sample_rate: int
    recordings: dict[str, Recording]  # by the path of their clip

    def read(self, clip: Clip, start: int, samples: int) -> np.ndarray:
        """Samples of a clip as float32 [samples], zeros after its end."""
        held = self.read_pcm(clip, start, samples)
        return np.pad(held / np.float32(32768), (0, samples - len(held)))

    def read_pcm(self, clip: Clip, start: int = 0, samples: int | None = None) -> np.ndarray:
        """The same as int16, up to the clip's end.

        Raises:
            AudioError: the file has gone, or has changed.
        """
        end = clip.samples if samples is None else min(start + samples, clip.samples)
        if self.pcm is not None:
            return self.pcm[clip.offset + start : clip.offset + end]
        return _read_crop(self.recordings[clip.path], start, end - start, self.sample_rate)

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
    copy: bool = True,
    workers: int = 0,
    what: str = "data.root",
    quiet: bool = False,
) -> Corpus:
    """Scan a folder, or what has changed in it since the last scan.

    Processes that open the same corpus wait for each other, so that one decodes for all.

    Args:
        root: the folder.
        sample_rate: Hz, of the decoded audio.
        cache: where decoded audio is kept.
        minimum_seconds: shorter files are skipped.
        copy: keep the decoded audio; else only WAV and FLAC are used, and read where they lie.
        workers: processes that scan; with 0 or 1 it is this one.
        what: the setting that names the folder, for messages.
        quiet: without a bar of progress.

    Raises:
        AudioError: the folder is missing or holds no usable audio, or a tar is cut short.
        ConfigError: the cache cannot be written.
    """
    if not str(root):
        raise ConfigError(f"{what} is empty; give a folder of audio files")
    root = Path(root).expanduser()
    if not root.is_dir():
        raise AudioError(f"{what} {str(root)!r} is not a folder; give a folder of audio files")
    name = f"{root.resolve()}:{sample_rate}" + ("" if copy else ":where it lies")
    place = Path(cache).expanduser() / hashlib.sha256(name.encode()).hexdigest()[:16]
    sources = find_recordings(root)
    try:
        place.mkdir(parents=True, exist_ok=True)
        with _alone(place):
            found = _scan(sources, place, sample_rate, copy=copy, workers=workers, quiet=quiet)
    except OSError as error:  # the files' own errors have become reasons to leave them out
        raise ConfigError(
            f"{error.filename or place}: decoded audio cannot be kept there "
            f"({error.strerror or error}); give another folder as data.cache, or make room"
        ) from None
    clips, skipped = _usable(found, minimum_seconds * sample_rate, sample_rate)
    if not clips:
        reasons = "; ".join(f"{s.path}: {s.reason}" for s in skipped[:3])
        raise AudioError(
            f"{what} {str(root)!r} has no usable audio ({len(found)} audio files found"
            + (f"; {reasons}" if reasons else "")
            + "); give a folder with speech in any format that libsndfile or ffmpeg reads"
        )
    mapped = np.memmap(place / "pcm.bin", dtype=np.int16, mode="r") if copy else None
    return Corpus(clips, skipped, mapped, sample_rate, {source.key: source for source in sources})


def _usable(
    found: list[Clip | Skipped], minimum: float, sample_rate: int
) -> tuple[list[Clip], list[Skipped]]:
    """What is long enough, and what is not or cannot be used."""
    clips, skipped = list[Clip](), list[Skipped]()
    for entry in found:
        if isinstance(entry, Skipped):
            skipped.append(entry)
        elif entry.samples < max(minimum, 1):
            reason = f"only {entry.samples / sample_rate:.2f} s long"
            skipped.append(Skipped(entry.path, entry.size, entry.modified, reason))
        else:
            clips.append(entry)
    return clips, skipped


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


def _scan(
    sources: list[Recording],
    cache: Path,
    sample_rate: int,
    *,
    copy: bool,
    workers: int,
    quiet: bool,
) -> list[Clip | Skipped]:
    """What each source is, decoding those that the last scan did not see."""
    known = _read_manifest(cache, copy=copy)
    fresh = [s for s in sources if (s.key, s.size, s.modified) not in known]
    bar = tqdm(total=len(fresh), desc="scan", unit="file", disable=quiet, leave=False)
    with bar, (cache / "pcm.bin").open("ab") as pcm:
        pcm.truncate(pcm.tell() // 2 * 2)  # a killed scan may have left half a sample
        for entry in _decode_all(fresh, sample_rate, pcm, copy=copy, workers=workers):
            known[entry.path, entry.size, entry.modified] = entry
            bar.update()
    entries = [known[source.key, source.size, source.modified] for source in sources]
    if fresh or len(sources) != len(known):
        entries = _compacted(entries, cache) if copy else entries
        kept = [e for e in entries if isinstance(e, Clip) or e.lasting]
        rows = [json.dumps({"kind": type(entry).__name__} | asdict(entry)) for entry in kept]
        with atomic_file(cache / "manifest.jsonl") as file:
            file.write("\n".join(rows).encode())
    return entries


def _decode_all(
    sources: list[Recording], sample_rate: int, pcm: BinaryIO, *, copy: bool, workers: int
) -> Iterator[Clip | Skipped]:
    """Decode in order; with several processes each decodes some into a file of its own."""
    if workers < 2 or len(sources) < 2 * _PORTION:
        yield from (_decode(source, sample_rate, pcm, copy=copy) for source in sources)
        return
    portions = [sources[start : start + _PORTION] for start in range(0, len(sources), _PORTION)]
    with (
        tempfile.TemporaryDirectory(dir=Path(pcm.name).parent) as folder,
        ProcessPoolExecutor(workers, get_context("spawn")) as pool,
    ):
        names = [f"{folder}/{number}" for number in range(len(portions))]
        decode = partial(_decode_apart, sample_rate=sample_rate, copy=copy)
        for name, entries in zip(names, pool.map(decode, portions, names), strict=True):
            begin = pcm.seek(0, 2) // 2
            with Path(name).open("rb") as part:
                shutil.copyfileobj(part, pcm)
            Path(name).unlink()
            for entry in entries:
                is_clip = isinstance(entry, Clip)
                yield replace(entry, offset=begin + entry.offset) if is_clip else entry


def _decode_apart(
    sources: list[Recording], name: str, *, sample_rate: int, copy: bool
) -> list[Clip | Skipped]:
    with Path(name).open("wb") as pcm:
        return [_decode(source, sample_rate, pcm, copy=copy) for source in sources]


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


def _read_manifest(cache: Path, *, copy: bool) -> dict[tuple[str, int, int], Clip | Skipped]:
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
        if isinstance(entry, Skipped) or not copy or entry.offset + entry.samples <= held
    }


def _decode(source: Recording, sample_rate: int, pcm: BinaryIO, *, copy: bool) -> Clip | Skipped:
    """Append a file's samples to the PCM file, or count them alone, or say why not.

    Raises:
        OSError: the PCM file cannot be written, which is not the file's fault.
    """
    place = (source.key, source.size, source.modified)
    begin = pcm.seek(0, 2)
    loudest = heard = samples = 0
    reason, lasting = None, True
    try:
        for block, peak in _mono_blocks(source, sample_rate):
            loudest, heard = max(loudest, peak), max(heard, float(np.abs(block).max(initial=0.0)))
            samples += len(block)
            if copy:
                pcm.write(_to_pcm(block).tobytes())
        if not copy:
            _read_crop(source, 0, 1, sample_rate)
    except AudioError as error:
        reason = f"unreadable ({_without_name(error, source)})"
        lasting = not isinstance(error, UnreachableError)
    if reason is None and samples and heard < SILENCE:
        reason = "silent (peak below -60 dBFS)"
        if loudest >= SILENCE:
            reason = "without sound once mixed to one channel (the channels cancel each other)"
    if reason is not None:
        pcm.truncate(begin)
        pcm.seek(begin)
        return Skipped(*place, reason, lasting)
    return Clip(*place, begin // 2, samples)


def _mono_blocks(source: Recording, sample_rate: int) -> Iterator[tuple[np.ndarray, float]]:
    """A file as blocks [n] at the corpus's rate, and the peak of all channels before they were mixed.

    Raises:
        AudioError: whatever keeps the file from being read.
    """
    try:
        with source.open() as stream:
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


def _read_crop(source: Recording, start: int, samples: int, sample_rate: int) -> np.ndarray:
    """Samples [n] int16 at the corpus's rate of a WAV or FLAC file, which is read there alone."""
    try:
        with source.open_range() as file, sf.SoundFile(file) as sound:
            if sound.format not in _SOUGHT:
                raise AudioError(f"{sound.format} is not read in parts; use data.copy=true")
            ratio = sound.samplerate / sample_rate
            sound.seek(min(int(start * ratio), sound.frames))
            block = sound.read(math.ceil(samples * ratio), dtype="float32", always_2d=True)
            block = np.asarray(block, np.float32)
    except (sf.LibsndfileError, OSError) as error:
        raise AudioError(f"{source.key}: cannot be read any more ({error})") from None
    mono = mix(block, 1)[:, 0]
    return _to_pcm(mono if ratio == 1 else soxr.resample(mono, ratio, 1))[:samples]


def _without_name(error: CodecError, source: Recording) -> str:
    return str(error).removeprefix(f"{source.path}: ").removeprefix(f"{source.key}: ")


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
