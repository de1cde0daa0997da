"""Weights that are kept arranged: whatever changes them takes effect, however they are changed."""

import copy
import gc

import numpy as np
import pytest
import torch
from synthetic import make_model, make_sound

from bittern.config import CodecConfig, NetworkConfig, QuantizerConfig
from bittern.model import dense
from bittern.model.codec_model import CodecModel
from bittern.model.stream import StreamingDecoder, StreamingEncoder

CONFIG = CodecConfig(
    latent_dim=64,
    encoder=NetworkConfig(channels=(192,), residual_units=(2,)),
    quantizer=QuantizerConfig(stages=4, codebook_size=64),
)
SECOND = torch.from_numpy(make_sound(16_000))[None]


def large(model: CodecModel) -> list[torch.nn.Parameter]:
    found = [p for p in model.parameters() if p.numel() >= dense._LARGE and p.dim() == 3]
    assert found
    return found


def halve(p):
    p.data.mul_(0.5)


def replace(p):
    p.data = p.data * 0.5


def through_numpy(p):
    p.detach().numpy()[...] *= 0.5


def low_rank(p):
    p.data += 0.05 * torch.randn(p.shape[0], 1, 1) * torch.randn(1, *p.shape[1:])


def prune(p):
    p.data[:3] = 0


def one_entry(p):
    p.data[1, 1, 1] += 3


def permute(p):
    p.data.copy_(p.data.flip(0))


def swap_storage(p):
    p.data.set_(torch.randn_like(p.data))


def inplace(p):
    with torch.no_grad():
        p.mul_(0.5)


CHANGES = [
    halve,
    replace,
    through_numpy,
    low_rank,
    prune,
    one_entry,
    permute,
    swap_storage,
    inplace,
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_takes_effect_offline(change):
    model = make_model(CONFIG)
    codes = model.encode(SECOND)
    model.decode(codes)
    for parameter in large(model):
        change(parameter)
    fresh = copy.deepcopy(model)
    assert torch.equal(model.encode(SECOND), fresh.encode(SECOND))
    torch.testing.assert_close(model.decode(codes), fresh.decode(codes), rtol=0, atol=0)


@pytest.mark.parametrize("change", [c for c in CHANGES if c is not one_entry])
def test_a_change_takes_effect_in_pushes_of_20_ms(change):
    model = make_model(CONFIG)

    def pushed(model):
        encoder, decoder = StreamingEncoder(model), StreamingDecoder(model)
        codes = torch.cat([encoder.push(part) for part in SECOND[..., :3200].split(320, -1)], -1)
        return codes, torch.cat([decoder.push(part) for part in codes.split(1, -1)], -1)

    pushed(model)
    for parameter in large(model):
        change(parameter)
    for got, expected in zip(pushed(model), pushed(copy.deepcopy(model)), strict=True):
        assert torch.equal(got, expected)


def test_what_is_kept_goes_with_its_weight():
    model = make_model(CONFIG)
    gc.collect()
    before = len(dense._kept)
    model.encode(SECOND)
    assert len(dense._kept) > before
    del model
    gc.collect()
    assert len(dense._kept) <= before


def test_gradients_are_finite_through_silence():
    """A batch padded with zeros, one all of zeros, and one that begins with them."""
    model = make_model(CONFIG)
    wav = torch.zeros(4, 1, 16_000)
    wav[0] = SECOND[0]
    wav[1, :, :6_000] = SECOND[0, :, :6_000]
    wav[3, :, 6_000:] = SECOND[0, :, 6_000:]
    gain = torch.nn.Parameter(torch.ones(4, 1, 1))
    model.synthesise(model.latent(model.pad(wav * gain))).square().mean().backward()
    assert gain.grad is not None
    assert np.isfinite(gain.grad.numpy()).all()
    assert float(gain.grad[:2].abs().min()) > 0
    assert float(gain.grad[2].abs()) == 0
