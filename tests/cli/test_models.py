"""`bittern train`, `fit-entropy` and `card` as people type them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile as sf

import bittern
from bittern.cli import main

SPEECH = Path(__file__).parents[2] / "examples" / "speech.flac"


@pytest.fixture(scope="module")
def speech(tmp_path_factory) -> Path:
    """A folder of two clips of three seconds."""
    folder = tmp_path_factory.mktemp("speech")
    wav, rate = sf.read(SPEECH, dtype="float32")
    for part in range(2):
        sf.write(folder / f"{part}.flac", wav[part * 48_000 :][:48_000], rate)
    return folder


def test_a_fitted_entropy_model_makes_files_smaller_that_decode_the_same(
    speech, tiny_checkpoint, tmp_path, capsys
):
    model = tmp_path / "model"
    shutil.copytree(tiny_checkpoint, model)
    assert main(["fit-entropy", str(model), str(speech), "--steps", "30", "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    assert (
        out
        == f"{model}/entropy.safetensors: {(model / 'entropy.safetensors').stat().st_size} bytes\n"
    )
    assert err.startswith("2 clips, 0.1 minutes\nstage 1: ")
    assert err.count(" bits per code\n") == 8
    codec = bittern.load(model, device="cpu")
    wav, rate = sf.read(SPEECH, dtype="float32", frames=48_000)
    raw, ranged = (codec.compress(wav, rate, coder=coder) for coder in ("raw", "range"))
    assert len(ranged) < len(raw)
    assert codec.decompress(ranged).wav.equal(codec.decompress(raw).wav)


def test_train_passes_its_arguments_to_hydra_and_leaves_a_checkpoint(speech, tmp_path):
    def train(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "bittern", "train", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=tmp_path)

    settings = [
        "model=tiny",
        f"data.root={speech}",
        f"data.cache={tmp_path / 'cache'}",
        "run=here",
        "accelerator=cpu",
        "precision=32-true",
        "data.batch_size=2",
        "data.segment_seconds=0.5",
        "steps=2",
    ]
    done = train(*settings)
    assert done.returncode == 0, done.stderr[-2000:]
    assert bittern.load(tmp_path / "here" / "last", "cpu").config.name
    done = train("data.root=x", "step=2")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("bittern: ")
    assert "step" in line
    shown = train(*settings, "--cfg", "job").stdout
    assert "segment_seconds: 0.5" in shown


def test_a_card_without_its_report_is_one_line(tiny_checkpoint, tmp_path, capsys):
    report = tmp_path / "report.json"
    assert main(["card", str(tiny_checkpoint), str(report)]) == 1
    assert "a card needs training.md and an evaluation's report.json" in capsys.readouterr().err
    report.write_text(json.dumps({"systems": []}))
    shutil.copytree(tiny_checkpoint, tmp_path / "model")
    (tmp_path / "model" / "training.md").write_text("Made by hand.")
    assert main(["card", str(tmp_path / "model"), str(report)]) == 1
    err = capsys.readouterr().err
    assert "has no system with the weights" in err
    assert err.count("\n") == 1
