"""`bittern simulate-loss` as people type it."""

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from bittern.cli import main

SPEECH = Path(__file__).parents[2] / "examples" / "speech.flac"


def test_what_is_lost_is_said_and_scored(
    tmp_path, monkeypatch, capsys, tiny_checkpoint, tiny_codec
):
    monkeypatch.chdir(tmp_path)
    samples, _ = sf.read(SPEECH, frames=64_000, dtype="float32")
    sf.write("a.wav", samples, 16_000)
    tiny_codec.compress_file("a.wav", "a.btn", chunk_seconds=0.5)
    model = ["--model", str(tiny_checkpoint), "--device", "cpu"]
    argv = ["simulate-loss", "a.btn", "b.wav", "--rate", "0.2", "--mean-burst", "2", *model]
    assert main([*argv, "--score", "a.wav"]) == 0
    out, err = capsys.readouterr()
    assert err.startswith("a.btn -> b.wav: lost ")
    assert err.endswith(" of 201 frames\n")
    rows = [line.split() for line in out.splitlines()]
    assert rows[0] == ["PESQ-WB", "ESTOI"]
    assert [row[0] for row in rows[1:]] == ["no", "concealed", "silent"]
    assert float(rows[1][-1]) > float(rows[2][-1])
    assert sf.info("b.wav").frames == 64_000
    assert main([*argv, "-f", "-q", "--silence", "--chunks"]) == 0
    lost = sf.read("b.wav")[0][: 2 * 10_240]
    assert np.isfinite(lost).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rate", "0.8"], "bittern: mean burst is 1.5; at a loss rate of 0.8 give 4 or more\n"),
        (["--rate", "1"], "bittern simulate-loss: argument --rate: '1' is not a share"),
    ],
)
def test_impossible_losses_are_one_line(tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    try:
        code = main(["simulate-loss", "a.btn", "b.wav", *options])
    except SystemExit as stop:
        code = stop.code
    err = capsys.readouterr().err
    assert code == 1
    assert err.startswith(message)
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())
