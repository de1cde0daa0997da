"""Entropy models are fitted and measured by the two scripts, and what they print is counted right."""

import io
import re
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

import bittern
from bittern.evaluation import coders, coding
from bittern.evaluation.systems import trimmed

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folders(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint without an entropy model and some real speech."""
    base = tmp_path_factory.mktemp("coding")
    shutil.copytree(tiny_checkpoint, base / "model")
    wav, rate = sf.read(ROOT / "examples/speech.flac", dtype="float32")
    (base / "speech").mkdir()
    for part in range(2):
        sf.write(base / "speech" / f"{part}.flac", wav[part * 48_000 :][:48_000], rate)
    return base / "model", base / "speech"


def run_script(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(ROOT / "scripts" / name), run_name="__main__")


def test_a_model_is_fitted_and_measured(
    folders: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, speech = folders
    places = (f"checkpoint={model}", f"data.root={speech}")
    with pytest.raises(SystemExit):
        run_script("measure_entropy.py", monkeypatch, *places)
    assert capsys.readouterr().err.endswith("has no entropy model to measure\n")
    run_script("train_entropy.py", monkeypatch, *places, "steps=30")
    fit = f"fit.root={speech}"
    capsys.readouterr()
    run_script("measure_entropy.py", monkeypatch, *places, fit, "rates=0.6,1.2", "clips=1")
    printed = capsys.readouterr().out
    codec = bittern.load(model, device="cpu")
    wavs = [torch.from_numpy(sf.read(path, dtype="float32")[0])[None] for path in speech.iterdir()]
    for stages, nominal in ((2, "0.6"), (4, "1.2")):
        cells = next(line for line in printed.splitlines() if line.startswith(f"| {nominal} |"))
        sizes = {
            coder: sum(len(trimmed(codec.compress(w, 16_000, coder=coder), stages)) for w in wavs)
            for coder in ("raw", "range")
        }
        raw, coded = (f"{sizes[coder] * 8 / 6 / 1000:.2f}" for coder in ("raw", "range"))
        assert cells.startswith(f"| {nominal} | {stages} | {raw} | {coded} | ")
    assert (
        len(re.findall(r"(?m)^\| (?:de)?compress \| (?:raw|range) \| \d+ \| \d+ \|$", printed)) == 4
    )
    assert printed.count(" % | ") >= 2 * 4 + 5
    assert "| small network in whole numbers | " in printed


def test_order_0_entropy_is_that_of_the_codes() -> None:
    assert coding._entropy(np.repeat(np.arange(8), 100)) == pytest.approx(3)
    assert coding._entropy(np.zeros(50, int)) == 0


def test_designs_are_lossless_and_gain_what_the_codes_depend_on() -> None:
    """A stage that repeats its code mostly, and one that follows the first."""
    rng = np.random.default_rng(0)
    steps = np.where(rng.random(4000) < 0.9, 0, rng.integers(128, size=4000))
    first = steps.cumsum() % 128
    codes = np.stack([first, (first * 37 + rng.integers(4, size=4000)) % 128])
    words = rng.normal(size=(2, 128, 8))
    found = coders.designs([codes[:, :3000]], words)
    costs = [coders.cost(design, [codes[:, 3000:3400]]) for design in found]
    zero, previous, product, _ = (cost.bits for cost in costs)
    assert 6.8 < zero < 7.8
    assert previous < zero - 1
    assert product < previous - 0.5
    assert all(cost.encode_us > 0 and cost.decode_us > 0 for cost in costs)


def test_a_trimmed_file_holds_the_codes(tiny_codec: bittern.Codec) -> None:
    data = tiny_codec.compress(torch.randn(1, 20_000) * 0.1, 16_000, coder="raw")
    codes = coding._codes(trimmed(data, 3))
    reader = bittern.format.container.Reader(io.BytesIO(data), "x")
    whole = [bittern.format.container.unpack(chunk, reader.header)[0] for chunk in reader]
    assert np.array_equal(codes, np.concatenate(whole, axis=1)[:3])
