"""Other codecs as subprocesses: what is parsed, run, counted, and reported when missing."""

import os
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
import soundfile as sf

import bittern
from bittern.errors import ConfigError
from bittern.evaluation import baselines, library, tools
from bittern.evaluation.clips import Clip, as_pcm16, to_int16
from bittern.evaluation.scores import align, score
from bittern.evaluation.systems import Row
from bittern.evaluation.tools import Tool, payload_bytes
from bittern.metrics import stoi

RATE = 16_000


def needs(*programs: str):
    missing = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed")


@pytest.fixture(scope="module")
def clip(speech) -> Clip:
    return Clip("clip", as_pcm16(speech), RATE)


def coded(text: str, clip: Clip) -> list[Row]:
    family = baselines.parse(text)
    found = list(family.code(clip, family.systems))
    assert not any(row.failures for row in found), found
    return found


def test_a_name_gives_its_default_rates_and_a_list_gives_those():
    assert [s.name for s in baselines.parse("mp3").systems] == [
        "MP3 8 kbit/s",
        "MP3 16 kbit/s",
        "MP3 24 kbit/s",
    ]
    assert [s.name for s in baselines.parse("codec2=3.2,1.2").systems] == [
        "Codec 2 3.2 kbit/s",
        "Codec 2 1.2 kbit/s",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "vorbis",
        "opus=",
        "opus=fast",
        "opus=-6",
        "encodec",
        "name enc {in} {code} {out}",
        "x: enc {in} {code}",
    ],
)
def test_what_cannot_be_a_baseline_is_refused(text):
    with pytest.raises(ConfigError, match="baseline"):
        baselines.parse(text)


def test_a_missing_program_is_named_with_the_package_that_has_it(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    said = baselines.parse("mp3").missing
    assert said is not None
    assert "lame and ffprobe not found" in said
    assert "Debian's lame and ffmpeg" in said
    said = baselines.parse("mine: nothing-here {in} {code} && cat {code} {out}").missing
    assert said is not None
    assert said.startswith("mine: nothing-here and cat and ffprobe not found on the PATH")


def test_programs_are_found_between_quotes_and_operators():
    text = "x: cd /tmp; A=1 enc 'a; b && c' {in} | dec --x=1 > {code} && enc {code} {out}"
    assert Tool("x", text.removeprefix("x: ")).programs == ["enc", "dec"]


def test_a_command_given_as_a_template_is_run_and_its_file_counted(clip):
    loud = Clip("loud", as_pcm16(clip.samples / abs(clip.samples).max()), RATE)
    (found,) = coded("copy: cp {in} {code} && cp {code} {out}", loud)
    assert (found.samples == loud.samples).all()
    assert found.payload_bytes == found.file_bytes == 44 + 2 * len(clip.samples)
    assert found.system.name == "copy"


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("false {in} {code} {out}", "exit code 1: nothing said"),
        ("echo went wrong >&2; exit 3; {in} {code} {out}", "exit code 3: went wrong"),
        ("true {in} {code} {out}", "no code.bin was written"),
        ("cp {in} {code} && echo text > {out}", "not audio"),
    ],
)
def test_a_command_that_fails_on_a_clip_says_why(clip, command, reason):
    family = baselines.parse(f"bad: {command}")
    (found,) = family.code(clip, family.systems)
    assert found.failures.keys() == {"coding"}
    assert reason in found.failures["coding"]


def test_only_what_is_wanted_is_run(clip):
    family = baselines.parse("copy: cp {in} {code} && cp {code} {out}")
    assert list(family.code(clip, [])) == []


@pytest.mark.peers
@needs("ffprobe")
@pytest.mark.parametrize("data", [b"anything at all", b"OggS" + bytes(20), bytes(5000), b"["])
def test_what_is_no_container_counts_whole(tmp_path, data):
    path = tmp_path / "code.mp3"
    path.write_bytes(data)
    assert payload_bytes(path) == len(data)


@pytest.fixture
def without_opuscodec(monkeypatch):
    monkeypatch.setattr(library, "opus_installed", lambda: False)


@pytest.mark.peers
@needs("opusenc", "opusdec", "opusinfo", "ffprobe")
def test_opus_bitrate_is_what_opusinfo_says(clip, tmp_path, without_opuscodec):
    assert re.fullmatch(r"libopus 1\.\d[\w.+-]*", baselines.parse("opus").version)
    for rate, found in zip((6, 24), coded("opus=6,24", clip), strict=True):
        sf.write(tmp_path / "in.wav", clip.samples, RATE, "PCM_16")
        code = tmp_path / "code.opus"
        subprocess.run(
            ["opusenc", "--quiet", "--bitrate", str(rate), str(tmp_path / "in.wav"), str(code)],
            check=True,
        )
        said = subprocess.run(["opusinfo", str(code)], capture_output=True, text=True, check=True)
        match = re.search(r"w/o overhead: ([\d.]+) kbit", said.stdout)
        assert match
        ours = 8 * found.payload_bytes / clip.seconds / 1000
        assert ours == pytest.approx(float(match[1]), rel=0.01)
        assert found.file_bytes == code.stat().st_size


