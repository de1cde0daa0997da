"""What each step hears: crops of a corpus, drawn at random.

What a step sees depends on the seed, the step and the place in the batch alone: a resumed run sees what
an uninterrupted one would have, and ranks divide a batch without talking.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bittern.errors import ConfigError
from bittern.training.augment import Augmentation
from bittern.training.corpus import SILENCE, Clip, Corpus, hash_share


@dataclass(kw_only=True)
class DataConfig:
    """Where the speech is and how it is drawn.

    A file's *source* is the first folder below the root that it lies in; sources are drawn by weight,
    then files of a source by duration.
    """

    root: str = "???"  # a folder, or a pack of one (`pack.py`)
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


class Batches(Dataset):
    """The batch of every step, [batch, 1, T] float32, by the step's number.

    Steps below 0 are batches that training does not see, for statistics beforehand.
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
    ) -> None:
        """With `items` the places of the whole batch that this rank makes."""
        self.corpus = corpus
        self.config = config
        self.seed = seed
        self.items = items
        self.augmentation = augmentation
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
        if not clips:
            raise ConfigError(
                f"all {len(corpus.clips)} usable files are held out by data.validation_share; "
                "give less, or more files"
            )
        if sum(weights) <= 0:
            raise ConfigError("data.weights leaves no source; give one of them more than 0")
        self.source_bounds = np.cumsum(weights) / sum(weights)

    def __getitem__(self, step: int) -> Tensor:
        return self.draw(step, self.items)

    def draw(self, step: int, items: range) -> Tensor:
        """The given places of a step's batch, [len(items), 1, T]."""
        return torch.from_numpy(np.stack([self._draw(step, item) for item in items])[:, None])

    def _draw(self, step: int, item: int) -> np.ndarray:
        place = [self.seed, step % 2**32, item]
        rng = np.random.default_rng(place)
        clip, start = self._choose(rng)
        gain = 10 ** (rng.uniform(*self.config.gain_db) / 20)
        if self.augmentation is None:
            wav = self.corpus.read(clip, start, self.samples)
        else:
            wav = self.augmentation.draw(
                lambda first, samples: self.corpus.read(clip, start + first, samples),
                self._another,
                samples=self.samples,
                lead=start,
                rng=np.random.default_rng([*place, 1]),  # crops stay those of a run without
            )
        return wav * np.float32(min(gain, 0.99 / max(float(np.abs(wav).max()), 1e-5)))

    def _choose(self, rng: np.random.Generator) -> tuple[Clip, int]:
        """A clip and the place where a crop of it begins."""
        clips, bounds = self.sources[int(np.searchsorted(self.source_bounds, rng.random()))]
        clip = clips[min(int(np.searchsorted(bounds, rng.random())), len(clips) - 1)]
        return clip, int(rng.integers(max(clip.samples - self.samples, 0) + 1))

    def _another(self, rng: np.random.Generator) -> np.ndarray:
        return self.corpus.read(*self._choose(rng), self.samples)


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
    return float((wav.abs().amax(dim=(1, 2)) < SILENCE).float().mean())


def validation_batch(corpus: Corpus, clips: list[Clip], config: DataConfig) -> list[Tensor]:
    """The fixed clips that every validation hears, each [1, 1, T], spread over the held-out files."""
    stride = max(len(clips) // max(config.validation_clips, 1), 1)
    longest = round(config.validation_seconds * corpus.sample_rate)
    chosen = sorted(clips, key=lambda clip: hash_share(clip.path))[::stride]
    return [
        torch.from_numpy(corpus.read(clip, 0, min(longest, clip.samples)))[None, None]
        for clip in chosen[: config.validation_clips]
    ]
