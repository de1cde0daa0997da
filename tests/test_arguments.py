"""What scripts hand to the codec: audio, codes and numbers of every usual type, or one clear line."""

import decimal

import numpy as np
import pytest
import torch
from synthetic import make_sound

import bittern
from bittern.codec import Codec
from bittern.config import CodingOptions
from bittern.errors import AudioError, ConfigError

SOUND = (0.3 * make_sound(4_000) / np.abs(make_sound(4_000)).max()).astype(np.float32)[None]
WAV = torch.from_numpy(SOUND)


def in_steps(dtype: type[np.integer]) -> np.ndarray:
    """The sound as recorders give it: at the full scale of a type."""
    info = np.iinfo(dtype)
    middle = (int(info.max) + int(info.min) + 1) // 2
    return (np.rint(SOUND.astype(float) * (info.max - middle)) + middle).astype(dtype)


FLOATS = {
    "numpy float64": SOUND.astype(np.float64),
    "numpy big-endian": SOUND.astype(">f4"),
    "numpy long double": SOUND.astype(np.longdouble),
    "numpy that cannot be written": np.frombuffer(SOUND.tobytes(), np.float32).reshape(1, 1, -1),
    "numpy backwards": SOUND[..., ::-1].copy()[..., ::-1],
    "numpy every other": np.repeat(SOUND, 2, axis=2)[..., ::2],
    "torch float64": WAV.double(),
    "torch that needs gradients": WAV.clone().requires_grad_(),
    "a parameter": torch.nn.Parameter(WAV.clone()),
    "torch transposed": WAV.transpose(1, 2).contiguous().transpose(1, 2),
    "lists": SOUND.tolist(),
    "a list of tensors": [WAV[0]],
    "a list of arrays": [SOUND[0]],
}
HALVES = {
    "numpy float16": (SOUND.astype(np.float16), torch.float16),
    "torch float16": (WAV.half(), torch.float16),
    "torch bfloat16": (WAV.bfloat16(), torch.bfloat16),
}
STEPS = {np.int8: 1 / 64, np.uint8: 1 / 64, np.int16: 1e-4, np.int32: 1e-6}


@pytest.fixture
def expected(tiny_codec: Codec) -> torch.Tensor:
    return tiny_codec.encode(WAV)


@pytest.mark.parametrize("given", FLOATS.values(), ids=FLOATS)
def test_floats_of_any_kind_are_the_same_audio(tiny_codec, expected, given):
    assert torch.equal(tiny_codec.encode(given), expected)
    stream = bittern.StreamingEncoder(tiny_codec.model)
    assert torch.equal(torch.cat([stream.push(given), stream.flush()], -1), expected)
    alone = given[0] if isinstance(given, list) else given.reshape(-1)
    if not isinstance(given, list) or isinstance(given[0], list):
        assert tiny_codec.compress(alone, 16_000) == tiny_codec.compress(SOUND[0], 16_000)


@pytest.mark.parametrize(("given", "dtype"), HALVES.values(), ids=HALVES)
def test_half_precision_is_the_audio_that_it_can_say(tiny_codec, given, dtype):
    rounded = WAV.to(dtype).float()
    assert torch.equal(tiny_codec.encode(given), tiny_codec.encode(rounded))
    stream = bittern.StreamingEncoder(tiny_codec.model)
    codes = torch.cat([stream.push(given), stream.flush()], -1)
    assert torch.equal(codes, tiny_codec.encode(rounded))
    assert tiny_codec.compress(given[0], 16_000) == tiny_codec.compress(rounded[0], 16_000)


