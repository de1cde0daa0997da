import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

import bittern
from bittern.config import CodecConfig
from bittern.errors import ConfigError, ModelMismatchError
from bittern.format.entropy import ENTROPY_FILE
from bittern.training.adversary import (
    Adversary,
    AdversaryConfig,
    Discriminators,
)
from bittern.training.balancer import Balancer
from bittern.training.discriminators import period_and_band_set, stft_set, window_samples
from bittern.training.entropy_fit import FitSettings, fit
from bittern.training.trainer import Trainer

SMALL = {"channels": 4, "window_ms": (16.0, 8.0), "periods": (2, 3)}


def noise(*shape, seed=0):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make(**changes) -> Adversary:
    torch.manual_seed(0)
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    config = AdversaryConfig(start_step=0, **(SMALL | changes))
    return Adversary(config, CodecConfig(), fabric)


def test_windows_last_as_long_at_any_sample_rate():
    encodec = (85.3, 42.7, 21.3, 10.7, 5.3)
    assert [window_samples(ms, 24_000) for ms in encodec] == [2048, 1024, 512, 256, 128]
    assert [window_samples(ms, 48_000) for ms in encodec[1:]] == [2048, 1024, 512, 256]
    assert window_samples(85.3, 16_000) == 1360


@pytest.mark.parametrize("channels", [1, 2])
def test_every_member_judges_every_item_by_itself(channels):
    wav = noise(3, channels, 4000)
    for members in (
        stft_set([256, 128], channels=4, audio_channels=channels),
        period_and_band_set([256], [2, 5], channels=2, audio_channels=channels),
    ):
        together = members(wav)
        assert len(together) == len(members.members)
        for judged, alone in zip(together, members(wav[1:2]), strict=True):
            assert judged.logits.shape[:2] == (3, 1)
            assert len(judged.features) >= 5
            torch.testing.assert_close(judged.logits[1:2], alone.logits, rtol=1e-4, atol=1e-5)


def test_compressed_magnitudes_keep_phases_and_lift_what_is_soft():
    wav = noise(1, 1, 2000)
    plain, lifted = (
        stft_set([128], channels=4, audio_channels=1, power=power).members[0]
        for power in (1.0, 0.3)
    )
    lifted.load_state_dict(plain.state_dict())
    change = [
        (member(1e-2 * wav).features[0] - member(0 * wav).features[0]).abs().mean()
        for member in (plain, lifted)
    ]
    assert change[1] > 3 * change[0]


@pytest.mark.parametrize("kind", list(Discriminators))
def test_discriminators_learn_to_tell_noise_from_tones(kind):
    adversary = make(kind=kind, learning_rate=1e-2, magnitude_power=0.3)
    time = torch.arange(2000) / 16_000
    tones = 0.3 * torch.sin(2 * torch.pi * torch.tensor([200.0, 300, 500, 700])[:, None] * time)
    accuracy = [
        float(
            adversary.learn([(tones[:, None], noise(4, 1, 2000, seed=step))])["adversary/accuracy"]
        )
        for step in range(30)
    ]
    assert max(accuracy[-5:]) > 0.8
    passing = adversary.losses(tones[:, None], tones[:, None])
    failing = adversary.losses(tones[:, None], noise(4, 1, 2000, seed=99))
    assert float(passing["adversarial"]) < float(failing["adversarial"])
    assert float(passing["features"]) == 0.0


def test_feature_distance_is_relative_to_the_features_of_the_original():
    adversary = make()
    wav, output = noise(2, 1, 2000), noise(2, 1, 2000, seed=1)
    expected = []
    with torch.no_grad():
        pairs = zip(adversary.network(output), adversary.network(wav), strict=True)
        for ours, theirs in pairs:
            for a, b in zip(ours.features, theirs.features, strict=True):
                expected.append(float((a - b).abs().mean() / b.abs().mean()))
    got = float(adversary.losses(wav, output)["features"])
    assert got == pytest.approx(sum(expected) / len(expected), rel=1e-5)


def test_the_codecs_losses_leave_no_gradient_with_the_discriminators():
    adversary = make()
    output = noise(2, 1, 2000).requires_grad_()
    sum(adversary.losses(noise(2, 1, 2000, seed=1), output).values()).backward()
    assert output.grad is not None
    assert float(output.grad.abs().sum()) > 0
    assert all(p.grad is None and p.requires_grad for p in adversary.network.parameters())


def test_parts_of_a_batch_teach_like_the_whole():
    wav, output = noise(4, 1, 2000), noise(4, 1, 2000, seed=1)
    whole, parts = make(learning_rate=1e-3), make(learning_rate=1e-3)
    whole.learn([(wav, output)])
    parts.learn(list(zip(wav.chunk(2), output.chunk(2), strict=True)))
    for a, b in zip(whole.network.parameters(), parts.network.parameters(), strict=True):
        if a.grad is not None and b.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-6)