@pytest.mark.peers
@needs("opusenc", "opusdec", "ffprobe")
def test_quality_of_opus_grows_with_its_rate(clip, without_opuscodec):
    values = scores_of("opus=6,8,12,24", clip)
    for key in ("pesq_wb", "estoi", "visqol"):
        quality = [value[key] for value in values]
        assert quality == sorted(quality), key
    assert values[-1]["pesq_wb"] > values[0]["pesq_wb"] + 1


def scores_of(text: str, clip: Clip) -> list[dict[str, float]]:
    aligned = [align(found.samples, clip.samples, RATE).samples for found in coded(text, clip)]
    return [score(samples, clip.samples, RATE).values for samples in aligned]


@pytest.mark.peers
@needs("ffprobe", "opusinfo")
def test_a_current_libopus_is_preferred_and_its_packets_are_counted(clip, tmp_path):
    package = pytest.importorskip("opuscodec", reason="opuscodec is not installed")
    assert baselines.parse("opus").version == package.opus_version()
    for rate, found in zip((6, 24), coded("opus=6,24", clip), strict=True):
        encoder = package.OpusBufferedEncoder(RATE, 1, 1000 * rate, qext=False)
        code = tmp_path / "code.opus"
        code.write_bytes(encoder.write(to_int16(clip.samples)[:, None]) + encoder.flush())
        said = subprocess.run(["opusinfo", str(code)], capture_output=True, text=True, check=True)
        match = re.search(r"w/o overhead: ([\d.]+) kbit", said.stdout)
        assert match
        ours = 8 * found.payload_bytes / clip.seconds / 1000
        assert ours == pytest.approx(float(match[1]), rel=0.01)
    low, high = scores_of("opus=6,24", clip)
    assert high["pesq_wb"] > low["pesq_wb"] + 1


@pytest.mark.peers
@needs("opusenc", "ffprobe", "node")
def test_nolace_makes_speech_from_the_same_packets_better(clip, tmp_path):
    family = baselines.parse("nolace=8")
    if family.missing:
        assert "npm install -g ogg-opus-decoder" in family.missing
        pytest.skip(family.missing)
    assert re.fullmatch(r"libopus 1\.[\w.+-]+, ogg-opus-decoder [\d.]+", family.version)
    plain = (
        "plain: opusenc --quiet --set-ctl-int 4008=1103 --bitrate 8 {in} {code}"
        " && opusdec --quiet --no-dither --rate 16000 {code} {out}"
    )
    (enhanced,), (decoded,) = coded("nolace=8", clip), coded(plain, clip)
    assert enhanced.payload_bytes == decoded.payload_bytes
    (better,), (worse,) = scores_of("nolace=8", clip), scores_of(plain, clip)
    for key in ("pesq_wb", "estoi", "dnsmos"):
        assert better[key] > worse[key], key


def test_nolace_without_its_package_says_what_to_install(monkeypatch, tmp_path):
    if shutil.which("node") is None or shutil.which("opusenc") is None:
        pytest.skip("node or opusenc not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NODE_PATH", raising=False)
    tools._asked.cache_clear()
    said = baselines.parse("nolace").missing
    tools._asked.cache_clear()
    if said is None:
        pytest.skip("ogg-opus-decoder is installed for all of node")
    assert said.endswith("ogg-opus-decoder not found by node; npm install -g ogg-opus-decoder")


def test_lyra_without_its_networks_says_where_they_are(tmp_path):
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")
    (tmp_path / "quantizer.tflite").touch()
    said = library.lyra(tmp_path).missing
    assert said is not None
    assert "lacks soundstream_encoder.tflite and lyragan.tflite; they are in google/lyra" in said


@pytest.mark.peers
def test_lyra_is_run_from_its_networks(clip):
    """BITTERN_LYRA names a folder of them: lyra/model_coeffs of github.com/google/lyra."""
    if "BITTERN_LYRA" not in os.environ:
        pytest.skip("BITTERN_LYRA does not name a folder of Lyra's networks")
    family = library.lyra(Path(os.environ["BITTERN_LYRA"]))
    assert family.missing is None
    rows = list(family.code(clip, family.systems))
    frames = len(clip.samples) // 320
    assert [row.payload_bytes for row in rows] == [8 * frames, 15 * frames, 23 * frames]
    found = []
    for row in rows:
        assert len(row.samples) == len(clip.samples)
        aligned = align(row.samples, clip.samples, RATE).samples
        found.append(score(aligned, clip.samples, RATE).values)
    for key in ("pesq_wb", "estoi", "visqol"):
        assert [value[key] for value in found] == sorted(value[key] for value in found), key
    assert found[0]["estoi"] > 0.75
    assert found[2]["pesq_wb"] > 3


