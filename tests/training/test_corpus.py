"""What a scan keeps, and what it must not: failures of the cache, links, rates, channels that cancel."""

import errno
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from synthetic import make_sound

from bittern.errors import AudioError, ConfigError
from bittern.training import corpus as scanning
from bittern.training.corpus import open_corpus

RATE = 16_000


@pytest.fixture
def folder(tmp_path) -> Path:
    for number in range(3):
        place = tmp_path / "speech" / f"s{number}.wav"
        place.parent.mkdir(exist_ok=True)
        sf.write(place, make_sound(RATE, seed=number)[0], RATE)
    return tmp_path / "speech"


def scan(folder: Path, cache: Path | None = None):
    return open_corpus(folder, RATE, cache=cache or folder.parent / "cache", quiet=True)


def test_a_full_disk_under_the_cache_is_told_and_not_remembered(folder):
    program = (
        "import resource, sys, signal; from bittern.training.corpus import open_corpus\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), -1))\n"
        f"open_corpus({str(folder)!r}, {RATE}, cache={str(folder.parent / 'cache')!r}, quiet=True)"
    )
    for room in (100, 40_000, 90_000):  # bytes: for no file, for one, for two
        done = subprocess.run(
            [sys.executable, "-c", program, str(room)], capture_output=True, text=True
        )
        assert done.returncode, room
        last = done.stderr.strip().splitlines()[-1]
        assert "ConfigError" in last or "CodecError" in last, last
        assert str(folder.parent / "cache") in last
    corpus = scan(folder)
    assert (len(corpus.clips), corpus.skipped) == (3, [])


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE, errno.EMFILE])
def test_a_file_that_cannot_be_read_this_time_is_tried_again(folder, monkeypatch, number):
    real = Path.open

    def refused(self, *arguments, **more):
        if self.name == "s1.wav":
            raise OSError(number, os.strerror(number))
        return real(self, *arguments, **more)

    monkeypatch.setattr(Path, "open", refused)
    corpus = scan(folder)
    assert [s.path for s in corpus.skipped] == ["s1.wav"]
    assert os.strerror(number) in corpus.skipped[0].reason
    monkeypatch.undo()
    assert len(scan(folder).clips) == 3


def test_whole_numbers_kept_as_floats_are_listed_with_their_range(folder):
    for name, scale in (("i16.wav", 32767), ("i24.wav", 2**23), ("i8.wav", 127)):
        sf.write(folder / name, make_sound(RATE)[0] * scale, RATE, subtype="FLOAT")
    corpus = scan(folder)
    assert len(corpus.clips) == 3
    assert len(corpus.skipped) == 3
    assert all("expected -1 to 1" in skipped.reason for skipped in corpus.skipped)


def test_chains_sizes_of_zero_and_headerless_files_are_as_everywhere(folder):
    sf.write(folder / "a.ogg", make_sound(RATE)[0], RATE)
    (folder / "a.ogg").write_bytes(2 * (folder / "a.ogg").read_bytes())
    data = bytearray((folder / "s0.wav").read_bytes())
    data[40:44] = bytes(4)
    (folder / "zero.wav").write_bytes(data)
    (folder / "take.raw").write_bytes(bytes(32_000))
    lengths = {clip.path: clip.samples for clip in scan(folder).clips}
    assert lengths == {"a.ogg": 2 * RATE, "zero.wav": RATE, **{f"s{n}.wav": RATE for n in range(3)}}


def test_linked_folders_are_scanned_and_channels_that_cancel_are_called_so(folder, tmp_path):
    sound = make_sound(RATE)[0]
    (tmp_path / "linking").mkdir()
    (tmp_path / "linking" / "there").symlink_to(folder)
    sf.write(tmp_path / "linking" / "anti.wav", np.stack([sound, -sound], 1), RATE)
    corpus = scan(tmp_path / "linking")
    assert [clip.path for clip in corpus.clips] == [f"there/s{n}.wav" for n in range(3)]
    assert "cancel each other" in corpus.skipped[0].reason


@pytest.mark.parametrize("rate", [1, 999])
def test_rates_that_no_recording_has_are_listed(folder, rate):
    sf.write(folder / "odd.wav", make_sound(1000)[0], rate)
    corpus = scan(folder)
    assert f"sample rate {rate} Hz; expected 1000 to 768000" in corpus.skipped[0].reason


def _cached(folder: Path) -> int:
    """Bytes of decoded audio, after another scan."""
    return Path(scan(folder).pcm.filename).stat().st_size


def test_the_cache_does_not_grow_with_times_that_change(folder):
    size = _cached(folder)
    for number in range(1, 6):
        for path in folder.iterdir():
            os.utime(path, (number, number))
        corpus = scan(folder)
        assert _cached(folder) <= 2 * size + 2**16
    for clip in corpus.clips:
        expected, _ = sf.read(folder / clip.path, dtype="int16")
        np.testing.assert_array_equal(corpus.pcm[clip.offset :][: clip.samples], expected)


@pytest.mark.parametrize("damage", [lambda d: d[:40], lambda d: b"[]\n" + d, lambda d: b"\xff" + d])
def test_a_damaged_list_is_made_anew(folder, damage):
    scan(folder)
    (manifest,) = (folder.parent / "cache").rglob("manifest.jsonl")
    manifest.write_bytes(damage(manifest.read_bytes()))
    assert len(scan(folder).clips) == 3
    assert len([json.loads(line) for line in manifest.read_text().splitlines()]) == 3


def test_a_cache_that_cannot_be_and_a_folder_without_name_are_one_line(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ConfigError, match=r"decoded audio cannot be kept there \(Not a directory\)"
    ):
        scan(folder, tmp_path / "file")
    with pytest.raises(ConfigError, match="FOLDER is empty"):
        open_corpus("", RATE, cache=tmp_path / "cache", what="FOLDER")
    with pytest.raises(AudioError, match="is not a folder"):
        scan(folder / "none")


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_without_locks_on_the_cache_processes_wait_for_one_of_this_machine(
    folder, tmp_path, monkeypatch, number
):
    taken = []

    def flock(file, how):
        taken.append(Path(file.name))
        if Path(file.name).is_relative_to(tmp_path / "cache"):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(scanning.fcntl, "flock", flock)
    assert len(scan(folder).clips) == 3
    assert [path.parent for path in taken][1:] == [Path(tempfile.gettempdir())]
