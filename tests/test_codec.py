import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from synthetic import make_model, make_sound
from test_bitstream import damaged_copies

import bittern
from bittern.audio import streams as audio
from bittern.audio.atomic import refuse_same_file
from bittern.codec import Codec
from bittern.config import CodecConfig, LinearPath, NetworkConfig, NetworkInput, QuantizerConfig
from bittern.errors import (
    AudioError,
    CodecError,
    ConfigError,
    FormatError,
    ModelError,
    ModelMismatchError,
)
from bittern.format import container as bitstream
from bittern.format.container import CHUNK_OVERHEAD_BYTES, HEADER_BYTES
from bittern.weights import save

LENGTHS = [0, 1, 319, 320, 321, 5_000]


@pytest.fixture(scope="module")
def looking_ahead(tmp_path_factory):
    """A codec that is not causal, and works on whole clips."""
    network = NetworkConfig(
        input=NetworkInput.SAMPLES,
        stem_stride=8,
        ratios=(5,),
        channels=(8, 16),
        residual_units=(1, 1),
        causal=False,
    )
    config = CodecConfig(
        name="looking-ahead",
        hop_length=40,
        latent_dim=16,
        linear_path=LinearPath.NONE,
        encoder=network,
        quantizer=QuantizerConfig(stages=4, codebook_size=16),
    )
    folder = tmp_path_factory.mktemp("models") / "looking-ahead"
    save(make_model(config), folder)
    return bittern.load(folder, device="cpu")


@pytest.fixture(params=["streaming", "looking ahead"])
def codec(request, tiny_codec, looking_ahead):
    return tiny_codec if request.param == "streaming" else looking_ahead


