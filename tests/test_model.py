import dataclasses
import itertools

import numpy as np
import pytest
import scipy.signal
import torch
from synthetic import make_model, make_sound
from torchaudio.functional import melscale_fbanks

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
from bittern.metrics import mel_filterbank, stft
from bittern.model.codec_model import CodecModel
from bittern.model.highpass import HighPass
from bittern.model.mdct import LinearTransform, mdct_basis
from bittern.model.path import SpectralEnvelope

SPECTRUM = NetworkConfig(channels=(24,), residual_units=(2,))
SEANET = NetworkConfig(
    input=NetworkInput.SAMPLES,
    stem_stride=5,
    ratios=(2, 4),
    channels=(8, 12, 16),
    residual_units=(1, 1, 1),
    compress=2,
    lstm_layers=1,
    activation=Activation.ELU,
)
# EnCodec's own shape: no strided stem, convolution on the shortcut, reflection at the ends
ENCODEC = dataclasses.replace(
    SEANET,
    stem_stride=1,
    stem_kernel=7,
    latent_kernel=7,
    ratios=(2, 4, 5),
    channels=(8, 12, 16, 20),
    residual_units=(1, 1, 1, 0),
    padding=Padding.REFLECT,
    shortcut=Shortcut.CONV,
    norm=Norm.WEIGHT,
)
NONCAUSAL = dataclasses.replace(ENCODEC, causal=False, norm=Norm.TIME_GROUP)


def config(encoder, path=LinearPath.NONE, **more):
    return CodecConfig(
        hop_length=40,
        latent_dim=16,
        encoder=encoder,
        linear_path=path,
        quantizer=QuantizerConfig(stages=4, codebook_size=32),
        **more,
    )


CONFIGS = {
    "spectrum-mdct": config(SPECTRUM, LinearPath.MDCT),
    "spectrum": config(SPECTRUM),
    "seanet-mdct": config(SEANET, LinearPath.MDCT),
    "seanet": config(SEANET),
    "encodec": config(ENCODEC),
    "noncausal": config(NONCAUSAL),
    "samples-to-spectrum": config(SEANET, LinearPath.MDCT, decoder=SPECTRUM),
    "companded": config(SPECTRUM, LinearPath.MDCT, path_power=0.7),
    "envelope": config(
        SPECTRUM, LinearPath.MDCT, path_power=0.7, envelope_bands=3, envelope_weight=1.5
    ),
    "stereo": config(SPECTRUM, LinearPath.MDCT, channels=2),
    "highpass": config(SEANET, LinearPath.MDCT, highpass_hz=200.0),
    "told": config(SPECTRUM, LinearPath.MDCT, counts_stages=True),
}
STREAMABLE = [name for name, c in CONFIGS.items() if c.streamable]


def build(name):
    torch.manual_seed(3)
    model = CodecModel(CONFIGS[name]).eval().requires_grad_(False)
    model.fit_transform(0.1 * torch.randn(2, model.config.channels, 4000))
    model.quantizer.codewords.normal_()
    return model


def noise(channels, samples, batch=1):
    generator = torch.Generator().manual_seed(samples)
    return 0.1 * torch.randn(batch, channels, samples, generator=generator)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("samples", [0, 1, 39, 40, 41, 203])
def test_any_length_comes_back_as_long_as_it_was(name, samples):
    model = build(name)
    wav = noise(model.config.channels, samples)
    codes = model.encode(wav, 3)
    assert codes.shape == (1, 3, model.config.frame_count(samples))
    out = model.decode(codes, samples)
    assert out.shape == wav.shape
    assert bool(torch.isfinite(out).all())


@pytest.mark.parametrize("name", STREAMABLE)
def test_frame_by_frame_equals_all_at_once(name):
    """One forward for both: the offline path is the streaming path with an empty state."""
    model = build(name)
    hop = model.config.hop_length
    wav = noise(model.config.channels, 12 * hop, batch=2)
    cuts = [0, 1, 2, 5, 6, 9, 12]
    whole, state = model.latent(wav), {}
    pieces = [model.latent(wav[..., a * hop : b * hop], state) for a, b in itertools.pairwise(cuts)]
    torch.testing.assert_close(torch.cat(pieces, dim=-1), whole, rtol=1e-4, atol=1e-5)
    out, state = model.synthesise(whole), {}
    pieces = [model.synthesise(whole[..., a:b], state) for a, b in itertools.pairwise(cuts)]
    torch.testing.assert_close(torch.cat(pieces, dim=-1), out, rtol=1e-4, atol=1e-5)
    assert state  # otherwise nothing was carried


