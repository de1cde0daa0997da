"""scripts/train_entropy.py fits an entropy model beside the weights, and files get smaller for it."""

import runpy
import shutil
import sys
from pathlib import Path

import soundfile as sf

import bittern

ROOT = Path(__file__).parents[2]


def test_files_are_smaller_and_decode_alike_after_the_fit(tiny_checkpoint, tmp_path, monkeypatch):
    model, speech = tmp_path / "model", tmp_path / "speech"
    shutil.copytree(tiny_checkpoint, model)
    speech.mkdir()
    wav, rate = sf.read(ROOT / "examples" / "speech.flac", dtype="float32")
    sf.write(speech / "one.flac", wav[:96_000], rate)
    arguments = [f"checkpoint={model}", f"data.root={speech}", "steps=30"]
    monkeypatch.setattr(sys, "argv", ["train_entropy.py", *arguments])
    runpy.run_path(str(ROOT / "scripts" / "train_entropy.py"), run_name="__main__")
    codec = bittern.load(model, device="cpu")
    raw, coded = (codec.compress(wav[:96_000], rate, coder=c) for c in ("raw", "range"))
    assert len(coded) < len(raw)
    assert (codec.decompress(coded).wav == codec.decompress(raw).wav).all()
