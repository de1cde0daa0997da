"""The same commands by both engines: files of either decode by either, errors are the same."""

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from synthetic import make_sound

from bittern.cli import main

ENGINES = ("torch", "onnx")


@pytest.fixture
def run(tiny_checkpoint, capsys, tmp_path, monkeypatch):
    """Run a command by an engine, in an empty folder: exit code, and what it said."""
    monkeypatch.chdir(tmp_path)

    def run_command(engine: str, *argv: str) -> tuple[int, str]:
        given = ["--model", str(tiny_checkpoint), "--device", "cpu", "--engine", engine]
        code = main([*argv, *given])
        return code, capsys.readouterr().err.replace(engine, "ENGINE")

    return run_command


@pytest.fixture
def recording(run) -> str:
    sf.write("a.wav", make_sound(20_011, channels=2, sample_rate=22_050).T, 22_050)
    return "a.wav"


def wave(name: str) -> np.ndarray:
    return sf.read(name, dtype="float32")[0]


@pytest.mark.parametrize(
    "options",
    [["--bitrate", "3"], ["--quality", "5"], ["--stages", "3"], ["--mono", "--coder", "raw"]],
)
def test_files_of_either_engine_decode_by_either(run, recording, options):
    for engine in ENGINES:
        assert run(engine, "compress", recording, f"{engine}.btn", "-q", *options) == (0, "")
        for other in ENGINES:
            decoded = f"{engine}-{other}.wav"
            assert run(other, "decompress", f"{engine}.btn", decoded, "-q") == (0, "")
        pair = [wave(f"{engine}-{other}.wav") for other in ENGINES]
        np.testing.assert_allclose(*pair, rtol=0, atol=2 / 32768)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_part_is_that_part_of_the_whole(run, recording, engine):
    run(engine, "compress", recording, "a.btn", "-q", "--stages", "4", "--chunk-seconds", "0.1")
    run(engine, "decompress", "a.btn", "whole.wav", "-q")
    run(engine, "decompress", "a.btn", "part.wav", "-q", "--start", "0.5", "--duration", "0.25")
    begin, count = 11_025, round(0.25 * 22_050)
    whole = wave("whole.wav")[begin : begin + count]
    np.testing.assert_allclose(wave("part.wav"), whole, rtol=0, atol=2 / 32768)


def test_damage_is_told_and_concealed_alike(run, recording):
    run("torch", "compress", recording, "a.btn", "-q", "--stages", "4", "--chunk-seconds", "0.1")
    data = bytearray(Path("a.btn").read_bytes())
    data[len(data) // 2] ^= 255
    Path("a.btn").write_bytes(data)
    said = [run(engine, "decompress", "a.btn", "b.wav", "-f") for engine in ENGINES]
    assert said[0] == said[1]
    assert said[0][0] == 4
    assert not Path("b.wav").exists()
    for engine in ENGINES:
        code, told = run(engine, "decompress", "a.btn", f"{engine}.wav", "--recover")
        assert code == 0
        assert "concealed" in told
    np.testing.assert_allclose(*map(wave, ("torch.wav", "onnx.wav")), rtol=0, atol=2 / 32768)


def test_refusals_are_the_same(run, recording, other_checkpoint):
    Path("text.wav").write_text("no audio")
    for argv in (
        ["compress", "text.wav", "b.btn"],
        ["compress", recording, "b.btn", "--stages", "9"],
        ["compress", recording, "b.btn", "--bitrate", "99"],
        ["compress", "none.wav", "b.btn"],
        ["decompress", recording, "b.wav"],
    ):
        said = [run(engine, *argv) for engine in ENGINES]
        assert said[0] == said[1]
        assert said[0][0] > 0


@pytest.mark.parametrize("engine", ENGINES)
def test_several_files_at_once(run, recording, engine):
    for name in "bcd":
        sf.write(f"{name}.wav", make_sound(4_000, seed=ord(name)).T, 16_000)
    names = ["b.wav", "c.wav", "d.wav"]
    Path("out").mkdir()
    assert run(engine, "compress", *names, "--output-dir", "out", "--jobs", "2", "-q") == (0, "")
    for name in names:
        run(engine, "compress", name, "alone.btn", "-q", "-f")
        together = Path("out", name).with_suffix(".btn").read_bytes()
        assert together == Path("alone.btn").read_bytes()
