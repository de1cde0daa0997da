"""The optimizer, its learning rate over time, and the moving average of the weights."""

import math

import torch
from torch import nn

from bittern.training.settings import CodebookConfig, OptimizerConfig, Schedule


def build_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer of what in `module` is to learn."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    return torch.optim.AdamW(
        parameters,
        lr=config.learning_rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=True,
    )


def learning_rate(step: int, steps: int, config: OptimizerConfig) -> float:
    """Linear warm-up from 0, then constant or half a cosine down to `final_share`."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule is Schedule.CONSTANT:
        return config.learning_rate
    done = (step - config.warmup_steps) / max(steps - config.warmup_steps, 1)
    share = config.final_share + (1 - config.final_share) * (1 + math.cos(math.pi * done)) / 2
    return config.learning_rate * share


def codebook_decay(step: int, steps: int, config: CodebookConfig) -> float:
    """How slowly codewords follow: means of ever more steps, along a geometric path.

    They follow the encoder as long as it moves, and in the end are means of so many frames that
    chance leaves no mark on them. A run so short that `final_window` of it is less than `decay`
    looks back on keeps that.
    """
    first = 1 / (1 - config.decay)  # steps
    last = max(config.final_window * steps, first)
    return 1 - 1 / (first * (last / first) ** min(step / steps, 1.0))


@torch.no_grad()
def update_average(average: nn.Module, current: nn.Module, decay: float, step: int) -> None:
    """Move averaged weights towards the current ones; buffers (codebooks) are copied.

    The decay is warmed up, as the first steps would otherwise weigh on thousands that follow.
    """
    decay = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]  # one call for all
        list(average.parameters()), list(current.parameters()), 1 - decay
    )
    for held, fresh in zip(average.buffers(), current.buffers(), strict=True):
        held.copy_(fresh)
