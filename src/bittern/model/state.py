"""How layers remember what came before: one dictionary of tensors, handed down with the input.

Every forward takes `state`, a `StreamState` or None. A layer that looks back keeps its left context
under its own key: it reads it before and writes it after the work. With None it starts from silence
and keeps nothing, which is the offline path; the arithmetic is the same. As a state is a plain
dictionary of tensors, it can be copied, saved, moved between devices and kept in any number.
"""

import torch
from torch import Tensor, nn

StreamState = dict[str, Tensor]


class StatefulModule(nn.Module):
    """A layer that keeps something from one chunk to the next, under `state_key`."""

    state_key: str = ""

    def after_past(self, x: Tensor, state: StreamState, steps: int) -> Tensor:
        """What came last before `x`, zeros at the start, and then `x`: [B, C, L] -> [B, C, steps + L]."""
        past = state.get(self.state_key)
        if past is None:
            past = x.new_zeros(*x.shape[:2], steps)
        x = torch.cat([past, x], dim=-1)
        state[self.state_key] = x[..., x.shape[-1] - steps :]
        return x


class Stack(nn.Sequential):
    """Layers one behind the other; those with a memory are handed the state."""

    def forward(self, input: Tensor, state: StreamState | None = None) -> Tensor:
        x = input
        for layer in self:
            x = layer(x, state) if isinstance(layer, (StatefulModule, Stack)) else layer(x)
        return x


def name_states(root: nn.Module) -> None:
    """Give every stateful layer below `root` its path as the key of its state."""
    for path, module in root.named_modules():
        if isinstance(module, StatefulModule):
            module.state_key = path
