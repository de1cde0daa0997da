"""A model at stages, at bitrates, with losses: what is decoded and what is counted."""

import shutil

import numpy as np
import pytest

import bittern
from bittern.checkpoint import find
from bittern.errors import ConfigError
from bittern.evaluation.clips import Clip
from bittern.evaluation.systems import Loss, model_family, trimmed
from bittern.format.entropy import ENTROPY_FILE


def test_results_with_and_without_an_entropy_model_are_kept_apart(tmp_path):
    """They sound alike and differ in the bytes that are counted."""
    shipped = find("speech-16khz")
    copy = tmp_path / "raw"
    shutil.copytree(shipped, copy)
    same = model_family(str(copy), [4])
    (copy / ENTROPY_FILE).unlink()
    raw = model_family(str(copy), [4])
    identities = [f.systems[0].identity for f in (model_family(str(shipped), [4]), same, raw)]
    assert identities[0] == identities[1] != identities[2]


def test_the_width_of_the_search_is_evaluated_as_asked_for(speech):
    clip = Clip("speech", speech[:32_000], 16_000)
    family = model_family("speech-16khz", [2, 4], search_width=2)
    assert family.name == "speech-16khz search 2"
    usual = model_family("speech-16khz", [2, 4])
    assert usual.name == "speech-16khz"
    assert not {s.identity for s in family.systems} & {s.identity for s in usual.systems}
    codec = bittern.load("speech-16khz", device="cpu")
    full = codec.compress(clip.samples, 16_000, stages=4, search_width=2)
    assert full != codec.compress(clip.samples, 16_000, stages=4)
    for coded, stages in zip(family.code(clip, family.systems), (2, 4), strict=True):
        data = trimmed(full, stages)
        assert coded.file_bytes == len(data)
        np.testing.assert_array_equal(coded.samples, codec.decompress(data).wav[0])


def test_a_bitrate_is_asked_of_the_encoder_and_its_file_is_counted(speech):
    clip = Clip("speech", speech[:32_000], 16_000)
    family = model_family("speech-16khz", bitrates=[6, 3])
    assert [s.name for s in family.systems] == [
        "speech-16khz 3.0 kbit/s",
        "speech-16khz 6.0 kbit/s",
    ]
    codec = bittern.load("speech-16khz", device="cpu")
    for row, rate in zip(family.code(clip, family.systems), (3, 6), strict=True):
        data = codec.compress(clip.samples, 16_000, bitrate_kbps=rate)
        assert row.file_bytes == len(data)
        np.testing.assert_array_equal(row.samples, codec.decompress(data).wav[0])
    with pytest.raises(ConfigError, match="out of reach"):
        model_family("speech-16khz", bitrates=[300])


def test_losses_are_heard_and_are_the_same_at_every_setting_and_time(speech):
    clip = Clip("speech", speech, 16_000)
    whole = model_family("speech-16khz", [4, 8])
    lossy = whole.losing(Loss(0.2, 3.0))
    assert lossy.systems[0].name == "speech-16khz, 20 % lost by 3 4 stages"
    assert not {s.identity for s in whole.systems} & {s.identity for s in lossy.systems}
    rows, lost, again = (list(f.code(clip, f.systems)) for f in (whole, lossy, lossy))
    off = []
    for row, other, same in zip(rows, lost, again, strict=True):
        assert other.payload_bytes == row.payload_bytes
        np.testing.assert_array_equal(other.samples, same.samples)
        error, sound = (
            np.square(x[: 320 * 199].reshape(-1, 320)).mean(axis=1)
            for x in (row.samples - other.samples, row.samples)
        )
        off.append(error > 0.3 * sound + 1e-8)
    assert 0.1 < np.mean(off[0]) < 0.5  # what is lost, and a while after it
    assert np.mean(off[0] == off[1]) > 0.9
    (untouched, _) = whole.losing(Loss(0.0, 1.0)).code(clip, whole.losing(Loss(0.0, 1.0)).systems)
    np.testing.assert_array_equal(untouched.samples, rows[0].samples)


def test_losses_that_cannot_be_are_one_line():
    with pytest.raises(ConfigError, match=r"--loss 0.8,1.5: mean burst is 1.5; .* give 4 or more"):
        model_family("speech-16khz", [4]).losing(Loss(0.8, 1.5))
