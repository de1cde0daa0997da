import csv
import hashlib
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from debian_speech import build, packages
from debian_speech.pieces import (
    Rejected,
    find_duplicates,
    fingerprint,
    speech_pieces,
)

RATE = 16_000
SPEECH, _ = soundfile.read(Path(__file__).parents[2] / "examples" / "speech.flac", dtype="float32")
STAMPS = "usr/share/tuxpaint/stamps/animals"


def rows(out):
    with (out / "manifest.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def work(tmp_path):
    """A work folder with a tiny package of real .deb format, as if downloaded before."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg-deb is not installed")
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN" / "control").write_text(
        "Package: tuxpaint-stamps-default\nVersion: 1:2.0-1\nArchitecture: all\n"
        "Maintainer: A Tester <a@example.org>\nDescription: stamps\n"
    )
    folder = tree / STAMPS
    folder.mkdir(parents=True)
    for place, name in enumerate(
        ("cat_desc_fr", "cow_desc_fr", "cat_desc_el", "cat", "eel_desc_ca")
    ):
        part = SPEECH[place * 24_000 : place * 24_000 + 24_000]
        soundfile.write(folder / f"{name}.ogg", part, RATE)
    soundfile.write(folder / "copy_desc_fr.ogg", 0.5 * SPEECH[:24_000], RATE)
    debs = tmp_path / "work" / "debs"
    debs.mkdir(parents=True)
    deb = debs / "tuxpaint-stamps-default_1%3a2.0-1_all.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "--build", str(tree), str(deb)],
        check=True,
        capture_output=True,
    )
    return tmp_path / "work"


def test_package_and_folder_become_a_corpus_with_manifest_and_sources(work, tmp_path, capsys):
    own = tmp_path / "own" / "me"
    own.mkdir(parents=True)
    soundfile.write(own / "talk.wav", SPEECH[-48_000:], RATE)
    arguments = ["--work", str(work), "--packages", "tuxpaint-stamps-default"]
    out = tmp_path / "out"
    assert build.main([str(out), str(own.parent), *arguments]) == 0
    told = rows(out)
    assert {row["source"] for row in told} == {"me", "tuxpaint", "tuxpaint-ca"}
    originals = "|".join(row["originals"] for row in told)
    assert "_el" not in originals
    assert "cat.ogg" not in originals
    stamp = next(row for row in told if row["source"] == "tuxpaint")
    assert (stamp["version"], stamp["language"], stamp["licence"]) == ("1:2.0-1", "fr", "GPL-2+")
    for row in told:
        path = out / row["path"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == row["sha256"]
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype) == (RATE, 1, "PCM_16")
    text = capsys.readouterr().out
    assert "near-duplicate" in text
    assert "data.weights={me: " in text
    assert text == (out / "SOURCES.md").read_text(encoding="utf-8")
    assert build.main([str(tmp_path / "again"), str(own.parent), *arguments]) == 0
    assert (tmp_path / "again" / "manifest.csv").read_bytes() == (out / "manifest.csv").read_bytes()


def test_a_package_that_cannot_be_had_is_reported_and_skipped(tmp_path, monkeypatch, capsys):
    own = tmp_path / "own"
    own.mkdir()
    soundfile.write(own / "talk.wav", SPEECH[:48_000], RATE)

    def absent(package, work):
        raise build.CodecError(f"{package}: E: Unable to locate package {package}")

    monkeypatch.setattr(packages, "fetch", absent)
    arguments = [str(tmp_path / "out"), str(own), "--work", str(tmp_path), "--packages", "kajongg"]
    assert build.main(arguments) == 0
    assert "skipped package kajongg: E: Unable" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--packages", "vim"], "'vim' is not known"),
        (["nowhere", "--packages", "none"], "nowhere is no folder"),
        (["--packages", "none"], "no speech in 0 audio files"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, message, tmp_path, capsys):
    command = [str(tmp_path / "out"), *arguments, "--work", str(tmp_path / "work")]
    assert build.main(command) > 0
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in told
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_files_is_not_replaced(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years of work")
    command = [str(tmp_path), "--packages", "none", "--work", str(tmp_path / "work")]
    assert build.main(command) == 1
    assert "holds other files" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").exists()


def test_silence_is_trimmed_pauses_shortened_and_peaks_held():
    word = SPEECH[8_000:24_000]
    wav = np.concatenate([np.zeros(RATE), word, np.zeros(3 * RATE), word, np.zeros(RATE)])
    (piece,) = speech_pieces(np.float32(1.2 / np.abs(word).max()) * wav.astype(np.float32))
    assert isinstance(piece, np.ndarray)
    assert 1.6 * RATE < len(piece) < 2.7 * RATE
    assert np.abs(piece).max() <= 10 ** (-1 / 20) + 1e-6


def test_long_speech_is_split_and_nothing_is_lost():
    pieces = [p for p in speech_pieces(np.tile(SPEECH, 3)) if isinstance(p, np.ndarray)]
    assert len(pieces) > 2
    assert all(len(piece) <= 12 * RATE for piece in pieces)


@pytest.mark.parametrize("kind", ["noise", "tone", "silence", "click"])
def test_what_is_not_speech_is_dropped(kind):
    time = np.arange(2 * RATE) / RATE
    click = np.zeros(2 * RATE)
    click[RATE] = 0.9
    wav = {
        "noise": 0.1 * np.random.default_rng(0).standard_normal(2 * RATE),
        "tone": 0.3 * np.sin(2 * np.pi * 440 * time),
        "silence": np.zeros(2 * RATE),
        "click": click,
    }[kind]
    assert all(isinstance(piece, Rejected) for piece in speech_pieces(wav.astype(np.float32)))


def test_a_fingerprint_knows_a_recording_again_and_no_other():
    rng = np.random.default_rng(0)
    one, other = SPEECH[:32_000], SPEECH[40_000:72_000]
    worn = (0.4 * one[100:] + 0.001 * rng.standard_normal(31_900)).astype(np.float32)
    prints = np.stack([fingerprint(wav) for wav in (one, other, worn)])
    repeats = find_duplicates(prints, np.array([2.0, 2.0, 1.99]))
    assert repeats.tolist() == [False, False, True]
