"""DNSMOS, PLCMOS and DistillMOS as their authors' packages compute them."""

import importlib
import sys
import types

import numpy as np
import pytest
import torch

from bittern.evaluation.opinions import RATE, distillmos, dnsmos, plcmos


@pytest.fixture
def theirs(monkeypatch):
    """The package's own function; what it needs for a second network, not looked at, is stood in for."""
    librosa = types.ModuleType("librosa")
    mels = np.random.default_rng(0).random((120, 900), np.float32)
    librosa.feature = types.SimpleNamespace(melspectrogram=lambda **_: mels)  # type: ignore[attr-defined]
    librosa.power_to_db = lambda spectrum, ref: spectrum  # type: ignore[attr-defined]
    requests = types.ModuleType("requests")
    requests.session = None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "librosa", librosa)
    monkeypatch.setitem(sys.modules, "requests", requests)
    monkeypatch.delitem(sys.modules, "speechmos.dnsmos", raising=False)
    package = importlib.import_module("speechmos.dnsmos")
    return lambda samples: package.run(samples, RATE)


@pytest.mark.parametrize("seconds", [2.0, 11.1])
def test_scores_are_those_of_the_package(speech, theirs, seconds):
    samples = np.resize(speech, round(seconds * RATE))
    assert dnsmos(samples) == pytest.approx(theirs(samples)["ovrl_mos"], abs=1e-3)


def test_noise_is_heard_and_speech_cut_to_one_bit_more_so(speech):
    noise = np.random.default_rng(0).standard_normal(len(speech))
    assert dnsmos(np.sign(speech) * 0.1) < dnsmos(speech + 0.02 * noise) < dnsmos(speech)


@pytest.mark.parametrize("seconds", [0.7, 4.0])
def test_plcmos_is_that_of_the_package_with_the_same_listeners(speech, seconds):
    from speechmos.plcmos import PLCMOS

    samples = speech[: round(seconds * RATE)].astype(np.float64)
    samples[: RATE // 4] = 0  # its floor for digital silence counts as well
    package = PLCMOS(embed_rounds=5)
    np.random.seed(0)  # noqa: NPY002 (what the package draws its listeners from)
    assert plcmos(samples) == pytest.approx(package.get_mos(samples), abs=1e-3)


def test_plcmos_hears_lost_packets(speech):
    time = np.arange(len(speech)) / RATE
    for share, least in ((0.1, 0.3), (0.3, 1.0)):
        lost = np.where(time % 0.2 < 0.2 * share, 0.0, speech)
        assert plcmos(lost) < plcmos(speech) - least
    assert plcmos(speech) == plcmos(speech)
    assert np.isfinite(plcmos(np.zeros(RATE)))


def test_distillmos_is_that_of_the_package(speech):
    package = pytest.importorskip("distillmos", reason="distillmos is not installed")
    theirs = package.ConvTransformerSQAModel().eval()
    with torch.no_grad():
        expected = float(theirs(torch.from_numpy(speech)[None]))
    assert distillmos(speech) == pytest.approx(expected, abs=1e-3)
    noise = np.random.default_rng(0).standard_normal(len(speech))
    assert distillmos(speech + 0.02 * noise) < expected - 1


@pytest.mark.parametrize("opinion", [dnsmos, plcmos])
def test_no_samples_are_refused(opinion):
    with pytest.raises(ValueError, match="no samples"):
        opinion(np.zeros(0))
