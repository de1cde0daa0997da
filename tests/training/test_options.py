"""Every option of the Hydra tree does something: another value gives another outcome.

The table below has a case for each leaf of the composed tree; a new option without one fails here.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import soundfile
import torch
from omegaconf import DictConfig, OmegaConf

from bittern.errors import ConfigError, DivergedError
from bittern.model.codec_model import CodecModel
from bittern.training.augment import AugmentConfig
from bittern.training.data import batches_from
from bittern.training.run import config_folder
from bittern.training.settings import TrainConfig, resolve
from bittern.training.trainer import Trainer

BASE = [
    "model.latent_dim=16",
    "model.encoder.channels=[16]",
    "model.encoder.residual_units=[1]",
    "model.quantizer.stages=2",
    "model.quantizer.codebook_size=16",
    "data.root=ROOT/speech",
    "data.cache=ROOT/cache",
    "data.segment_seconds=0.2",
    "data.batch_size=4",
    "data.validation_share=0.5",
    "data.validation_seconds=0.1",
    "codebook.start_step=1",
    "codebook.kmeans_frames=64",
    "codebook.kmeans_iterations=1",
    "codebook.stages=[1,2]",
    "loss.mel_windows=[64,128]",
    "loss.mels=24",
    "loss.stft_windows=[64]",
    "optimizer.warmup_steps=2",
    "precision=32-true",
    "accelerator=cpu",
    "steps=4",
    "log_every=2",
    "validate_every=4",
    "save_every=4",
    "run=ROOT/run",
    *(f"augment.{kind.name}=0" for kind in fields(AugmentConfig)),
]


with hydra.initialize_config_dir(str(config_folder()), version_base="1.3"):
    TREE = hydra.compose("train", ["model=tiny"])  # once: it takes longer than most cases' work


# --- what another value may change ---


def digest(*states: Any) -> str:
    """Of all tensors in states, to the bit."""
    found = hashlib.sha256()

    def take(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            found.update(value.detach().float().cpu().numpy().tobytes())
        elif isinstance(value, dict):
            for inner in value.values():
                take(inner)

    for state in states:
        take(state)
    return found.hexdigest()


def network(config: TrainConfig) -> str:
    """What the codec makes of a sound, and what it says of itself."""
    torch.manual_seed(0)
    model = CodecModel(config.model).eval()
    shape = (2, config.model.channels, 6 * config.model.hop_length)
    wav = 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        model.fit_transform(wav)
        latent = model.latent(model.pad(wav))
        model.quantizer.codewords.normal_()
        out = model.synthesise(latent)
        codes = model.quantizer.encode(latent[:, :, :4])
    about = (config.model.kbps_per_stage, config.model.streamable, config.model.segment_stride)
    return digest({"latent": latent, "out": out, "codes": codes}) + str(about)


def stored(config: TrainConfig) -> str:
    return config.model.to_json()


def learnt(config: TrainConfig) -> str:
    """Everything that four updates move."""
    trainer = Trainer(config)
    for step in range(config.steps):
        trainer.learner.update(trainer.batches[step])
    return digest(trainer.learner.state_dict())


def heard(config: TrainConfig) -> str:
    """Two batches."""
    trainer = Trainer(config)
    return digest({0: trainer.batches[0], 1: trainer.batches[1]})


def files(config: TrainConfig) -> tuple:
    corpus = Trainer(config).corpus
    return len(corpus.clips), len(corpus.skipped)


def held_out(config: TrainConfig) -> list:
    return [clip.shape for clip in Trainer(config).clips.values()]


def loading(config: TrainConfig) -> str:
    batches = batches_from(Trainer(config).batches, 0, 1, workers=config.data.workers)
    return type(batches).__name__


def resident(config: TrainConfig) -> bool:
    """Whether samples are a copy, and not the mapped file."""
    trainer = Trainer(config)
    return trainer.batches.config.resident


def cached(config: TrainConfig) -> str:
    """Where decoded audio lies."""
    return Path(Trainer(config).corpus.pcm.filename).parents[1].name  # type: ignore[attr-defined]


def copied(config: TrainConfig) -> bool:
    """Whether there is decoded audio at all."""
    return Trainer(config).corpus.pcm is not None


class Recorded(Trainer):
    """A run that notes when it validates and saves."""

    def fit(self) -> None:
        self.when: list[tuple[str, int]] = []
        super().fit()

    def validate(self) -> None:
        self.when.append(("validate", self.learner.step))

    def save(self, *, last: bool) -> None:
        self.when.append(("save", self.learner.step))


def loop(config: TrainConfig) -> tuple:
    """When a run shows numbers, validates and saves, and where it ends."""
    trainer = Recorded(config)
    trainer.fit()
    rows = (trainer.folder / "curves.csv").read_text().splitlines()[1:]
    return sorted({row.split(",")[0] for row in rows}), trainer.when, trainer.learner.step


def folder(config: TrainConfig) -> str:
    Trainer(config).save(last=False)
    assert (Path(config.run) / "state.pt").exists()
    return Path(config.run).name


def start(config: TrainConfig) -> int:
    """The step that a second start begins at."""
    first = Trainer(config)
    first.fit()
    return Trainer(config).learner.step


def device(config: TrainConfig) -> str:
    try:
        return str(Trainer(config).fabric.device)
    except Exception as error:  # where there is no such device
        return type(error).__name__


def threads(config: TrainConfig) -> int:
    before = torch.get_num_threads()
    try:
        Trainer(config)
        return torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def patience(config: TrainConfig) -> int:
    """Updates with NaN until the run ends."""
    trainer = Trainer(config)
    for count in range(50):
        try:
            trainer.learner.update(trainer.batches[0] * np.nan)
        except DivergedError:
            return count
    return -1


# --- the table ---


@dataclass
class Case:
    change: str | list[str]  # what the option is set to; a list where others must change with it
    outcome: Callable[[TrainConfig], Any]
    given: tuple[str, ...] = ()  # on both sides


ADVERSARY = (
    "adversary.start_step=0",
    "adversary.channels=2",
    "adversary.window_ms=[16]",
    "adversary.update_probability=1",
)
SAMPLES = (
    "model.linear_path=none",
    "model.encoder.input=samples",
    "model.encoder.stem_stride=1",
    "model.encoder.ratios=[2,4]",
    "model.encoder.channels=[4,4,8]",
    "model.encoder.residual_units=[1,1,1]",
    "model.hop_length=8",
)

CASES: dict[str, Case] = {
    "run": Case("ROOT/other", folder),
    "steps": Case("5", loop),
    "seed": Case("1", learnt),
    "init": Case("ROOT/init", learnt),
    "train_only": Case("decoder", learnt, ("init=ROOT/init",)),
    "resume": Case("false", start),
    "stop_after_minutes": Case("0", loop),
    "accelerator": Case("cuda", device),
    "devices": Case("3", learnt),  # refused: 4 items are not 3 times as many; see test_ranks.py
    "nodes": Case("3", learnt),
    "precision": Case("bf16-mixed", learnt),
    "threads": Case("2", threads, ()),
    "accumulate": Case("2", learnt),
    "skip_limit": Case("3", patience),
    "log_every": Case("1", loop),
    "validate_every": Case("2", loop),
    "save_every": Case("2", loop),
    "model.name": Case("other", stored),
    "model.sample_rate": Case("24000", network),
    "model.channels": Case("2", network),
    "model.hop_length": Case("160", network),
    "model.latent_dim": Case("8", network),
    "model.linear_path": Case("none", network),
    "model.highpass_hz": Case("40", network),
    "model.counts_stages": Case("true", network),
    "model.segment_samples": Case("640", network, (*SAMPLES, "model.encoder.causal=false")),
    "model.path_weighting": Case("0.2", network),
    "model.path_power": Case("0.5", network),
    "model.envelope_bands": Case("4", network),
    "model.envelope_weight": Case("2", network, ("model.envelope_bands=4",)),
    "model.envelope_flattening": Case("1", network, ("model.envelope_bands=4",)),
    "model.envelope_floor": Case("0.5", network, ("model.envelope_bands=4",)),
    "model.envelope_range_db": Case("1", network, ("model.envelope_bands=4",)),
    "model.encoder.input": Case(["samples", "model.encoder.stem_stride=320"], network),
    "model.encoder.stem_stride": Case(
        ["2", "model.encoder.ratios=[4]", "model.encoder.channels=[4,8]",
         "model.encoder.residual_units=[1,1]"], network, SAMPLES),
    "model.encoder.stem_kernel": Case("5", network),
    "model.encoder.ratios": Case("[4,2]", network, SAMPLES),
    "model.encoder.channels": Case("[8]", network),
    "model.encoder.residual_units": Case("[2]", network),
    "model.encoder.residual_kernel": Case("5", network),
    "model.encoder.dilations": Case("[3]", network),
    "model.encoder.compress": Case("2", network),
    "model.encoder.shortcut": Case("conv", network),
    "model.encoder.lstm_layers": Case("1", network),
    "model.encoder.latent_kernel": Case("3", network),
    "model.encoder.activation": Case("elu", network),
    "model.encoder.norm": Case("time_group_norm", network, ("model.encoder.causal=false",)),
    "model.encoder.padding": Case("reflect", network),
    "model.encoder.causal": Case("false", network),
    "model.encoder.limit": Case("0.01", network),
    "model.decoder": Case(
        "{input: spectrum, stem_stride: 1, ratios: [], channels: [8], residual_units: [1]}", network
    ),
    "model.quantizer.stages": Case("3", network),
    "model.quantizer.codebook_size": Case("32", network),
    "data.root": Case("ROOT/noise", heard),
    "data.weights": Case("{first: 5}", heard, ("data.validation_share=0",)),
    "data.segment_seconds": Case("0.1", heard),
    "data.batch_size": Case("2", heard),
    "data.minimum_seconds": Case("1.1", files),
    "data.gain_db": Case("[-3,3]", heard),
    "data.validation_share": Case("0.1", held_out),
    "data.validation_clips": Case("1", held_out),
    "data.validation_seconds": Case("0.05", held_out),
    "data.workers": Case("1", loading),
    "data.resident": Case("true", resident),
    "data.cache": Case("ROOT/elsewhere", cached),
    "data.copy": Case("false", copied),
    "augment.speed": Case("1", heard),
    "augment.reverb": Case("1", heard),
    "augment.band": Case("1", heard),
    "augment.babble": Case("1", heard),
    "augment.noise": Case("1", heard),
    "augment.hum": Case("1", heard),
    "augment.rumble": Case("1", heard),
    "augment.offset": Case("1", heard),
    "augment.tones": Case("1", heard),
    "augment.gain": Case("1", heard),
    "augment.clipping": Case("1", heard),
    "augment.silence": Case("1", heard),
    "loss.mel": Case("2", learnt),
    "loss.mel_windows": Case("[128]", learnt),
    "loss.mels": Case("6", learnt),
    "loss.complex_stft": Case("2", learnt),
    "loss.stft_windows": Case("[128]", learnt),
    "loss.compressed": Case("1", learnt),
    "loss.compressed_windows": Case("[64]", learnt, ("loss.compressed=1",)),
    "loss.contrast": Case("1", learnt),
    "loss.contrast_windows": Case("[64]", learnt, ("loss.contrast=1",)),
    "loss.windows_a_step": Case("1", learnt),
    "loss.waveform": Case("1", learnt),
    "loss.disturbance": Case("1", learnt),
    "loss.commitment": Case("1", learnt),
    "loss.adversarial": Case("3", learnt, ADVERSARY),
    "loss.features": Case("9", learnt, ADVERSARY),
    "loss.adversarial_share": Case("0.5", learnt, ADVERSARY),
    "loss.balancer": Case("true", learnt),
    "loss.balancer_decay": Case("0.5", learnt, ("loss.balancer=true",)),
    "codebook.start_step": Case("3", learnt),
    "codebook.kmeans_frames": Case("200", learnt),
    "codebook.kmeans_iterations": Case("3", learnt),
    "codebook.decay": Case("0.5", learnt),
    "codebook.final_window": Case("1", learnt, ("codebook.decay=0.2",)),
    "codebook.revival_threshold": Case("0", learnt, ("codebook.decay=0.2",)),
    "codebook.stages": Case("[1,1]", learnt),
    "codebook.full_share": Case("1", learnt),
    "codebook.even_share": Case("1", learnt, ("codebook.stages=[1.4,1.6]",)),
    "optimizer.learning_rate": Case("0.002", learnt),
    "optimizer.betas": Case("[0.5,0.9]", learnt),
    "optimizer.weight_decay": Case("0.5", learnt),
    "optimizer.warmup_steps": Case("3", learnt),
    "optimizer.schedule": Case("constant", learnt),
    "optimizer.final_share": Case("0.5", learnt),
    "optimizer.gradient_clip": Case("1e-9", learnt),
    "optimizer.average_decay": Case("0", learnt),
    "adversary.start_step": Case("2", learnt, ADVERSARY[1:]),
    "adversary.head_start": Case("2", learnt, ADVERSARY),
    "adversary.kind": Case("period_and_band", learnt, (*ADVERSARY, "adversary.periods=[2]")),
    "adversary.channels": Case("3", learnt, ADVERSARY),
    "adversary.window_ms": Case("[8]", learnt, ADVERSARY),
    "adversary.magnitude_power": Case("0.3", learnt, ADVERSARY),
    "adversary.periods": Case(
        "[3]", learnt, (*ADVERSARY, "adversary.kind=period_and_band", "adversary.periods=[2]")
    ),
    "adversary.judged_seconds": Case("0.1", learnt, ADVERSARY),
    "adversary.update_probability": Case("0.01", learnt, ADVERSARY),
    "adversary.learning_rate": Case("0.003", learnt, ADVERSARY),
    "adversary.betas": Case("[0.9,0.99]", learnt, ADVERSARY),
    "adversary.weight_decay": Case("0.5", learnt, ADVERSARY),
    "adversary.gradient_clip": Case("1e-9", learnt, ADVERSARY),
}  # fmt: skip


def leaves(tree: dict, above: str = "") -> list[str]:
    found = []
    for key, value in tree.items():
        name = f"{above}{key}"
        found += leaves(value, f"{name}.") if isinstance(value, dict) else [name]
    return found


def options() -> list[str]:
    """All leaves of what Hydra composes."""
    found = OmegaConf.to_container(TREE)
    assert isinstance(found, dict)
    return leaves(found)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Speech-like files in two folders, noise, and a trained checkpoint."""
    place = tmp_path_factory.mktemp("options")
    rng = np.random.default_rng(0)
    for index in range(6):
        source = place / "speech" / ("first" if index % 2 else "second")
        source.mkdir(parents=True, exist_ok=True)
        time = np.arange(round((1 + 0.2 * index) * 16_000)) / 16_000
        tone = np.sin(2 * np.pi * (200 + 50 * index) * time + 3 * np.sin(7 * time))
        wav = 0.1 * tone + 0.01 * rng.standard_normal(len(time))
        soundfile.write(source / f"{index}.wav", wav, 16_000)
    (place / "noise").mkdir()
    soundfile.write(place / "noise" / "noise.wav", 0.1 * rng.standard_normal(16_000), 16_000)
    trainer = Trainer(composed(place, ["run=ROOT/origin", "steps=1"]))
    trainer.learner.model.quantizer.codewords.normal_()
    trainer.save(last=False)
    (place / "origin" / "last").rename(place / "init")
    return place


