import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from bittern.errors import AudioError, ConfigError
from bittern.training import corpus as scanning
from bittern.training.corpus import Corpus
from bittern.training.data import Batches, DataConfig, batches_from, validation_batch

RATE = 16_000


def tone(seconds, rate=RATE, channels=1, frequency=440.0):
    time = np.arange(round(seconds * rate)) / rate
    return 0.3 * np.sin(2 * np.pi * frequency * time)[:, None].repeat(channels, axis=1)


@pytest.fixture
def folder(tmp_path):
    """Good files of several formats, rates and channels, and every kind of bad one."""
    root = tmp_path / "audio"
    (root / "a" / "deep").mkdir(parents=True)
    (root / "b").mkdir()
    soundfile.write(root / "a" / "plain.wav", tone(1.0), RATE)
    soundfile.write(root / "a" / "deep" / "stereo.flac", tone(1.0, 44_100, 2), 44_100)
    soundfile.write(root / "b" / "narrow.ogg", tone(2.0, 8_000), 8_000)
    soundfile.write(root / "b" / "coarse.wav", tone(1.0), RATE, subtype="PCM_U8")
    soundfile.write(root / "top.mp3", tone(1.0), RATE)
    soundfile.write(root / "silent.wav", np.zeros(RATE), RATE)
    soundfile.write(root / "short.wav", tone(0.1), RATE)
    soundfile.write(root / "empty.wav", np.zeros(0), RATE)
    broken = tone(1.0)
    broken[500] = np.nan
    soundfile.write(root / "nan.wav", broken, RATE, subtype="FLOAT")
    (root / "text.wav").write_text("this is no audio")
    (root / "notes.txt").write_text("ignored")
    return root


def open_corpus(settings: DataConfig, rate: int) -> Corpus:
    return scanning.open_corpus(
        settings.root,
        rate,
        cache=settings.cache,
        minimum_seconds=settings.minimum_seconds,
        quiet=True,
    )


def config(root, tmp_path, **more):
    return DataConfig(root=str(root), cache=str(tmp_path / "cache"), **more)


def test_good_files_are_decoded_and_bad_ones_listed_with_their_reasons(folder, tmp_path):
    corpus = open_corpus(config(folder, tmp_path), RATE)
    lengths = {clip.path: clip.samples for clip in corpus.clips}
    assert set(lengths) == {
        "a/plain.wav",
        "a/deep/stereo.flac",
        "b/narrow.ogg",
        "b/coarse.wav",
        "top.mp3",
    }
    assert lengths["a/plain.wav"] == RATE
    assert abs(lengths["a/deep/stereo.flac"] - RATE) <= 1
    assert abs(lengths["b/narrow.ogg"] - 2 * RATE) <= 2
    reasons = {skipped.path: skipped.reason for skipped in corpus.skipped}
    assert "silent" in reasons["silent.wav"]
    assert "0.10 s" in reasons["short.wav"]
    assert "0.00 s" in reasons["empty.wav"]
    assert "is nan, not a number" in reasons["nan.wav"]
    assert "unreadable" in reasons["text.wav"]
    for clip in corpus.clips:  # the tone is still a tone of 440 Hz
        spectrum = np.abs(np.fft.rfft(corpus.read(clip, 0, RATE)))
        assert abs(int(spectrum.argmax()) - 440) <= 1


def test_a_second_scan_decodes_only_what_changed(folder, tmp_path, monkeypatch):
    settings = config(folder, tmp_path)
    first = open_corpus(settings, RATE)
    opened = []
    real = scanning._decode
    monkeypatch.setattr(
        scanning,
        "_decode",
        lambda s, *rest, **more: opened.append(Path(s.path).name) or real(s, *rest, **more),
    )
    second = open_corpus(settings, RATE)
    assert opened == []
    assert second.clips == first.clips
    soundfile.write(folder / "a" / "plain.wav", tone(1.5), RATE)
    (folder / "top.mp3").unlink()
    third = open_corpus(settings, RATE)
    assert opened == ["plain.wav"]
    assert {c.path: c.samples for c in third.clips}["a/plain.wav"] == 24_000
    assert "top.mp3" not in {c.path for c in third.clips}
    np.testing.assert_array_equal(
        third.read(third.clips[0], 0, 1000), second.read(second.clips[0], 0, 1000)
    )


