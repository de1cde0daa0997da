"""Recordings as recorders, phones, radios and other programs leave them: whole, or one clear line."""

import os
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from synthetic import make_sound

from bittern.audio import streams as audio
from bittern.audio.names import find_audio, is_audio_head, is_audio_name, may_hold_audio
from bittern.errors import AudioError, AudioWarning, UnreachableError

RATE = 16_000
SOUND = make_sound(RATE)
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")


def ffmpeg(*arguments: str | Path, stdin: bytes | None = None) -> bytes:
    command = ["ffmpeg", "-v", "error", "-y", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, check=True).stdout


def chunk(kind: bytes, body: bytes, size: int | None = None) -> bytes:
    return kind + struct.pack("<I", len(body) if size is None else size) + body


def wav(*chunks: bytes, bits: int = 16, head: bytes = b"RIFF", size: int | None = None) -> bytes:
    form = struct.pack("<HHIIHH", 1, 1, RATE, RATE * bits // 8, bits // 8, bits)
    body = b"WAVE" + b"".join(chunks[:-1]) + chunk(b"fmt ", form) + chunks[-1]
    return head + struct.pack("<I", len(body) if size is None else size) + body


def steps(sound: np.ndarray = SOUND) -> bytes:
    return np.rint(sound[0] * 32768).astype("<i2").tobytes()


# samples out of range


@pytest.mark.parametrize("scale", [32767, 128, 2**23, 2**31])
@pytest.mark.parametrize("suffix", [".wav", ".aiff", ".caf"])
def test_whole_numbers_kept_as_floats_are_one_line_that_names_the_range(tmp_path, scale, suffix):
    path = tmp_path / f"a{suffix}"
    sf.write(path, SOUND[0] * scale, RATE, subtype="FLOAT")
    with pytest.raises(AudioError) as caught:
        audio.read(path)
    peak = np.abs(SOUND[0].astype(np.float32) * scale).max()
    assert f"{path}: samples reach {peak:.6g}; expected -1 to 1" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_merely_loud_is_taken(tmp_path):
    loud = SOUND[0] * (8 / np.abs(SOUND).max())  # 18 dB above full scale
    sf.write(tmp_path / "a.wav", loud, RATE, subtype="FLOAT")
    np.testing.assert_array_equal(audio.read(tmp_path / "a.wav")[0][0], loud.astype(np.float32))


# WAV whose sizes are wrong


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x80000000])
@pytest.mark.parametrize("riff", [0, 36, 0xFFFFFFFF, None])
def test_a_wav_whose_size_was_never_written_is_read_to_its_end(tmp_path, size, riff):
    data = wav(chunk(b"data", steps(), size), size=riff)
    (tmp_path / "a.wav").write_bytes(data)
    got, rate = audio.read(tmp_path / "a.wav")
    assert rate == RATE
    np.testing.assert_array_equal(got[0], np.frombuffer(steps(), "<i2") / 32768)
    with subprocess.Popen(["cat", tmp_path / "a.wav"], stdout=subprocess.PIPE) as cat:
        assert cat.stdout
        with audio.pipe_stream(cat.stdout, "pipe") as stream:
            np.testing.assert_array_equal(audio.gather(stream.blocks, 1), got)


