"""Adversarial training: discriminators with an optimizer of their own, and what they ask of the codec."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from bittern.config import CodecConfig
from bittern.errors import ConfigError
from bittern.model import Waveform
from bittern.training.discriminators import (
    DiscriminatorSet,
    level_set,
    period_and_band_set,
    stft_set,
    window_samples,
)
from bittern.training.ranks import mean_over_ranks


class Discriminators(StrEnum):
    STFT = "stft"  # EnCodec's, over complex spectrograms
    PERIOD_AND_BAND = "period_and_band"  # DAC's
    LEVELS = "levels"  # FARGAN's, over logarithms of magnitudes


@dataclass(kw_only=True)
class AdversaryConfig:
    """Which discriminators there are, from when on, and how they learn."""

    start_step: int | None = None  # when they begin to learn; null is never
    head_start: int = 0  # steps after which the codec begins to listen to them
    kind: Discriminators = Discriminators.STFT
    channels: int = 32
    window_ms: tuple[float, ...] = (85.3, 42.7, 21.3, 10.7, 5.3)
    magnitude_power: float = 1.0  # of the spectra they see; below 1 they hear soft parts better
    periods: tuple[int, ...] = (2, 3, 5, 7, 11)  # of period_and_band
    judged_seconds: float | None = None  # a crop of each item, drawn anew each step; null is all
    update_probability: float = 0.6667  # of the discriminators, at each step
    learning_rate: float = 3e-4
    betas: tuple[float, float] = (0.5, 0.9)
    weight_decay: float = 0.0
    gradient_clip: float = 10.0  # norm over all parameters; 0 turns it off

    def __post_init__(self) -> None:
        self.betas = (float(self.betas[0]), float(self.betas[1]))
        self.window_ms, self.periods = tuple(self.window_ms), tuple(self.periods)
        if not 0 < self.update_probability <= 1:
            raise ConfigError(
                f"adversary.update_probability is {self.update_probability}; give over 0 up to 1"
            )
        for name in ("channels", "learning_rate"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"adversary.{name} is {getattr(self, name)}; give more than 0")
        if not self.window_ms or min(self.window_ms) <= 0:
            raise ConfigError(f"adversary.window_ms is {list(self.window_ms)}; give some over 0")


class Adversary:
    """Discriminators in training."""

    def __init__(self, config: AdversaryConfig, codec: CodecConfig, fabric: Fabric) -> None:
        self.config = config
        self.fabric = fabric
        self.crop = None
        if config.judged_seconds is not None:
            self.crop = max(round(config.judged_seconds * codec.sample_rate), 1)
        self.network = _build(config, codec)
        optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
        )
        self.wrapped, self.optimizer = fabric.setup(self.network, optimizer)

    def judged(
        self, wav: Waveform, output: Waveform, generator: torch.Generator
    ) -> tuple[Waveform, Waveform]:
        """The part of [B, C, T] original and output that the discriminators hear in this step."""
        if self.crop is None or self.crop >= wav.shape[-1]:
            return wav, output
        start = int(torch.randint(wav.shape[-1] - self.crop + 1, (), generator=generator))
        heard = slice(start, start + self.crop)
        return wav[..., heard], output[..., heard]

    def losses(self, wav: Waveform, output: Waveform) -> dict[str, Tensor]:
        """What the codec is asked for: `adversarial`, to pass as original, and `features`, to match.

        Feature distances are relative to the features' own size on the original, layer by layer.
        """
        self.network.requires_grad_(False)  # gradients are for the output alone
        with self.fabric.autocast():
            with torch.no_grad():
                originals = self.network(wav)
            fakes = self.network(output)
        self.network.requires_grad_(True)
        distances, sizes = [], []
        for ours, theirs in zip(fakes, originals, strict=True):
            for a, b in zip(ours.features, theirs.features, strict=True):
                distances.append((a - b).abs().mean(dtype=torch.float32))
                sizes.append(b.abs().mean(dtype=torch.float32))
        relative = torch.stack(distances) / mean_over_ranks(torch.stack(sizes)).clamp(min=1e-5)
        adversarial = torch.stack([(1 - fake.logits.float()).relu().mean() for fake in fakes])
        return {"adversarial": adversarial.mean(), "features": relative.mean()}

    def learn(self, parts: list[tuple[Waveform, Waveform]]) -> dict[str, Tensor]:
        """One update on pairs of original and output; gradients are summed over the parts."""
        self.optimizer.zero_grad(set_to_none=True)
        total, right = [], []
        for index, (wav, output) in enumerate(parts):
            more = index < len(parts) - 1
            with self.fabric.no_backward_sync(self.wrapped, enabled=more):
                judgements = self.wrapped(torch.cat([wav, output.detach()]))
                losses, shares = [], []
                for judgement in judgements:
                    original, fake = judgement.logits.float().chunk(2)
                    losses.append((1 - original).relu().mean() + (1 + fake).relu().mean())  # hinge
                    shares.append(((original > 0).float().mean() + (fake <= 0).float().mean()) / 2)
                loss = torch.stack(losses).mean()
                self.fabric.backward(loss / len(parts))
            total.append(loss.detach())
            right.append(torch.stack(shares).mean())
        norm = self.fabric.clip_gradients(
            self.wrapped,
            self.optimizer,
            max_norm=self.config.gradient_clip or float("inf"),
            error_if_nonfinite=False,
        )
        assert norm is not None
        if torch.isfinite(norm) or self.fabric.strategy.precision.precision == "16-mixed":
            self.optimizer.step()  # in fp16 the scaler skips it by itself, and lowers its scale
        return {
            "adversary/loss": torch.stack(total).mean(),
            "adversary/accuracy": torch.stack(right).mean(),
            "gradient/discriminators": norm.detach(),
        }

    def state_dict(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])


def _build(config: AdversaryConfig, codec: CodecConfig) -> DiscriminatorSet:
    windows = [window_samples(ms, codec.sample_rate) for ms in config.window_ms]
    match config.kind:
        case Discriminators.STFT:
            return stft_set(
                windows,
                channels=config.channels,
                audio_channels=codec.channels,
                power=config.magnitude_power,
            )
        case Discriminators.LEVELS:
            return level_set(windows, channels=config.channels, audio_channels=codec.channels)
        case Discriminators.PERIOD_AND_BAND:
            return period_and_band_set(
                windows,
                list(config.periods),
                channels=config.channels,
                audio_channels=codec.channels,
                power=config.magnitude_power,
            )
