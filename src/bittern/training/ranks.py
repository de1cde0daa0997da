"""What the processes of a distributed run tell each other, so that parts of a batch act like the whole."""

import torch
import torch.distributed as dist
from torch import Tensor


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def sum_over_ranks(values: Tensor) -> Tensor:
    """Sum in place over the ranks of a distributed run; nothing happens in a single process."""
    if _distributed():
        dist.all_reduce(values)
    return values


def gather_rows(rows: Tensor) -> Tensor:
    """Rows of all ranks, [M, D] -> [sum of M, D], in the order of the ranks."""
    if not _distributed():
        return rows
    sizes = [
        torch.zeros((), dtype=torch.long, device=rows.device) for _ in range(dist.get_world_size())
    ]
    dist.all_gather(sizes, torch.tensor(len(rows), device=rows.device))
    longest = int(max(sizes))
    padded = rows.new_zeros(longest, rows.shape[1])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(size)] for part, size in zip(parts, sizes, strict=True)])


def mean_over_ranks(values: Tensor) -> Tensor:
    """The mean over all ranks of a tensor without gradient; the tensor itself in a single process."""
    if not _distributed():
        return values
    return sum_over_ranks(values.detach().clone()) / dist.get_world_size()