@pytest.mark.parametrize("bits", [8, 24, 32])
def test_so_is_one_of_other_widths(tmp_path, bits):
    whole = np.arange(1000, dtype="<i4")
    data = whole.view("u1").reshape(-1, 4)[:, : bits // 8].tobytes()
    (tmp_path / "a.wav").write_bytes(wav(chunk(b"data", data, 0), bits=bits, size=0))
    assert audio.read(tmp_path / "a.wav")[0].shape == (1, 1000)


@pytest.mark.parametrize("kind", [b"LIST", b"id3 ", b"bext", b"fact"])
def test_an_empty_wav_with_a_chunk_after_it_is_empty(tmp_path, kind):
    data = wav(chunk(b"data", b"") + chunk(kind, b"note " * 80))
    (tmp_path / "a.wav").write_bytes(data)
    assert audio.read(tmp_path / "a.wav")[0].shape == (1, 0)
    with subprocess.Popen(["cat", tmp_path / "a.wav"], stdout=subprocess.PIPE) as cat:
        assert cat.stdout
        with audio.pipe_stream(cat.stdout, "pipe") as stream:
            assert audio.gather(stream.blocks, 1).shape == (1, 0)


@pytest.mark.parametrize("kept", [44, 45, 10_044, 20_044])
def test_a_wav_that_is_cut_short_says_so(tmp_path, kept):
    (tmp_path / "a.wav").write_bytes(wav(chunk(b"data", steps()))[:kept])
    with pytest.warns(AudioWarning, match=r"a\.wav: ends after 0\.\d\d s of the 1\.00 s that its"):
        got, _ = audio.read(tmp_path / "a.wav")
    assert got.shape == (1, (kept - 44) // 2)


@pytest.mark.parametrize("head", [b"RF64", b"BW64"])
def test_wavs_of_64_bits_are_read(tmp_path, head):
    sizes = struct.pack("<QQQI", 0, len(steps()), RATE, 0)
    data = wav(
        chunk(b"ds64", sizes),
        chunk(b"data", steps(), 0xFFFFFFFF) + chunk(b"LIST", b"abcd"),
        head=head,
        size=0xFFFFFFFF,
    )
    (tmp_path / "a.wav").write_bytes(data)
    got, _ = audio.read(tmp_path / "a.wav")
    np.testing.assert_array_equal(got[0], np.frombuffer(steps(), "<i2") / 32768)


def test_megabytes_of_tags_before_the_samples_are_passed_over_on_a_pipe(tmp_path):
    data = wav(chunk(b"id3 ", bytes(1_500_001) + b"\0"), chunk(b"data", steps()))
    (tmp_path / "a.wav").write_bytes(data)
    with subprocess.Popen(["cat", tmp_path / "a.wav"], stdout=subprocess.PIPE) as cat:
        assert cat.stdout
        with audio.pipe_stream(cat.stdout, "pipe") as stream:
            assert audio.gather(stream.blocks, 1).shape == (1, RATE)


# chains


@pytest.mark.parametrize(
    ("subtype", "lengths"),
    [("VORBIS", (1, 1)), ("VORBIS", (1, 0.5, 2)), ("OPUS", (1, 2)), ("VORBIS", (0.1,) * 9)],
)
def test_all_links_of_an_ogg_chain_are_read(tmp_path, subtype, lengths):
    parts, whole = [], []
    for number, seconds in enumerate(lengths):
        path = tmp_path / f"{number}.ogg"
        sound = make_sound(int(seconds * RATE))[0] / (number + 1)
        sf.write(path, sound, RATE, format="OGG", subtype=subtype)
        parts.append(path.read_bytes())
        whole.append(sf.read(path, dtype="float32")[0])
    (tmp_path / "chain.ogg").write_bytes(b"".join(parts))
    np.testing.assert_array_equal(audio.read(tmp_path / "chain.ogg")[0][0], np.concatenate(whole))


@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (RATE, 2)])
def test_a_chain_of_unlike_links_is_one_line(tmp_path, rate, channels):
    sf.write(tmp_path / "a.ogg", SOUND[0], RATE)
    sf.write(tmp_path / "b.ogg", make_sound(rate, channels=channels).T, rate)
    data = (tmp_path / "a.ogg").read_bytes() + (tmp_path / "b.ogg").read_bytes()
    (tmp_path / "c.ogg").write_bytes(data)
    with pytest.raises(AudioError, match=r"c\.ogg: part 2 of 2 has .*; split the chain"):
        audio.read(tmp_path / "c.ogg")


# codecs that cannot seek, pipes by name


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.wav", {"subtype": "GSM610"}),
        ("a.wav", {"subtype": "IMA_ADPCM"}),
        ("a.wav", {"subtype": "ALAW"}),
        ("a.aiff", {"subtype": "PCM_16"}),
        ("a.au", {"subtype": "ULAW"}),
        ("a.sph", {"format": "NIST", "subtype": "PCM_16"}),
    ],
)
def test_any_codec_of_libsndfile_is_read_forwards(tmp_path, name, options):
    path = tmp_path / name
    sf.write(path, make_sound(8_000, sample_rate=8_000)[0], 8_000, **options)
    got, rate = audio.read(path)
    assert rate == 8_000
    assert abs(got.shape[1] - 8_000) <= 512
    assert np.abs(got).max() > 0.01


@needs_ffmpeg
def test_flac_of_unknown_length_is_read_exactly(tmp_path):
    sf.write(tmp_path / "a.wav", SOUND[0], RATE, subtype="PCM_16")
    (tmp_path / "u.flac").write_bytes(ffmpeg("-i", tmp_path / "a.wav", "-f", "flac", "-"))
    got, _ = audio.read(tmp_path / "u.flac")
    np.testing.assert_array_equal(got, audio.read(tmp_path / "a.wav")[0])


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".aiff"])
def test_a_named_pipe_gives_what_the_file_gives(tmp_path, suffix):
    sf.write(tmp_path / f"a{suffix}", SOUND[0], RATE)
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["sh", "-c", f"cat a{suffix} > pipe"], cwd=tmp_path):
        got, rate = audio.read(tmp_path / "pipe")
    assert rate == RATE
    np.testing.assert_array_equal(got, audio.read(tmp_path / f"a{suffix}")[0])


# what ffmpeg reads


