"""EnCodec's weights inside: the same codes, audio and `.ecdc` bytes as its own package."""

import json
import struct
import warnings
from pathlib import Path

import pytest
import soundfile as sf
import torch
from safetensors.torch import save_file

import bittern
from bittern import weights
from bittern.cli import main
from bittern.codec import Codec
from bittern.errors import FormatError, ModelError, ModelMismatchError
from bittern.model.encodec import RELEASED_24KHZ, RELEASED_48KHZ, converted
from bittern.model.segments import Segment, decode_segments, encode_segments

encodec = pytest.importorskip("encodec", reason="encodec is not installed")

SPEECH = Path(__file__).parents[1] / "examples" / "speech.flac"
LENGTHS = {  # multiples of the hop, one sample off, shorter than a reflection; both sides of borders
    "24khz": [24_000, 12_801, 12_799, 640, 641, 7],
    "48khz": [47_520, 47_600, 48_000, 60_001, 96_123, 100],
}


def fill(codebooks: list[torch.Tensor], latent: torch.Tensor) -> None:
    """Random codebooks about as large as what each stage has to code: [N, D] of [M, D]."""
    generator = torch.Generator().manual_seed(0)
    for codebook in codebooks:
        noise = torch.randn(2, *codebook.shape, generator=generator)
        spread = noise[0] * latent.std(0) * 0.3 + noise[1] * latent.abs().mean() * 0.05
        codebook.copy_(latent.mean(0) / 2 + spread)
        latent = latent - codebook[torch.cdist(latent, codebook).argmin(1)]


SIZES = [("24khz", 4), ("48khz", 4)]  # of the released 32 filters, which take minutes
RELEASED = [pytest.param((kind, 32), marks=pytest.mark.slow) for kind, _ in SIZES]


@pytest.fixture(scope="module", params=[*SIZES, *RELEASED], ids=str)
def theirs(request):
    kind, filters = request.param
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")  # its older weight norm
        torch.manual_seed(0)
        model = getattr(encodec.EncodecModel, f"encodec_model_{kind}")(pretrained=False)
        if filters != 32:
            shape = {"channels": model.channels, "n_filters": filters}
            shape |= {"causal": kind == "24khz"}
            shape |= {"norm": "weight_norm" if kind == "24khz" else "time_group_norm"}
            model.encoder = encodec.modules.SEANetEncoder(**shape)
            model.decoder = encodec.modules.SEANetDecoder(**shape)
    model.eval().name = f"encodec_{kind}"
    with torch.no_grad():
        latent = model.encoder(wave(24_000, model.channels) * (10 if model.normalize else 1))
        fill([layer._codebook.embed for layer in model.quantizer.vq.layers], latent[0].T)
    for layer in model.quantizer.vq.layers:
        layer._codebook.inited.fill_(1)
    return model


def wave(length: int, channels: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, channels, length, generator=generator) * 0.1


