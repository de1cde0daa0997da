"""Spectra and their gradients, against torch's own."""

import pytest
import torch

from bittern.metrics import stft


@pytest.mark.parametrize(
    ("samples", "length", "hop"),
    [(1000, 64, 16), (1003, 128, 64), (37, 64, 16), (5, 16, 4), (1000, 48, 20), (64, 64, 64)],
)
def test_spectra_and_gradients_are_those_of_torch(samples, length, hop):
    torch.manual_seed(samples)
    wav = torch.randn(2, 1, samples, dtype=torch.float64, requires_grad=True)
    window = torch.hann_window(length)
    expected = torch.stft(
        wav[:, 0],
        length,
        hop,
        window=(window / window.sum()).double(),
        pad_mode="constant",
        return_complex=True,
    )[:, None]
    spectra = stft(wav, length, hop)
    torch.testing.assert_close(spectra, expected, rtol=0, atol=1e-12)
    wanted = torch.randn_like(expected)
    ours, theirs = (torch.autograd.grad(s, wav, wanted)[0] for s in (spectra, expected))
    assert float(theirs.abs().max()) > 0.1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
