"""Each kind of sick run is named in plain words; a healthy one is left alone."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from bittern.errors import DivergedError
from bittern.training.health import Health
from bittern.training.monitor import Pace
from bittern.training.trainer import Trainer

EVEN = torch.ones(2, 64)


def warnings_of(config) -> str:
    path = Path(config.run) / "warnings.log"
    return path.read_text() if path.exists() else ""


def watch(values, counts=EVEN, health=None, logs=5):
    health = health or Health(64)
    return [text for _ in range(logs) for text in health.check(values, counts)]


def test_a_healthy_run_is_left_alone(settings):
    config = settings("steps=30", "optimizer.warmup_steps=10")
    Trainer(config).fit()
    assert warnings_of(config) == ""


def test_a_learning_rate_a_hundred_times_too_high_is_named(settings):
    config = settings(
        "steps=40", "data.validation_share=0", "optimizer.learning_rate=0.1", "save_every=100"
    )
    Trainer(config).fit()
    assert "lower optimizer.learning_rate" in warnings_of(config)


def test_dead_codebooks_without_revival_are_named(settings):
    config = settings(
        "steps=30",
        "data.validation_share=0",
        "codebook.revival_threshold=0",
        "codebook.decay=0.7",
        "save_every=100",
    )
    trainer = Trainer(config)
    trainer.learner.quantizing = True  # with codewords far from all latents, but for one a stage
    trainer.learner.model.quantizer.codewords.normal_(mean=50).select(1, 0).zero_()
    trainer.learner.codebooks.restart()
    trainer.fit()
    assert "the codebook of stage" in warnings_of(config)
    assert "has collapsed" in warnings_of(config)


def test_silent_data_is_named(settings, tmp_path):
    root = tmp_path / "quiet"
    root.mkdir()
    wav = np.zeros(64_000)
    wav[:400] = 0.3 * np.sin(np.arange(400))
    for index in range(3):
        soundfile.write(root / f"{index}.wav", wav, 16_000)
    config = settings(f"data.root={root}", "data.validation_share=0", "steps=8")
    Trainer(config).fit()
    assert "of what training hears is silence" in warnings_of(config)


def test_files_with_nan_are_named_and_left_out(settings, speech_folder, tmp_path):
    root = tmp_path / "mixed"
    root.mkdir()
    wav, rate = soundfile.read(speech_folder / "first" / "part0.wav", dtype="float32")
    for index in range(10):
        broken = wav.copy()
        broken[1000] = np.nan if index == 4 else 0.0
        soundfile.write(root / f"{index}.wav", broken, rate, subtype="FLOAT")
    config = settings(f"data.root={root}", "data.validation_share=0", "steps=2")
    Trainer(config).fit()
    assert "1 of 10 files are of no use, most for this reason: unreadable" in warnings_of(config)


def test_an_update_without_finite_gradients_is_left_out_and_counted(settings):
    config = settings("data.validation_share=0", "skip_limit=3", "steps=10")
    trainer = Trainer(config)
    draw, bad = trainer.batches.draw, {3, 4}
    trainer.batches.draw = lambda step, items: draw(step, items) * (np.nan if step in bad else 1)
    trainer.fit()
    assert trainer.learner.skipped == 2
    assert "updates were left out" in warnings_of(config)
    assert all(torch.isfinite(v).all() for v in trainer.learner.model.state_dict().values())
    assert torch.isfinite(trainer.learner.codebooks.sums).all()


def test_too_many_of_them_end_the_run_with_a_clear_error(settings):
    trainer = Trainer(settings("data.validation_share=0", "skip_limit=3", "steps=10"))
    trainer.batches.draw = lambda step, items: torch.full((len(items), 1, 8000), torch.nan)
    with pytest.raises(DivergedError, match="3 updates in a row had NaN or infinite gradients"):
        trainer.fit()


def test_rules_on_numbers():
    assert watch({"loss/mel": 1.0, "gradient/norm": 1.0, "adversary/accuracy": 0.7}) == []
    assert "discriminators win" in watch({"adversary/accuracy": 0.99})[0]
    assert "waits for data 40%" in watch({"rate/waiting": 0.4})[0]
    assert "dead entries" in watch({"codebook/dead/01": 40.0})[0]
    health = Health(64)
    assert watch({"gradient/norm": 1.0}, health=health) == []
    assert "gradients explode" in watch({"gradient/norm": 100.0}, health=health)[0]
    frozen = Health(64, codebooks_learn=False)
    lone = torch.zeros(2, 64)
    lone[:, 0] = 1
    assert watch({}, lone, health=frozen) == []
    assert len(watch({}, lone, logs=12)) == 1  # and not again at each log


def test_waiting_for_data_is_measured_and_pauses_are_left_out():
    pace = Pace(batch_seconds=2.0)
    assert len(list(pace.batches(iter([torch.zeros(1)] * 3)))) == 3
    with pace.pause():
        torch.linalg.eigvals(torch.randn(200, 200))
    values = pace.lap()
    assert values["rate/audio_seconds"] > 0
    assert 0 <= values["rate/waiting"] <= 1
    assert pace.lap()["rate/audio_seconds"] == 0


def test_a_sound_that_explodes_is_named(settings):
    """A decoder whose weights are a thousand times too large, as it is validated."""
    config = settings("steps=2", "data.validation_seconds=2")
    trainer = Trainer(config)
    trainer.fit()
    with torch.no_grad():
        trainer.learner.average.decoder[-1].conv.weight.mul_(1e3)
    assert trainer.nasty
    trainer.monitor = trainer._monitor(1.0)
    trainer.validate()
    trainer.monitor.close()
    warned = warnings_of(config)
    assert "exploded: " in warned
    assert any(name in warned for name in (*trainer.nasty, *trainer.clips))
