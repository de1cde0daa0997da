import pytest
import torch

from bittern.training.trainer import Trainer


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
