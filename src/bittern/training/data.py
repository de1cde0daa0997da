"""A folder of audio, scanned once, decoded once, and cropped at random.

The scan resamples every file to the codec's rate and channels and keeps it as 16-bit PCM in one file
that is mapped into memory, so that a crop costs a copy. What a step sees depends on the seed, the step
and the place in the batch alone: a resumed run sees what an uninterrupted one would have.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from bittern.checkpoint import write_atomically
from bittern.errors import AudioError, ConfigError

_SUFFIXES = {f".{name.lower()}" for name in soundfile.available_formats()} | {
    ".aif",
    ".aifc",
    ".oga",
    ".opus",
    ".mp3",
    ".snd",
}
_SILENCE = 1e-3  # peak below which a file holds nothing to learn from (-60 dBFS)
_BLOCK_SECONDS = 30


@dataclass(kw_only=True)
class DataConfig:
    """Where the speech is and how it is drawn.

    A file's *source* is the first folder below the root that it lies in; sources are drawn by weight,
    then files of a source by duration.
    """

    root: str = "???"
    weights: dict[str, float] | None = None  # by source; 1 where not named
    segment_seconds: float = 1.0
    batch_size: int = 16  # over all devices
    minimum_seconds: float = 0.3  # shorter files are skipped
    gain_db: tuple[float, float] = (-9.0, 3.0)  # random gain, held below clipping
    validation_share: float = 0.04  # files held out, by a hash of their name
    validation_clips: int = 24
    validation_seconds: float = 4.0  # of each validation clip at most
    workers: int = 0  # processes that prepare batches ahead
    cache: str = "~/.cache/bittern"

    def __post_init__(self) -> None:
        self.gain_db = (float(self.gain_db[0]), float(self.gain_db[1]))
        for name in ("segment_seconds", "batch_size", "minimum_seconds"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"data.{name} is {getattr(self, name)}; give more than 0")
        if not 0 <= self.validation_share < 1:
            raise ConfigError(
                f"data.validation_share is {self.validation_share}; give 0 up to, not including, 1"
            )
        for source, weight in (self.weights or {}).items():
            if weight < 0:
                raise ConfigError(f"data.weights.{source} is {weight}; give 0 or more")


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
        held_out = [clip for clip in self.clips if _hash_share(clip.path) < share]
        chosen = set(held_out)
        return [clip for clip in self.clips if clip not in chosen], held_out


def open_corpus(config: DataConfig, sample_rate: int, *, quiet: bool = False) -> Corpus:
    """Scan a folder, or what has changed in it since the last scan.

    Raises:
        AudioError: the folder is missing or holds no usable audio.
    """
    root = Path(config.root).expanduser()
    if not root.is_dir():
        raise AudioError(f"data.root {str(root)!r} is not a folder; give a folder of audio files")
    key = hashlib.sha256(f"{root.resolve()}:{sample_rate}".encode()).hexdigest()[:16]
    cache = Path(config.cache).expanduser() / key
    cache.mkdir(parents=True, exist_ok=True)
    known = _read_manifest(cache)
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())
    clips, skipped, fresh = [], [], False
    with (cache / "pcm.bin").open("ab") as pcm:
        for path in tqdm(files, desc="scan", unit="file", disable=quiet, leave=False):
            name, stat = path.relative_to(root).as_posix(), path.stat()
            entry = known.get((name, stat.st_size, stat.st_mtime_ns))
            if entry is None:
                fresh = True
                minimum = config.minimum_seconds
                entry = _decode(path, name, sample_rate, minimum, pcm)
            (clips if isinstance(entry, Clip) else skipped).append(entry)
    if fresh or len(files) != len(known):
        rows = [
            json.dumps({"kind": type(entry).__name__} | asdict(entry)) for entry in clips + skipped
        ]
        write_atomically(cache / "manifest.jsonl", "\n".join(rows).encode())
    if not clips:
        reasons = "; ".join(f"{s.path}: {s.reason}" for s in skipped[:3])
        raise AudioError(
            f"data.root {str(root)!r} has no usable audio ({len(files)} audio files found"
            + (f"; {reasons}" if reasons else "")
            + "); give a folder with speech in any format that libsndfile reads"
        )
    mapped = np.memmap(cache / "pcm.bin", dtype=np.int16, mode="r")
    return Corpus(clips, skipped, mapped, sample_rate)


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
        if isinstance(entry, Skipped) or entry.offset + entry.samples <= held:
            entries[entry.path, entry.size, entry.modified] = entry
    return entries


def _decode(path: Path, name: str, sample_rate: int, minimum_seconds: float, pcm) -> Clip | Skipped:
    """Append a file's samples to the PCM file, or say why not."""
    stat = path.stat()
    place = (name, stat.st_size, stat.st_mtime_ns)
    blocks: list[np.ndarray] = []
    peak = 0.0
    try:
        with soundfile.SoundFile(path) as file:
            resampler = soxr.ResampleStream(file.samplerate, sample_rate, 1, dtype="float32")
            wanted = _BLOCK_SECONDS * file.samplerate
            while len(block := file.read(wanted, dtype="float32", always_2d=True)):
                if not np.isfinite(block).all():
                    return Skipped(*place, "holds NaN or infinite samples")
                mono = block.mean(axis=1)
                peak = max(peak, float(np.abs(mono).max()))
                blocks.append(_to_pcm(resampler.resample_chunk(mono)))
            blocks.append(_to_pcm(resampler.resample_chunk(np.zeros(0, np.float32), last=True)))
    except (soundfile.LibsndfileError, OSError, ValueError) as error:
        return Skipped(*place, f"unreadable ({error})")
    samples = sum(len(block) for block in blocks)
    if samples < minimum_seconds * sample_rate:
        return Skipped(*place, f"only {samples / sample_rate:.2f} s long")
    if peak < _SILENCE:
        return Skipped(*place, "silent (peak below -60 dBFS)")
    pcm.seek(0, 2)
    offset = pcm.tell() // 2
    for block in blocks:
        pcm.write(block.tobytes())
    return Clip(*place, offset, samples)


