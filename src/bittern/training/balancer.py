"""Weights of losses that mean shares: each loss gets its share of the gradient, whatever its scale.

Source: EnCodec (arXiv:2210.13438, section 3.4, equation 5). Commitment stays outside, as its gradient
does not pass through the output.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from bittern.model import Waveform
from bittern.training.ranks import mean_over_ranks


class Balanced(NamedTuple):
    gradient: Waveform  # with respect to the output
    scales: dict[str, float]  # what each loss's gradient was multiplied by


class Balancer:
    """Scales the gradients of losses at the output by the moving averages of their norms."""

    def __init__(self, decay: float = 0.999) -> None:
        self.decay = decay
        self._sums: dict[str, float] = {}  # of norms, with weights that fall by the decay
        self._weights: dict[str, float] = {}  # sums of these weights

    def balance(
        self, losses: dict[str, Tensor], shares: dict[str, float], output: Waveform
    ) -> Balanced:
        """The gradient that training should send back from `output`, a leaf of every loss's graph.

        Args:
            losses: scalars.
            shares: how much of the gradient each loss is to make up, in any unit.
            output: [B, C, T].
        """
        gradients = {
            name: torch.autograd.grad(loss, output, retain_graph=True)[0]
            for name, loss in losses.items()
        }
        norms = torch.stack([g.flatten(1).norm(dim=1).mean() for g in gradients.values()])
        for name, norm in zip(gradients, mean_over_ranks(norms).tolist(), strict=True):
            self._sums[name] = self.decay * self._sums.get(name, 0.0) + norm
            self._weights[name] = self.decay * self._weights.get(name, 0.0) + 1.0
        total = sum(shares[name] for name in gradients)
        scales = {
            name: shares[name] / total / (self._sums[name] / self._weights[name] + 1e-12)
            for name in gradients
        }
        gradient = torch.stack([scales[name] * g for name, g in gradients.items()]).sum(dim=0)
        return Balanced(gradient, scales)

    def state_dict(self) -> dict[str, dict[str, float]]:
        return {"sums": dict(self._sums), "weights": dict(self._weights)}

    def load_state_dict(self, state: dict[str, dict[str, float]]) -> None:
        self._sums, self._weights = dict(state["sums"]), dict(state["weights"])
