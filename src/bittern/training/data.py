"""What each step hears: crops of a corpus, drawn at random.

What a step sees depends on the seed, the step and the place in the batch alone: a resumed run sees what
an uninterrupted one would have, and ranks divide a batch without talking.
"""

import math
import warnings
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bittern.errors import ConfigError
from bittern.training.augment import Augmentation
from bittern.training.corpus import SILENCE, Clip, Corpus, hash_share
from bittern.training.signals import leave_signals

_FASTEST = 1.1  # times that a crop is played at most, see `Batches.draw`


@dataclass(kw_only=True)
class DataConfig:
    """Where the speech is and how it is drawn.

    A file's *source* is the first folder below the root that it lies in; sources are drawn by weight,
    then files of a source by duration.
    """

    root: str = "???"  # a folder of audio files or tars of such
    weights: dict[str, float] | None = None  # by source; 1 where not named
    segment_seconds: float = 1.0
    batch_size: int = 16  # over all devices
    minimum_seconds: float = 0.3  # shorter files are skipped
    gain_db: tuple[float, float] = (-9.0, 3.0)  # random gain, held below clipping
    validation_share: float = 0.04  # files held out, by a hash of their name
    validation_clips: int = 24
    validation_seconds: float = 4.0  # of each validation clip at most
    workers: int = 0  # processes that prepare batches ahead, and that scan the corpus
    copy: bool = True  # decoded audio in the cache; else crops are read from the files (WAV, FLAC)
    resident: bool = False  # the whole corpus on the training device, batches made there
    cache: str = "~/.cache/bittern"

    def __post_init__(self) -> None:
        self.gain_db = (float(self.gain_db[0]), float(self.gain_db[1]))
        for name in ("segment_seconds", "batch_size", "minimum_seconds"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"data.{name} is {getattr(self, name)}; give more than 0")
        if self.workers < 0:
            raise ConfigError(f"data.workers is {self.workers}; give 0 or more")
        if not 0 <= self.validation_share < 1:
            raise ConfigError(
                f"data.validation_share is {self.validation_share}; give 0 up to, not including, 1"
            )
        if self.resident and not self.copy:
            raise ConfigError("data.resident holds the decoded corpus; give data.copy=true")
        if self.resident and self.workers:
            raise ConfigError(
                f"data.workers is {self.workers}, but with data.resident there is nothing for them to "
                "do; give 0"
            )
        for source, weight in (self.weights or {}).items():
            if weight < 0:
                raise ConfigError(f"data.weights.{source} is {weight}; give 0 or more")


