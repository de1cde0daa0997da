"""States, packs and run folders that are broken, foreign or in use: one line, nothing executed."""

import io
import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from synthetic import make_sound

from bittern.errors import AudioError, ModelError
from bittern.evaluation import clips
from bittern.training.pack import INDEX, Coding, read_index, write_pack
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


INDEXES: dict[str, Callable[[list[dict]], object]] = {
    "a shard outside": lambda rows: rows[1].update(shard="../x.wav"),
    "an absolute shard": lambda rows: rows[1].update(shard="/etc/passwd"),
    "a shard that is a number": lambda rows: rows[1].update(shard=3),
    "a path that is none": lambda rows: rows[1].update(path=None),
    "an offset below 0": lambda rows: rows[1].update(offset=-1),
    "an offset of text": lambda rows: rows[1].update(offset="0"),
    "a size that is true": lambda rows: rows[1].update(size=True),
    "a size of a fraction": lambda rows: rows[1].update(size=1.5),
    "a size beyond": lambda rows: rows[1].update(size=10**12),
    "no digest": lambda rows: rows[1].pop("digest"),
    "a digest of nothing": lambda rows: rows[1].update(digest="x"),
    "another coding": lambda rows: rows[0].update(coding="mp3"),
    "a rate of text": lambda rows: rows[0].update(sample_rate="16000"),
    "a rate of 1 Hz": lambda rows: rows[0].update(sample_rate=1),
    "another number of files": lambda rows: rows[0].update(files=9),
    "a list": lambda rows: rows.insert(1, []),
}


@pytest.fixture(scope="module")
def pack(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pack") / "pack"
    steps = np.rint(make_sound(8_000)[0] * 32767).astype(np.int16)
    write_pack(folder, [("a.wav", steps)], 16_000, Coding.FLAC)
    return folder


@pytest.mark.parametrize("change", INDEXES.values(), ids=INDEXES)
def test_an_index_that_cannot_be_is_one_line(tmp_path, pack, change):
    for path in pack.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    rows = [json.loads(line) for line in (pack / INDEX).read_text().splitlines()]
    change(rows)
    (tmp_path / INDEX).write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(AudioError) as caught:
        read_index(tmp_path)
    assert "\n" not in str(caught.value)
    assert len(read_index(pack).entries) == 1


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