OWN = """
import numpy as np

class Codec:
    name, rates, sample_rate = "Halves", ("64", "32"), 8000

    def encode(self, samples, sample_rate, rate):
        if rate == "13":
            raise RuntimeError("out of luck")
        assert sample_rate == 8000
        return np.round(samples * 127).astype(np.int8), rate

    def decode(self, codes):
        return codes[0] / 127, 8000

    def bits(self, codes):
        return int(codes[1]) * len(codes[0]) // 8
"""


def test_a_codec_of_ones_own_is_a_file_of_python(clip, tmp_path):
    path = tmp_path / "halves.py"
    path.write_text(OWN)
    low, high = coded(f"{path}=32,64", clip)
    assert (low.system.name, high.system.name) == ("Halves 32 kbit/s", "Halves 64 kbit/s")
    assert (low.payload_bytes, high.payload_bytes) == (16_000, 32_000)  # of 4 seconds
    heard = align(high.samples, clip.samples, RATE).samples
    assert stoi(heard, clip.samples, RATE, extended=True) > 0.9
    before = low.system.identity
    path.write_text(OWN + "# another one")
    assert baselines.parse(f"{path}=32").systems[0].identity != before
    family = baselines.parse(f"{path}=13")
    (row,) = family.code(clip, family.systems)
    assert row.failures == {"coding": "RuntimeError: out of luck"}


@pytest.mark.parametrize(
    ("text", "said"),
    [("1 +", "SyntaxError"), ("", "no attribute 'Codec'"), ("class Codec: rates = ()", "name")],
)
def test_a_file_that_is_no_codec_is_one_line(tmp_path, text, said):
    path = tmp_path / "bad.py"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"bad.py: needs a class Codec .*{said}") as told:
        baselines.parse(str(path))
    assert "\n" not in str(told.value)


def test_a_checkpoint_is_an_opponent_with_the_nearest_codewords(clip, tiny_checkpoint):
    family = baselines.parse(f"{tiny_checkpoint}=0.6,2.4")
    assert not family.is_model
    rows = list(family.code(clip, family.systems))
    assert [row.system.name for row in rows] == ["tiny-test 2 stages", "tiny-test 8 stages"]
    codec = bittern.load(tiny_checkpoint, "cpu")
    data = codec.compress(clip.samples, RATE, stages=8, search_width=1)
    assert rows[1].file_bytes == len(data)
    assert (rows[1].samples == codec.decompress(data).wav[0].numpy()).all()


@pytest.mark.peers
@needs("lame", "ffprobe")
def test_mp3_payload_is_all_frames_but_the_one_without_audio(clip):
    low, high = coded("mp3=16,64", clip)
    assert 8 * low.payload_bytes / clip.seconds == pytest.approx(16_000, rel=0.06)
    assert 8 * high.payload_bytes / clip.seconds == pytest.approx(64_000, rel=0.06)
    assert high.file_bytes - high.payload_bytes == 64_000 // 8 * 576 // RATE  # one frame


@pytest.mark.peers
@needs("ffmpeg", "ffprobe")
def test_aac_payload_is_what_the_box_of_samples_holds(clip, tmp_path):
    source, code = tmp_path / "in.wav", tmp_path / "code.bin"
    sf.write(source, clip.samples, RATE, "PCM_16")
    options = ["-loglevel", "error", "-c:a", "aac", "-b:a", "16k", "-f", "mp4"]
    command = ["ffmpeg", "-i", str(source), *options, str(code)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    boxes, data = {}, code.read_bytes()
    while data:  # ISO/IEC 14496-12, section 4.2
        size, kind = struct.unpack_from(">I4s", data)
        boxes[kind] = size - 8
        data = data[size:]
    assert payload_bytes(code) == boxes[b"mdat"] < code.stat().st_size - 500


@pytest.mark.peers
@needs("c2enc", "c2dec")
def test_codec_2_takes_its_nominal_rate(clip):
    (found,) = coded("codec2=3.2", clip)
    assert 8 * found.payload_bytes / clip.seconds == pytest.approx(3200, rel=0.01)
    assert (
        score(align(found.samples, clip.samples, RATE).samples, clip.samples, RATE).values["stoi"]
        > 0.7
    )
