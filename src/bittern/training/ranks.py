"""Means over the processes of a distributed run, so that halves of a batch act like the whole."""

import torch.distributed as dist
from torch import Tensor

from bittern.training.codebook import sum_over_ranks


def mean_over_ranks(values: Tensor) -> Tensor:
    """The mean over all ranks of a tensor without gradient; the tensor itself in a single process."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return values
    return sum_over_ranks(values.detach().clone()) / dist.get_world_size()