@pytest.mark.parametrize("name", [n for n in CONFIGS if n != "noncausal"])
def test_a_causal_model_does_not_see_what_comes_later(name):
    model = build(name)
    hop, causal = model.config.hop_length, CONFIGS[name].streamable
    wav = noise(model.config.channels, 30 * hop)
    changed = wav.clone()
    changed[..., 20 * hop :] += 0.1
    before = (model.latent(wav) - model.latent(changed)).abs().amax(dim=(0, 1))
    assert float(before[:20].max()) < 1e-5
    assert float(before[20]) > 1e-4
    latent = model.latent(wav)
    altered = latent.clone()
    altered[..., 20:] += 1
    after = (model.synthesise(latent) - model.synthesise(altered)).abs().amax(dim=(0, 1))
    assert float(after[: 20 * hop].max()) < 1e-5
    assert float(after[20 * hop : 22 * hop].max()) > 1e-4
    assert causal or CONFIGS[name].encoder.padding is Padding.REFLECT


@pytest.mark.parametrize(
    "name", ["spectrum-mdct", "seanet-mdct", "companded", "envelope", "stereo"]
)
def test_the_mdct_path_alone_gives_back_the_signal_below_its_highest_coefficient(name):
    """With the networks silenced, only the coefficients that the path does not take are lost."""
    model = build(name)
    silence_networks(model)
    hop, channels = model.config.hop_length, model.config.channels
    kept = model.config.path_components // channels
    time = torch.arange(100 * hop) / hop / 2  # in periods of the lowest MDCT band pair
    wav = 0.1 * torch.sin(2 * torch.pi * time * kept * 0.4).repeat(1, channels, 1)
    out = model.synthesise(model.latent(model.pad(wav)))[..., hop : hop + wav.shape[-1]]
    inner = slice(2 * hop, -2 * hop)
    error = (out - wav)[..., inner].square().mean() / wav[..., inner].square().mean()
    assert float(error) < 1e-3


def ratio_of_latents(**options):
    """Decibels between the path's shapes of a noise and of the same 20 dB below it, and its levels."""
    torch.manual_seed(0)
    model = CodecModel(config(SPECTRUM, LinearPath.MDCT, **options)).requires_grad_(False)
    model.fit_transform(torch.randn(2, 1, 4000))
    silence_networks(model)
    loud = torch.randn(1, 1, 4000)
    bands = model.config.envelope_bands
    loud, quiet = model.latent(model.pad(loud)), model.latent(model.pad(loud / 10))
    levels = (loud - quiet)[:, :bands] / model.config.envelope_weight
    loud, quiet = loud[:, bands:], quiet[:, bands:]
    return 20 * float((loud.square().mean() / quiet.square().mean()).sqrt().log10()), levels


def test_companding_halves_the_decibels_between_loud_and_soft():
    assert ratio_of_latents()[0] == pytest.approx(20, abs=0.1)
    assert ratio_of_latents(path_power=0.5)[0] == pytest.approx(10, abs=0.1)


@pytest.mark.parametrize("flattening", [0.0, 0.3, 1.0])
def test_an_envelope_takes_levels_out_of_the_coefficients(flattening):
    """20 dB, or ln 10 nepers, are in the levels and nothing of them is left in the shapes."""
    ratio, levels = ratio_of_latents(
        envelope_bands=3, envelope_weight=2.0, envelope_flattening=flattening
    )
    assert ratio == pytest.approx(0, abs=0.1)
    torch.testing.assert_close(levels, torch.full_like(levels, 2.3026), rtol=0, atol=0.02)


def envelope_of(coefficients, bands, **options):
    return SpectralEnvelope(
        CodecConfig(
            hop_length=coefficients,
            latent_dim=16,
            encoder=SPECTRUM,
            envelope_bands=bands,
            **options,
        )
    )


def test_bands_far_below_the_loudest_count_as_if_they_were_nearer():
    """Of a tone in band 0, bands without anything stand 40 dB below it, not at the floor."""
    frames = torch.zeros(1, 320, 1)
    frames[:, 3] = 5.0
    levels = envelope_of(320, 4, envelope_range_db=40.0).measure(frames)[0, :, 0]
    apart = 20 * (levels[0] - levels[1:]) / torch.tensor(10.0).log()
    torch.testing.assert_close(apart, torch.full((3,), 40.0), rtol=0, atol=1e-3)
    floor = envelope_of(320, 4, envelope_floor=1e-4).measure(0 * frames)
    torch.testing.assert_close(floor.exp(), torch.full((1, 4, 1), 1e-4))