def tensor(samples: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(make_sound(samples, seed=seed))


def test_it_says_what_it_is(tiny_codec):
    assert tiny_codec.sample_rate == 16_000
    assert tiny_codec.hop_length == 320
    assert tiny_codec.frame_rate == 50
    assert tiny_codec.stages == 8
    assert tiny_codec.channels == 1
    assert tiny_codec.bitrate_kbps() == pytest.approx(2.4)
    assert tiny_codec.bitrate_kbps(3) == pytest.approx(0.9)
    assert len(tiny_codec.fingerprint) == 8


@pytest.mark.parametrize("samples", LENGTHS)
def test_any_length_comes_back_as_long(codec, samples):
    codes = codec.encode(tensor(samples)[None])
    assert codes.shape == (1, codec.stages, codec.config.frame_count(samples))
    assert codec.decode(codes, length=samples).shape == (1, 1, samples)


def test_any_prefix_of_the_stages_decodes_and_equals_encoding_with_fewer(codec):
    wav = tensor(3_000)[None]
    codes = codec.encode(wav, search_width=1)
    assert torch.equal(codec.encode(wav, stages=2, search_width=1), codes[:, :2])
    assert codec.decode(codes[:, :1]).shape[-1] >= 3_000


def test_a_batch_with_lengths_equals_single_items(codec):
    lengths = [5_000, 0, 1, 319, 320, 321, 4_999, 2_222]
    wav = torch.stack([tensor(6_000, seed=item) for item in range(len(lengths))])
    wav[2, :, 1:] = torch.nan  # what comes after an item's end must not matter
    codes = codec.encode(wav, lengths=lengths)
    out = codec.decode(codes, lengths=lengths)
    assert codes.shape[-1] == codec.config.frame_count(5_000)
    assert out.shape == (len(lengths), 1, 5_000)
    for item, length in enumerate(lengths):
        alone = codec.encode(wav[item, None, :, :length])
        frames = alone.shape[-1]
        assert torch.equal(codes[item, :, :frames], alone[0])
        assert not codes[item, :, frames:].any()
        expected = codec.decode(alone, length=length)
        torch.testing.assert_close(out[item, :, :length], expected[0], rtol=0, atol=1e-5)
        assert not out[item, :, length:].any()


def test_wrong_tensors_are_refused_with_what_was_expected(tiny_codec):
    with pytest.raises(
        ValueError, match=r"expected floats \[batch, 1 \(or a multiple\), samples\]"
    ):
        tiny_codec.encode(torch.zeros(100))
    with pytest.raises(ValueError, match="expected floats"):
        tiny_codec.encode(torch.zeros(1, 1, 100, dtype=torch.int64))
    with pytest.raises(ValueError, match="expected 1 of 0 to 100"):
        tiny_codec.encode(torch.zeros(1, 1, 100), lengths=[101])
    with pytest.raises(ConfigError, match="has 1 to 8"):
        tiny_codec.encode(torch.zeros(1, 1, 100), stages=9)
    with pytest.raises(ConfigError, match=r"out of reach of tiny-test; give 0\.3 to 2\.4"):
        tiny_codec.encode(torch.zeros(1, 1, 100), bitrate_kbps=3)
    with pytest.raises(ValueError, match="not both"):
        tiny_codec.encode(torch.zeros(1, 1, 100), bitrate_kbps=1, stages=1)
    with pytest.raises(ValueError, match="expected floats"):
        tiny_codec.compress(np.zeros(100, np.int64), 16_000)
    with pytest.raises(AudioError, match="sample rate 100 Hz; expected 1000 to 768000"):
        tiny_codec.compress(np.zeros(100, np.float32), 100)
    with pytest.raises(ConfigError, match="device 'nonsense' cannot be used"):
        bittern.load("anything", device="nonsense")
    with pytest.raises(ModelError, match="neither a folder"):
        bittern.load("no-such-model")


@pytest.mark.parametrize("sample_rate", [8_000, 16_000, 44_100])
@pytest.mark.parametrize("samples", LENGTHS)
def test_compressed_audio_comes_back_at_its_rate_and_length(codec, samples, sample_rate):
    data = codec.compress(make_sound(samples, channels=2), sample_rate, stages=2)
    wav, rate = codec.decompress(data)
    assert rate == sample_rate
    assert wav.shape == (2, samples)
    assert wav.dtype == torch.float32


@pytest.mark.parametrize("channels", [2, 6])
def test_channels_of_one_file_are_those_coded_alone(codec, channels):
    wav = torch.from_numpy(make_sound(21_001, channels=channels, seed=5))
    alone = torch.stack([codec.encode(channel[None, None])[0] for channel in wav])
    codes = codec.encode(wav[None])
    assert torch.equal(codes, alone[None])
    each = torch.cat([codec.decode(own[None], length=21_001)[0] for own in alone])
    again = codec.decode(codes, length=21_001)
    assert again.shape == (1, channels, 21_001)
    torch.testing.assert_close(again[0], each, rtol=0, atol=1e-5)
    coarse = codec.decode(codes[:, :, :2], length=21_001)[0]

    for live in (False, True):
        file = io.BytesIO()
        source = audio.array_stream(wav.numpy(), 16_000)
        codec.compress_stream(source, file, stages=codec.stages, chunk_seconds=0.3, live=live)
        data = file.getvalue()
        reader = bitstream.Reader(io.BytesIO(data), "x")
        stored = [bitstream.unpack(chunk, reader.header) for chunk in reader]
        assert np.array_equal(np.concatenate(stored, axis=2), alone.numpy())
        assert (reader.header.streams, reader.header.source_channels) == (channels, channels)
        torch.testing.assert_close(codec.decompress(data).wav, each, rtol=0, atol=1e-5)
        part = codec.decompress(data, start=0.5, duration=0.25).wav
        torch.testing.assert_close(part, each[:, 8_000:12_000], rtol=0, atol=1e-5)
        fewer = codec.decompress(data, stages=2).wav
        torch.testing.assert_close(fewer, coarse, rtol=0, atol=1e-5)


def test_many_channels_fill_no_more_than_a_payload(tiny_codec):
    file = io.BytesIO()
    source = audio.array_stream(make_sound(3_000, channels=255), 16_000)
    tiny_codec.compress_stream(source, file, chunk_seconds=3600)
    assert tiny_codec.decompress(file.getvalue()).wav.shape == (255, 3_000)


def test_channels_that_do_not_divide_are_refused():
    config = CodecConfig(
        channels=2,
        hop_length=64,
        latent_dim=16,
        encoder=NetworkConfig(channels=(16,), residual_units=(1,)),
        quantizer=QuantizerConfig(stages=2, codebook_size=16),
    )
    codec = Codec(
        config=config, fingerprint=b"12345678", folder=Path("two"), model=make_model(config)
    )
    with pytest.raises(AudioError, match="3 channels are no multiple of the model's 2; mix"):
        codec.compress(make_sound(1_000, channels=3), 16_000)
    for channels, mono, expected in ((1, False, 2), (3, True, 2), (4, False, 4)):
        data = codec.compress(make_sound(1_000, channels=channels), 16_000, mono=mono)
        assert codec.decompress(data).wav.shape == (expected, 1_000)


@pytest.mark.parametrize("width", [1, 4])
def test_compressing_equals_encoding_whatever_the_chunks(codec, width):
    wav = tensor(30_000)
    codes = codec.encode(wav[None], stages=3, search_width=width)
    expected = codec.decode(codes, length=30_000)
    for chunk_seconds in (0.02, 0.3, 6.0):
        for live in (False, True):
            file = io.BytesIO()
            stream = audio.array_stream(wav.numpy(), 16_000)
            codec.compress_stream(
                stream, file, stages=3, chunk_seconds=chunk_seconds, live=live, search_width=width
            )
            back, _ = codec.decompress(file.getvalue())
            torch.testing.assert_close(back, expected[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("samples", LENGTHS)
@pytest.mark.parametrize("sample_rate", [16_000, 44_100])
def test_a_live_file_without_a_length_comes_back_as_long(codec, samples, sample_rate):
    sound = make_sound(samples, seed=3)
    blocks = iter([sound[:, i : i + 100].T for i in range(0, samples, 100)])
    stream = audio.AudioStream(
        name="live", sample_rate=sample_rate, channels=1, samples=None, blocks=blocks
    )
    file = io.BytesIO()
    codec.compress_stream(stream, file, live=True, chunk_seconds=0.1)
    back, _ = codec.decompress(file.getvalue())
    assert back.shape == (1, samples)
    known, _ = codec.decompress(codec.compress(sound, sample_rate))
    torch.testing.assert_close(back, known, rtol=0, atol=1e-5)


def test_a_source_that_is_not_as_long_as_it_said_is_an_error_on_a_pipe(tiny_codec):
    stream = audio.array_stream(make_sound(1_000), 16_000, "x.wav")
    short = audio.AudioStream(
        name="x.wav", sample_rate=16_000, channels=1, samples=1_001, blocks=stream.blocks
    )
    with pytest.raises(AudioError, match=r"x\.wav: said 1001 samples but had 1000"):
        tiny_codec.compress_stream(short, io.BytesIO(), live=True)


def test_fewer_stages_can_be_decompressed(tiny_codec):
    wav = make_sound(9_000)
    full = tiny_codec.compress(wav, 16_000, search_width=1)
    fewer = tiny_codec.compress(wav, 16_000, stages=2, search_width=1)
    assert torch.equal(tiny_codec.decompress(full, stages=2).wav, tiny_codec.decompress(fewer).wav)
    assert not torch.equal(tiny_codec.decompress(full).wav, tiny_codec.decompress(fewer).wav)


def test_a_constant_bitrate_is_the_most_that_fits(tiny_codec):
    wav = make_sound(160_000)
    data = tiny_codec.compress(wav, 16_000, bitrate_kbps=1.3, cbr=True)
    assert data == tiny_codec.compress(wav, 16_000, stages=4)
    payload = len(data) - HEADER_BYTES - 2 * CHUNK_OVERHEAD_BYTES
    assert payload * 8 / 10 == pytest.approx(1200, rel=0.02)


def test_another_models_file_is_refused(tiny_codec, other_checkpoint):
    data = tiny_codec.compress(make_sound(1_000), 16_000)
    other = bittern.load(other_checkpoint, device="cpu")
    with pytest.raises(ModelMismatchError) as caught:
        other.decompress(data)
    assert str(caught.value).startswith(
        f"data: made by model {tiny_codec.fingerprint.hex()}, but {other.fingerprint.hex()} "
    )


def test_samples_that_are_not_finite_are_refused(tiny_codec):
    wav = make_sound(1_000)
    wav[0, 500] = np.nan
    with pytest.raises(AudioError, match="sample 500"):
        tiny_codec.compress(wav, 16_000)


def test_files_and_their_receipts(tiny_codec, tmp_path):
    sound = make_sound(66_150, channels=2, sample_rate=44_100)
    sf.write(tmp_path / "in.wav", sound.T, 44_100)
    receipt = tiny_codec.compress_file(tmp_path / "in.wav", tmp_path / "a.btn", stages=4)
    size = (tmp_path / "a.btn").stat().st_size
    assert receipt.file_bytes == size
    assert receipt.seconds == 1.5
    assert receipt.measured_kbps == pytest.approx(size * 8 / 1.5 / 1000)
    assert receipt.nominal_kbps == pytest.approx(2.4)
    assert receipt.ratio == pytest.approx(66_150 * 4 / size)
    assert (receipt.source_channels, receipt.channels) == (2, 2)
    again = tiny_codec.decompress_file(tmp_path / "a.btn", tmp_path / "out.wav")
    assert (again.seconds, again.file_bytes, again.sample_rate) == (1.5, size, 44_100)
    info = sf.info(tmp_path / "out.wav")
    assert (info.frames, info.samplerate, info.channels) == (66_150, 44_100, 2)
    assert {p.name for p in tmp_path.iterdir()} == {"in.wav", "a.btn", "out.wav"}


def test_a_file_is_never_written_onto_its_input(tiny_codec, tmp_path):
    sf.write(tmp_path / "a.wav", make_sound(1_000).T, 16_000)
    (tmp_path / "link.wav").symlink_to("a.wav")
    with pytest.raises(CodecError, match="is the input itself"):
        tiny_codec.compress_file(tmp_path / "a.wav", tmp_path / "link.wav")
    refuse_same_file(tmp_path / "a.wav", tmp_path / "new.wav")


def test_500_damaged_files_are_errors_or_exact_and_leave_nothing(tiny_codec, tmp_path):
    sound = make_sound(24_000)
    file = io.BytesIO()
    stream = audio.array_stream(sound, 16_000)
    tiny_codec.compress_stream(stream, file, chunk_seconds=0.3)
    expected, _ = tiny_codec.decompress(file.getvalue())
    source, target = tmp_path / "bad.btn", tmp_path / "out.wav"
    errors = 0
    for copy in damaged_copies(file.getvalue(), 500, seed=7):
        source.write_bytes(copy)
        try:
            tiny_codec.decompress_file(source, target)
        except FormatError:
            errors += 1
            assert not target.exists()
        else:
            back, _ = audio.read(target)
            np.testing.assert_allclose(back, expected.numpy(), rtol=0, atol=1 / 32768)
            target.unlink()
        assert [p.name for p in tmp_path.iterdir()] == ["bad.btn"]
    assert errors > 400


def test_memory_is_the_same_for_a_file_ten_times_as_long(tiny_codec, tmp_path):
    """From some chunks on, which lie in the blocks that are read in all ways there are."""
    peaks = []
    for repeats in (3, 30):
        sound = np.tile(make_sound(16_000 * 13), repeats)
        sf.write(tmp_path / "in.wav", sound.T, 16_000)
        del sound
        tracemalloc.start()
        tiny_codec.compress_file(tmp_path / "in.wav", tmp_path / "a.btn", stages=8)
        tiny_codec.decompress_file(tmp_path / "a.btn", tmp_path / "out.wav")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert sf.info(tmp_path / "out.wav").frames == 16_000 * 13 * repeats
    assert peaks[1] < 1.25 * peaks[0]  # a number a second is kept


def test_a_wider_search_comes_nearer_to_the_latent(codec):
    wav = torch.from_numpy(make_sound(8000))[None]
    latent = codec.model.latent(codec.model.pad(wav))
    errors = []
    for width in (1, 4):
        codes = codec.encode(wav, stages=4, search_width=width)
        errors.append(float((codec.model.quantizer.decode(codes) - latent).square().mean()))
        assert codec.decode(codes, length=8000).shape == wav.shape
    assert errors[1] < errors[0]
    with pytest.raises(ValueError, match="give 1 to 512"):
        codec.encode(wav, search_width=0)
