import dataclasses
import json

import pytest

from bittern.config import CodecConfig, LinearPath, NetworkConfig, NetworkInput, Norm
from bittern.errors import ConfigError

SEANET = NetworkConfig(
    input=NetworkInput.SAMPLES,
    stem_stride=10,
    ratios=(4, 8),
    channels=(8, 16, 24),
    residual_units=(1, 1, 0),
)


def test_json_round_trip_keeps_every_field():
    for config in (
        CodecConfig(),
        CodecConfig(encoder=SEANET, decoder=SEANET, linear_path=LinearPath.MDCT, highpass_hz=40.0),
    ):
        assert CodecConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hop": 320}, "unknown key 'hop'"),
        ({"sample_rate": "fast"}, "sample_rate is 'fast'; expected int"),
        ({"sample_rate": True}, "sample_rate is True; expected int"),
        ({"linear_path": "dct"}, "expected one of none, mdct"),
        ({"quantizer": {"codebook_size": 1000}}, "power of two"),
        ({"encoder": {"channels": [8, 16]}}, "channels has 2 values for 0 ratios"),
        ({"encoder": 3}, "expected an object"),
        ({"encoder": {"channels": 8}}, "expected a list"),
        ({"latent_dim": 321}, "only 320 components"),
        ({"name": "../x"}, "letters, digits"),
        ({"linear_path": "pca"}, "linear_path is 'pca'; expected one of none, mdct"),
        ({"highpass_hz": 2000}, "highpass_hz is 2000.0; give 0, or 1 to 2000"),
        ({"encoder": {"limit": 0}}, "limit is 0.0; give over 0, or null"),
        ({"envelope_bands": 128}, "give 0 up to below latent_dim, 128"),
        ({"envelope_bands": 4, "channels": 2}, "needs networks with input: spectrum.* 1 channel"),
        ({"envelope_bands": 4, "envelope_weight": 0.0}, "envelope_weight is 0.0; give over 0"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(change, message):
    with pytest.raises(ConfigError, match=message):
        CodecConfig.from_json(json.dumps(change))


def test_json_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="not JSON"):
        CodecConfig.from_json("{")


def test_strides_must_multiply_to_the_hop():
    with pytest.raises(ConfigError, match=r"strides by 320 samples.*hop_length is 256"):
        CodecConfig(hop_length=256, latent_dim=16, encoder=SEANET)


def test_time_group_norm_needs_a_model_that_is_not_causal():
    with pytest.raises(ConfigError, match="set causal to false"):
        dataclasses.replace(SEANET, norm=Norm.TIME_GROUP)


@pytest.mark.parametrize(
    ("samples", "frames"), [(0, 0), (1, 2), (319, 2), (320, 2), (321, 3), (16_000, 51)]
)
def test_a_lapped_transform_costs_one_frame(samples, frames):
    assert CodecConfig().frame_count(samples) == frames
    plain = CodecConfig(linear_path=LinearPath.NONE, encoder=SEANET)
    assert plain.frame_count(samples) == max(frames - 1, 0)
    assert CodecConfig().latency == 640
    assert plain.latency == 320


def test_default_bitrates_are_those_of_the_model_card():
    config = CodecConfig()
    assert config.frame_rate == 50
    assert config.kbps_per_stage == 0.5
    assert [config.stages_for(kbps) for kbps in (0.5, 2, 3, 4, 6.2, 16)] == [1, 4, 6, 8, 12, 32]
    for kbps in (0.4, 17):
        with pytest.raises(ConfigError, match=r"give 0\.5 to 16"):
            config.stages_for(kbps)
