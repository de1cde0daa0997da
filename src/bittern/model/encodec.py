"""EnCodec's released weights as Bittern's: its own names for tensors, and those of `transformers`.

Layers stand in the same places in all three, so that only what leads to a tensor is named otherwise.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bittern.config import (
    Activation,
    CodecConfig,
    LinearPath,
    NetworkConfig,
    NetworkInput,
    Norm,
    Padding,
    QuantizerConfig,
    Shortcut,
)
from bittern.errors import ModelError

# config.json of facebook/encodec_24khz, as `transformers` names things, and what differs at 48 kHz
RELEASED_24KHZ: dict[str, Any] = {
    "sampling_rate": 24_000,
    "audio_channels": 1,
    "normalize": False,
    "chunk_length_s": None,
    "hidden_size": 128,
    "num_filters": 32,
    "num_residual_layers": 1,
    "upsampling_ratios": [8, 5, 4, 2],
    "norm_type": "weight_norm",
    "kernel_size": 7,
    "last_kernel_size": 7,
    "residual_kernel_size": 3,
    "dilation_growth_rate": 2,
    "use_causal_conv": True,
    "pad_mode": "reflect",
    "compress": 2,
    "num_lstm_layers": 2,
    "trim_right_ratio": 1.0,
    "use_conv_shortcut": True,
}
RELEASED_48KHZ = RELEASED_24KHZ | {
    "sampling_rate": 48_000,
    "audio_channels": 2,
    "normalize": True,
    "chunk_length_s": 1.0,
    "overlap": 0.01,
    "norm_type": "time_group_norm",
    "use_causal_conv": False,
}
_CODEBOOK = re.compile(r"quantizer\.(?:vq\.)?layers\.(\d+)\._?codebook\.embed")


def converted(
    state: Mapping[str, Tensor], facts: Mapping[str, Any] | None = None
) -> tuple[CodecConfig, dict[str, Tensor]]:
    """What a model of EnCodec's kind is, and its weights under Bittern's names, without weight norm.

    Args:
        state: tensors as `encodec` or `transformers` names them.
        facts: of `config.json` for `transformers`; by default those of the release at 24 kHz, or of
            the one at 48 kHz where `state` has its norms.

    Raises:
        ModelError: it is of another kind.
    """
    if facts is None:
        facts = RELEASED_48KHZ if "encoder.model.0.conv.norm.weight" in state else RELEASED_24KHZ
    codebooks = {int(match[1]): key for key in state if (match := _CODEBOOK.fullmatch(key))}
    if not codebooks:
        raise ModelError("has no codebooks under EnCodec's names; it is not of EnCodec")
    codewords = torch.stack([state[codebooks[number]] for number in sorted(codebooks)])
    try:
        config = _config(RELEASED_24KHZ | dict(facts), *codewords.shape[:2])
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelError(f"config.json makes no sense for EnCodec ({error})") from None
    found = {_renamed(k): v for k, v in state.items() if k.startswith(("encoder.", "decoder."))}
    return config, _folded(found) | {"quantizer.codewords": codewords}


def _config(facts: dict[str, Any], stages: int, codebook_size: int) -> CodecConfig:
    whole = facts["chunk_length_s"] is None
    needed = {"trim_right_ratio": 1.0, "normalize": not whole} | (
        {} if whole else {"overlap": 0.01}
    )
    for what, right in (needed | {"last_kernel_size": facts["kernel_size"]}).items():
        if facts[what] != right:
            raise ModelError(f"{what} is {facts[what]}; no released EnCodec has that")
    ratios, units = tuple(facts["upsampling_ratios"][::-1]), facts["num_residual_layers"]
    network = NetworkConfig(
        input=NetworkInput.SAMPLES,
        stem_kernel=facts["kernel_size"],
        ratios=ratios,
        channels=tuple(facts["num_filters"] << level for level in range(len(ratios) + 1)),
        residual_units=(units,) * len(ratios) + (0,),
        residual_kernel=facts["residual_kernel_size"],
        dilations=tuple(facts["dilation_growth_rate"] ** unit for unit in range(units)),
        compress=facts["compress"],
        shortcut=Shortcut.CONV if facts["use_conv_shortcut"] else Shortcut.IDENTITY,
        lstm_layers=facts["num_lstm_layers"],
        latent_kernel=facts["last_kernel_size"],
        activation=Activation.ELU,
        norm=Norm(facts["norm_type"]),
        padding=Padding(facts["pad_mode"]),
        causal=facts["use_causal_conv"],
    )
    rate = facts["sampling_rate"]
    return CodecConfig(
        name=f"encodec_{rate // 1000}khz",
        sample_rate=rate,
        channels=facts["audio_channels"],
        hop_length=math.prod(ratios),
        latent_dim=facts["hidden_size"],
        linear_path=LinearPath.NONE,
        segment_samples=0 if whole else int(facts["chunk_length_s"] * rate),
        encoder=network,
        quantizer=QuantizerConfig(stages=stages, codebook_size=codebook_size),
    )


def _renamed(key: str) -> str:
    """`decoder.model.3.convtr.convtr.bias` or `decoder.layers.3.conv.bias` as `decoder.3.conv.bias`."""
    key = re.sub(r"^(encoder|decoder)\.(model|layers)\.", r"\1.", key)
    return re.sub(r"\bconv(tr)?\.(?:(norm)|conv(tr)?)\.", lambda m: f"{m[2] or 'conv'}.", key)


def _folded(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weight norm, old or new, as the product: g v / |v|, where |v| is over all but the first axis."""
    found = dict(state)
    for size, direction in (
        ("weight_g", "weight_v"),
        ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    ):
        for key in [key for key in state if key.endswith(size)]:
            stem = key.removesuffix(size)
            g, v = found.pop(key), found.pop(stem + direction)
            found[stem + "weight"] = g * v / v.flatten(1).norm(dim=1).view_as(g)
    return found
