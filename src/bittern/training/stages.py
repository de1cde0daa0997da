"""How many stages each frame uses in training: even, or spread to where an error is heard.

Source: quantizer dropout, SoundStream (arXiv:2107.03312, section III-D), drawn for each item; here also
for each frame, as files with variable bitrate have them.
"""

import torch
from torch import Tensor

_LEVEL_POWER = 0.2  # of a frame's amplitude, in what an error there is worth
_NEIGHBOURS = 25  # frames among which a frame is soft or loud


def draw_quality(
    batch: int,
    stages: int,
    *,
    lowest: float,
    highest: float,
    full_share: float,
    generator: torch.Generator,
) -> Tensor:
    """Mean stages of each item, [B] float: all K for a share of them, else log-uniform."""
    low, high = min(lowest, stages), min(highest, stages)
    drawn = low * (high / low) ** torch.rand(batch, generator=generator)
    full = torch.rand(batch, generator=generator) < full_share
    return torch.where(full, float(stages), drawn)


def spread_stages(errors: Tensor, levels: Tensor | None, quality: Tensor) -> Tensor:
    """Stages of each frame, [B, F], 1 to K, which are `quality` [B] in the mean.

    Stages go where they lower the weighted error most. What one does for a frame is taken to be the
    error there times what the stage does on average in the item: single gains are too noisy to stop at.

    Args:
        errors: [B, K + 1, F], squared, after 0 to K stages.
        levels: [B, F] natural logarithms of amplitude, for the weights; without, all frames weigh alike.
        quality: [B], mean stages of each item.
    """
    _, depth, frames = errors.shape
    mean = errors.mean(dim=2)
    gain = (1 - mean[:, 1:] / mean[:, :-1].clamp(min=1e-12)).clamp(min=1e-3)  # [B, K]
    worth = errors[:, :-1] * gain[..., None]
    if levels is not None:
        loudest = torch.nn.functional.max_pool1d(
            levels[:, None], _NEIGHBOURS, stride=1, padding=_NEIGHBOURS // 2
        )
        worth = worth * (_LEVEL_POWER * (levels[:, None] - loudest)).exp()
    worth = worth.cummin(dim=1).values  # a stage needs those before it
    worth[:, 0] = torch.inf  # each frame has one
    wanted = (quality.to(errors) * frames).round().clamp(frames, (depth - 1) * frames)
    order = worth.flatten(1).argsort(dim=1, descending=True, stable=True)
    taken = torch.arange(order.shape[1], device=order.device) < wanted[:, None]
    return torch.zeros_like(taken).scatter(1, order, taken).view_as(worth).sum(dim=1)