class Batches(Dataset):
    """The batch of every step, [batch, 1, T] float32, by the step's number.

    Crops are gathered from the corpus where it lies: in a mapped file, on the training device
    (`data.resident`), or in its own files. Steps below 0 are batches that training does not see, for
    statistics beforehand.
    """

    def __init__(
        self,
        corpus: Corpus,
        clips: list[Clip],
        config: DataConfig,
        *,
        seed: int,
        items: range,
        augmentation: Augmentation | None = None,
        device: torch.device | None = None,
    ) -> None:
        """With `items` the places that this rank makes; `device` is where a resident corpus lies."""
        self.config = config
        self.seed = seed
        self.items = items
        self.augmentation = augmentation
        self.samples = round(config.segment_seconds * corpus.sample_rate)
        shares = _shares(corpus, clips, config.weights or {})
        self.bounds = np.cumsum(shares) / shares.sum()
        self.offsets = np.array([clip.offset for clip in clips])
        self.lengths = np.array([clip.samples for clip in clips])
        self.corpus, self.clips = corpus, clips
        self.pcm = None
        if corpus.pcm is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # the map is read-only, and so are we
                self.pcm = torch.from_numpy(corpus.pcm)
        if self.pcm is not None and config.resident:
            self.pcm = self.pcm.to(device)

    def __getitem__(self, step: int) -> Tensor:
        return self.draw(step, self.items)

    def draw(self, step: int, items: range) -> Tensor:
        """The given places of a step's batch, [len(items), 1, T]."""
        batch = max(self.config.batch_size, items.stop)
        seed = [self.seed, step % 2**32]
        u = np.random.default_rng(seed).random((batch, 5))[items.start : items.stop]
        speed = np.ones(len(items))
        if self.augmentation is not None:
            speed = np.where(u[:, 3] < self.augmentation.config.speed, 0.9 + 0.2 * u[:, 4], 1.0)
        clip = np.minimum(np.searchsorted(self.bounds, u[:, 0]), len(self.bounds) - 1)
        room = np.maximum(self.lengths[clip] - np.ceil(self.samples * speed).astype(int), 0)
        start = np.floor(u[:, 1] * (room + 1)).astype(int)
        wav = self._crop(clip, start, speed)
        if self.augmentation is not None:
            wav = self.augmentation(wav, items, seed, batch)
        low, high = self.config.gain_db
        gain = torch.from_numpy(10 ** ((low + (high - low) * u[:, 2]) / 20)).to(wav)
        loudest = 0.99 / wav.abs().amax(dim=(1, 2)).clamp(min=1e-5)
        return wav * torch.minimum(gain, loudest)[:, None, None]

    def _crop(self, clip: np.ndarray, start: np.ndarray, speed: np.ndarray) -> Tensor:
        """Crops of clips [n] from samples [n] on, played so many times as fast: [n, 1, T]."""
        pcm, offsets = self._lying(clip, start)
        device = pcm.device
        step = torch.from_numpy(speed).to(device)[:, None]
        first = torch.from_numpy(start).to(device)[:, None]
        place = first + torch.arange(self.samples, device=device) * step  # float64: exact
        offset, length = (
            torch.from_numpy(row).to(device)[:, None] for row in (offsets, self.lengths[clip])
        )
        below = place.floor()
        if not (speed != 1.0).any():
            return _at(pcm, below.long(), offset, length)[:, None]
        part = (place - below).float()
        taps = [_at(pcm, below.long() + shift, offset, length) for shift in (-1, 0, 1, 2)]
        return _between(taps, part)[:, None]

    def _lying(self, clip: np.ndarray, start: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """Samples, int16, and where in them each of clips [n] would begin; of files what is needed."""
        if self.pcm is not None:
            return self.pcm, self.offsets[clip]
        window = math.ceil(self.samples * _FASTEST) + 4
        first = np.maximum(start - 1, 0)
        held = np.zeros((len(clip), window), np.int16)
        for row, number, begin in zip(held, clip, first, strict=True):
            read = self.corpus.read_pcm(self.clips[number], int(begin), window)
            row[: len(read)] = read
        return torch.from_numpy(held.ravel()), window * np.arange(len(clip)) - first


def _at(pcm: Tensor, place: Tensor, offset: Tensor, length: Tensor) -> Tensor:
    """Samples by their place in clips, 0 outside: [n, T] float32."""
    inside = (place >= 0) & (place < length)
    held = pcm[offset + torch.minimum(place.clamp(min=0), length - 1)]
    return held.float() * inside / 32768


def _shares(corpus: Corpus, clips: list[Clip], weights: dict[str, float]) -> np.ndarray:
    """How often each clip is drawn: sources by weight, clips of a source by duration."""
    names = sorted({clip.source for clip in clips})
    unknown = set(weights) - {clip.source for clip in corpus.clips}
    if unknown:
        raise ConfigError(
            f"data.weights names {sorted(unknown)[0]!r}; "
            f"the folders below data.root are {', '.join(names)}"
        )
    if not clips:
        raise ConfigError(
            f"all {len(corpus.clips)} usable files are held out by data.validation_share; "
            "give less, or more files"
        )
    held = dict.fromkeys(names, 0)
    for clip in clips:
        held[clip.source] += clip.samples
    each = [weights.get(c.source, 1.0) * c.samples / held[c.source] for c in clips]
    if sum(each) <= 0:
        raise ConfigError("data.weights leaves no source; give one of them more than 0")
    return np.array(each)


def _between(taps: list[Tensor], part: Tensor) -> Tensor:
    """Values between samples by a cubic through the two on either side (Catmull and Rom 1974)."""
    a, b, c, d = taps
    return b + 0.5 * part * (
        c - a + part * (2 * a - 5 * b + 4 * c - d + part * (3 * (b - c) + d - a))
    )


def batches_from(dataset: Batches, start: int, steps: int, *, workers: int) -> Iterator[Tensor]:
    """Batches of the steps start..steps - 1, prepared ahead by `workers` processes."""
    if not workers:
        return _ahead(dataset, range(start, steps))
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=range(start, steps),  # type: ignore[arg-type]  # any iterable of indices serves
        num_workers=workers,
        multiprocessing_context="fork",
        worker_init_fn=leave_signals,
    )
    return iter(loader)


def _ahead(dataset: Batches, steps: range) -> Iterator[Tensor]:
    """Batches made here; those on a device by a thread, one ahead, while training waits for the device."""
    if not dataset.config.resident:
        yield from (dataset[step] for step in steps)
        return
    with ThreadPoolExecutor(1) as maker:
        made = deque(maker.submit(dataset.__getitem__, step) for step in steps[:1])
        for step in steps[1:]:
            made.append(maker.submit(dataset.__getitem__, step))
            yield made.popleft().result()
        yield from (future.result() for future in made)


def silent_share(wav: Tensor) -> float:
    """The share of a batch's items, [B, C, T], that hold nothing to hear."""
    return float((wav.abs().amax(dim=(1, 2)) < SILENCE).float().mean())


def validation_batch(corpus: Corpus, clips: list[Clip], config: DataConfig) -> dict[str, Tensor]:
    """The fixed clips that every validation hears, by path, [1, 1, T], spread over the held-out files."""
    stride = max(len(clips) // max(config.validation_clips, 1), 1)
    longest = round(config.validation_seconds * corpus.sample_rate)
    chosen = sorted(clips, key=lambda clip: hash_share(clip.path))[::stride]
    return {
        clip.path: torch.from_numpy(corpus.read(clip, 0, min(longest, clip.samples)))[None, None]
        for clip in chosen[: config.validation_clips]
    }
