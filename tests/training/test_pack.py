"""A pack trains like the folder it was made of, travels whole or is refused, and is read by range."""

import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from bittern.audio.ranges import FileRange
from bittern.corpus.sources import find_recordings
from bittern.errors import AudioError, AudioWarning, CodecError
from bittern.metrics import si_sdr
from bittern.training import pack
from bittern.training.augment import Augmentation, AugmentConfig
from bittern.training.corpus import Corpus, open_corpus
from bittern.training.data import Batches, DataConfig

RATE = 16_000


@pytest.fixture(scope="module")
def folder(speech_folder, tmp_path_factory) -> Path:
    """The speech, with files of other rates, channels, depths and formats, and a bad one."""
    root = tmp_path_factory.mktemp("mixed")
    for path in speech_folder.rglob("*.wav"):
        (root / path.parent.name).mkdir(exist_ok=True)
        (root / path.parent.name / path.name).write_bytes(path.read_bytes())
    wav, rate = soundfile.read(speech_folder / "first" / "part0.wav")
    (root / "third" / "deep").mkdir(parents=True)
    soundfile.write(root / "third" / "deep" / "stereo.flac", np.stack([wav, -wav / 2], 1), 44_100)
    soundfile.write(root / "third" / "coarse.wav", wav, 8000, subtype="PCM_U8")
    soundfile.write(root / "third" / "lossy.mp3", wav, rate)
    soundfile.write(root / "alone.wav", wav, rate, subtype="FLOAT")
    (root / "third" / "text.wav").write_text("no audio")
    return root


def run_pack(folder: Path, target: Path, *more: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "bittern", "pack", str(folder), str(target), *more],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=120,
    )


