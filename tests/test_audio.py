import io
import struct

import numpy as np
import pytest
import soundfile as sf
import soxr
from synthetic import make_sound

from bittern.audio import streams as audio
from bittern.audio import wav
from bittern.audio.atomic import atomic_file
from bittern.audio.streams import Resampler, array_stream, resampled_length
from bittern.errors import AudioError, CodecError


@pytest.mark.parametrize(
    ("suffix", "subtype", "tolerance"),
    [
        (".wav", "PCM_U8", 1e-2),
        (".wav", "PCM_16", 1e-4),
        (".wav", "PCM_24", 1e-6),
        (".wav", "PCM_32", 1e-6),
        (".wav", "FLOAT", 0),
        (".wav", "DOUBLE", 0),
        (".flac", "PCM_24", 1e-6),
        (".aiff", "PCM_16", 1e-4),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_files_of_any_kind_are_read(tmp_path, suffix, subtype, tolerance, channels):
    sound = make_sound(20_000, channels=channels, sample_rate=22_050)
    path = tmp_path / f"a{suffix}"
    sf.write(path, sound.T, 22_050, subtype=subtype)
    back, rate = audio.read(path)
    assert rate == 22_050
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, sound, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("suffix", "kind"), [(".ogg", "OGG"), (".mp3", "MP3")])
def test_lossy_files_are_read_to_their_end(tmp_path, suffix, kind):
    sound = make_sound(44_100, sample_rate=44_100)
    path = tmp_path / f"a{suffix}"
    sf.write(path, sound.T, 44_100, format=kind)
    back, rate = audio.read(path)
    assert rate == 44_100
    assert back.shape == (1, sf.info(path).frames)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
@pytest.mark.parametrize("samples", [1, 16_384, 16_385, 50_000])
def test_what_is_written_is_read(tmp_path, samples, suffix):
    sound = make_sound(samples, channels=2)
    path = tmp_path / f"a{suffix}"
    audio.write_stream(path, audio.array_stream(sound, 16_000))
    back, rate = audio.read(path)
    assert rate == 16_000
    assert back.shape == (2, samples)
    assert sf.info(path).channels == 2
    if suffix != ".ogg":
        np.testing.assert_allclose(back, sound, rtol=0, atol=0.51 / 32768)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_no_samples_can_be_written_too(tmp_path):
    audio.write_stream(tmp_path / "a.wav", audio.array_stream(make_sound(0), 8_000))
    assert audio.read(tmp_path / "a.wav")[0].shape == (1, 0)
    with pytest.raises(AudioError, match=r"FLAC cannot hold audio of no length; give \.wav"):
        audio.write_stream(tmp_path / "a.flac", audio.array_stream(make_sound(0), 8_000))
    assert not (tmp_path / "a.flac").exists()


def test_loud_samples_are_clipped_not_wrapped(tmp_path):
    loud = np.array([[1.5, -1.5, 1.0, -1.0]], np.float32)
    audio.write_stream(tmp_path / "a.wav", audio.array_stream(loud, 8_000))
    back, _ = sf.read(tmp_path / "a.wav", dtype="int16")
    assert back.tolist() == [32767, -32768, 32767, -32768]


def test_missing_directories_and_text_are_clear_errors(tmp_path):
    (tmp_path / "text.wav").write_text("this is no audio")
    (tmp_path / "empty.wav").write_bytes(b"")
    for name, message in [
        ("gone.wav", "cannot be read (No such file or directory)"),
        (".", "is a directory; give audio files"),
        ("text.wav", "not audio that can be read (Format not recognised)"),
        ("empty.wav", "not audio that can be read (Format not recognised)"),
    ]:
        path = tmp_path / name
        with pytest.raises(AudioError) as caught:
            audio.read(path)
        assert str(caught.value) == f"{path}: {message}"


def test_a_suffix_that_libsndfile_takes_for_headerless_is_no_trap(tmp_path):
    (tmp_path / "a.raw").write_bytes(bytes(1000))
    with pytest.raises(AudioError, match="not audio"):
        audio.read(tmp_path / "a.raw")


def test_a_damaged_flac_is_an_error_with_its_place(tmp_path):
    path = tmp_path / "a.flac"
    sf.write(path, make_sound(160_000).T, 16_000)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 4000] = bytes(4000)
    path.write_bytes(data)
    with pytest.raises(AudioError, match=r"a\.flac: damaged after \d\.\d\d s"):
        audio.read(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_named(value):
    sound = make_sound(40_000, channels=2)
    sound[1, 20_000] = value
    stream = audio.check_samples(array_stream(sound, 16_000, "x.wav"))
    with pytest.raises(AudioError) as caught:
        list(stream.blocks)
    assert str(caught.value) == (
        f"x.wav: sample 20000 (1.250 s) of channel 2 is {value}, not a number to code"
    )


def test_mixing():
    stereo = np.array([[0.5, -0.1], [0.2, 0.4]], np.float32)
    np.testing.assert_allclose(audio.mix(stereo, 1), [[0.2], [0.3]], atol=1e-7)
    assert audio.mix(stereo, 2) is stereo
    np.testing.assert_array_equal(audio.mix(stereo[:, :1], 3), np.repeat(stereo[:, :1], 3, axis=1))
    with pytest.raises(AudioError, match="2 channels cannot be mixed"):
        audio.mix(stereo, 3)


@pytest.mark.parametrize(
    "rates",
    [
        (44_100, 16_000),
        (16_000, 44_100),
        (8_000, 16_000),
        (96_000, 16_000),
        (16_000, 16_000),
        (11_025, 24_000),
    ],
)
@pytest.mark.parametrize("samples", [0, 1, 2, 319, 5_000, 40_001])
def test_resampling_by_blocks_gives_exact_counts_and_equals_resampling_at_once(rates, samples):
    sound = make_sound(samples, channels=2, sample_rate=rates[0]).T
    resampler = Resampler(*rates, 2)
    blocks = [resampler.push(sound[i : i + 777]) for i in range(0, samples, 777)]
    got = np.concatenate([*blocks, resampler.flush()])
    assert len(got) == resampled_length(samples, *rates) == resampler.samples_out
    if samples and rates[0] != rates[1]:
        silence = np.zeros((rates[0] // rates[1] + 2, 2), np.float32)
        whole = soxr.resample(np.concatenate([sound, silence]), *rates)
        np.testing.assert_allclose(got, whole[: len(got)], rtol=0, atol=1e-6)


def test_resampling_there_and_back_restores_the_count():
    for samples in (0, 1, 2, 3, 999, 44_100):
        there = resampled_length(samples, 44_100, 16_000)
        back = Resampler(16_000, 44_100, 1)
        blocks = [back.push(make_sound(there).T), back.flush(samples)]
        assert sum(map(len, blocks)) == samples


# WAV on pipes


def as_wav(sound, subtype="PCM_16", rate=16_000) -> bytes:
    file = io.BytesIO()
    sf.write(file, sound.T, rate, format="WAV", subtype=subtype)
    return file.getvalue()


class Pipe(io.RawIOBase):
    """Gives what is asked for or less, in odd portions, and cannot seek."""

    def __init__(self, data: bytes) -> None:
        self._inner = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self._inner.read(min(size, 1013))


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_wav_from_a_pipe_equals_libsndfile(subtype):
    data = as_wav(make_sound(20_000, channels=2), subtype)
    stream = audio.wav_stream(Pipe(data), "pipe")
    got = audio.gather(stream.blocks, stream.channels)
    expected, _ = sf.read(io.BytesIO(data), dtype="float32")
    np.testing.assert_array_equal(got, expected.T)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF])
def test_wav_of_unknown_length_is_read_to_the_end(size):
    data = as_wav(make_sound(3_000))
    at = data.index(b"data") + 4
    stream = audio.wav_stream(Pipe(data[:at] + struct.pack("<I", size) + data[at + 4 :]), "pipe")
    assert audio.gather(stream.blocks, 1).shape == (1, 3_000)


def test_what_follows_the_samples_in_a_wav_is_not_audio():
    data = as_wav(make_sound(3_000)) + b"LIST\4\0\0\0abcd"
    assert audio.gather(audio.wav_stream(Pipe(data), "pipe").blocks, 1).shape == (1, 3_000)


def test_wav_for_a_pipe_is_read_by_libsndfile():
    for samples in (None, 3_000):
        file = io.BytesIO()
        writer = audio.PcmWriter(file, 16_000, 2, samples=samples)
        sound = make_sound(3_000, channels=2)
        writer.write(sound.T)
        back, rate = sf.read(io.BytesIO(file.getvalue()), dtype="float32")
        assert rate == 16_000
        np.testing.assert_allclose(back.T, sound, rtol=0, atol=0.51 / 32768)


def test_raw_samples_from_a_pipe():
    samples = np.arange(-500, 500, dtype="<i2")
    stream = audio.raw_stream(Pipe(samples.tobytes() + b"\1"), "pipe", 8_000, 2)
    got = audio.gather(stream.blocks, 2)
    np.testing.assert_array_equal(got.T.reshape(-1) * 32768, samples)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: b"", "the stream ends before any samples"),
        (lambda d: d[:30], "the stream ends before any samples"),
        (lambda d: b"fLaC" + d[4:], "not a WAV stream"),
        (lambda d: d[:20] + b"\x55\0" + d[22:], "WAV kind 85 at 16 bits is not read"),
        (lambda d: d[:22] + b"\0\0" + d[24:], "makes no sense"),
        (lambda d: d[:12] + d[36:], "no format before its samples"),
        (lambda d: d[:12] + b"junk\xff\xff\xff\x7f" + d[12:], "a chunk of 2147483647 bytes"),
    ],
)
def test_streams_that_are_not_wav_are_clear_errors(damage, message):
    with pytest.raises(AudioError) as caught:
        audio.wav_stream(Pipe(damage(as_wav(make_sound(100)))), "pipe")
    assert str(caught.value).startswith("pipe: ")
    assert message in str(caught.value)


