import shutil

import numpy as np

import bittern
from bittern.checkpoint import find
from bittern.evaluation.clips import Clip
from bittern.evaluation.systems import model_family, trimmed
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
