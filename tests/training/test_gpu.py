"""Training and coding on a CUDA device, where there is one."""

import csv
from pathlib import Path

import pytest
import torch

import bittern
from bittern.training.state import load_state
from bittern.training.trainer import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]
ON_GPU = [
    "accelerator=cuda",
    "precision=bf16-mixed",
    "steps=20",
    "validate_every=20",
    "save_every=5",
    "adversary.start_step=4",
    "adversary.channels=4",
    "adversary.window_ms=[16]",
]


def read_curve(run, name):
    """(step, value) from a run's folder."""
    with (Path(run) / "curves.csv").open(newline="") as file:
        return [
            (int(row["step"]), float(row["value"]))
            for row in csv.DictReader(file)
            if row["name"] == name
        ]


def test_twenty_steps_in_bfloat16_learn_and_leave_a_checkpoint(settings):
    trainer = Trainer(settings(*ON_GPU))
    assert next(trainer.learner.model.parameters()).device.type == "cuda"
    trainer.fit()
    loss = [value for _, value in read_curve(trainer.folder, "loss/complex_stft")]
    assert len(loss) == 20
    assert all(value == value for value in loss)
    assert sum(loss[-5:]) < sum(loss[2:7])  # the quantizer comes in at step 2
    model = bittern.load(trainer.folder / "last", "cpu").model
    assert all(torch.isfinite(v).all() for v in model.state_dict().values())
    assert model.quantizer.codewords.abs().sum() > 0


def test_a_run_on_the_gpu_goes_on_from_its_last_state(settings, tmp_path):
    """To the same place within what the order of sums on a GPU leaves open."""
    whole = settings(*ON_GPU, f"run={tmp_path / 'whole'}")
    Trainer(whole).fit()
    parts = settings(*ON_GPU, f"run={tmp_path / 'parts'}", "stop_after_minutes=0")
    for _ in range(20):
        trainer = Trainer(parts)
        trainer.fit()
    assert trainer.learner.step == 20
    states = [load_state(Path(c.run)) for c in (whole, parts)]
    one, other = (found[0] for found in states if found)
    assert one["step"] == other["step"] == 20
    assert one["optimizer"]["state"].keys() == other["optimizer"]["state"].keys()
    curves = [read_curve(c.run, "loss/total") for c in (whole, parts)]
    assert [s for s, _ in curves[0]] == [s for s, _ in curves[1]]
    for (_, a), (_, b) in zip(*curves, strict=True):
        assert a == pytest.approx(b, rel=0.05)


def test_codes_are_those_of_the_cpu_but_for_ties():
    """A code may differ where two codewords are equally near, and then those of stages after it."""
    folder = "speech-16khz"
    on_cpu = bittern.load(folder, "cpu").model
    on_gpu = bittern.load(folder, "cuda").model
    generator = torch.Generator().manual_seed(0)
    wav = 0.1 * torch.randn(4, 1, 32_000, generator=generator)
    with torch.inference_mode():
        latent = on_cpu.latent(on_cpu.pad(wav))
        ours = on_gpu.quantizer.encode(latent.cuda()).cpu()
        theirs = on_cpu.quantizer.encode(latent)
        end_to_end = on_gpu.encode(wav.cuda()).cpu() != on_cpu.encode(wav)
    codebooks = on_cpu.quantizer.codewords.double()
    vectors = latent.transpose(1, 2).double()  # [B, F, D]
    differing = (ours != theirs).any(dim=1)
    for item, frame in differing.nonzero().tolist():
        mine, other = ours[item, :, frame], theirs[item, :, frame]
        stage = int((mine != other).nonzero()[0])
        chosen = codebooks[torch.arange(stage), other[:stage]].sum(dim=0)
        left = vectors[item, frame] - chosen
        near = [float((left - codebooks[stage, c[stage]]).square().sum()) for c in (mine, other)]
        assert near[0] == pytest.approx(near[1], rel=1e-4)
    assert float(differing.double().mean()) < 0.01
    assert float(end_to_end.any(dim=1).double().mean()) < 0.05
