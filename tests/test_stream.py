import functools
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import make_model, make_sound

import bittern
from bittern.config import CodecConfig, LinearPath, NetworkConfig, NetworkInput, QuantizerConfig
from bittern.model.stream import StreamingDecoder, StreamingEncoder

EXAMPLE = Path(__file__).parents[1] / "examples/speech.flac"
SMALL = QuantizerConfig(stages=6, codebook_size=64)
CONFIGS = {
    "spectrum": CodecConfig(
        latent_dim=32,
        encoder=NetworkConfig(channels=(32,), residual_units=(2,)),
        quantizer=SMALL,
    ),
    "samples": CodecConfig(
        hop_length=40,
        latent_dim=16,
        linear_path=LinearPath.NONE,
        encoder=NetworkConfig(
            input=NetworkInput.SAMPLES,
            ratios=(2, 4, 5),
            channels=(8, 8, 16, 16),
            residual_units=(1, 1, 1, 1),
            lstm_layers=1,
        ),
        quantizer=SMALL,
    ),
    "samples beside an mdct": CodecConfig(
        hop_length=40,
        latent_dim=16,
        encoder=NetworkConfig(
            input=NetworkInput.SAMPLES,
            stem_stride=10,
            ratios=(4,),
            channels=(8, 16),
            residual_units=(1, 1),
        ),
        quantizer=SMALL,
    ),
    "two channels": CodecConfig(
        channels=2,
        hop_length=64,
        latent_dim=16,
        encoder=NetworkConfig(channels=(16,), residual_units=(1,)),
        quantizer=SMALL,
    ),
    "one stride": CodecConfig(
        hop_length=40,
        latent_dim=16,
        linear_path=LinearPath.NONE,
        encoder=NetworkConfig(
            input=NetworkInput.SAMPLES, stem_stride=40, channels=(16,), residual_units=(1,)
        ),
        quantizer=SMALL,
    ),
}


@pytest.fixture(scope="module", params=CONFIGS)
def model(request: pytest.FixtureRequest):
    return make_model(CONFIGS[request.param])


def sounds(model, samples: int, batch: int = 1) -> torch.Tensor:
    channels = model.config.channels
    return torch.from_numpy(
        np.stack([make_sound(samples, channels=channels, seed=item) for item in range(batch)])
    )


def stream(model, wav, sizes, stages=None):
    """Codes and samples by pushes of the sizes given, and the rest by one more."""
    encoder = StreamingEncoder(model, stages=stages, batch=wav.shape[0])
    decoder = StreamingDecoder(model, batch=wav.shape[0], length=wav.shape[-1])
    codes, samples, start = [], [], 0
    for size in [*sizes, wav.shape[-1]]:
        codes.append(encoder.push(wav[..., start : start + size]))
        samples.append(decoder.push(codes[-1]))
        start += size
    codes.append(encoder.flush())
    samples.append(decoder.push(codes[-1]))
    return torch.cat(codes, dim=-1), torch.cat(samples, dim=-1)