@pytest.fixture(scope="module")
def packed(folder, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("packs") / "flac"
    done = run_pack(folder, target, "--shard-mb", "0.1")
    assert done.returncode == 0, done.stderr
    assert "skipped third/text.wav: unreadable" in done.stderr
    assert "9 files" in done.stdout
    return target


def opened(root: Path, tmp_path: Path) -> Corpus:
    return open_corpus(root, RATE, cache=tmp_path / "cache", minimum_seconds=0.3, quiet=True)


def test_training_on_a_flac_pack_hears_exactly_what_the_folder_gives(folder, packed, tmp_path):
    config = DataConfig(root="x", segment_seconds=0.5, weights={"third": 2.0})
    one, other = opened(folder, tmp_path), opened(packed, tmp_path)
    assert [c.path for c in one.clips] == [c.path for c in other.clips]
    assert {c.source for c in other.clips} == {"", "first", "second", "third"}
    sides = [[[c.path for c in side] for side in corpus.split(0.3)] for corpus in (one, other)]
    assert sides[0] == sides[1]
    batches = [
        Batches(corpus, corpus.split(0.3)[0], config, seed=5, items=range(16))
        for corpus in (one, other)
    ]
    for step in range(10):
        assert torch.equal(batches[0][step], batches[1][step])


def test_a_pack_is_tars_of_the_files_that_they_are(packed):
    tars = sorted(packed.iterdir())
    count = len(tars)
    assert count > 2
    assert [tar.name for tar in tars] == [f"flac-{n:05d}-of-{count:05d}.tar" for n in range(count)]
    names = []
    for path in tars:
        with tarfile.open(path) as tar:
            for member in tar:
                data = tar.extractfile(member)
                assert soundfile.info(io.BytesIO(data.read())).samplerate == RATE
                names.append(member.name)
    assert "third/deep/stereo.flac" in names
    assert "third/lossy.mp3.flac" in names


def test_only_the_range_of_a_file_is_read(packed):
    entry = find_recordings(packed)[3]
    shard = Path(entry.path)
    read = FileRange(shard.open("rb"), entry.offset, entry.size, owned=True)
    whole = shard.read_bytes()[entry.offset :][: entry.size]
    assert read.readall() == whole
    assert read.read(10) == b""
    assert read.seek(-5, os.SEEK_END) == entry.size - 5
    assert read.read(100) == whole[-5:]
    counted = []
    read.readinto = lambda buffer, real=read.readinto: counted.append(len(buffer)) or real(buffer)
    read.seek(0)
    with soundfile.SoundFile(read) as file:
        file.seek(8000)
        np.testing.assert_array_equal(
            file.read(100), soundfile.read(io.BytesIO(whole))[0][8000:8100]
        )
    read.close()


@pytest.mark.parametrize("kind", ["folder", "pack"])
def test_crops_read_from_files_are_those_of_a_decoded_copy(kind, folder, packed, tmp_path):
    root = {"folder": folder, "pack": packed}[kind]
    copied = opened(root, tmp_path)
    lying = open_corpus(
        root, RATE, cache=tmp_path / "cache", minimum_seconds=0.3, copy=False, quiet=True
    )
    assert lying.pcm is None
    if kind == "folder":
        (left,) = (s for s in lying.skipped if s.path == "third/lossy.mp3")
        assert "not read in parts; use data.copy=true" in left.reason
    paths = [clip.path for clip in lying.clips if "third" not in clip.path or kind == "pack"]
    assert len(paths) >= 6
    config = DataConfig(root="x", segment_seconds=0.5, copy=False)
    batches = [
        Batches(
            corpus,
            [clip for clip in corpus.clips if clip.path in paths],
            config,
            seed=5,
            items=range(16),
            augmentation=Augmentation(AugmentConfig(speed=0.5), RATE),
        )
        for corpus in (copied, lying)
    ]
    for step in range(10):
        assert torch.equal(batches[0][step], batches[1][step])
    (place,) = set((tmp_path / "cache").iterdir()) - {Path(copied.pcm.filename).parent}
    assert sum(path.stat().st_size for path in place.iterdir()) < 10_000  # lengths alone
    again = open_corpus(root, RATE, cache=tmp_path / "cache", copy=False, quiet=True)
    assert [c.samples for c in again.clips] == [c.samples for c in lying.clips]


def test_several_processes_scan_as_one_does(folder, tmp_path):
    many = tmp_path / "many"
    for number in range(6):
        shutil.copytree(folder, many / str(number))
    one = open_corpus(many, RATE, cache=tmp_path / "one", quiet=True)
    two = open_corpus(many, RATE, cache=tmp_path / "two", workers=2, quiet=True)
    assert (one.clips, one.skipped) == (two.clips, two.skipped)
    np.testing.assert_array_equal(one.pcm, two.pcm)


def test_an_opus_pack_is_smaller_and_close(folder, packed, tmp_path):
    target = tmp_path / "opus"
    assert run_pack(folder, target, "--coding", "opus").returncode == 0
    sizes = [sum(p.stat().st_size for p in root.glob("*.tar")) for root in (packed, target)]
    assert sizes[1] < sizes[0] / 3
    one, other = opened(folder, tmp_path), opened(target, tmp_path)
    for a, b in zip(one.clips, other.clips, strict=True):
        assert (a.path, a.samples) == (b.path, b.samples)
        wavs = [
            torch.from_numpy(c.read(clip, 0, clip.samples))[None, None]
            for c, clip in ((one, a), (other, b))
        ]
        assert float(si_sdr(wavs[1], wavs[0])) > 10, a.path


def test_a_pack_is_made_whole_or_not_at_all(tmp_path):
    def clips():
        yield "a.wav", np.ones(1000, np.int16)
        raise OSError(28, "No space left on device")

    with pytest.raises(CodecError, match="cannot be written"):
        pack.write_pack(tmp_path / "pack", clips(), RATE, pack.Coding.FLAC)
    assert list(tmp_path.iterdir()) == []


def test_a_pack_that_did_not_arrive_whole_is_refused(packed, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in packed.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    shard = copy / sorted(path.name for path in packed.iterdir())[1]
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AudioError, match="copy it anew"):
        opened(copy, tmp_path)
    shard.unlink()
    with pytest.warns(AudioWarning, match="files are there"):
        opened(copy, tmp_path)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--coding", "opus", "--sample-rate", "22050"], "Opus has no sample rate of 22050 Hz"),
        (["--shard-mb", "0"], "argument --shard-mb: '0' is not a number above 0"),
    ],
)
def test_what_cannot_be_packed_is_told_in_one_line(folder, tmp_path, more, message):
    done = run_pack(folder, tmp_path / "new", *more)
    assert done.returncode > 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("bittern")]
    assert len(errors) == 1
    assert message in errors[0]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_way_is_left_alone(folder, packed):
    before = sorted(packed.iterdir())
    done = run_pack(folder, packed)
    assert done.returncode > 0
    assert "exists already" in done.stderr
    assert sorted(packed.iterdir()) == before
