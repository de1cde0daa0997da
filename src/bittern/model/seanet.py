"""Encoder and decoder, each other's mirror image: SEANet on samples, or residual units on spectra.

Source: SEANet (arXiv:2009.02095) as used by SoundStream (arXiv:2107.03312) and EnCodec
(arXiv:2210.13438). With `input: spectrum` the same stack runs at the frame rate, without strides.
"""

import torch
from einops import rearrange
from torch import Tensor, nn

from bittern.config import Activation, NetworkConfig, Shortcut
from bittern.model.conv import Conv1d, ConvTranspose1d
from bittern.model.state import Stack, StatefulModule, StreamState


class Bound(nn.Module):
    """Keeps values within -limit..limit; those of ordinary audio are smaller."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(-self.limit, self.limit)


class ResidualUnit(StatefulModule):
    """x + conv1(act(conv_k(act(x)))), bounded: [B, C, L] -> [B, C, L]."""

    def __init__(self, channels: int, dilation: int, config: NetworkConfig) -> None:
        super().__init__()
        inner = channels // config.compress
        self.block = Stack(
            _activation(config),
            _conv(channels, inner, config.residual_kernel, config, dilation=dilation),
            _activation(config),
            _conv(inner, channels, 1, config),
        )
        self.shortcut = (
            _conv(channels, channels, 1, config)
            if config.shortcut is Shortcut.CONV
            else nn.Identity()
        )
        self.bound = bound(config)

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        return self.bound(self.shortcut(x) + self.block(x, state))


class ResidualLSTM(StatefulModule):
    """x + LSTM(x) over time, [B, C, L] -> [B, C, L], one direction (EnCodec, section 3.1)."""

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


class Encoder(Stack):
    """[B, in_channels, L] -> [B, latent_dim, L / config.stride]."""

    def __init__(self, config: NetworkConfig, in_channels: int, latent_dim: int) -> None:
        if config.stem_stride > 1:
            stem = _conv(
                in_channels,
                config.channels[0],
                2 * config.stem_stride,
                config,
                stride=config.stem_stride,
            )
        else:
            stem = _conv(in_channels, config.channels[0], config.stem_kernel, config)
        layers: list[nn.Module] = [stem, *_units(0, config)]
        for level, ratio in enumerate(config.ratios, start=1):
            narrow, wide = config.channels[level - 1 : level + 1]
            layers += [_activation(config), _conv(narrow, wide, 2 * ratio, config, stride=ratio)]
            layers += _units(level, config)
        if config.lstm_layers:
            layers.append(ResidualLSTM(config.channels[-1], config.lstm_layers))
        layers += [
            _activation(config),
            _conv(config.channels[-1], latent_dim, config.latent_kernel, config),
        ]
        super().__init__(*layers)


class Decoder(Stack):
    """[B, latent_dim, L] -> [B, out_channels, L * config.stride]."""

    def __init__(self, config: NetworkConfig, out_channels: int, latent_dim: int) -> None:
        layers: list[nn.Module] = [
            _conv(latent_dim, config.channels[-1], config.latent_kernel, config)
        ]
        if config.lstm_layers:
            layers.append(ResidualLSTM(config.channels[-1], config.lstm_layers))
        for level in range(len(config.ratios), 0, -1):
            layers += _units(level, config)
            narrow, wide = config.channels[level - 1 : level + 1]
            layers += [
                _activation(config),
                _conv_transpose(wide, narrow, config.ratios[level - 1], config),
            ]
        layers += [*_units(0, config), _activation(config)]
        if config.stem_stride > 1:
            head = _conv_transpose(config.channels[0], out_channels, config.stem_stride, config)
        else:
            head = _conv(config.channels[0], out_channels, config.stem_kernel, config)
        super().__init__(*layers, head)


def damp_last_layer(network: nn.Sequential, factor: float) -> None:
    """Scale the last layer down, so that a linear path beside the network leads at the start."""
    last = network[-1]
    assert isinstance(last, Conv1d | ConvTranspose1d)
    with torch.no_grad():
        for parameter in last.conv.parameters():  # scaling weight norm's directions does nothing
            parameter.mul_(factor)


def bound(config: NetworkConfig) -> nn.Module:
    return nn.Identity() if config.limit is None else Bound(config.limit)


def _units(level: int, config: NetworkConfig) -> list[nn.Module]:
    dilations = config.dilations
    return [
        ResidualUnit(config.channels[level], dilations[i % len(dilations)], config)
        for i in range(config.residual_units[level])
    ]


def _activation(config: NetworkConfig) -> nn.Module:
    match config.activation:
        case Activation.ELU:
            return nn.ELU()
        case Activation.SILU:
            return nn.SiLU()


def _conv(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    config: NetworkConfig,
    *,
    stride: int = 1,
    dilation: int = 1,
) -> Conv1d:
    return Conv1d(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        dilation=dilation,
        norm=config.norm,
        padding=config.padding,
        causal=config.causal,
    )


def _conv_transpose(
    in_channels: int, out_channels: int, stride: int, config: NetworkConfig
) -> ConvTranspose1d:
    return ConvTranspose1d(
        in_channels,
        out_channels,
        2 * stride,
        stride=stride,
        norm=config.norm,
        causal=config.causal,
    )
