"""Training as clusters and shells run it: folders of any name, signals, file systems, one-line errors."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bittern.errors import CodecError, ConfigError, ModelError
from bittern.training import state
from bittern.training.run import as_typed, compose
from bittern.training.signals import StopSignals
from bittern.training.state import NEWEST, PREVIOUS, load_state, save_state
from bittern.training.trainer import Trainer


@pytest.mark.parametrize(
    "folder",
    [
        *("/data/Müller", "/data/lang=de", "/data/talks (2024)", "/data/中文", "~/speech, raw"),
        *("/data/it's [here] {now}", "C:\\speech\\one", 'a "b"', "null and void", "/x/#1 $5 %20"),
    ],
)
def test_a_folder_is_taken_as_it_is_typed(folder):
    for key in ("data.root", "data.cache", "run"):
        given = as_typed(["model=tiny", "data.root=r", f"{key}={folder}"])
        config = compose([given[0], *([given[1]] if key != "data.root" else []), given[2]])
        assert {"data.root": config.data.root, "data.cache": config.data.cache}.get(
            key, config.run
        ) == folder


def test_settings_that_are_no_folders_are_hydras():
    for argument in ("init=null", "steps=5", "data.root='quoted'", "model=tiny", "run", "+run=x"):
        assert as_typed([argument]) == [argument]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.workers=-1", "data.workers is -1; give 0 or more"),
        ("data.root=''", "data.root is empty"),
        ("accelerator=cuda", "accelerator=cuda devices=1 precision=32-true: "),
        ("accelerator=abacus", "accelerator=abacus devices=1"),
    ],
)
def test_what_cannot_be_is_one_line(settings, override, message):
    if "cuda" in override and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError) as caught:
        Trainer(settings(override))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_run_folder_of_other_settings_is_one_line(settings):
    Trainer(settings("steps=2", "validate_every=100")).fit()
    for override in ("model.quantizer.stages=4", "model.latent_dim=32", "model.hop_length=160"):
        with pytest.raises(ModelError, match="holds a run of other settings") as caught:
            Trainer(settings(override))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.3, 0.0])
def test_best_is_always_there(settings, share, capsys):
    config = settings(f"data.validation_share={share}", "steps=3", "codebook.start_step=2")
    Trainer(config).fit()
    best, last = (Path(config.run) / kind / "model.safetensors" for kind in ("best", "last"))
    assert best.exists()
    if not share:
        assert best.read_bytes() == last.read_bytes()
        assert "best/ is the same as last/" in "".join(capsys.readouterr())


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EPERM, errno.ENOSYS])
def test_without_hard_links_both_states_are_kept(tmp_path, monkeypatch, number):
    def refused(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(state.os, "link", refused)
    for step in (1, 2, 3):
        save_state(tmp_path, {"step": step})
    assert load_state(tmp_path) == ({"step": 3}, None)
    assert torch.load(tmp_path / PREVIOUS) == {"step": 2}
    assert {path.name for path in tmp_path.iterdir()} == {NEWEST, PREVIOUS}


def test_a_disk_that_fills_while_a_state_is_saved_is_told(settings, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    trainer = Trainer(settings("steps=1"))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CodecError, match="cannot be written \\(No space left on device\\)"):
        trainer.fit()


def test_a_second_signal_ends_at_once():
    with StopSignals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_state_of_the_step_it_came_in(speech_folder, tmp_path, number):
    command = [sys.executable, "-m", "bittern", "train", "model=tiny", f"data.root={speech_folder}"]
    overrides = "data.batch_size=4 data.segment_seconds=0.5 accelerator=cpu threads=1 steps=100000 "
    overrides += (
        "codebook.kmeans_frames=300 log_every=1 save_every=90000 validate_every=90000 run=r"
    )
    process = subprocess.Popen(
        [*command, *overrides.split(), f"data.cache={tmp_path / 'cache'}"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    curves = tmp_path / "r" / "curves.csv"
    try:
        deadline = time.monotonic() + 200
        while not curves.exists() or curves.read_text().count("loss/total") < 3:
            assert time.monotonic() < deadline
            assert process.poll() is None, process.stdout.read() if process.stdout else ""
            time.sleep(0.1)
        process.send_signal(number)
        said, _ = process.communicate(timeout=100)
    finally:
        process.kill()
    assert process.returncode == 128 + number
    assert "Traceback" not in said
    found = load_state(tmp_path / "r")
    assert found is not None
    last = max(int(line.split(",")[0]) for line in curves.read_text().splitlines()[1:])
    assert found[0]["step"] == last


@pytest.mark.parametrize(
    "name",
    [
        *(
            "Müller",
            "lang=de",
            "talks (2024)",
            "a,b",
            "~/x",
            "two words",
            "it's",
            "a\\",
            "\\'",
            "${x}",
        ),
        *("#1", "a:b", "[x]", "{y}", "%", '"quoted"', "*", "null", "3", "-x", "\\\\'", "c:\\audio"),
    ],
)
def test_a_folder_by_name_is_taken_as_it_is_typed(name):
    for argv in (["--data", name], [f"--data={name}"]):
        assert compose(as_typed(argv)).data.root == name


def test_a_folder_that_is_missing_is_one_line():
    with pytest.raises(ConfigError, match="--data needs a folder"):
        as_typed(["steps=3", "--data"])