def test_flattening_makes_the_bands_alike():
    """Noise of bands 20 dB apart has them 20, 10 and 0 dB apart at flattening 0, 0.5 and 1."""
    frames = torch.randn(1, 200, 500)
    frames[:, 44:] *= 0.1  # of 200 coefficients up to 8 kHz, those above half the mel scale
    for flattening, left in ((0.0, 20), (0.5, 10), (1.0, 0)):
        envelope = envelope_of(200, 2, envelope_flattening=flattening)
        levels = envelope.measure(frames)
        flat = envelope.flatten(frames, levels)
        apart = 10 * (flat[:, :44].square().mean() / flat[:, 44:].square().mean()).log10()
        assert float(apart) == pytest.approx(left, abs=0.3)
        torch.testing.assert_close(envelope.restore(flat, levels), frames)


def test_bands_of_an_envelope_are_equally_wide_in_mel():
    """Four bands up to 8 kHz end at 614, 1768 and 3934 Hz, whichever formula of mel is used."""
    envelope = envelope_of(320, 4, envelope_flattening=0.0)
    for band, (low, high) in enumerate([(0, 614), (614, 1768), (1768, 3934), (3934, 8000)]):
        tone = torch.zeros(1, 320, 1)
        tone[:, [round(low / 25 + 1), round(high / 25 - 2)]] = 1.0
        assert int(envelope.measure(tone).argmax()) == band


def test_damaged_levels_cannot_overflow():
    envelope = envelope_of(320, 4)
    restored = envelope.restore(torch.ones(1, 320, 1), torch.full((1, 4, 1), 1e4))
    assert bool(restored.isfinite().all())


def test_an_offset_is_taken_out_as_a_butterworth_filter_does():
    rate, hop = 16_000, 320
    wav = torch.randn(1, 2, 20 * hop, generator=torch.Generator().manual_seed(0))
    ours = HighPass(10.0, rate, hop)(wav + 0.3).numpy()
    b, a = scipy.signal.butter(1, 10.0, "high", fs=rate)
    np.testing.assert_allclose(ours, scipy.signal.lfilter(b, a, wav.numpy() + 0.3), atol=1e-4)
    assert (
        np.abs(HighPass(10.0, rate, hop)(torch.ones(1, 1, 20 * hop)).numpy()[..., 5000:]).max()
        < 1e-5
    )


@pytest.mark.parametrize(
    ("hertz", "most"), [(0, 1e-3), (10, 0.15), (20, 0.15), (30, 0.2), (100, 2), (440, 2)]
)
def test_rumble_does_not_come_back_and_what_is_heard_does(hertz, most):
    """The path alone: with silenced networks, what is above 40 Hz passes and what is below does not."""
    torch.manual_seed(0)
    shipped = CodecConfig(
        encoder=SPECTRUM, highpass_hz=40.0, envelope_bands=4, latent_dim=64, path_power=0.7
    )
    model = CodecModel(shipped).eval().requires_grad_(False)
    silence_networks(model)
    time = torch.arange(32_000) / 16_000
    wav = 0.3 * torch.cos(2 * torch.pi * hertz * time)[None, None]
    out = model.synthesise(model.latent(model.pad(wav)))[..., 4000:30_000]
    ratio = float(out.abs().max() / 0.3)
    assert ratio < most
    assert hertz < 40 or ratio > 0.9


def test_a_decoder_that_is_told_the_stages_of_a_frame_hears_them():
    model = build("told")
    latent = model.latent(noise(1, 400))
    few = model.synthesise(latent, stages=torch.ones(1, 10))
    assert not torch.allclose(few, model.synthesise(latent))
    whole = model.synthesise(latent, stages=torch.full((1, 10), 4.0))
    torch.testing.assert_close(whole, model.synthesise(latent))


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("size", [1e3, 1e9, 1e30])
def test_no_latent_and_no_input_leads_out_of_range(name, size):
    """Whatever the decoder is given, samples stay within twice full scale, and finite."""
    model = build(name)
    generator = torch.Generator().manual_seed(0)
    latent = min(size, 1e9) * torch.randn(1, 16, 30, generator=generator)
    out = model.synthesise(latent)
    assert bool(torch.isfinite(out).all())
    assert float(out.abs().max()) <= 2
    wav = size * torch.randn(1, model.config.channels, 400, generator=generator)
    assert bool(torch.isfinite(model.latent(wav)).all())


def silence_networks(model):
    with torch.no_grad():
        for network in (model.encoder, model.decoder):
            for parameter in network[-1].parameters():
                parameter.zero_()


