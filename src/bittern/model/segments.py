"""A whole recording to codes and back as EnCodec does it: all at once, or in segments with their levels.

Segments of a second lap over by a hundredth; each is coded at a level (rms) of 1 and cross-faded into
the next. A model without segments has one, of any length and as loud as it is.

Source: EnCodec, arXiv:2210.13438, section 3.4 (48 kHz), and `encodec/model.py` of its authors.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from bittern.model import Codes, Waveform
from bittern.model.codec_model import CodecModel

_PEAK = 2.0  # of full scale, which no codes exceed


class Segment(NamedTuple):
    codes: Codes  # [B, k, F]
    level: Tensor | None  # [B, 1], what the decoded samples are multiplied by


@torch.no_grad()
def encode_segments(
    model: CodecModel, wav: Waveform, stages: int, search_width: int = 1
) -> list[Segment]:
    """Code audio of any length: [B, C, T]. A search of width 1 gives the codes that EnCodec gives."""
    config = model.config
    heard, size = model.heard(wav), config.segment_samples or wav.shape[-1]
    segments = []
    for begin in range(0, wav.shape[-1], config.segment_stride or size):
        part, level = heard[..., begin : begin + size], None
        if config.segment_samples:
            level = 1e-8 + part.mean(dim=1).square().mean(dim=1, keepdim=True).sqrt()
            part = part / level[..., None]
        latent = model.analyse(model.pad(part))
        codes = model.quantizer.encode(latent, stages, width=search_width)
        segments.append(Segment(codes, level))
    return segments


@torch.no_grad()
def decode_segments(model: CodecModel, segments: list[Segment], length: int) -> Waveform:
    """Audio of segments in their order, [B, C, length]."""
    if not segments:
        return torch.zeros(1, model.config.channels, 0)
    if not model.config.segment_samples:
        return model.decode(segments[0].codes, length)
    waves = [
        model.decoder(model.quantizer.decode(codes)) * (1 if level is None else level[..., None])
        for codes, level in segments
    ]
    first, stride = waves[0].shape[-1], model.config.segment_stride
    ramp = torch.linspace(0, 1, first + 2, device=waves[0].device)[1:-1]
    fade = 0.5 - (ramp - 0.5).abs()
    total = max(stride * number + wave.shape[-1] for number, wave in enumerate(waves))
    out, weight = waves[0].new_zeros(*waves[0].shape[:2], total), fade.new_zeros(total)
    for number, wave in enumerate(waves):
        at = slice(stride * number, stride * number + wave.shape[-1])
        out[..., at] += wave * fade[: wave.shape[-1]]
        weight[at] += fade[: wave.shape[-1]]
    return (out / weight)[..., :length].clamp(-_PEAK, _PEAK)
