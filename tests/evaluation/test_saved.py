"""Decoded clips as files: which, of what length, and told apart by name as VERSA tells them."""

import numpy as np
import pytest
import soundfile as sf

import bittern
from bittern.evaluation.cache import _names
from bittern.evaluation.clips import Clip

SYSTEMS = {"tiny-test_2_stages", "tiny-test_8_stages"}


@pytest.fixture(scope="module")
def saved(evaluate, clip_folder, tiny_checkpoint, cache_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    evaluate(
        *(clip_folder, "--model", tiny_checkpoint, "--stages", "2,8", "--no-baselines", "-q"),
        *("--cache", cache_folder, "--out", folder / "out", "--save-audio", folder / "audio"),
        *("--jobs", "1", "--page-clips", "0"),
    )
    return folder / "audio"


def test_every_version_of_every_clip_is_there_under_one_name(saved):
    assert {path.name for path in saved.iterdir()} == {"original"} | SYSTEMS
    for folder in saved.iterdir():
        assert {path.name for path in folder.iterdir()} == {"one.wav", "below_stereo_b_44100.wav"}
        for path in folder.iterdir():
            info = sf.info(path)
            assert (info.frames, info.samplerate, info.channels) == (32_000, 16_000, 1)
            assert info.subtype == "PCM_16"


def test_they_are_the_clip_and_what_the_codec_makes_of_it(saved, clip_folder, tiny_checkpoint):
    original = sf.read(saved / "original" / "one.wav", dtype="int16")[0]
    assert (original == sf.read(clip_folder / "one.wav", dtype="int16")[0]).all()
    codec = bittern.load(tiny_checkpoint, device="cpu")
    wav = original.astype(np.float32) / 32768
    decoded = codec.decompress(codec.compress(wav, 16_000)).wav[0].numpy()
    found = sf.read(saved / "tiny-test_8_stages" / "one.wav", dtype="float32")[0]
    best = np.correlate(found, decoded[250:-250], "valid").argmax() - 250  # it was aligned
    assert np.abs(np.roll(decoded, best) - found)[300:-300].max() < 1e-4


def test_clips_whose_names_would_be_one_are_numbered():
    names = ["a/b.wav", "a_b.wav", "c.flac"]
    clips = [Clip(name, np.zeros(1, np.float32), 16_000) for name in names]
    assert _names(clips) == ["0000_a_b", "0001_a_b", "0002_c"]
    assert _names(clips[1:]) == ["a_b", "c"]