@pytest.mark.parametrize("hop", [4, 40, 320])
def test_mdct_is_orthonormal_and_reconstructs(hop):
    transform = LinearTransform(mdct_basis(hop), hop, 1)
    wav = torch.randn(2, 1, 10 * hop)
    frames = transform.analyse(torch.nn.functional.pad(wav, (0, hop)))
    back = transform.synthesise(frames)[..., hop:]
    torch.testing.assert_close(back, wav, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(frames.square().sum(), wav.square().sum(), rtol=1e-4, atol=0)


def test_mdct_of_a_cosine_peaks_at_its_frequency():
    hop, sample_rate, frequency = 320, 16_000, 1234.0
    time = torch.arange(20 * hop) / sample_rate
    wav = torch.cos(2 * torch.pi * frequency * time)[None, None]
    frames = LinearTransform(mdct_basis(hop), hop, 1).analyse(wav)
    energy = frames[0, :, 2:].square().sum(dim=1)
    assert int(energy.argmax()) == int(frequency / (sample_rate / 2 / hop))


def test_mel_filters_are_those_of_torchaudio():
    for n_fft, mels in ((512, 40), (2048, 80)):
        theirs = melscale_fbanks(n_fft // 2 + 1, 0.0, 8000.0, mels, 16_000).T
        torch.testing.assert_close(mel_filterbank(n_fft, mels, 16_000), theirs, rtol=0, atol=1e-4)


def test_stft_of_a_sine_has_half_its_amplitude():
    wav = 0.6 * torch.sin(2 * torch.pi * 1000 * torch.arange(8000) / 16_000)
    magnitude = stft(wav, 512).abs()
    assert magnitude[:, 10:-10].max() == pytest.approx(0.3, rel=0.01)


@pytest.mark.parametrize("activation", list(Activation))
def test_each_option_of_the_networks_changes_what_they_compute(activation):
    base = dataclasses.replace(SPECTRUM, activation=activation)
    wav = noise(1, 400)

    def latent(encoder):
        torch.manual_seed(0)
        return CodecModel(config(encoder)).latent(CodecModel(config(encoder)).pad(wav))

    reference = latent(base)
    for change in (
        {"stem_kernel": 5},
        {"latent_kernel": 1},
        {"residual_kernel": 5},
        {"residual_units": (3,)},
        {"dilations": (2, 3)},
        {"compress": 2},
        {"lstm_layers": 1},
        {"shortcut": Shortcut.CONV},
        {"norm": Norm.TIME_GROUP, "causal": False},
        {"causal": False},
        {"padding": Padding.REFLECT},
        {"channels": (32,)},
    ):
        other = latent(dataclasses.replace(base, **change))
        assert not torch.allclose(other, reference), change


def test_the_published_encodec_24khz_has_as_many_parameters_as_its_release():
    """7,425,792 and 7,426,018 parameters with weight norm, counted in the `encodec` package."""
    network = NetworkConfig(
        input=NetworkInput.SAMPLES,
        stem_kernel=7,
        ratios=(2, 4, 5, 8),
        channels=(32, 64, 128, 256, 512),
        residual_units=(1, 1, 1, 1, 0),
        dilations=(1,),
        compress=2,
        shortcut=Shortcut.CONV,
        lstm_layers=2,
        latent_kernel=7,
        norm=Norm.WEIGHT,
        activation=Activation.ELU,
        padding=Padding.REFLECT,
    )
    model = CodecModel(
        CodecConfig(sample_rate=24_000, linear_path=LinearPath.NONE, encoder=network)
    )
    assert sum(p.numel() for p in model.encoder.parameters()) == 7_425_792
    assert sum(p.numel() for p in model.decoder.parameters()) == 7_426_018


def test_gradients_are_finite_through_silence():
    """A batch padded with zeros, one all of zeros, and one that begins with them."""
    model = make_model(CodecConfig(latent_dim=64, encoder=SPECTRUM))
    wav = torch.zeros(4, 1, 16_000)
    sound = torch.from_numpy(make_sound(16_000))
    wav[0] = sound
    wav[1, :, :6_000] = sound[:, :6_000]
    wav[3, :, 6_000:] = sound[:, 6_000:]
    gain = torch.nn.Parameter(torch.ones(4, 1, 1))
    model.synthesise(model.latent(model.pad(wav * gain))).square().mean().backward()
    assert gain.grad is not None
    assert np.isfinite(gain.grad.numpy()).all()
    assert float(gain.grad[:2].abs().min()) > 0
    assert float(gain.grad[2].abs()) == 0
