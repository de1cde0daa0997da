"""Muon for convolution kernels, AdamW for all else, as one optimizer.

Muon moves a matrix along its momentum made orthogonal, so that no direction is left behind. A kernel
[out, in, k] counts as the matrix [out, in * k], which `torch.optim.Muon` does not take. Step sizes are
brought to AdamW's, so that one learning rate serves both.

Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024; step sizes,
Liu et al. (arXiv:2502.16982, section 2.2).
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration (Jordan et al.)
_ITERATIONS = 5


class MuonAdamW(torch.optim.Optimizer):
    """Groups with `muon` true are moved by Muon, the others by AdamW."""

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        momentum: float = 0.95,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "muon": False,
        }
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # the base's overloads
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            move = _muon if group["muon"] else _adamw
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    move(parameter, parameter.grad, self.state[parameter], group)
        return loss


def kernels_and_rest(module: nn.Module) -> list[dict[str, Any]]:
    """Parameter groups of a network: kernels of convolutions for Muon, the rest for AdamW.

    Of a kernel with weight norm only the direction goes to Muon.
    """
    kernels, rest = [], []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            matrix = parameter.ndim == 3 and min(parameter.flatten(1).shape) > 1
            (kernels if matrix and "lstm" not in name else rest).append(parameter)
    return [{"params": kernels, "muon": True}, {"params": rest, "muon": False}]


def orthogonalised(matrix: Tensor) -> Tensor:
    """Bring all singular values of [M, N] near 1 (0.7 to 1.2) by Newton-Schulz iterations."""
    a, b, c = _COEFFICIENTS
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.T
    x = x / (x.norm() + 1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.T


def _muon(
    parameter: Tensor, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any]
) -> None:
    momentum = state.setdefault("momentum", torch.zeros_like(gradient))
    momentum.lerp_(gradient, 1 - group["momentum"])
    ahead = gradient.lerp(momentum, group["momentum"]).flatten(1)  # Nesterov
    step = orthogonalised(ahead) * (0.2 * max(ahead.shape) ** 0.5)
    parameter.sub_(group["lr"] * step.view_as(parameter))


def _adamw(
    parameter: Tensor, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any]
) -> None:
    if not state:
        state["step"] = torch.zeros(())
        state["mean"], state["square"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
    state["step"] += 1
    first, second = group["betas"]
    state["mean"].lerp_(gradient, 1 - first)
    state["square"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
    steps = float(state["step"])
    size = (state["square"] / (1 - second**steps)).sqrt_().add_(1e-8)
    parameter.addcdiv_(state["mean"], size, value=-group["lr"] / (1 - first**steps))