@pytest.fixture(scope="module")
def checkpoint(theirs, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("encodec")
    filters, source = theirs.encoder.model[0].conv.conv.out_channels, folder / "weights.th"
    if filters == 32:
        torch.save(theirs.state_dict(), source)
    else:  # whose size a file in Meta's form does not tell
        source = folder
        facts = RELEASED_48KHZ if theirs.segment else RELEASED_24KHZ
        (folder / "config.json").write_text(json.dumps(facts | {"num_filters": filters}))
        save_file(theirs.state_dict(), folder / "model.safetensors")
    weights.import_encodec(str(source), folder / "ours")
    return folder / "ours"


@pytest.fixture(scope="module")
def ours(checkpoint) -> Codec:
    return bittern.load(checkpoint, "cpu")


def assert_same_codes(ours: Codec, latent: torch.Tensor, own, wanted) -> None:
    """Equal, but for frames from a stage on where two codewords are as near in float32."""
    for frame in (own != wanted)[0].any(0).nonzero().flatten():
        rest = latent[0, :, frame].double()
        stage = int((own != wanted)[0, :, frame].nonzero()[0])
        for before, code in enumerate(own[0, :stage, frame]):
            rest = rest - ours.model.quantizer.codewords[before, code].double()
        words = ours.model.quantizer.codewords[
            stage, [own[0, stage, frame], wanted[0, stage, frame]]
        ]
        near, far = (rest - words.double()).square().sum(dim=1).tolist()
        assert abs(near - far) < 2e-6 * (float(rest.square().sum()) + far)
    assert (own != wanted).any(1).sum() <= 1


@torch.no_grad()
def test_codes_and_audio_are_those_of_the_package_at_any_length(theirs, ours):
    for number, length in enumerate(LENGTHS[theirs.name.removeprefix("encodec_")]):
        wav = wave(length, theirs.channels)
        for stages in (2, 4, 8, 16, 32) if number < 2 else (ours.stages,):
            if stages > ours.stages:
                continue
            theirs.bandwidth = stages * ours.config.kbps_per_stage
            wanted = theirs.encode(wav)
            found = encode_segments(ours.model, wav, stages)
            assert len(found) == len(wanted)
            for own, (codes, level) in zip(found, wanted, strict=True):
                assert own.codes.shape == codes.shape == (1, stages, codes.shape[2])
                if level is None:
                    assert_same_codes(ours, ours.model.latent_of(wav), own.codes, codes)
                else:
                    assert (own.codes != codes).any(1).sum() <= 1  # a tie
                    assert torch.allclose(own.level, level, rtol=1e-6)
            again = decode_segments(ours.model, [Segment(*part) for part in wanted], length)
            heard = theirs.decode(wanted)[..., :length]
            assert float(heard.abs().max()) > 0.05
            assert float((again - heard).abs().max()) < 1e-5


def test_ecdc_files_are_byte_for_byte_those_of_the_package(theirs, ours, monkeypatch):
    monkeypatch.setitem(encodec.compress.__globals__["MODELS"], theirs.name, lambda: theirs)
    for length, stages in ((LENGTHS[theirs.name[8:]][3], 2), (48_000, 16)):
        wav = wave(length, theirs.channels, seed=2)[0]
        theirs.bandwidth = stages * ours.config.kbps_per_stage
        data = encodec.compress(theirs, wav)
        assert ours.compress_ecdc(wav, stages=stages) == data
        heard, rate = encodec.decompress(data)
        again = ours.decompress_ecdc(data)
        assert (again.sample_rate, again.wav.shape) == (rate, wav.shape)
        assert float((again.wav - heard).abs().max()) < 1e-5
        for size in (3, 20, len(data) - 1):
            with pytest.raises(FormatError, match="cut short"):
                ours.decompress_ecdc(data[:size])


@pytest.mark.parametrize(
    ("facts", "error", "said"),
    [
        ({"lm": True}, FormatError, "language model.*without --lm"),
        ({"m": "encodec_16khz"}, ModelMismatchError, "made by encodec_16khz"),
        ({"nc": 64}, ModelMismatchError, "64 codebooks"),
        ({"al": -1}, FormatError, "-1 samples"),
        ({"al": 2**60}, FormatError, "cut short"),
        ({"al": "long"}, FormatError, "makes no sense"),
    ],
)
def test_a_wrong_ecdc_file_is_told_in_one_line(ours, facts, error, said):
    good = {"m": ours.config.name, "al": 0, "nc": 2, "lm": False}
    text = json.dumps(good | facts).encode()
    with pytest.raises(error, match=said) as told:
        ours.decompress_ecdc(struct.pack("!4sBI", b"ECDC", 0, len(text)) + text, "a.ecdc")
    assert str(told.value).startswith("a.ecdc: ")
    assert "\n" not in str(told.value)


def test_commands_take_imported_weights(theirs, checkpoint, tmp_path, capsys):
    """`.btn` files at 24 kHz like any other model; at 48 kHz `.ecdc`, and a line that says so."""
    sf.write(tmp_path / "in.wav", sf.read(SPEECH, frames=16_000)[0], 16_000)
    btn, packed = tmp_path / "a.btn", tmp_path / "a.ecdc"
    model = ["--model", str(checkpoint), "--device", "cpu"]
    asked = [str(tmp_path / "in.wav"), "--stages", "8", *model]
    code = main(["compress", "-o", str(btn), *asked])
    if theirs.segment:
        assert code == 1
        assert "only .ecdc files hold" in capsys.readouterr().err
        assert not btn.exists()
    else:
        assert code == 0
        assert 6000 / 8 < btn.stat().st_size < 6000 / 8 + 150
        assert main(["trim", str(btn), str(tmp_path / "b.btn"), "--bitrate", "3"]) == 0
        assert (
            main(["decompress", str(tmp_path / "b.btn"), "-o", str(tmp_path / "b.wav"), *model])
            == 0
        )
        assert sf.info(tmp_path / "b.wav").frames == 16_000
    assert main(["compress", "-o", str(packed), *asked]) == 0
    assert main(["decompress", str(packed), "-o", str(tmp_path / "c.wav"), *model]) == 0
    back = sf.info(tmp_path / "c.wav")
    assert (back.frames, back.samplerate) == (theirs.sample_rate, theirs.sample_rate)
    assert main(["compress", "-fo", str(packed), *asked[:1], "--quality", "4", *model]) == 1
    assert "give --bitrate or --stages" in capsys.readouterr().err
    assert (
        main(["decompress", str(packed), "-o", str(tmp_path / "d.wav"), "--start", "1", *model])
        == 1
    )
    assert "come back whole" in capsys.readouterr().err
    assert not (tmp_path / "d.wav").exists()


def test_what_is_not_of_encodec_is_refused_in_one_line(tmp_path, capsys):
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.th")
    (tmp_path / "text.th").write_text("no weights")
    (tmp_path / "folder").mkdir()
    torch.save(Evil(), tmp_path / "evil.th")
    torch.save([1, 2], tmp_path / "list.th")
    for name in ("list.th", "other.th", "text.th", "folder", "missing", "evil.th"):
        assert main(["import", "encodec", str(tmp_path / name), str(tmp_path / "out")]) == 3
        (line,) = capsys.readouterr().err.splitlines()
        assert name in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("facts", [{"normalize": True}, RELEASED_48KHZ | {"overlap": 0.5}])
def test_what_no_release_has_is_refused_by_its_name(facts):
    state = {"quantizer.layers.0.codebook.embed": torch.zeros(1024, 128)}
    with pytest.raises(ModelError, match=r"(normalize is True|overlap is 0\.5); no released"):
        converted(state, facts)


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('ran')",)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changed",
    [
        {},
        RELEASED_48KHZ,
        {  # facebook/encodec_32khz
            "sampling_rate": 32_000,
            "num_filters": 64,
            "upsampling_ratios": [8, 5, 4, 4],
            "use_causal_conv": False,
            "use_conv_shortcut": False,
            "codebook_size": 2048,
            "target_bandwidths": [2.2],
        },
    ],
    ids=["24khz", "48khz", "32khz"],
)
@torch.no_grad()
def test_codes_and_audio_are_those_of_transformers(changed, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    facts = RELEASED_24KHZ | {"target_bandwidths": [1.5, 3.0, 6.0, 12.0, 24.0]} | changed
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.EncodecModel(transformers.EncodecConfig(**facts)).eval()
    loud = wave(24_000, facts["audio_channels"]) * (10 if facts["normalize"] else 1)
    fill([layer.codebook.embed for layer in model.quantizer.layers], model.encoder(loud)[0].T)
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "model.safetensors"
    )
    (tmp_path / "config.json").write_text(json.dumps(facts))
    weights.import_encodec(str(tmp_path), tmp_path / "ours")
    ours = bittern.load(tmp_path / "ours", "cpu")
    for length in (48_000, 60_001, 641):
        wav = wave(length, facts["audio_channels"])
        for bandwidth in facts["target_bandwidths"]:
            wanted = model.encode(wav, bandwidth=bandwidth)
            codes = wanted.audio_codes  # [segments, B, k, F], the last one filled up
            found = encode_segments(ours.model, wav, codes.shape[2])
            for own, theirs in zip(found, codes, strict=True):
                assert (own.codes != theirs[..., : own.codes.shape[2]]).any(1).sum() <= 1
            heard = decode_segments(ours.model, found, length)
            scales = [part.level for part in found]
            again = model.decode(codes, scales, last_frame_pad_length=wanted.last_frame_pad_length)
            assert float((heard - again.audio_values[..., :length]).abs().max()) < 1e-5
