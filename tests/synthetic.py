"""Sounds and codecs that tests make for themselves, from seeds."""

import numpy as np
import torch

from bittern.config import CodecConfig
from bittern.model.codec_model import CodecModel


def make_sound(samples: int, *, channels: int = 1, sample_rate: int = 16_000, seed: int = 0):
    """Tones that wander over noise, float32 [channels, samples] in -1..1, speech-like in level."""
    generator = np.random.default_rng(seed)
    time = np.arange(samples) / sample_rate
    sound = generator.normal(0, 0.02, (channels, samples))
    for channel in sound:
        for pitch in generator.uniform(100, 3000, 4):
            channel += 0.1 * np.sin(2 * np.pi * pitch * time + 3 * np.sin(5 * time))
    return sound.astype(np.float32)


def make_model(config: CodecConfig, seed: int = 0) -> CodecModel:
    """A codec with random weights, whose codebooks get finer from stage to stage."""
    torch.manual_seed(seed)
    model = CodecModel(config).eval()
    model.fit_transform(0.1 * torch.randn(4, config.channels, 16_000))
    for stage, codebook in enumerate(model.quantizer.codewords):
        codebook.normal_(std=0.7**stage)
    return model.requires_grad_(False)