def test_a_folder_without_usable_audio_is_one_clear_error(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(AudioError, match="no usable audio"):
        open_corpus(config(tmp_path / "empty", tmp_path), RATE)
    with pytest.raises(AudioError, match="is not a folder"):
        open_corpus(config(tmp_path / "nowhere", tmp_path), RATE)
    soundfile.write(tmp_path / "empty" / "silent.wav", np.zeros(RATE), RATE)
    with pytest.raises(AudioError, match=r"silent\.wav: silent"):
        open_corpus(config(tmp_path / "empty", tmp_path), RATE)


def test_a_batch_depends_on_seed_step_and_place_alone(folder, tmp_path):
    settings = config(folder, tmp_path, segment_seconds=0.4)
    corpus = open_corpus(settings, RATE)
    whole = Batches(corpus, corpus.clips, settings, seed=1, items=range(6))
    halves = [
        Batches(corpus, corpus.clips, settings, seed=1, items=range(0, 3)),
        Batches(corpus, corpus.clips, settings, seed=1, items=range(3, 6)),
    ]
    for step in (0, 7, 100_000):
        assert torch.equal(whole[step], torch.cat([half[step] for half in halves]))
        assert whole[step].shape == (6, 1, 6400)
    assert not torch.equal(whole[0], whole[1])
    other = Batches(corpus, corpus.clips, settings, seed=2, items=range(6))
    assert not torch.equal(whole[0], other[0])
    later = list(batches_from(whole, 3, 6, workers=0))
    assert all(torch.equal(a, whole[s]) for a, s in zip(later, (3, 4, 5), strict=True))


def test_sources_are_drawn_by_weight(folder, tmp_path):
    settings = config(folder, tmp_path, weights={"a": 3.0, "b": 1.0, "": 0.0}, gain_db=(0, 0))
    corpus = open_corpus(settings, RATE)
    for clip in corpus.clips:  # mark each source by its own constant level
        corpus_level = {"a": 1000, "b": 2000, "": 3000}[clip.source]
        corpus.__dict__.setdefault("marked", np.array(corpus.pcm))
        corpus.__dict__["marked"][clip.offset : clip.offset + clip.samples] = corpus_level
    corpus.__dict__["pcm"] = corpus.__dict__.pop("marked")
    batches = Batches(corpus, corpus.clips, settings, seed=0, items=range(64))
    seen = torch.cat([batches[step][:, 0, 0] for step in range(20)]) * 32768
    share = float((seen.round() == 1000).float().mean())
    assert abs(share - 0.75) < 0.04
    assert not bool((seen.round() == 3000).any())


def test_an_unknown_source_in_the_weights_is_named(folder, tmp_path):
    settings = config(folder, tmp_path, weights={"c": 1.0})
    corpus = open_corpus(settings, RATE)
    with pytest.raises(ConfigError, match="names 'c'"):
        Batches(corpus, corpus.clips, settings, seed=0, items=range(1))


def test_gain_stays_in_its_range_and_below_clipping(folder, tmp_path):
    settings = config(folder, tmp_path, gain_db=(-6.0, 40.0), segment_seconds=0.2)
    corpus = open_corpus(settings, RATE)
    peaks = Batches(corpus, corpus.clips, settings, seed=0, items=range(200))[0].abs().amax(dim=-1)
    assert float(peaks.max()) <= 0.9901
    assert float(peaks.min()) > 0.3 * 10 ** (-6 / 20) * 0.9
    assert float(peaks.std()) > 0.01


def test_held_out_files_are_apart_and_do_not_move_when_files_are_added(folder, tmp_path):
    settings = config(folder, tmp_path)
    corpus = open_corpus(settings, RATE)
    training, held_out = corpus.split(0.5)
    assert sorted(c.path for c in training + held_out) == sorted(c.path for c in corpus.clips)
    assert not {c.path for c in training} & {c.path for c in held_out}
    soundfile.write(folder / "a" / "another.wav", tone(1.0), RATE)
    more = open_corpus(settings, RATE)
    assert {c.path for c in more.split(0.5)[1]} - {"a/another.wav"} == {c.path for c in held_out}
    clips = validation_batch(corpus, corpus.clips, settings)
    assert {p: c.shape[:2] for p, c in clips.items()} == {c.path: (1, 1) for c in corpus.clips}


def test_the_script_gathers_just_the_files_that_training_leaves_out(
    folder, tmp_path, monkeypatch, capsys
):
    usable = open_corpus(DataConfig(root=str(folder), cache=str(tmp_path / "cache")), RATE)
    _, held_out = usable.split(0.8)
    out = tmp_path / "out"
    script = str(Path(__file__).parents[2] / "tools" / "held_out.py")
    monkeypatch.setattr(sys, "argv", [script, str(folder), str(out), "--share", "0.8"])
    runpy.run_path(script, run_name="__main__")
    gathered = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    known = {clip.path for clip in usable.clips}
    assert gathered & known == {clip.path for clip in held_out} != set()
    with pytest.raises(SystemExit, match="is there already"):
        runpy.run_path(script, run_name="__main__")
