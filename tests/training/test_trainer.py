import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import bittern
from bittern.errors import ConfigError
from bittern.training.losses import LossConfig, ReconstructionLoss
from bittern.training.schedule import codebook_decay, learning_rate
from bittern.training.settings import CodebookConfig, OptimizerConfig, Schedule
from bittern.training.state import NEWEST, load_state, save_state
from bittern.training.trainer import Trainer


def rows(folder, name):
    with (folder / "curves.csv").open(newline="") as file:
        return {
            int(r["step"]): float(r["value"]) for r in csv.DictReader(file) if r["name"] == name
        }


def weights(folder):
    state = load_state(folder)
    assert state is not None
    return state[0]


def assert_same_state(a, b):
    for part in ("model", "average", "codebooks"):
        for key, value in a[part].items():
            assert torch.equal(value, b[part][key]), (part, key)


def test_a_run_leaves_a_checkpoint_that_loads_and_curves(settings, tmp_path):
    config = settings()
    Trainer(config).fit()
    folder = Path(config.run)
    for kind in ("last", "best"):
        model = bittern.load(folder / kind, "cpu").model
        assert model.config == config.model
        assert float(model.quantizer.codewords.abs().sum()) > 0
    assert list(rows(folder, "loss/total")) == [1, 2, 3, 4, 5, 6]
    for stages in (0, 4, 8):
        for metric in ("si_sdr", "log_mel", "estoi"):
            assert 6 in rows(folder, f"validation/{metric}/{stages}")
    for stage in range(1, 9):
        assert 1 <= rows(folder, f"codebook/perplexity/{stage:02d}")[6] <= 256
    assert list((folder / "tensorboard").glob("events*"))


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(settings, tmp_path):
    whole = settings(f"run={tmp_path / 'whole'}")
    Trainer(whole).fit()
    parts = settings(f"run={tmp_path / 'parts'}", "stop_after_minutes=0")
    stops = 0
    while True:  # each start makes one step
        trainer = Trainer(parts)
        if trainer.learner.step == parts.steps:
            break
        trainer.fit()
        stops += 1
    assert stops == 6
    assert_same_state(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    for name in ("loss/total", "gradient/norm", "rate/learning"):
        assert rows(tmp_path / "whole", name) == rows(tmp_path / "parts", name)


def test_a_damaged_last_state_falls_back_to_the_one_before(tmp_path):
    save_state(tmp_path, {"step": 1})
    save_state(tmp_path, {"step": 2})
    assert load_state(tmp_path) == ({"step": 2}, None)
    data = (tmp_path / NEWEST).read_bytes()
    (tmp_path / NEWEST).write_bytes(data[: len(data) // 2])
    found = load_state(tmp_path)
    assert found is not None
    assert found[0] == {"step": 1}
    assert "state.pt: cannot be read" in found[1]
    assert not list(tmp_path.glob(".state*"))


def test_ten_seconds_of_speech_are_learnt_to_ten_decibels(settings):
    """Overfit check: the whole chain, quantizer of 8 stages included, can learn at all."""
    config = settings(
        "steps=220",
        "codebook.start_step=20",
        "codebook.full_share=1",
        "codebook.kmeans_frames=2000",
        "validate_every=220",
        "save_every=220",
        "log_every=20",
        "data.validation_share=0",
        "optimizer.average_decay=0.9",
        "optimizer.learning_rate=0.002",
        "optimizer.warmup_steps=20",
        "data.segment_seconds=1",
        "data.gain_db=[0,0]",
    )
    trainer = Trainer(config)
    drawn = trainer.batches.draw(-1, range(4))
    trainer.clips = {f"{i}": drawn[i : i + 1] for i in range(4)}
    trainer.fit()
    assert rows(Path(config.run), "validation/si_sdr/8")[220] > 10


def test_fine_tuning_starts_from_a_checkpoint_also_with_fewer_stages(settings, tmp_path):
    config = settings(f"run={tmp_path / 'first'}")
    Trainer(config).fit()
    last = tmp_path / "first" / "last"
    again = Trainer(
        settings(f"run={tmp_path / 'second'}", f"init={last}", "model.quantizer.stages=3")
    )
    trained = bittern.load(last, "cpu").model
    assert torch.equal(again.learner.model.quantizer.codewords, trained.quantizer.codewords[:3])
    wav = 0.1 * torch.randn(1, 1, 3200)
    torch.testing.assert_close(
        again.learner.model.latent(wav), trained.latent(wav), rtol=1e-5, atol=1e-6
    )
    again.fit()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.rot=x", "'rot' is not in struct"),
        ("steps=many", "steps is 'many'; expected int"),
        ("steps=0", "steps is 0; give 1 or more"),
        ("model.encoder.norm=batch", "model.encoder.norm is 'batch'; expected one of none"),
        ("optimizer.schedule=linear", "expected one of constant, cosine"),
        ("data.root=???", "data.root is not set"),
        ("model=nothing", "Could not find 'model/nothing'"),
        ("model.channels=2", "training hears one channel"),
        ("codebook.revival_threshold=2", "codebook.revival_threshold is 2.0; give 0 to 1"),
        ("codebook.final_window=-1", "codebook.final_window is -1.0; give 0 to 1"),
    ],
)
def test_a_wrong_setting_is_told_in_one_line(settings, override, message):
    with pytest.raises(ConfigError) as caught:
        settings(override)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_learning_rate_warms_up_and_falls_along_a_cosine():
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=10, final_share=0.1)
    rates = [learning_rate(step, 110, config) for step in range(111)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[60] == pytest.approx(0.55)
    assert rates[110] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    constant = OptimizerConfig(learning_rate=1.0, warmup_steps=0, schedule=Schedule.CONSTANT)
    assert learning_rate(100, 110, constant) == 1.0


def test_codewords_follow_more_and_more_slowly():
    config = CodebookConfig(decay=0.99, final_window=0.1)
    steps = 100_000
    windows = [
        1 / (1 - codebook_decay(s, steps, config)) for s in (0, steps // 2, steps, 2 * steps)
    ]
    assert windows == pytest.approx([100, 1000, 10_000, 10_000])
    assert codebook_decay(400, 500, config) == pytest.approx(0.99)  # a short run stays nimble
    assert codebook_decay(70, 100, CodebookConfig(decay=0.9)) == pytest.approx(0.9)


def test_losses_are_zero_for_the_original_and_feel_phase_and_level():
    given = LossConfig(waveform=1.0, disturbance=0.0, compressed=1.0, contrast=1.0)
    loss = ReconstructionLoss(given, 16_000)
    wav = 0.1 * torch.randn(2, 1, 8000, generator=torch.Generator().manual_seed(0))
    for value in loss(wav, wav).values():
        assert float(value) < 1e-6
    inverted = loss(-wav, wav)
    assert float(inverted["mel"]) < 1e-6  # blind to phase
    assert float(inverted["contrast"]) < 1e-6
    assert float(inverted["compressed"]) == pytest.approx(2.0, abs=0.05)  # of the phased part
    assert float(inverted["complex_stft"]) == pytest.approx(2.0, abs=0.05)
    assert float(inverted["waveform"]) == pytest.approx(2.0, abs=1e-4)
    half = loss(0.5 * wav, wav)
    assert float(half["mel"]) == pytest.approx(0.693, abs=0.01)  # ln 2
    assert float(half["complex_stft"]) == pytest.approx(0.5, abs=0.01)
    louder = loss(10 * 0.5 * wav, 10 * wav)
    assert float(louder["complex_stft"]) == pytest.approx(float(half["complex_stft"]), rel=1e-3)


def test_loss_windows_and_weights_take_effect():
    wav, other = torch.randn(2, 1, 1, 4000)
    base = LossConfig(disturbance=0.0, compressed=1.0, contrast=1.0)
    reference = {k: float(v) for k, v in ReconstructionLoss(base, 16_000)(other, wav).items()}
    for change, term in (
        ({"mel_windows": (256,)}, "mel"),
        ({"mels": 20}, "mel"),
        ({"stft_windows": (64,)}, "complex_stft"),
        ({"compressed_windows": (64,)}, "compressed"),
        ({"contrast_windows": (64,)}, "contrast"),
    ):
        terms = ReconstructionLoss(replace(base, **change), 16_000)(other, wav)
        assert float(terms[term]) != pytest.approx(reference[term], rel=1e-4)
    for name in ("mel", "complex_stft"):
        assert name not in ReconstructionLoss(LossConfig(**{name: 0.0}), 16_000)(other, wav)
    weighted = ReconstructionLoss(LossConfig(mel=3.0, complex_stft=0.5, disturbance=0.0), 16_000)
    total = weighted.weighted(weighted(other, wav))
    assert float(total) == pytest.approx(3 * reference["mel"] + 0.5 * reference["complex_stft"])


def test_some_windows_a_step_give_the_same_losses_on_average():
    wav, other = torch.randn(2, 1, 1, 4000)
    given = LossConfig(disturbance=0.0, windows_a_step=2)
    loss, generator = ReconstructionLoss(given, 16_000), torch.Generator().manual_seed(0)
    whole = loss(other, wav)
    sums = dict.fromkeys(whole, 0.0)
    for _ in range(300):
        for name, value in loss(other, wav, generator).items():
            sums[name] += float(value) / 300
    for name, value in whole.items():
        assert sums[name] == pytest.approx(float(value), rel=0.15)


def test_discriminators_are_held_to_their_share(settings):
    """The gradient that they add is a fifth of what the other losses ask for, whatever their weights."""
    trainer = Trainer(
        settings("loss.adversarial_share=0.2", "adversary.start_step=0", "adversary.channels=2")
    )
    learner = trainer.learner
    heard = (0.1 * torch.randn(2, 1, 8000)).requires_grad_()
    losses = learner.loss(heard, 0.1 * torch.randn(2, 1, 8000))
    asked = {"adversarial": (heard.square().mean() - 1).square()}
    own = torch.autograd.grad(learner.loss.weighted(losses), heard, retain_graph=True)[0]
    both, _ = learner._with_share(losses, asked, heard)
    assert float((both - own).norm() / own.norm()) == pytest.approx(0.2, rel=1e-4)