def composed(root: Path, overrides: list[str]) -> TrainConfig:
    given = [text.replace("ROOT", str(root)) for text in [*BASE, *overrides]]
    merged = OmegaConf.merge(TREE, OmegaConf.from_dotlist(given))
    assert isinstance(merged, DictConfig)
    return resolve(merged)


class Refused(str):
    """The message of a configuration that was not taken."""


@pytest.fixture(scope="module")
def outcome(root) -> Callable[..., Any]:
    """What comes out with overrides; an error counts, and is remembered like anything else."""
    seen: dict[tuple, Any] = {}

    def find(of: Callable[[TrainConfig], Any], overrides: list[str]) -> Any:
        key = (of, *overrides)
        if key not in seen:
            run = [] if any(o.startswith("run=") for o in overrides) else [f"run=ROOT/{len(seen)}"]
            try:
                seen[key] = of(composed(root, [*overrides, *run]))
            except ConfigError as error:
                seen[key] = Refused(error)
        return seen[key]

    return find


def test_every_option_has_a_case_and_every_case_an_option():
    found = options()
    assert len(found) > 90
    assert set(found) == set(CASES)


REFUSED = ("devices", "nodes", "model.channels")  # one device here, and training hears one channel


@pytest.mark.parametrize("name", CASES)
def test_another_value_gives_another_outcome(name, outcome):
    case = CASES[name]
    value, *more = [case.change] if isinstance(case.change, str) else case.change
    plain = outcome(case.outcome, list(case.given))
    changed = outcome(case.outcome, [*case.given, f"{name}={value}", *more])
    assert not isinstance(plain, Refused), plain
    assert isinstance(changed, Refused) == (name in REFUSED), changed
    assert changed != plain


def test_the_same_values_give_the_same_outcome(outcome, root):
    """Without this the table would prove nothing."""
    for of in (network, learnt, heard):
        again = of(composed(root, ["run=ROOT/again"]))
        assert again == outcome(of, []), of.__name__
