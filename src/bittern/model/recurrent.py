"""The LSTM at a SEANet's bottleneck (EnCodec, arXiv:2210.13438, section 3.1)."""

from einops import rearrange
from torch import Tensor, nn

from bittern.model.state import StatefulModule, StreamState


class ResidualLSTM(StatefulModule):
    """x + LSTM(x) over time, [B, C, L] -> [B, C, L], one direction."""

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, layers, batch_first=True)

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        hidden_key, cell_key = f"{self.state_key}.hidden", f"{self.state_key}.cell"
        past = None
        if state is not None and hidden_key in state:
            past = (state[hidden_key], state[cell_key])
        if x.shape[-1] == 0:
            return x
        y, (hidden, cell) = self.lstm(rearrange(x, "b c l -> b l c"), past)
        if state is not None:
            state[hidden_key], state[cell_key] = hidden, cell
        return x + rearrange(y, "b l c -> b c l")
