"""What many tests share: a small codec with random weights (see also `synthetic.py`)."""

import signal
from pathlib import Path

import pytest
import torch
from synthetic import make_model

import bittern
from bittern.codec import Codec
from bittern.config import CodecConfig, NetworkConfig, QuantizerConfig
from bittern.weights import save

torch.set_num_threads(1)
for name, handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
    if number := getattr(
        signal, name, None
    ):  # ignored where nohup or `&` started us; children inherit that
        signal.signal(number, handler)


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
