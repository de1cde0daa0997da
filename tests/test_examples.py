"""Every example runs as it is, and does what it says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
RUN = {"stream_microphone.py", "batch_encode.py", "language_model_codes.py", "fine_tune.sh"}


def run(*command: str, cwd: Path) -> str:
    scripts = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PATH": scripts},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_every_example_is_run_here():
    there = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".sh", ".ipynb")}
    assert there == RUN | {"bittern.ipynb"}


def test_the_stream_of_a_file(tmp_path):
    said = run(
        sys.executable,
        f"{EXAMPLES}/stream_microphone.py",
        f"{EXAMPLES}/speech.flac",
        "1",
        cwd=tmp_path,
    )
    assert "50 frames at 6 kbit/s; the slowest push took" in said
    assert soundfile.info(tmp_path / "build" / "streamed.wav").frames == 51 * 320 - 320


def test_a_batch(tmp_path):
    wav, rate = soundfile.read(EXAMPLES / "speech.flac", frames=20_000)
    for name, samples in (("a.wav", 20_000), ("b.wav", 7_000)):
        soundfile.write(tmp_path / name, wav[:samples], rate)
    said = run(sys.executable, f"{EXAMPLES}/batch_encode.py", "a.wav", "b.wav", cwd=tmp_path)
    assert "a.wav: 20000 samples, codes [6, 64]" in said
    assert "b.wav: 7000 samples, codes [6, 23]" in said


def test_codes_for_a_language_model(tmp_path):
    said = run(sys.executable, f"{EXAMPLES}/language_model_codes.py", cwd=tmp_path)
    frames = soundfile.info(EXAMPLES / "speech.flac").frames
    assert f"{4 * -(-(frames + 320) // 320)} tokens below 4096, 201 a second" in said
    assert soundfile.info(tmp_path / "build" / "said.wav").frames == frames


@pytest.mark.slow  # trains
def test_fine_tuning(tmp_path):
    (tmp_path / "speech").mkdir()
    wav, rate = soundfile.read(EXAMPLES / "speech.flac")
    for part in range(4):
        soundfile.write(tmp_path / "speech" / f"{part}.wav", wav[part * 40_000 :][:40_000], rate)
    few = ("steps=2", "data.batch_size=2", "data.segment_seconds=0.5", "accelerator=cpu")
    run(
        "sh",
        f"{EXAMPLES}/fine_tune.sh",
        "speech",
        *few,
        f"data.cache={tmp_path}/cache",
        cwd=tmp_path,
    )
    assert soundfile.info(tmp_path / "runs" / "fine" / "speech.wav").frames == len(wav)


@pytest.mark.slow  # a kernel starts, and plots
def test_the_notebook(tmp_path):
    pytest.importorskip("nbconvert", reason="nbconvert is not installed")
    notebook = (EXAMPLES / "bittern.ipynb").read_text()
    assert all(not cell.get("outputs") for cell in json.loads(notebook)["cells"])  # none is kept
    command = ("-m", "jupyter", "nbconvert", "--execute", "--to", "notebook", "--output-dir")
    run(sys.executable, *command, str(tmp_path), str(EXAMPLES / "bittern.ipynb"), cwd=tmp_path)
    cells = json.loads((tmp_path / "bittern.ipynb").read_text())["cells"]
    kinds = [
        kind for cell in cells for out in cell.get("outputs", []) for kind in out.get("data", {})
    ]
    assert kinds.count("text/html") == 3  # players
    assert "image/png" in kinds
