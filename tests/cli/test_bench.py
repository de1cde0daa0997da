"""`bittern bench`: it prints what it measured."""

import json

import pytest

from bittern.cli import main
from bittern.evaluation import benchmark


def test_the_table_and_its_numbers(tiny_checkpoint, capsys):
    argv = ["bench", "--model", str(tiny_checkpoint), "--device", "cpu", "--seconds", "0.2"]
    assert main([*argv, "--stages", "3"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        "tiny-test on cpu, 3 stages, 0.9 kbit/s, search width 4, one thread\n"
        "latency 40 ms: 20 ms frames, 20 ms look-ahead\nmillions of parameters: "
    )
    assert "\nencode, 20 ms pushes" in out
    assert main([*argv, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["latency_ms"], facts["stages"]) == (40, 8)
    ways = {(speed["engine"], speed["work"], speed["way"]) for speed in facts["speeds"]}
    pushed = {(engine, "decode", "20 ms pushes") for engine in ("torch", "onnx")}
    assert ways >= {*pushed, ("onnx", "encode", "offline"), ("EnCodec 24 kHz", "encode", "offline")}
    assert all(speed["real_time"] > 0 and speed["processor"] > 0 for speed in facts["speeds"])
    assert facts["resident_mb"] >= facts["resident_start_mb"] > 0
    assert main([*argv, "--stages", "9"]) == 1
    assert "got 9 stages; tiny-test has 1 to 8" in capsys.readouterr().err


def test_macs_and_parameters_are_those_of_the_shipped_networks():
    """Counted by hand: 3 taps in and 1 in the middle of each unit, at 50 frames a second."""
    found = benchmark.run("speech-16khz", "cpu", "torch", seconds=0.1, stages=12)
    wide, mdct = 384, 320 * 640
    encoder = 332 * wide * 3 + 5 * 4 * wide**2 + wide * 140 * 3
    decoder = 141 * wide * 3 + 9 * 4 * wide**2 + wide * 320 * 3
    rumble = 320 * 320 + 320 * 12
    assert found.mega_macs["decoder"] == pytest.approx(50 * (decoder + mdct) / 1e6, rel=0.02)
    assert found.mega_macs["encoder"] == pytest.approx(
        50 * (encoder + mdct + rumble) / 1e6, rel=0.02
    )
    biases = 384 + 5 * 2 * 384 + 140
    assert found.parameters["encoder"] == encoder + biases
    assert found.parameters["codebooks"] == 12 * 1024 * 140