@pytest.mark.parametrize(("dtype", "step"), STEPS.items(), ids=lambda v: getattr(v, "__name__", ""))
@pytest.mark.parametrize("make", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_whole_numbers_are_taken_by_their_full_scale(tiny_codec, dtype, step, make):
    given = make(in_steps(dtype))
    info = np.iinfo(dtype)
    size = float(info.max) + 1 if info.min else 128.0
    floats = (in_steps(dtype).astype(np.float64) - (0 if info.min else 128)) / size
    assert np.abs(floats - SOUND).max() <= step
    right = tiny_codec.encode(floats)
    assert torch.equal(tiny_codec.encode(given), right)
    stream = bittern.StreamingEncoder(tiny_codec.model)
    assert torch.equal(torch.cat([stream.push(given), stream.flush()], -1), right)
    assert tiny_codec.compress(given[0, 0], 16_000) == tiny_codec.compress(floats[0], 16_000)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.zeros((1, 1, 9), np.int64), "int64"),
        (np.zeros((1, 1, 9), bool), "bool"),
        (np.zeros((1, 1, 9), np.complex64), "complex64"),
        (np.zeros((1, 1, 9), np.uint16), "uint16"),
        (np.array([[["a"]]]), "ndarray"),
        ([[[0.0, 1.0], [0.0]]], "lists of one length"),
        ([torch.zeros(1, 9), torch.zeros(1, 8)], "of one length"),
        (None, "NoneType"),
        ("speech.wav", "str"),
        (in_steps(np.int16).astype(np.int32), "give int16"),
        (torch.zeros(9), r"\[9\]; expected floats"),
        (torch.zeros(1, 9), r"\[1, 9\]; expected floats"),
        (np.zeros((1, 1, 1, 9), np.float32), r"\[1, 1, 1, 9\]; expected floats"),
        (torch.zeros(1, 0, 9), r"\[1, 0, 9\]; expected floats"),
    ],
)
def test_what_is_no_audio_is_one_line_that_says_what_is(tiny_codec, given, said):
    for take in (tiny_codec.encode, bittern.StreamingEncoder(tiny_codec.model).push):
        with pytest.raises(ValueError, match=said) as caught:
            take(given)
        assert "expected" in str(caught.value)
        assert "\n" not in str(caught.value)


BAD = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf, "steps kept as floats": 32767.0}


@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
@pytest.mark.parametrize("place", [0, 1_234, 3_999])
def test_what_is_no_number_is_refused_before_it_does_harm(tiny_codec, expected, value, place):
    bad = WAV.clone()
    bad[0, 0, place] = value
    for kind in (bad, bad.numpy(), bad.double(), bad.bfloat16()):
        with pytest.raises(AudioError, match=r"not a number to code|expected -1 to 1"):
            tiny_codec.encode(kind)
    with pytest.raises(AudioError, match=f"sample {place}|expected -1 to 1"):
        tiny_codec.compress(bad[0], 16_000)
    stream = bittern.StreamingEncoder(tiny_codec.model)
    parts = [stream.push(WAV[..., :1_000])]
    with pytest.raises(AudioError):
        stream.push(bad)
    parts += [stream.push(WAV[..., 1_000:]), stream.flush()]
    assert torch.equal(torch.cat(parts, -1), expected)


def test_what_lies_beyond_the_lengths_is_nobody_s_affair(tiny_codec):
    padded = torch.cat([WAV, torch.full((1, 1, 500), torch.nan)], -1)
    codes = tiny_codec.encode(padded, lengths=[4_000])
    assert torch.equal(codes, tiny_codec.encode(WAV))


CODES = {
    "int8": np.int8,
    "uint8": np.uint8,
    "int16": np.int16,
    "uint16": np.uint16,
    "int32": np.int32,
    "uint32": np.uint32,
    "float32": np.float32,
    "float64": np.float64,
    "big-endian": np.dtype(">i2"),
}


@pytest.mark.parametrize("dtype", CODES.values(), ids=CODES)
def test_codes_of_any_type_are_the_same_codes(tiny_codec, expected, dtype):
    wav = tiny_codec.decode(expected)
    array = expected.numpy().astype(dtype)
    kinds = [array, array.tolist()]
    if array.dtype.isnative:
        kinds.append(torch.from_numpy(array))
    for kind in kinds:
        assert torch.equal(tiny_codec.decode(kind), wav)
        assert torch.equal(bittern.StreamingDecoder(tiny_codec.model).push(kind), wav)
    assert torch.equal(tiny_codec.decode(array[:, None]), wav)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (torch.zeros(1, 2, 3) + 0.5, "expected whole numbers"),
        (torch.full((1, 2, 3), torch.nan), "expected whole numbers"),
        (torch.zeros(1, 2, 3).half(), "expected whole numbers"),
        (torch.zeros(1, 2, 3).bool(), "expected whole numbers"),
        (np.zeros((1, 2, 3), complex), "expected whole numbers"),
        (np.full((1, 2, 3), 64, np.uint8), "expected 0 to 63"),
        (np.full((1, 2, 3), -2, np.int16), "expected 0 to 63"),
        (np.full((1, 2, 3), 65_535, np.uint16), "expected 0 to 63"),
        (np.zeros((1, 9, 3), np.int16), "1 to 8"),
        (np.zeros((1, 0, 3), np.int16), "1 to 8"),
        ([[[1, 2], [3]]], "of one length"),
        (None, "NoneType"),
    ],
)
def test_what_are_no_codes_is_one_line(tiny_codec, given, said):
    for take in (tiny_codec.decode, bittern.StreamingDecoder(tiny_codec.model).push):
        with pytest.raises(ValueError, match=said) as caught:
            take(given)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("samples", [0, 1, 4_000])