def test_a_wav_too_long_for_its_header_is_refused_before_the_work(tmp_path):
    with (
        pytest.raises(AudioError, match=r"do not fit a WAV file"),
        audio.create_audio(tmp_path / "a.wav", 16_000, 2, samples=2**31),
    ):
        pytest.fail("it began")
    assert not list(tmp_path.iterdir())
    with pytest.raises(AudioError, match=r"do not fit a WAV file; write \.flac"):
        wav.header_bytes(wav.Encoding(16_000, 2), 2**31)


# outputs


def test_an_output_appears_only_when_complete(tmp_path):
    path = tmp_path / "out.bin"
    path.write_bytes(b"old")

    def interrupted():
        with atomic_file(path) as file:
            file.write(b"new")
            assert path.read_bytes() == b"old"
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert path.read_bytes() == b"old"
    with atomic_file(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["out.bin"]


def test_an_output_follows_links_and_leaves_devices_be(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    with atomic_file(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(CodecError, match="No space left"), atomic_file(tmp_path / "full") as file:
        file.write(b"new")


def test_outputs_that_cannot_be_are_clear_errors(tmp_path):
    for path, reason in [
        (tmp_path / "no" / "a.wav", "No such file or directory"),
        (tmp_path, "it is a directory"),
    ]:
        with pytest.raises(CodecError) as caught, atomic_file(path):
            pass
        assert str(caught.value) == f"{path}: cannot be written ({reason})"
    with pytest.raises(AudioError, match=r"cannot write \.xyz; give \.wav, \.flac or \.ogg"):
        audio.write_stream(tmp_path / "a.xyz", audio.array_stream(make_sound(10), 16_000))
    assert list(tmp_path.iterdir()) == []