@needs_ffmpeg
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.m4a", ("-c:a", "aac")),
        ("a.aac", ("-c:a", "aac")),
        ("a.mp4", ("-c:a", "aac")),
        ("a.webm", ("-c:a", "libopus")),
        ("a.mka", ("-c:a", "flac")),
    ],
)
def test_what_phones_and_browsers_record_is_read(tmp_path, name, options):
    sf.write(tmp_path / "a.wav", SOUND[0], RATE)
    ffmpeg("-i", tmp_path / "a.wav", *options, tmp_path / name)
    expected = np.frombuffer(ffmpeg("-i", tmp_path / name, "-f", "f32le", "-"), "<f4")
    got, rate = audio.read(tmp_path / name)
    np.testing.assert_array_equal(got[0], expected)
    assert abs(got.shape[1] / rate - 1) < 0.15
    with (tmp_path / name).open("rb") as file, audio.pipe_stream(file, "pipe") as stream:
        np.testing.assert_array_equal(audio.gather(stream.blocks, 1)[0], expected)


@needs_ffmpeg
def test_without_ffmpeg_such_a_file_is_one_line(tmp_path, monkeypatch):
    sf.write(tmp_path / "a.wav", SOUND[0], RATE)
    ffmpeg("-i", tmp_path / "a.wav", tmp_path / "a.m4a")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        UnreachableError, match=r"a\.m4a: is MP4 or M4A, which ffmpeg reads, and tha"
    ):
        audio.read(tmp_path / "a.m4a")


@needs_ffmpeg
@pytest.mark.parametrize("kept", [40, 400, 2000])
def test_a_broken_m4a_is_one_line(tmp_path, kept):
    sf.write(tmp_path / "a.wav", SOUND[0], RATE)
    ffmpeg("-i", tmp_path / "a.wav", tmp_path / "a.m4a")
    (tmp_path / "b.m4a").write_bytes((tmp_path / "a.m4a").read_bytes()[:kept])
    with pytest.raises(AudioError) as caught:
        audio.read(tmp_path / "b.m4a")
    assert "b.m4a: damaged, or not audio" in str(caught.value)
    assert "\n" not in str(caught.value)


# which files are audio


def test_every_format_that_libsndfile_writes_is_known_by_name_or_first_bytes(tmp_path):
    for kind in sf.available_formats():
        path = tmp_path / f"a.{kind.lower()}"
        subtype = sf.default_subtype(kind) or next(iter(sf.available_subtypes(kind)))
        rate, channels = (8_000, 1)
        try:
            sf.write(path, np.zeros((100, channels)), rate, format=kind, subtype=subtype)
        except sf.LibsndfileError:
            continue
        assert may_hold_audio(path), kind
        assert is_audio_name(path) == (kind != "RAW"), kind


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [("WAV", None), ("FLAC", None), ("OGG", None), ("MP3", None), ("AIFF", None)],
)
def test_a_recording_under_any_name_is_known_by_its_first_bytes(tmp_path, kind, subtype):
    sf.write(tmp_path / "talk", SOUND[0], RATE, format=kind, subtype=subtype)
    assert is_audio_head((tmp_path / "talk").read_bytes()[:16])
    assert may_hold_audio(tmp_path / "talk")
    (tmp_path / "talk").write_bytes(b"BTRN" + bytes(20))
    assert not may_hold_audio(tmp_path / "talk")


def test_folders_are_searched_through_links_but_once(tmp_path):
    for name in ("real/a.wav", "real/deep/b.M4A", "real/._a.wav", "real/notes.txt", "top/c.sph"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "top" / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "top" / "again").symlink_to(tmp_path / "top")  # a loop
    found = [path.relative_to(tmp_path).as_posix() for path in find_audio(tmp_path / "top")]
    assert found == ["top/c.sph", "top/linked/a.wav", "top/linked/deep/b.M4A"]


@needs_ffmpeg
@pytest.mark.parametrize(
    ("name", "options"),
    [("a.wma", ("-c:a", "wmav2")), ("a.oga", ("-c:a", "flac", "-f", "ogg"))],
)
def test_what_old_recorders_and_browsers_write_is_read(tmp_path, name, options):
    sf.write(tmp_path / "a.wav", SOUND[0], RATE)
    ffmpeg("-i", tmp_path / "a.wav", *options, tmp_path / name)
    expected = np.frombuffer(ffmpeg("-i", tmp_path / name, "-f", "f32le", "-"), "<f4")
    got, rate = audio.read(tmp_path / name)
    assert rate == RATE
    np.testing.assert_allclose(got[0], expected, rtol=0, atol=1e-6)


@needs_ffmpeg
def test_amr_is_read(tmp_path):
    frames = b"\x04" + bytes(12)  # 4.75 kbit/s, 20 ms
    (tmp_path / "a.amr").write_bytes(b"#!AMR\n" + 50 * frames)
    got, rate = audio.read(tmp_path / "a.amr")
    assert (got.shape, rate) == ((1, 8_000), 8_000)
