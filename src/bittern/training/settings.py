"""Everything a training run is told, as dataclasses, and the one door from Hydra to them."""

from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, cast, get_type_hints

from omegaconf import DictConfig, OmegaConf

from bittern.config import CodecConfig, build
from bittern.errors import ConfigError
from bittern.training.adversary import AdversaryConfig
from bittern.training.augment import AugmentConfig
from bittern.training.data import DataConfig
from bittern.training.losses import LossConfig


@dataclass(kw_only=True)
class CodebookConfig:
    """How the quantizer comes in and learns."""

    start_step: int = 0  # before it the latent passes unquantized
    kmeans_frames: int = 16_384  # latent frames that k-means sees
    kmeans_iterations: int = 10
    decay: float = 0.99  # of the moving averages, at the start
    final_window: float = 0.0  # share of all steps that codewords are means over in the end
    revival_threshold: float = 0.1  # share of the mean count below which an entry is dead
    stages: tuple[float, float] = (2.0, 24.0)  # drawn for each item, as the mean of its frames
    full_share: float = 0.1  # items that use all stages
    even_share: float = 0.25  # items whose frames all have the same number of stages

    def __post_init__(self) -> None:
        _check(self.start_step >= 0, f"codebook.start_step is {self.start_step}; give 0 or more")
        _check(0 <= self.decay < 1, f"codebook.decay is {self.decay}; give 0 up to 1")
        _check(
            0 <= self.final_window <= 1,
            f"codebook.final_window is {self.final_window}; give 0 to 1",
        )
        _check(
            0 <= self.revival_threshold <= 1,
            f"codebook.revival_threshold is {self.revival_threshold}; give 0 to 1",
        )
        self.stages = (float(self.stages[0]), float(self.stages[1]))
        _check(
            1 <= self.stages[0] <= self.stages[1],
            f"codebook.stages is {list(self.stages)}; give [fewest, most], from 1 up",
        )
        for name in ("full_share", "even_share"):
            share = getattr(self, name)
            _check(0 <= share <= 1, f"codebook.{name} is {share}; give 0 to 1")


class Schedule(StrEnum):
    CONSTANT = "constant"
    COSINE = "cosine"


class TrainOnly(StrEnum):
    """Parts that learn while the others stay as they are."""

    DECODER = "decoder"  # codes keep their meaning: files made before still decode


@dataclass(kw_only=True)
class OptimizerConfig:
    """How AdamW (arXiv:1711.05101) moves weights, and by how much over time."""

    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    warmup_steps: int = 200
    schedule: Schedule = Schedule.COSINE
    final_share: float = 0.05  # of the learning rate, at the end of a cosine
    gradient_clip: float = 1.0  # norm over all parameters; 0 turns it off
    average_decay: float = 0.999  # of the weights that are validated and saved

    def __post_init__(self) -> None:
        self.betas = (float(self.betas[0]), float(self.betas[1]))
        _check(
            self.learning_rate > 0, f"optimizer.learning_rate is {self.learning_rate}; give over 0"
        )


@dataclass(kw_only=True)
class TrainConfig:
    """One run; `configs/train.yaml` says what each value means to a user."""

    model: CodecConfig = field(default_factory=CodecConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    codebook: CodebookConfig = field(default_factory=CodebookConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    adversary: AdversaryConfig = field(default_factory=AdversaryConfig)
    run: str = "runs/speech-16khz"
    steps: int = 10_000
    seed: int = 0
    init: str | None = None
    train_only: TrainOnly | None = None
    resume: bool = True
    stop_after_minutes: float | None = None
    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    precision: str = "32-true"
    threads: int | None = None
    accumulate: int = 1
    skip_limit: int = 20
    log_every: int = 20
    validate_every: int = 500
    save_every: int = 500

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "devices",
            "nodes",
            "accumulate",
            "skip_limit",
            "log_every",
            "validate_every",
            "save_every",
        ):
            _check(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; give 1 or more")
        _check(
            self.model.channels == 1,
            f"model.channels is {self.model.channels}; training hears one channel, so give 1 (files of "
            "more channels are coded as streams, one for each)",
        )
        parts = self.devices * self.nodes * self.accumulate
        _check(
            self.data.batch_size % parts == 0,
            f"data.batch_size is {self.data.batch_size}; it must be a multiple of {parts}, "
            "the devices on all nodes times accumulate",
        )
        _check(
            self.train_only is None or self.init is not None,
            f"train_only is {self.train_only}, but there is no checkpoint to start from; give init",
        )


def resolve(cfg: DictConfig) -> TrainConfig:
    """Turn Hydra's configuration into typed settings.

    Raises:
        ConfigError: a key is unknown, missing or of the wrong type, or a value is out of range.
    """
    missing = OmegaConf.missing_keys(cfg)
    _check(
        not missing,
        f"{', '.join(sorted(missing))} is not set; give it on the command line, as in "
        "data.root=FOLDER",
    )
    data = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    groups = {field.name for field in fields(TrainConfig)}
    for key in data:
        _check(key in groups, f"unknown key {key!r}; known: {', '.join(sorted(groups))}")
    hints = get_type_hints(TrainConfig)
    return TrainConfig(**{key: build(hints[key], value, key) for key, value in data.items()})


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)
