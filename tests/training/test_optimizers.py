import pytest
import torch

from bittern.training.muon import MuonAdamW, kernels_and_rest, orthogonalised
from bittern.training.trainer import Trainer


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(8, 24), (24, 8), (16, 16)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape):
    values = torch.linalg.svdvals(orthogonalised(normal(*shape)))
    assert float(values.min()) > 0.3
    assert float(values.max()) < 1.3


def test_matrices_move_as_torch_moves_them():
    ours, theirs = (torch.nn.Parameter(normal(6, 10)) for _ in range(2))
    one = MuonAdamW(
        [{"params": [ours], "muon": True}], lr=0.01, betas=(0.9, 0.99), weight_decay=0.1
    )
    other = torch.optim.Muon(
        [theirs], lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    for step in range(5):
        ours.grad = normal(6, 10, seed=step)
        theirs.grad = ours.grad.clone()
        one.step()
        other.step()
    torch.testing.assert_close(ours, theirs, rtol=0.05, atol=2e-3)  # theirs iterates in bfloat16


def test_the_rest_moves_as_adamw_moves_it():
    ours, theirs = (torch.nn.Parameter(normal(6)) for _ in range(2))
    settings = {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.1}
    one, other = (
        MuonAdamW([{"params": [ours]}], **settings),
        torch.optim.AdamW([theirs], **settings),
    )
    for step in range(5):
        ours.grad = normal(6, seed=step)
        theirs.grad = ours.grad.clone()
        one.step()
        other.step()
    torch.testing.assert_close(ours, theirs)


def test_muon_trains_and_resumes(settings, tmp_path):
    whole = Trainer(settings("optimizer.kind=muon", f"run={tmp_path / 'whole'}", "steps=4"))
    assert len(kernels_and_rest(whole.learner.model)[0]["params"]) > 5
    whole.fit()
    parts = settings(
        "optimizer.kind=muon", f"run={tmp_path / 'parts'}", "steps=4", "stop_after_minutes=0"
    )
    for _ in range(4):
        last = Trainer(parts)
        last.fit()
    for key, value in whole.learner.model.state_dict().items():
        assert torch.equal(value, last.learner.model.state_dict()[key]), key


def test_accumulated_parts_update_codebooks_like_the_whole(settings, tmp_path):
    runs = []
    for parts in (1, 2):
        run = Trainer(
            settings(
                f"accumulate={parts}",
                f"run={tmp_path / str(parts)}",
                "optimizer.learning_rate=1e-6",
                "data.validation_share=0",
            )
        )
        run.fit()
        runs.append(run)
    one, other = runs
    torch.testing.assert_close(
        one.learner.model.quantizer.codewords,
        other.learner.model.quantizer.codewords,
        rtol=1e-4,
        atol=1e-5,
    )
    torch.testing.assert_close(one.learner.codebooks.counts, other.learner.codebooks.counts)


def test_accumulated_parts_ask_for_what_the_whole_asks(settings, tmp_path):
    """The gradient is the same, however unlike in level the parts are."""
    gradients = []
    for parts in (1, 2):
        run = Trainer(
            settings(
                f"accumulate={parts}",
                f"run={tmp_path / str(parts)}",
                "loss.waveform=1",
                "precision=32-true",
                "data.validation_share=0",
                "codebook.start_step=0",
            )
        ).learner
        wav = run.batches[0]
        wav[: len(wav) // 2] *= 0.1
        run.update(wav)
        gradients.append(torch.cat([p.grad.flatten() for p in run.model.parameters()]))
    assert float((gradients[0] - gradients[1]).norm() / gradients[0].norm()) < 1e-4


@pytest.mark.filterwarnings("default:The .grad attribute:UserWarning")  # of torch's own tracing
@pytest.mark.slow  # compiling takes a minute
def test_a_compiled_run_loses_nothing(settings):
    trainer = Trainer(settings("compile=true", "steps=3"))
    trainer.fit()
    assert "model.encoder.0.conv.weight" in {
        f"model.{k}" for k in trainer.learner.model.state_dict()
    }
