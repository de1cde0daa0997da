"""What many tests share: a small codec with random weights, and sounds from a seeded generator."""

from pathlib import Path

import numpy as np
import pytest
import torch

import bittern
from bittern.checkpoint import save
from bittern.codec import Codec
from bittern.config import CodecConfig, NetworkConfig, QuantizerConfig
from bittern.model import CodecModel

torch.set_num_threads(1)


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


@pytest.fixture(scope="session")
def tiny_config() -> CodecConfig:
    return CodecConfig(
        name="tiny-test",
        latent_dim=32,
        encoder=NetworkConfig(channels=(32,), residual_units=(2,)),
        quantizer=QuantizerConfig(stages=8, codebook_size=64),
    )


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_config: CodecConfig) -> Path:
    """The folder of a small 16 kHz codec: hop 320, 8 stages of 64 entries (0.3 kbit/s each)."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save(make_model(tiny_config), folder)
    return folder


@pytest.fixture(scope="session")
def other_checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_config: CodecConfig) -> Path:
    """A codec of the same shape with other weights."""
    folder = tmp_path_factory.mktemp("models") / "other"
    save(make_model(tiny_config, seed=1), folder)
    return folder


@pytest.fixture(scope="session")
def tiny_codec(tiny_checkpoint: Path) -> Codec:
    return bittern.load(tiny_checkpoint, device="cpu")