@pytest.mark.parametrize("length", [0, 1, 39, 40, 41, 319, 320, 321, 3000])
@pytest.mark.parametrize("size", [1, 7, 320, 1000])
def test_streaming_equals_offline_at_any_length(model, length: int, size: int):
    wav = sounds(model, length, batch=2)
    codes, samples = stream(model, wav, [size] * min(length // size, 400))
    assert codes.shape[-1] == model.config.frame_count(length)
    assert torch.equal(codes, model.encode(wav))
    torch.testing.assert_close(samples, model.decode(codes, length), rtol=0, atol=1e-5)


@functools.cache
def spectrum_model():
    return make_model(CONFIGS["spectrum"])


@settings(max_examples=25, deadline=None, derandomize=True)
@given(sizes=st.lists(st.integers(0, 900), max_size=12), stages=st.integers(1, 6))
def test_streaming_equals_offline_for_any_chunking(sizes: list[int], stages: int):
    model = spectrum_model()
    wav = sounds(model, 4321)
    codes, samples = stream(model, wav, sizes, stages)
    assert torch.equal(codes, model.encode(wav, stages))
    torch.testing.assert_close(samples, model.decode(codes, 4321), rtol=0, atol=1e-5)


def test_without_a_length_the_decoder_gives_all_that_offline_does(model):
    codes = model.encode(sounds(model, 2001))
    decoder = StreamingDecoder(model)
    samples = torch.cat([decoder.push(part) for part in codes.split(3, dim=-1)], dim=-1)
    torch.testing.assert_close(samples, model.decode(codes), rtol=0, atol=1e-5)


def test_a_saved_state_goes_on_in_another_stream(model):
    wav = sounds(model, 2000, batch=2)
    encoder, decoder = StreamingEncoder(model, batch=2), StreamingDecoder(model, batch=2)
    decoder.push(encoder.push(wav[..., :777]))
    saved_encoder, saved_decoder = encoder.state, decoder.state
    codes = torch.cat([encoder.push(wav[..., 777:]), encoder.flush()], dim=-1)
    samples = decoder.push(codes)

    second_encoder, second_decoder = StreamingEncoder(model), StreamingDecoder(model, batch=2)
    for _ in range(2):  # what has been restored must not have been used up
        second_encoder.state, second_decoder.state = saved_encoder, saved_decoder
        again = torch.cat([second_encoder.push(wav[..., 777:]), second_encoder.flush()], dim=-1)
        assert torch.equal(again, codes)
        assert torch.equal(second_decoder.push(again), samples)
    assert all(isinstance(value, torch.Tensor) for value in saved_encoder.values())


def test_streams_of_one_model_do_not_disturb_each_other(model):
    wavs = sounds(model, 1500, batch=2)
    encoders = [StreamingEncoder(model), StreamingEncoder(model)]
    codes = [[], []]
    for start in range(0, 1500, 100):
        for item, encoder in enumerate(encoders):
            codes[item].append(encoder.push(wavs[item, None, :, start : start + 100]))
    for item, encoder in enumerate(encoders):
        codes[item].append(encoder.flush())
        expected = model.encode(wavs[item, None])
        assert torch.equal(torch.cat(codes[item], dim=-1), expected)


def test_reset_and_flush_begin_anew(model):
    wav = sounds(model, 1234)
    encoder, decoder = StreamingEncoder(model), StreamingDecoder(model)
    encoder.push(wav)
    decoder.push(model.encode(wav))
    encoder.reset()
    decoder.reset()
    for _ in range(2):
        codes = torch.cat([encoder.push(wav), encoder.flush()], dim=-1)
        assert torch.equal(codes, model.encode(wav))
    expected = model.decode(codes)
    torch.testing.assert_close(decoder.push(codes), expected, rtol=0, atol=1e-5)


def test_a_model_that_looks_ahead_is_refused():
    network = NetworkConfig(
        input=NetworkInput.SAMPLES, stem_stride=40, channels=(8,), residual_units=(1,), causal=False
    )
    model = make_model(CodecConfig(hop_length=40, latent_dim=8, encoder=network, quantizer=SMALL))
    for kind in (StreamingEncoder, StreamingDecoder):
        with pytest.raises(ValueError, match="looks ahead"):
            kind(model)


def test_wrong_shapes_and_stages_are_refused(model):
    with pytest.raises(ValueError, match="1 to 6"):
        StreamingEncoder(model, stages=7)
    with pytest.raises(ValueError, match="expected floats \\[1, "):
        StreamingEncoder(model).push(torch.zeros(2, model.config.channels, 10))
    with pytest.raises(ValueError, match="expected \\[1, k, f\\]"):
        StreamingDecoder(model).push(torch.zeros(2, 1, 10, dtype=torch.long))


def test_memory_does_not_grow_with_the_stream(model):
    wav = sounds(model, 6400)
    encoder, decoder = StreamingEncoder(model), StreamingDecoder(model)
    sizes = []
    for _ in range(5):
        decoder.push(encoder.push(wav))
        held = {**encoder.state, **decoder.state}
        sizes.append(sum(value.numel() for value in held.values()))
    assert len(set(sizes)) == 1


def test_concealed_speech_fades_to_silence():
    """Levels of bands are logarithms: a latent scaled towards 0 would be a loud one."""
    model = bittern.load("speech-16khz", device="cpu").model
    wav = torch.from_numpy(soundfile.read(EXAMPLE, dtype="float32")[0])[None, None, 16_000:30_000]
    decoder = StreamingDecoder(model)
    heard = decoder.push(model.encode(wav, 12))
    lost = decoder.conceal(40).reshape(8, -1).square().mean(dim=1)  # five frames each
    assert float(lost[0]) < 4 * float(heard[..., -1600:].square().mean())
    assert float(lost[-1]) < 1e-4 * float(lost[0])
    assert bool((lost[2:] < lost[1:-1]).all())