@pytest.mark.parametrize("options", [{}, {"stages": 3}, {"quality": 4}, {"search_width": 1}])
def test_an_empty_batch_is_an_empty_batch(tiny_codec, samples, options):
    codes = tiny_codec.encode(torch.zeros(0, 1, samples), **options)
    frames = tiny_codec.config.frame_count(samples)
    stages = tiny_codec.encode(torch.zeros(1, 1, samples), **options).shape[1]
    assert codes.shape == (0, stages, frames)
    assert codes.dtype is torch.int64
    held = max(frames - 1, 0) * 320
    assert tiny_codec.decode(codes).shape == (0, 1, held)
    assert tiny_codec.encode(torch.zeros(0, 1, samples), lengths=[], **options).shape[0] == 0
    assert tiny_codec.decode(codes, lengths=[]).shape == (0, 1, 0)
    several = tiny_codec.encode(torch.zeros(0, 2, samples), stages=3)
    assert several.shape == (0, 2, 3, frames)
    assert tiny_codec.decode(several).shape == (0, 2, held)
    assert tiny_codec.decode(several, lengths=[]).shape == (0, 2, 0)


NUMBERS = [int, float, np.int32, np.uint8, np.float32, torch.tensor, np.array, decimal.Decimal]


@pytest.mark.parametrize("kind", NUMBERS)
def test_numbers_may_be_of_any_type(tiny_codec, kind):
    right = tiny_codec.encode(WAV, stages=3, search_width=2)
    codes = tiny_codec.encode(WAV, stages=kind(3), search_width=kind(2))
    assert torch.equal(codes, right)
    stream = bittern.StreamingEncoder(tiny_codec.model, stages=kind(3), batch=kind(1))
    assert stream.push(WAV).shape[:2] == (1, 3)
    whole = tiny_codec.decode(right)
    assert torch.equal(tiny_codec.decode(right, length=kind(100)), whole[..., :100])
    assert torch.equal(tiny_codec.decode(right, lengths=[kind(100)]), whole[..., :100])
    data = tiny_codec.compress(WAV[0], 16_000, stages=3)
    assert tiny_codec.compress(WAV[0], 16_000, stages=kind(3)) == data
    part = tiny_codec.decompress(data, stages=kind(2), start=kind(0), duration=kind(1))
    assert torch.equal(part.wav, tiny_codec.decompress(data, stages=2).wav)


@pytest.mark.parametrize("kind", [float, np.int32, np.uint32, np.float64, torch.tensor, np.array])
def test_so_may_rates(tiny_codec, kind):
    long = np.tile(SOUND[0], 35)  # 32 bits overflow when rates are multiplied by so many samples
    options = {"stages": 1, "search_width": 1}
    right = tiny_codec.compress(long, 44_100, **options)
    assert tiny_codec.compress(long, kind(44_100), **options) == right


@pytest.mark.parametrize("rate", [22_050.5, "44100", None, True, np.nan, np.inf, [44_100], 1j])
def test_what_is_no_rate_is_one_line_that_says_so(tiny_codec, rate):
    with pytest.raises(ValueError, match=r"sample rate is .*expected a"):
        tiny_codec.compress(SOUND[0], rate)