def _to_pcm(block: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(block * 32768), -32768, 32767).astype("<i2")


def _hash_share(path: str) -> float:
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:6]) / 2**48


class Batches(Dataset):
    """The batch of every step, [batch, 1, T] float32, by the step's number.

    Steps below 0 are batches that training does not see, for statistics beforehand.
    """

    def __init__(
        self, corpus: Corpus, clips: list[Clip], config: DataConfig, *, seed: int, items: range
    ) -> None:
        """With `items` the places of the whole batch that this rank makes."""
        self.corpus = corpus
        self.config = config
        self.seed = seed
        self.items = items
        self.samples = round(config.segment_seconds * corpus.sample_rate)
        self.sources: list[tuple[list[Clip], np.ndarray]] = []
        weights = []
        names = sorted({clip.source for clip in clips})
        given = config.weights or {}
        unknown = set(given) - {clip.source for clip in corpus.clips}
        if unknown:
            raise ConfigError(
                f"data.weights names {sorted(unknown)[0]!r}; "
                f"the folders below data.root are {', '.join(names)}"
            )
        for name in names:
            held = [clip for clip in clips if clip.source == name]
            lengths = np.array([clip.samples for clip in held], dtype=np.float64)
            self.sources.append((held, np.cumsum(lengths) / lengths.sum()))
            weights.append(given.get(name, 1.0))
        if sum(weights) <= 0:
            raise ConfigError("data.weights leaves no source; give one of them more than 0")
        self.source_bounds = np.cumsum(weights) / sum(weights)

    def __getitem__(self, step: int) -> Tensor:
        return self.draw(step, self.items)

    def draw(self, step: int, items: range) -> Tensor:
        """The given places of a step's batch, [len(items), 1, T]."""
        return torch.from_numpy(np.stack([self._draw(step, item) for item in items])[:, None])

    def _draw(self, step: int, item: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, step % 2**32, item])
        clips, bounds = self.sources[int(np.searchsorted(self.source_bounds, rng.random()))]
        clip = clips[min(int(np.searchsorted(bounds, rng.random())), len(clips) - 1)]
        start = int(rng.integers(max(clip.samples - self.samples, 0) + 1))
        wav = self.corpus.read(clip, start, self.samples)
        gain = 10 ** (rng.uniform(*self.config.gain_db) / 20)
        return wav * np.float32(min(gain, 0.99 / max(float(np.abs(wav).max()), 1e-5)))


def batches_from(dataset: Batches, start: int, steps: int, *, workers: int) -> Iterator[Tensor]:
    """Batches of the steps start..steps - 1, prepared ahead by `workers` processes."""
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=range(start, steps),  # type: ignore[arg-type]  # any iterable of indices serves
        num_workers=workers,
        multiprocessing_context="fork" if workers else None,
    )
    return iter(loader)


def silent_share(wav: Tensor) -> float:
    """The share of a batch's items, [B, C, T], that hold nothing to hear."""
    return float((wav.abs().amax(dim=(1, 2)) < _SILENCE).float().mean())


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


def validation_batch(corpus: Corpus, clips: list[Clip], config: DataConfig) -> list[Tensor]:
    """The fixed clips that every validation hears, each [1, 1, T], spread over the held-out files."""
    stride = max(len(clips) // max(config.validation_clips, 1), 1)
    longest = round(config.validation_seconds * corpus.sample_rate)
    chosen = sorted(clips, key=lambda clip: _hash_share(clip.path))[::stride]
    return [
        torch.from_numpy(corpus.read(clip, 0, min(longest, clip.samples)))[None, None]
        for clip in chosen[: config.validation_clips]
    ]
