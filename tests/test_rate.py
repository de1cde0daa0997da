"""A bitrate is what the file has, a quality the same trade-off everywhere; with the shipped codec."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

import bittern
from bittern.audio import streams as audio
from bittern.cli import main
from bittern.codec import Codec
from bittern.errors import ConfigError
from bittern.format import container
from bittern.format.container import Reader
from bittern.model import rate
from bittern.pipeline import Receipt

SPEECH = Path(__file__).parents[1] / "examples" / "speech.flac"
RATES = [1.5, 3.0, 6.0, 9.0, 12.0]


@pytest.fixture(scope="module")
def codec() -> Codec:
    return bittern.load("speech-16khz", device="cpu")


def speech(seconds: float) -> np.ndarray:
    """Real speech, over and over, [1, T]."""
    wav = audio.read(SPEECH)[0]
    count = round(seconds * 16_000)
    return np.tile(wav, (1, -(-count // wav.shape[1])))[:, :count]


def codes_of(codec: Codec, data: bytes) -> np.ndarray:
    """The codes in a file, [S, k, F]."""
    reader = Reader(io.BytesIO(data), "x", find_coder=lambda _: codec.entropy)
    return np.concatenate(list(reader.codes()), axis=2)


def stream_of(codec: Codec, wav: np.ndarray, **options) -> tuple[Receipt, bytes]:
    """Compressed as from a pipe that does not say how long it is, onto a pipe."""
    whole = audio.array_stream(wav, 16_000)
    blocks = (block for part in whole.blocks for block in np.array_split(part, 7))
    source = audio.AudioStream(
        name="pipe", sample_rate=16_000, channels=len(wav), samples=None, blocks=blocks
    )
    file = io.BytesIO()
    receipt = codec.compress_stream(source, file, live=True, search_width=1, **options)
    return receipt, file.getvalue()


@pytest.mark.parametrize("kbps", RATES)
def test_a_bitrate_is_the_average_of_all_bytes_within_2_percent(codec, kbps):
    data = codec.compress(speech(20), 16_000, bitrate_kbps=kbps, search_width=1)
    assert len(data) * 8 / 20 / 1000 == pytest.approx(kbps, rel=0.02)
    assert data[4] == 2


@pytest.mark.parametrize(
    "options", [{"coder": "raw"}, {"chunk_seconds": 0.5}, {"chunk_seconds": 60.0}]
)
def test_a_bitrate_holds_whatever_stands_around_the_codes(codec, options):
    data = codec.compress(speech(12), 16_000, bitrate_kbps=4, search_width=1, **options)
    assert len(data) * 8 / 12 / 1000 == pytest.approx(4, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("minutes", [2, 10, 25])
@pytest.mark.parametrize("kbps", RATES)
def test_long_files_have_their_bitrate(codec, minutes, kbps):
    """Of 25 minutes not all is known before the first chunk is written."""
    data = codec.compress(speech(60 * minutes), 16_000, bitrate_kbps=kbps, search_width=1)
    assert len(data) * 8 / (60 * minutes) / 1000 == pytest.approx(kbps, rel=0.02)


@pytest.mark.parametrize("kbps", [3.0, 9.0])
def test_a_pipe_has_its_bitrate_within_5_percent_over_a_minute(codec, kbps):
    receipt, data = stream_of(codec, speech(60), bitrate_kbps=kbps)
    assert len(data) == receipt.file_bytes
    assert len(data) * 8 / 60 / 1000 == pytest.approx(kbps, rel=0.05)
    assert codec.decompress(data).wav.shape == (1, 960_000)


@pytest.mark.slow
@pytest.mark.parametrize("chunk_seconds", [6.0, 1.0, 0.2])
@pytest.mark.parametrize("kbps", RATES)
def test_pipes_of_short_chunks_have_their_bitrate(codec, kbps, chunk_seconds):
    receipt, _ = stream_of(codec, speech(60), bitrate_kbps=kbps, chunk_seconds=chunk_seconds)
    assert receipt.measured_kbps == pytest.approx(kbps, rel=0.05)


def test_more_quality_is_more_bytes_and_near_so_many_stages(codec):
    sizes, means = [], []
    for quality in (3, 6, 12, 20):
        data = codec.compress(speech(8), 16_000, quality=quality, search_width=1)
        sizes.append(len(data))
        means.append((codes_of(codec, data) >= 0).sum(axis=1).mean())
        assert means[-1] == pytest.approx(quality, rel=0.2)
    assert sizes == sorted(sizes)
    assert codec.compress(speech(2), 16_000, quality=12) == codec.compress(speech(2), 16_000)


def test_stages_are_more_where_sound_is(codec):
    wav = speech(6)
    wav[:, 32_000:64_000] *= 1e-4
    counts = (codes_of(codec, codec.compress(wav, 16_000, bitrate_kbps=4)) >= 0).sum(axis=1)[0]
    assert counts.min() >= 1
    assert counts[110:190].mean() < 0.7 * counts.mean()


def test_a_constant_rate_is_a_file_of_version_1_with_the_codes_of_encode(codec):
    """As they were before bitrates varied."""
    wav = speech(7)
    codes = codec.encode(torch.from_numpy(wav)[None], stages=12).numpy()
    header = container.Header(
        fingerprint=codec.fingerprint,
        sample_rate=16_000,
        source_rate=16_000,
        channels=1,
        source_channels=1,
        hop_length=320,
        bits_per_code=10,
        stages=12,
        extra_frames=1,
        chunk_frames=304,
        entropy=codec.entropy.fingerprint,
    )
    file = io.BytesIO()
    writer = container.Writer(file, header, find_coder=lambda _: codec.entropy)
    writer.write(codes[..., :304])
    writer.write(codes[..., 304:])
    writer.finish(wav.shape[1], wav.shape[1])
    for options in (
        {"stages": 12},
        {"stages": 12, "cbr": True},
        {"bitrate_kbps": 6.3, "cbr": True},
    ):
        assert codec.compress(wav, 16_000, **options) == file.getvalue()


@pytest.mark.parametrize("chunk_seconds", [6.0, 0.02])
def test_what_is_decompressed_is_what_the_codes_in_the_file_decode_to(codec, chunk_seconds):
    wav = speech(2)
    for options in ({"quality": 8}, {"bitrate_kbps": 12}):
        data = codec.compress(wav, 16_000, chunk_seconds=chunk_seconds, search_width=1, **options)
        codes = torch.from_numpy(codes_of(codec, data))
        assert (codes < 0).any()
        expected = codec.decode(codes, length=32_000)[0]
        torch.testing.assert_close(codec.decompress(data).wav, expected, rtol=0, atol=1e-5)
        part = codec.decompress(data, start=1.0, duration=0.5).wav
        torch.testing.assert_close(part, expected[:, 16_000:24_000], rtol=0, atol=1e-5)


def test_a_quality_gives_tensors_without_codes_where_frames_need_none(codec):
    wav = torch.from_numpy(speech(4))[None]
    codes = codec.encode(wav, quality=8)
    there = codes >= 0
    assert not (there[:, 1:] & ~there[:, :-1]).any()  # a stage needs those before it
    counts = there.sum(dim=1)
    assert 1 <= counts.min() < counts.max() <= codes.shape[1] < codec.stages
    assert torch.equal(
        codes[:, : counts.min()], codec.encode(wav, stages=codes.shape[1])[:, : counts.min()]
    )
    rectangular = codec.encode(wav, bitrate_kbps=6)
    assert rectangular.shape[1] == 12
    assert (rectangular >= 0).all()
    whole, prefix = (codec.decode(part, length=64_000) for part in (codes, codes[:, :4]))
    assert (whole - wav).square().mean() < (prefix - wav).square().mean()


def test_batches_of_a_quality_equal_single_items(codec):
    lengths = [50_000, 321, 0, 33_333]
    wav = torch.from_numpy(np.stack([np.roll(speech(4), 9_000 * n) for n in range(4)]))
    codes = codec.encode(wav, quality=6, lengths=lengths)
    for item, length in enumerate(lengths):
        alone = codec.encode(wav[item, None, :, :length], quality=6)
        assert torch.equal(codes[item, :, : alone.shape[-1]], alone[0])
        assert (codes[item, :, alone.shape[-1] :] == -1).all()
    assert codec.decode(codes, lengths=lengths).shape == (4, 1, 50_000)
    stereo = codec.encode(wav[:2, 0][None], quality=6)
    for item in range(2):
        assert torch.equal(stereo[0, item], codec.encode(wav[item, None], quality=6)[0])


def test_channels_share_a_trade_off_and_a_bitrate(codec):
    wav = np.concatenate([speech(12), 1e-3 * np.random.default_rng(0).normal(size=(1, 192_000))])
    wav = wav.astype(np.float32)
    wav[1, 48_000:] = 0
    data = codec.compress(wav, 16_000, bitrate_kbps=6, search_width=1)
    assert len(data) * 8 / 12 / 1000 == pytest.approx(6, rel=0.02)
    counts = (codes_of(codec, data) >= 0).sum(axis=1)
    assert counts[1, 160:].mean() < 0.5 * counts[0].mean()
    assert codec.decompress(data).wav.shape == (2, 192_000)


def test_what_stands_around_a_chunk_is_what_the_container_says():
    assert rate.CHUNK_BITS == 8 * container.CHUNK_OVERHEAD_BYTES


def test_what_cannot_be_is_one_line(codec):
    wav = speech(1)
    for options, message in (
        ({"bitrate_kbps": 20}, "20 kbit/s is out of reach of speech-16khz; give 0.53 to 16.02"),
        ({"bitrate_kbps": 6, "chunk_seconds": 0.02}, "give 6.9 to 22.4"),
        ({"bitrate_kbps": 6, "chunk_seconds": 0.001}, "give 6.9 to 22.4"),  # that is a frame, too
        ({"quality": 33}, "quality is 33; speech-16khz has 1 to 32"),
        ({"cbr": True}, "cbr holds a bitrate or a number of stages constant; give either"),
        ({"cbr": True, "quality": 3}, "cbr holds a bitrate"),
    ):
        with pytest.raises(ConfigError) as caught:
            codec.compress(wav, 16_000, **options)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="give bitrate_kbps or quality, not both"):
        codec.compress(wav, 16_000, bitrate_kbps=3, quality=3)


def test_receipts_and_info_say_what_frames_have(codec, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sf.write("a.wav", speech(9)[0], 16_000)
    quick = ["--search-width", "1"]
    assert main(["compress", "a.wav", *quick]) == 0
    told = capsys.readouterr().err
    data = Path("a.btn").read_bytes()
    counts = (codes_of(codec, data) >= 0).sum(axis=1)
    low, high, mean = counts.min(), counts.max(), counts.mean()
    kbps = len(data) * 8 / 9000
    assert f"9.00 s, {low} to {high} stages, {mean:.1f} on average, {kbps:.2f} kbit/s (" in told
    assert main(["info", "a.btn"]) == 0
    said = dict(re.findall(r"(?m)^(.*?): +(.*)$", capsys.readouterr().out))
    assert float(said["measured kbps"]) == pytest.approx(kbps, abs=1e-3)
    assert float(said["nominal kbps"]) == pytest.approx(0.5 * mean, abs=1e-3)
    assert (said["fewest stages"], said["most stages"]) == (str(low), str(high))
    assert float(said["mean stages"]) == pytest.approx(mean, abs=0.01)
    nominal = np.convolve(counts[0], np.ones(50), "valid").max() / 100
    assert float(said["highest second kbps"]) == pytest.approx(nominal, rel=0.1)
    assert float(said["highest second kbps"]) > kbps
    assert main(["compress", "a.wav", "b.btn", "--bitrate", "4", "--cbr", *quick]) == 0
    assert "9.00 s, 8 stages, " in capsys.readouterr().err
    assert main(["info", "b.btn", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["fewest_stages"], facts["mean_stages"], facts["most_stages"]) == (8, 8, 8)
    assert facts["nominal_kbps"] == 4


def test_a_varied_file_is_trimmed_to_a_bitrate(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sf.write("a.wav", speech(36)[0], 16_000)
    assert main(["compress", "a.wav", "--bitrate", "9", "--search-width", "1", "-q"]) == 0
    assert main(["trim", "a.btn", "b.btn", "--bitrate", "3"]) == 0
    kbps = Path("b.btn").stat().st_size * 8 / 36_000
    assert kbps == pytest.approx(3, rel=0.05)
    size = Path("a.btn").stat().st_size
    expected = f"a.btn -> b.btn: {size * 8 / 36_000:.2f} -> {kbps:.2f} kbit/s, {size} -> "
    assert capsys.readouterr().err.startswith(expected)
    assert main(["decompress", "b.btn", "-q"]) == 0
    assert sf.info("b.wav").frames == 576_000
    for option, message in (
        (["--stages", "3"], "a.btn: each frame has stages of its own; give --bitrate"),
        (["--bitrate", "12"], "kbit/s; give less to trim to"),
    ):
        assert main(["trim", "a.btn", "c.btn", *option]) == 1
        assert message in capsys.readouterr().err
    assert not Path("c.btn").exists()


def test_several_files_at_once_are_as_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "abc":
        sf.write(f"{name}.wav", np.roll(speech(4)[0], 5_000 * ord(name)), 16_000)
        Path(f"out{name}").mkdir()
    options = ["--bitrate", "3", "--search-width", "1", "-q"]
    files = ["a.wav", "b.wav", "c.wav"]
    assert main(["compress", *files, "--output-dir", "outa", "--jobs", "2", *options]) == 0
    assert main(["compress", *files, "--output-dir", "outb", *options]) == 0
    for name in ("a.btn", "b.btn", "c.btn"):
        assert Path("outa", name).read_bytes() == Path("outb", name).read_bytes()
