"""DNSMOS as its authors' package computes it."""

import importlib
import sys
import types

import numpy as np
import pytest

from bittern.evaluation.dnsmos import RATE, dnsmos


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
    opinion, expected = dnsmos(samples), theirs(samples)
    assert opinion.signal == pytest.approx(expected["sig_mos"], abs=1e-3)
    assert opinion.background == pytest.approx(expected["bak_mos"], abs=1e-3)
    assert opinion.overall == pytest.approx(expected["ovrl_mos"], abs=1e-3)


def test_noise_is_heard_in_the_background_and_speech_cut_to_one_bit_in_the_voice(speech):
    noise = np.random.default_rng(0).standard_normal(len(speech))
    plain, noisy = dnsmos(speech), dnsmos(speech + 0.02 * noise)
    assert noisy.background < plain.background - 0.5
    coarse = dnsmos(np.sign(speech) * 0.1)
    assert coarse.signal < plain.signal - 1
    assert coarse.overall < noisy.overall < plain.overall


def test_no_samples_are_refused():
    with pytest.raises(ValueError, match="no samples"):
        dnsmos(np.zeros(0))
