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
from bittern.errors import ModelMismatchError

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

    argv = ["fit-entropy", str(model), str(speech), "--steps", "31", "--device", "cpu", "-q"]
    assert main(argv) == 0
    again = bittern.load(model, device="cpu")
    assert again.entropy.fingerprint != codec.entropy.fingerprint
    assert again.decompress(ranged).wav.equal(codec.decompress(raw).wav)  # a file of before
    (model / f"entropy-{codec.entropy.fingerprint.hex()}.safetensors").unlink()
    with pytest.raises(ModelMismatchError, match="needs entropy model"):
        again.decompress(ranged)


def test_train_passes_its_arguments_to_hydra(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bittern", "train", "as typed"])
    assert main(["train", "model=tiny", "data.root=x", "steps=7", "--cfg", "job"]) == 0
    assert "\nsteps: 7\n" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["train", "data.root=x", "step=2"])
    assert stop.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bittern: ")
    assert "step" in line


@pytest.mark.slow  # two processes, which load everything
def test_train_on_two_devices_leaves_a_checkpoint(speech, tmp_path):
    """The second process is started by the same command line, `train` included."""
    settings = ("model=tiny", "run=here", "accelerator=cpu", "devices=2", "precision=32-true")
    data = (f"data.root={speech}", "data.cache=cache", "data.batch_size=2", "steps=2")
    done = subprocess.run(
        [sys.executable, "-m", "bittern", "train", *settings, *data, "data.segment_seconds=0.5"],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert bittern.load(tmp_path / "here" / "last", "cpu").stages > 0


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


@pytest.mark.parametrize(
    ("command", "missing", "name"),
    [("evaluate", "matplotlib", "eval"), ("train", "hydra", "train")],
)
def test_a_command_without_its_extra_says_what_to_install(command, missing, name):
    program = (
        f"import sys; sys.modules[{missing!r}] = None; from bittern.cli import main; "
        f"sys.exit(main([{command!r}, 'x']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == (f"bittern: {missing} is not installed; pip install 'bittern[{name}]'\n")
