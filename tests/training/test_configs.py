"""Every file of configs/ composes, its keys are the dataclasses' fields, and its values take effect."""

from dataclasses import fields, is_dataclass
from typing import get_type_hints

import pytest
import torch
import yaml

from bittern.model.codec_model import CodecModel
from bittern.training.run import compose, config_folder
from bittern.training.settings import TrainConfig

MODELS = sorted(path.stem for path in (config_folder() / "model").glob("*.yaml"))
EXPERIMENTS = sorted(path.stem for path in (config_folder() / "experiment").glob("*.yaml"))


def read(path):
    return yaml.safe_load(path.read_text())


def keys(kind) -> dict:
    """The fields of a dataclass, those of dataclasses in it below them."""
    hints = get_type_hints(kind)
    return {
        f.name: keys(hints[f.name]) if is_dataclass(hints[f.name]) else None for f in fields(kind)
    }


def test_train_yaml_holds_every_setting_and_no_other():
    written = read(config_folder() / "train.yaml")
    known = keys(TrainConfig)
    assert set(written) - {"defaults", "hydra"} == set(known) - {"model"}
    for group, inner in known.items():
        if inner is not None and group != "model":
            assert set(written[group]) == set(inner), group


@pytest.mark.parametrize("name", MODELS)
def test_every_model_composes_and_holds_every_setting(name):
    config = compose([f"model={name}", "data.root=x"])
    written, known = read(config_folder() / "model" / f"{name}.yaml"), keys(type(config.model))
    assert set(written) == set(known)
    for group in ("encoder", "quantizer"):
        assert set(written[group]) == set(known[group]), group


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_changes_something_and_says_how_to_run_it(name):
    plain = compose(["data.root=x"])
    config = compose([f"+experiment={name}", "data.root=x"])
    assert config != plain
    text = (config_folder() / "experiment" / f"{name}.yaml").read_text()
    assert f"python scripts/train.py +experiment={name} data.root=FOLDER" in text
    for group, values in read(config_folder() / "experiment" / f"{name}.yaml").items():
        if isinstance(values, dict):
            for key in values:
                assert hasattr(getattr(config, group), key), f"{group}.{key}"


@pytest.mark.parametrize("name", ["encodec_24khz", "soundstream_24khz"])
def test_published_networks_have_their_published_sizes(name):
    model = CodecModel(compose([f"model={name}", "data.root=x"]).model)
    sizes = {part: sum(p.numel() for p in m.parameters()) for part, m in model.named_children()}
    if name == "encodec_24khz":  # counted with the encodec package
        assert sizes["encoder"] == 7_425_792
        assert sizes["decoder"] == 7_426_018
    wav = torch.zeros(1, 1, 3200)
    assert model.latent(wav).shape == (1, model.config.latent_dim, 10)
