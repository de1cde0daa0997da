"""Engine onnx: the same codes as torch's, but for ties, and the same samples, however audio is pushed."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from synthetic import make_model, make_sound
from test_chunkings import shipped, with_lstm
from test_stream import CONFIGS

import bittern
from bittern.cli import main
from bittern.errors import ConfigError, ModelError
from bittern.model.codec_model import CodecModel
from bittern.model.stream import StreamingDecoder
from bittern.weights import save

EXAMPLE = Path(__file__).parents[1] / "examples" / "speech.flac"
TIE = 1e-5  # of the energy of what is compared
FULL_SCALE = 1e-4


def push_all(push, parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([push(part) for part in parts], axis=-1)


def cut(array: np.ndarray, longest: int, generator: np.random.Generator) -> list[np.ndarray]:
    """The same in random portions, some of them empty."""
    sizes = generator.integers(0, longest + 1, 2 * array.shape[-1] // longest + 2)
    return np.split(array, np.minimum(np.cumsum(sizes), array.shape[-1]), axis=-1)


def ties(model: CodecModel, latent: np.ndarray, codes: np.ndarray, expected: np.ndarray) -> int:
    """Count the frames that differ; where each first does, both codes must be as near, or it fails."""
    words = model.quantizer.codewords.double().numpy()
    differing = np.argwhere((codes != expected).any(axis=1))
    for item, frame in differing:
        rest = latent[item, :, frame].astype(float)
        first = int(np.argmax(codes[item, :, frame] != expected[item, :, frame]))
        for stage in range(first):
            rest = rest - words[stage, codes[item, stage, frame]]
        pair = (codes[item, first, frame], expected[item, first, frame])
        near, far = (((rest - words[first, code]) ** 2).sum() for code in pair)
        assert abs(near - far) < TIE * ((rest**2).sum() + 1e-9)
    return len(differing)


def check(model: CodecModel, folder: Path, wav: np.ndarray, pushings: int) -> int:
    """Hold engine onnx to torch over random pushings of [B, C, T]; how many frames tie otherwise."""
    engine = bittern.load(folder, engine="onnx").engine
    with torch.no_grad():
        latent = model.latent_of(torch.from_numpy(wav)).numpy()
    generator, different = np.random.default_rng(0), 0
    for _ in range(pushings):
        stages = int(generator.integers(1, model.quantizer.stages + 1))
        encoder = engine.encoder(len(wav), stages, 1)
        codes = push_all(encoder.push, cut(wav, int(generator.integers(10, 5_000)), generator))
        codes = np.concatenate([codes, encoder.flush()], axis=-1)
        expected = model.encode(torch.from_numpy(wav), stages, 1).numpy()
        different += ties(model, latent, codes, expected)
        decoder = engine.decoder(len(wav))
        got = push_all(decoder.push, cut(codes, int(generator.integers(1, 40)), generator))
        samples = model.decode(torch.from_numpy(codes)).numpy()
        np.testing.assert_allclose(got, samples, rtol=0, atol=FULL_SCALE)
    return different


@pytest.mark.parametrize("name", list(CONFIGS))
def test_any_codec_that_streams_gives_what_torch_gives(name, tmp_path):
    model = make_model(CONFIGS[name])
    save(model, tmp_path)
    samples = 20 * model.config.hop_length + 7
    wav = np.stack([make_sound(samples, channels=model.config.channels, seed=s) for s in (0, 1)])
    assert check(model, tmp_path, wav, 3) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("make", [shipped, with_lstm])
def test_200_random_pushings_of_speech_give_what_torch_gives(make, tmp_path, capfd):
    model, wav = make(), soundfile.read(EXAMPLE, frames=80_000, dtype="float32")[0]
    save(model, tmp_path)
    different = check(model, tmp_path, wav[None, None], 200)
    with capfd.disabled():
        print(
            f"\n{make.__name__}: {different} of {200 * model.config.frame_count(80_000)} frames tie"
        )
    assert different <= 200 * model.config.frame_count(80_000) / 1_000


def test_the_shipped_graphs_search_wide_and_choose_stages_as_torch_does():
    wav = soundfile.read(EXAMPLE, frames=32_000, dtype="float32")[0][None, None]
    ours, theirs = (bittern.load("speech-16khz", "cpu", engine) for engine in ("onnx", "torch"))
    for options in ({"stages": 12}, {"quality": 8}, {"bitrate_kbps": 3.0, "search_width": 2}):
        codes = ours.encode(wav, **options)
        expected = theirs.encode(torch.from_numpy(wav), **options).numpy()
        assert (codes != expected).any(axis=1).sum() <= 1
        audio = theirs.decode(torch.from_numpy(codes), length=32_000).numpy()
        np.testing.assert_allclose(
            ours.decode(codes, length=32_000), audio, rtol=0, atol=FULL_SCALE
        )


@pytest.mark.parametrize("silent", [False, True])
def test_lost_frames_fade_as_in_torch(tiny_codec, tiny_checkpoint, silent):
    codes = np.random.default_rng(0).integers(0, 64, (1, 8, 60))
    engine = bittern.load(tiny_checkpoint, engine="onnx").engine
    ours, theirs = engine.decoder(1), StreamingDecoder(tiny_codec.model)
    for piece in (3, codes[..., :10], 4, 5, codes[..., 10:20], 50, 7, codes[..., 20:], 40, 2):
        if isinstance(piece, int):
            got, expected = (each.conceal(piece, silent=silent) for each in (ours, theirs))
        else:
            got, expected = ours.push(piece), theirs.push(torch.from_numpy(piece))
        np.testing.assert_allclose(got, expected.numpy(), rtol=0, atol=FULL_SCALE)


def test_exported_graphs_stand_beside_the_weights_and_belong_to_them(
    tiny_checkpoint, other_checkpoint, tmp_path
):
    assert main(["export", str(tiny_checkpoint), str(tmp_path), "-q"]) == 0
    weights = (tiny_checkpoint / "model.safetensors").read_bytes()
    assert (tmp_path / "model.safetensors").read_bytes() == weights
    graphs = [tmp_path / f"{side}.onnx" for side in ("encoder", "decoder")]
    assert sum(path.stat().st_size for path in graphs) < 100_000  # no weights in them
    wav = make_sound(1_000)[None]
    codec = bittern.load(tmp_path, engine="onnx")
    expected = bittern.load(other_checkpoint, engine="onnx").encode(wav)
    assert not np.array_equal(codec.encode(wav), expected)
    for name in ("model.safetensors", "config.json"):  # other weights: the graphs are not used
        (tmp_path / name).write_bytes((other_checkpoint / name).read_bytes())
    again = bittern.load(tmp_path, engine="onnx").encode(wav)
    np.testing.assert_array_equal(again, expected)


def test_what_engine_onnx_cannot_do_is_said(tmp_path, tiny_checkpoint):
    with pytest.raises(ConfigError, match="engine is 'tensorflow'; give auto, torch, onnx"):
        bittern.load(tiny_checkpoint, engine="tensorflow")
    with pytest.raises(ConfigError, match="device 'cuda' cannot be used by engine onnx; give cpu"):
        bittern.load(tiny_checkpoint, "cuda", "onnx")
    config = CONFIGS["spectrum"]
    network = type(config.encoder)(causal=False, channels=(32,), residual_units=(2,))
    save(make_model(type(config)(latent_dim=32, encoder=network)), tmp_path)
    with pytest.raises(ModelError, match="looks ahead, which engine onnx does not do"):
        bittern.load(tmp_path, engine="onnx")
    codec = bittern.load(tiny_checkpoint, engine="onnx")
    for codes in (np.full((1, 2, 3), 64), np.full((1, 2, 3), -2)):
        with pytest.raises(ValueError, match="expected -1 to 63"):
            codec.decode(codes)


def test_no_torch_is_imported_to_compress_and_decompress(tmp_path):
    program = (
        "import sys\n"
        "from bittern.cli import main\n"
        "codes = [main(argv.split()) for argv in sys.argv[1:]]\n"
        "heavy = {'torch', 'einops', 'onnx', 'scipy', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'{codes} {heavy}' if any(codes) or heavy else 0)"
    )
    soundfile.write(tmp_path / "a.wav", make_sound(8_000).T, 16_000)
    commands = [
        "compress a.wav a.btn --bitrate 3 --engine onnx -q",
        "decompress a.btn b.wav --engine onnx -q",
        "info a.btn",
    ]
    subprocess.run(
        [sys.executable, "-c", program, *commands], cwd=tmp_path, check=True, timeout=120
    )
    assert soundfile.info(tmp_path / "b.wav").frames == 8_000