def test_balancer_gives_each_loss_its_share_as_computed_by_hand():
    output = torch.zeros(2, 1, 2, requires_grad=True)
    losses = {"a": (output * torch.tensor([3.0, 4.0])).sum(), "b": output[..., 0].sum()}
    balancer = Balancer(decay=0.9)
    # Norms of each item's gradient: a 5, b 1. Shares 3 to 1 of a norm of 1.
    first = balancer.balance(losses, {"a": 3.0, "b": 1.0}, output)
    assert first.scales == pytest.approx({"a": 0.75 / 5, "b": 0.25 / 1})
    expected = torch.tensor([3 * 0.15 + 0.25, 4 * 0.15]).expand(2, 1, 2)
    torch.testing.assert_close(first.gradient, expected)
    # a is ten times as steep now; its mean norm is (0.9 * 5 + 50) / (0.9 + 1).
    steeper = {"a": 10 * (output * torch.tensor([3.0, 4.0])).sum(), "b": output[..., 0].sum()}
    second = balancer.balance(steeper, {"a": 3.0, "b": 1.0}, output)
    assert second.scales["a"] == pytest.approx(0.75 / (54.5 / 1.9))
    again = Balancer(decay=0.9)
    again.load_state_dict(balancer.state_dict())
    third = [b.balance(losses, {"a": 3.0, "b": 1.0}, output).scales for b in (balancer, again)]
    assert third[0] == third[1]


def test_an_adversarial_run_with_balancer_resumes_exactly(settings, tmp_path):
    adversarial = [
        "adversary.start_step=1",
        "adversary.head_start=2",
        "adversary.channels=4",
        "adversary.window_ms=[16]",
        "adversary.judged_seconds=0.2",
        "loss.balancer=true",
        "data.validation_share=0",
    ]
    whole = Trainer(settings(*adversarial, f"run={tmp_path / 'whole'}"))
    whole.fit()
    parts = settings(*adversarial, f"run={tmp_path / 'parts'}", "stop_after_minutes=0")
    for _ in range(parts.steps):
        last = Trainer(parts)
        last.fit()
    assert last.learner.step == whole.learner.step
    for one, other in (
        (whole.learner.model, last.learner.model),
        (whole.learner.average, last.learner.average),
        (whole.learner.adversary.network, last.learner.adversary.network),
    ):
        for key, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[key]), key
    assert whole.learner.balancer.state_dict() == last.learner.balancer.state_dict()


def test_decoder_only_leaves_codes_as_they_are_and_inherits_the_discriminators(settings, tmp_path):
    small = ["adversary.start_step=0", "adversary.channels=4", "adversary.window_ms=[16]"]
    first = Trainer(settings(*small, "optimizer.learning_rate=0.003"))
    first.fit()
    wav = noise(1, 1, 8000)
    start = first.folder / "last"
    second = Trainer(
        settings(*small, f"run={tmp_path / 'second'}", f"init={start}", "train_only=decoder")
    )
    assert any("adversary as" in note for note in second.notes)
    for key, value in first.learner.adversary.network.state_dict().items():
        assert torch.equal(value, second.learner.adversary.network.state_dict()[key])
    before = second.learner.average.encode(wav)
    decoder = {k: v.clone() for k, v in second.learner.model.decoder.state_dict().items()}
    second.fit()
    assert torch.equal(second.learner.model.encode(wav), before)
    assert not all(
        torch.equal(v, decoder[k]) for k, v in second.learner.model.decoder.state_dict().items()
    )


def test_files_and_entropy_model_stay_good_where_codes_keep_their_meaning(settings, tmp_path):
    first = Trainer(settings())
    first.fit()
    start = first.folder / "last"
    quantizer = first.learner.average.quantizer
    codes = [np.random.default_rng(0).integers(0, 64, (quantizer.stages, 50))]
    small = FitSettings(steps=2, batch_size=16, width=2, hidden=16, narrow=8)
    (start / ENTROPY_FILE).write_bytes(fit(codes, quantizer.codewords.numpy(), small).to_bytes())
    made = bittern.load(start, device="cpu")
    file = made.compress(noise(1, 8000), made.sample_rate)
    for name, origin in (("decoder", start), ("again", tmp_path / "decoder/best")):
        run = settings("train_only=decoder", f"run={tmp_path / name}", f"init={origin}")
        Trainer(run).fit()
        for kept in ("last", "best"):
            later = bittern.load(tmp_path / name / kept, device="cpu")
            assert later.entropy.fingerprint == made.entropy.fingerprint
            decoded = later.decompress(file).wav
            assert not torch.equal(decoded, made.decompress(file).wav)
            codes = made.encode(noise(1, 1, 8000))
            assert torch.equal(decoded[None], later.decode(codes, length=8000))
    Trainer(settings(f"run={tmp_path / 'all'}", f"init={start}")).fit()
    other = bittern.load(tmp_path / "all/last", device="cpu")
    assert other.entropy is None
    with pytest.raises(ModelMismatchError, match="made by model"):
        other.decompress(file)


@pytest.mark.parametrize(
    "change",
    [{"update_probability": 0.0}, {"channels": 0}, {"learning_rate": 0.0}, {"window_ms": ()}],
)
def test_a_wrong_setting_is_named(change):
    with pytest.raises(ConfigError, match=f"adversary.{next(iter(change))}"):
        AdversaryConfig(**change)