@pytest.mark.parametrize(
    "options",
    [
        {"stages": 2.5},
        {"stages": "8"},
        {"stages": True},
        {"bitrate_kbps": "3"},
        {"bitrate_kbps": np.nan},
        {"quality": np.inf},
        {"search_width": 1.5},
        {"chunk_seconds": "6"},
        {"stages": np.array([1, 2])},
    ],
)
def test_what_are_no_numbers_is_one_line_that_names_them(options):
    name = next(iter(options))
    with pytest.raises(ValueError, match=rf"{name} is .*expected a"):
        CodingOptions(**options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"stages": 0}, "stages"),
        ({"stages": 1.5}, "stages"),
        ({"stages": "2"}, "stages"),
        ({"start": -1}, "start is -1; expected a number from 0 on"),
        ({"duration": -0.5}, "duration is -0.5; expected a number from 0 on"),
        ({"start": np.nan}, "start is nan"),
    ],
)
def test_so_are_those_of_decompressing(tiny_codec, options, said):
    data = tiny_codec.compress(SOUND[0], 16_000, stages=3)
    with pytest.raises((ValueError, ConfigError), match=said):
        tiny_codec.decompress(data, **options)


@pytest.mark.parametrize(
    "lengths", [[1.5], 4_000, None, ["9"], [[4_000]], [9_999], [-1], [1, 2], [np.nan]]
)
def test_lengths_that_do_not_fit_are_one_line(tiny_codec, expected, lengths):
    if lengths is None:
        assert torch.equal(tiny_codec.encode(WAV, lengths=None), expected)
        return
    for call in (tiny_codec.encode, tiny_codec.decode):
        with pytest.raises(ValueError, match="length"):
            call(WAV if call == tiny_codec.encode else expected, lengths=lengths)


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor, tuple])
def test_lengths_may_be_of_any_kind(tiny_codec, kind):
    pair = WAV.expand(2, 1, -1)
    right = tiny_codec.encode(pair, lengths=[100, 4_000])
    assert torch.equal(tiny_codec.encode(pair, lengths=kind([100, 4_000])), right)
    wav = tiny_codec.decode(right, lengths=[100, 4_000])
    assert torch.equal(tiny_codec.decode(right, lengths=kind([100, 4_000])), wav)


# what the rest of a script has set


@pytest.fixture
def usual_defaults():
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.usefixtures("usual_defaults")
def test_default_types_of_a_script_change_nothing(tiny_codec, tiny_checkpoint, expected, dtype):
    wav = tiny_codec.decode(expected)
    data = tiny_codec.compress(WAV[0], 44_100, quality=3)
    torch.set_default_dtype(dtype)
    for codec in (tiny_codec, bittern.load(tiny_checkpoint, device="cpu")):
        assert torch.equal(codec.encode(WAV), expected)
        assert torch.equal(codec.encode(WAV, lengths=[4_000]), expected)
        assert torch.equal(codec.decode(expected), wav)
        assert torch.equal(codec.decode(expected, lengths=[4_000]), wav[..., :4_000])
        assert codec.compress(WAV[0], 44_100, quality=3) == data
        encoder = bittern.StreamingEncoder(codec.model)
        pushed = [encoder.push(WAV[..., :700]), encoder.push(WAV[..., 700:]), encoder.flush()]
        assert torch.equal(torch.cat(pushed, -1), expected)
        decoder = bittern.StreamingDecoder(codec.model)
        sounds = [decoder.push(expected[..., :5]), decoder.conceal(2), decoder.push(expected)]
        assert {sound.dtype for sound in sounds} == {torch.float32}
    assert torch.get_default_dtype() is dtype


