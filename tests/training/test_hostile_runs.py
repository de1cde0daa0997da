"""States and run folders that are broken, foreign or in use: one line, nothing executed."""

import io
import pickle
import subprocess
import sys
import zipfile

import pytest
import soundfile as sf
import torch
from synthetic import make_sound

from bittern.errors import ModelError
from bittern.evaluation import clips
from bittern.training.state import hold, load_inheritance, load_state


class Evil:
    def __reduce__(self):
        return (print, ("EXECUTED",))


def saved(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def bomb() -> bytes:
    """A megabyte that unpacks to a gigabyte."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as parts:
        parts.writestr("archive/data.pkl", b"\0" * (1 << 26))
    return file.getvalue()


STATES = {
    "empty": b"",
    "cut": saved({"a": torch.zeros(99)})[:500],
    "a tensor": saved(torch.zeros(3)),
    "a number": saved(3),
    "a list": saved([1, 2]),
    "a pickle": pickle.dumps(Evil()),
    "code in a state": saved({"a": Evil()}),
    "text": b"hello world",
    "zeros": bytes(1_000),
    "a bomb": bomb(),
    "another zip": b"PK\5\6" + bytes(18),
}


@pytest.mark.parametrize("data", STATES.values(), ids=STATES)
@pytest.mark.parametrize(
    ("name", "load"), [("state.pt", load_state), ("training.pt", load_inheritance)]
)
def test_what_is_no_state_is_one_line_and_not_executed(tmp_path, capfd, data, name, load):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ModelError, match=rf"{name}: cannot be read") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)
    assert "EXECUTED" not in capfd.readouterr().out


@pytest.mark.parametrize("rate", [1, 8, 999, 800_000])
def test_recordings_of_rates_that_nobody_has_are_not_blown_up(tmp_path, rate):
    sf.write(tmp_path / "a.wav", make_sound(32_000)[0], rate)
    found = clips.read("a.wav", tmp_path / "a.wav", 16_000)
    assert isinstance(found, clips.Rejected)
    assert found.reason == f"sample rate {rate} Hz; expected 1000 to 768000"


def test_a_run_folder_is_held_by_one_run_and_given_back(tmp_path):
    code = f"import pathlib, bittern.training.state as s\nwith s.hold(pathlib.Path({str(tmp_path)!r})): "
    with hold(tmp_path):
        done = subprocess.run([sys.executable, "-c", code + "pass"], capture_output=True, text=True)
        assert f"ConfigError: {tmp_path}: another run is in it" in done.stderr.replace(
            "bittern.errors.", ""
        )
    killed = code + "import os; os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", killed], check=False).returncode == -9
    with hold(tmp_path):
        pass
