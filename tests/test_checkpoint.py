import dataclasses

import pytest
import torch

import bittern
from bittern import checkpoint, weights
from bittern.audio import atomic
from bittern.cli import main
from bittern.config import (
    CodecConfig,
    NetworkConfig,
    Norm,
    QuantizerConfig,
)
from bittern.errors import CodecError, ModelError
from bittern.model.codec_model import CodecModel

CONFIG = CodecConfig(
    name="small",
    hop_length=40,
    latent_dim=16,
    encoder=NetworkConfig(channels=(16,), residual_units=(1,)),
    quantizer=QuantizerConfig(stages=4, codebook_size=32),
)


def build(config=CONFIG):
    torch.manual_seed(0)
    model = CodecModel(config)
    model.fit_transform(torch.randn(2, 1, 4000))
    model.quantizer.codewords.normal_()
    return model


def wav():
    return 0.1 * torch.randn(1, 1, 1000, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("norm", [Norm.NONE, Norm.WEIGHT])
def test_a_saved_model_loads_to_the_same_codes_and_audio(tmp_path, norm):
    config = dataclasses.replace(CONFIG, encoder=dataclasses.replace(CONFIG.encoder, norm=norm))
    model = build(config)
    fingerprint = weights.save(model, tmp_path / "m")
    loaded = bittern.load(tmp_path / "m", "cpu")
    assert loaded.fingerprint == fingerprint
    assert loaded.model.config == config
    assert not loaded.model.training
    codes = model.encode(wav())
    assert torch.equal(loaded.model.encode(wav()), codes)
    torch.testing.assert_close(
        loaded.model.decode(codes), model.decode(codes), rtol=1e-4, atol=1e-6
    )
    assert not any("parametrizations" in key for key in loaded.model.state_dict())
    assert model.training  # saving changed nothing
    assert any("parametrizations" in k for k in model.state_dict()) == (norm is Norm.WEIGHT)


def test_half_precision_halves_the_file_and_hardly_changes_the_audio(tmp_path):
    model = build()
    weights.save(model, tmp_path / "wide")
    weights.save(model, tmp_path / "half", dtype=torch.float16)
    sizes = [(tmp_path / n / "model.safetensors").stat().st_size for n in ("wide", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    codes = model.encode(wav())
    halved = bittern.load(tmp_path / "half", "cpu").model
    assert all(p.dtype == torch.float32 for p in halved.parameters())
    difference = (halved.decode(codes) - model.decode(codes)).square().mean()
    assert float(difference) < 1e-5 * float(model.decode(codes).square().mean())


def test_other_weights_have_another_fingerprint(tmp_path):
    model = build()
    first = weights.save(model, tmp_path / "m")
    model.quantizer.codewords[0, 0, 0] += 1
    assert weights.save(model, tmp_path / "m") != first


def test_weights_name_those_whose_files_they_decode(tmp_path):
    model = build()
    first = weights.save(model, tmp_path / "first")
    assert checkpoint.load(tmp_path / "first").decodes == ()
    second = weights.save(
        model, tmp_path / "second", decodes=checkpoint.lineage(tmp_path / "first")
    )
    assert second != first
    assert checkpoint.lineage(tmp_path / "second") == (second, first)
    path = tmp_path / "second" / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(first.hex().encode(), b"no fingerprint !"))
    with pytest.raises(ModelError, match="no fingerprint"):
        checkpoint.load(tmp_path / "second")


def test_a_published_checkpoint_is_half_as_large_and_keeps_what_belongs_to_it(tmp_path, capsys):
    model = build()
    weights.save(model, tmp_path / "run", decodes=[bytes(8)])
    (tmp_path / "run" / "training.pt").write_bytes(b"for training only")
    assert main(["publish", str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json",
        "decoder.onnx",
        "encoder.onnx",
        "model.safetensors",
    ]
    before, after = (bittern.load(tmp_path / name, "cpu") for name in ("run", "out"))
    assert after.decodes == (bytes(8),)
    assert after.fingerprint.hex() in capsys.readouterr().out
    sizes = [(tmp_path / n / "model.safetensors").stat().st_size for n in ("run", "out")]
    assert sizes[1] < 0.6 * sizes[0]
    torch.testing.assert_close(
        after.model.quantizer.codewords, before.model.quantizer.codewords, rtol=1e-3, atol=1e-6
    )
    assert main(["publish", str(tmp_path / "none"), str(tmp_path / "new")]) == 3
    assert "is neither a folder" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("norm", [Norm.NONE, Norm.WEIGHT])
def test_loading_into_a_model_keeps_weight_norm_and_takes_other_numbers_of_stages(tmp_path, norm):
    config = dataclasses.replace(CONFIG, encoder=dataclasses.replace(CONFIG.encoder, norm=norm))
    model = build(config)
    weights.save(model, tmp_path / "m")
    for stages in (2, 4, 6):
        other = CodecModel(
            dataclasses.replace(config, quantizer=QuantizerConfig(stages=stages, codebook_size=32))
        )
        weights.load_into(other, tmp_path / "m")
        padded = model.pad(wav())
        torch.testing.assert_close(other.latent(padded), model.latent(padded), rtol=1e-4, atol=1e-5)
        shared = min(stages, 4)
        assert torch.equal(other.quantizer.codewords[:shared], model.quantizer.codewords[:shared])
        assert any("parametrizations" in k for k in other.state_dict()) == (norm is Norm.WEIGHT)


def test_a_decoder_that_is_told_stages_begins_deaf_to_them(tmp_path):
    given = build()
    weights.save(given, tmp_path / "m")
    told = CodecModel(dataclasses.replace(CONFIG, counts_stages=True))
    weights.load_into(told, tmp_path / "m")
    latent = given.latent(given.pad(wav()))
    for stages in (1, 4):
        counts = torch.full((1, latent.shape[2]), float(stages))
        torch.testing.assert_close(
            told.synthesise(latent, stages=counts), given.synthesise(latent), rtol=1e-4, atol=1e-5
        )


def damage_config(folder):
    (folder / "config.json").write_text('{"hop": 3}')


def damage_weights(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def no_weights(folder):
    (folder / "model.safetensors").unlink()


def no_config(folder):
    (folder / "config.json").unlink()


def other_config(folder):
    config = dataclasses.replace(CONFIG, latent_dim=8)
    (folder / "config.json").write_text(config.to_json())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_config, "config.json: config has an unknown key 'hop'"),
        (damage_weights, "not a complete safetensors file"),
        (no_weights, "model.safetensors: cannot be read"),
        (no_config, "neither a folder with a config.json nor the name of a shipped model"),
        (other_config, "misshapen"),
    ],
)
def test_a_damaged_folder_is_told_in_one_line(tmp_path, damage, message):
    weights.save(build(), tmp_path / "m")
    damage(tmp_path / "m")
    with pytest.raises(ModelError) as caught:
        bittern.load(tmp_path / "m")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "file"
    atomic.write_atomically(path, b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(CodecError, match="No space"):
        atomic.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