@pytest.mark.usefixtures("usual_defaults")
def test_nor_do_default_devices(tiny_checkpoint, expected):
    torch.set_default_device("meta")
    codec = bittern.load(tiny_checkpoint, device="cpu")
    torch.set_default_device(None)
    assert torch.equal(codec.encode(WAV), expected)
    with torch.device("meta"):
        codec = bittern.load(tiny_checkpoint, device="cpu")
    assert torch.equal(codec.encode(WAV), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_networks_of_another_precision_say_what_to_do(tiny_checkpoint, dtype):
    codec = bittern.load(tiny_checkpoint, device="cpu")
    codec.model.to(dtype)
    for call in (lambda: codec.encode(WAV), lambda: codec.decode(np.zeros((1, 2, 3), int))):
        with pytest.raises(ValueError, match=r"they work in float32 .*autocast"):
            call()


def test_half_precision_by_autocast_leaves_codes_as_they_are(tiny_codec, expected):
    with torch.autocast("cpu", torch.bfloat16):
        codes = tiny_codec.encode(WAV)
    assert float((codes == expected).float().mean()) > 0.9


# training on what the codec gives


def test_all_that_comes_out_can_be_trained_on(tiny_codec, expected):
    encoder, decoder = (
        kind(tiny_codec.model) for kind in (bittern.StreamingEncoder, bittern.StreamingDecoder)
    )
    codes = [encoder.push(WAV), encoder.flush(), tiny_codec.encode(WAV)]
    for given in codes:
        table = torch.nn.Embedding(64, 4)
        table(given).sum().backward()
        assert table.weight.grad is not None
    wavs = [decoder.push(expected), decoder.conceal(3), tiny_codec.decode(expected)]
    latents = [bittern.StreamingEncoder(tiny_codec.model).push_latent(WAV)]
    restored = bittern.StreamingDecoder(tiny_codec.model)
    restored.state = decoder.state
    wavs.append(restored.push(expected))
    for given in (*wavs, *latents, tiny_codec.decompress(tiny_codec.compress(WAV[0], 16_000)).wav):
        gain = torch.ones((), requires_grad=True)
        (given * gain).square().sum().backward()
        assert torch.isfinite(gain.grad).all()
        given.add_(1)  # also in place


def test_what_was_made_for_inference_may_come_in(tiny_codec, expected):
    with torch.inference_mode():
        sound, codes = WAV.clone(), expected.clone()
        encoder = bittern.StreamingEncoder(tiny_codec.model)
        first = encoder.push(sound[..., :1_000]).clone()
        tiny_codec.encode(sound)
    pushed = [encoder.push(sound[..., 1_000:]), encoder.flush()]
    assert torch.equal(torch.cat([first, *pushed], -1), expected)
    table = torch.nn.Embedding(64, 4)
    for given in (tiny_codec.encode(sound), *pushed):
        assert not given.is_inference()
        table(given).sum().backward()
    assert not tiny_codec.decode(codes).is_inference()


def test_a_codec_loaded_for_inference_can_be_trained(tiny_checkpoint):
    with torch.inference_mode():
        codec = bittern.load(tiny_checkpoint, device="cpu")
        codec.encode(WAV)
    codec.model.requires_grad_(True)
    codec.model.synthesise(codec.model.latent(codec.model.pad(WAV))).square().sum().backward()
    grads = [p.grad for p in codec.model.decoder.parameters()]
    assert all(grad is not None and torch.isfinite(grad).all() for grad in grads)


# graphs of torch.export


class Half(torch.nn.Module):
    """One direction of a codec as a module."""

    def __init__(self, codec: Codec, call: str) -> None:
        super().__init__()
        self.model, self.codec, self.call = codec.model, codec, call

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        match self.call:
            case "model.encode":
                return self.model.encode(given)
            case "model.decode":
                return self.model.decode(given)
            case "codec.encode":
                return self.codec.encode(given, search_width=1)
            case _:
                return self.codec.decode(given)


@pytest.mark.filterwarnings("ignore")  # torch's own
@pytest.mark.parametrize("batch", [1, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "call",
    [
        pytest.param("model.encode", marks=pytest.mark.slow),
        pytest.param("codec.decode", marks=pytest.mark.slow),
        "codec.encode",
        "model.decode",
    ],
)
def test_each_direction_exports_and_gives_the_same(tiny_codec, expected, call, batch):
    given = (WAV if "encode" in call else expected).expand(batch, -1, -1).contiguous()
    half = Half(tiny_codec, call).eval()
    program = torch.export.export(half, (given,), strict=False)
    other = given.flip(-1)  # data that the graph was not made with
    for data in (given, other):
        torch.testing.assert_close(program.module()(data), half(data), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("call", ["model.encode", "model.decode"])
def test_graphs_take_any_number_of_frames(tiny_codec, expected, call):
    given, step = (WAV[..., :3_840], 320) if call == "model.encode" else (expected, 1)
    half = Half(tiny_codec, call).eval()
    frames = torch.export.Dim("frames", min=3, max=9_000)
    shapes = ({2: step * frames},)
    program = torch.export.export(half, (given.contiguous(),), dynamic_shapes=shapes, strict=True)
    longer = torch.cat([given, given[..., : 5 * step]], -1)
    torch.testing.assert_close(program.module()(longer), half(longer), rtol=0, atol=1e-5)
