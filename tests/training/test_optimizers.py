import torch

from bittern.training.trainer import Trainer


def test_an_accumulated_update_is_the_mean_of_its_parts(settings):
    run = Trainer(settings("accumulate=2", "codebook.start_step=100")).learner
    wav = run.batches[0]
    parts = []
    for part in wav.chunk(2):
        passed = run.autoencoder(part, None)
        loss = run.loss.weighted(run.loss(passed.output, passed.heard))
        parts.append(torch.autograd.grad(loss, list(run.model.parameters()), allow_unused=True))
    run.config.optimizer.gradient_clip = 0.0
    run.update(wav)
    for parameter, one, other in zip(run.model.parameters(), *parts, strict=True):
        torch.testing.assert_close(parameter.grad, (one + other) / 2, rtol=1e-4, atol=1e-7)
