"""What learns, and one update of it: the codec, its codebooks, its discriminators, its averaged weights.

Reads from top to bottom: `Learner.update` is a step, the methods below it are its parts in their order.
What calls it, step after step, and keeps what it learns is in `trainer.py`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from bittern import checkpoint, weights
from bittern.errors import DivergedError
from bittern.model import Waveform
from bittern.model.codec_model import CodecModel
from bittern.model.quantizer import Quantized
from bittern.training.adversary import Adversary
from bittern.training.balancer import Balancer
from bittern.training.codebook import EmaCodebooks, concatenate
from bittern.training.data import Batches
from bittern.training.losses import ReconstructionLoss
from bittern.training.ranks import gather_rows, mean_over_ranks
from bittern.training.schedule import build_optimizer, codebook_decay, learning_rate, update_average
from bittern.training.settings import TrainConfig, TrainOnly
from bittern.training.stages import draw_quality, spread_stages
from bittern.training.state import fits, load_inheritance, with_settings


class Passed(NamedTuple):
    """What one forward through the codec gives."""

    output: Waveform
    heard: Waveform  # what the output is to equal: the input without offset and rumble
    quantized: Quantized | None


class Autoencoder(nn.Module):
    """What one training step runs forward, as a module for Fabric to wrap."""

    def __init__(self, model: CodecModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, wav: Waveform, quality: Tensor | None, even: Tensor | None = None) -> Passed:
        """Reconstruct [B, C, T], T a multiple of the hop.

        Args:
            wav: what to code.
            quality: [B] mean stages of each item; None for no quantizer.
            even: [B], whether all frames of an item have the same number of stages.
        """
        model, stages = self.model, None
        heard = model.heard(model.pad(wav))
        latent, quantized = model.analyse(heard), None
        if quality is not None and even is not None:
            levels = model.levels(latent.detach())

            def allocate(errors: Tensor) -> Tensor:
                spread = spread_stages(errors, levels, quality)
                return torch.where(even[:, None], quality.round().long()[:, None], spread)

            quantized = model.quantizer(latent, allocate)
            latent, stages = quantized.latent, quantized.stages
        out = model.synthesise(latent, stages=stages)
        delay = model.config.delay
        return Passed(
            out[..., delay : delay + wav.shape[-1]], heard[..., : wav.shape[-1]], quantized
        )


class Learnt(NamedTuple):
    """What one part of a batch gave, its gradients being with the weights."""

    passed: Passed
    losses: dict[str, Tensor]
    scales: dict[str, float]  # of the balancer


class Learner:
    """A codec in training, with all that moves it and its number of steps."""

    def __init__(self, config: TrainConfig, fabric: Fabric, batches: Batches) -> None:
        """Begin from the checkpoint that `config.init` names, or from the statistics of the data."""
        self.config = config
        self.fabric = fabric
        self.batches = batches  # those of steps below 0 set the scales and the codebooks
        torch.manual_seed(config.seed)
        self.model = CodecModel(config.model)
        self.average = CodecModel(config.model)
        self.loss = ReconstructionLoss(config.loss, config.model.sample_rate)
        self.step = 0
        self.quantizing = False  # whether k-means has set the codebooks
        self.skipped = self.skipped_in_a_row = 0  # updates without finite gradients
        self.codebooks = EmaCodebooks(
            self.model.quantizer,
            decay=config.codebook.decay,
            revival_threshold=config.codebook.revival_threshold,
        )
        self._begin()
        self.autoencoder, self.optimizer = fabric.setup(
            Autoencoder(self.model), build_optimizer(self.model, config.optimizer)
        )
        self.average.to(fabric.device)
        self.codebooks.to(fabric.device)
        self.balancer = Balancer(config.loss.balancer_decay) if config.loss.balancer else None
        self.adversary = None
        if config.adversary.start_step is not None:
            self.adversary = Adversary(config.adversary, config.model, fabric)

    def _begin(self) -> None:
        """Start from the given checkpoint, or from the statistics of the data."""
        if self.config.init is not None:
            weights.load_into(self.model, self.config.init)
            self.quantizing = True
            self.codebooks.restart()
            if self.config.train_only is TrainOnly.DECODER:
                self.model.encoder.requires_grad_(False)
        else:
            everyone = range(self.config.data.batch_size)  # the same on each rank
            sample = torch.cat([self.batches.draw(step, everyone) for step in range(-16, 0)])
            self.model.fit_transform(sample)
        self.average.load_state_dict(self.model.state_dict())

    def update(self, wav: Waveform) -> dict[str, Tensor | float]:
        """One step on this rank's share of a batch, [B, C, T]; returns what is worth logging.

        Raises:
            DivergedError: see `_may_update`.
        """
        config = self.config
        if not self.quantizing and self.step >= config.codebook.start_step:
            self._start_quantizer()
        rate = learning_rate(self.step, config.steps, config.optimizer)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

        self.optimizer.zero_grad(set_to_none=True)
        parts = wav.chunk(config.accumulate)
        learnt = []
        for part, drawn in zip(parts, self.draw_stages(len(wav)), strict=True):
            with self.fabric.no_backward_sync(self.autoencoder, enabled=part is not parts[-1]):
                learnt.append(self._learn_from(part, *drawn))
        before_clipping = self._gradient_norms()
        norm = self.fabric.clip_gradients(
            self.autoencoder,
            self.optimizer,
            max_norm=config.optimizer.gradient_clip or float("inf"),
            error_if_nonfinite=False,
        )
        assert norm is not None
        logged = self._mean_losses(learnt) | {"gradient/norm": norm.detach()}
        logged |= before_clipping
        if self._may_update(norm):
            self.optimizer.step()
            logged |= self._update_codebooks([part.passed.quantized for part in learnt])
            update_average(self.average, self.model, config.optimizer.average_decay, self.step)
        logged |= self._teach_adversary(
            [part.passed.heard for part in learnt], [part.passed.output.detach() for part in learnt]
        )
        self.step += 1
        return logged | {"rate/learning": rate, "guard/skipped": float(self.skipped)}

    def _learn_from(self, wav: Waveform, quality: Tensor | None, even: Tensor | None) -> Learnt:
        """Run one part of a batch forward and back."""
        passed = self.autoencoder(wav, quality, even)
        output, target, quantized = passed
        speaks = self.adversary is not None and self._adversary_speaks()
        apart = self.balancer is not None or (
            speaks and self.config.loss.adversarial_share is not None
        )
        heard = output.detach().requires_grad_() if apart else output
        losses, asked, scales = self.loss(heard, target, self._generator("windows")), {}, {}
        if speaks:
            assert self.adversary is not None
            crop = self.adversary.judged(target, heard, self._generator("judged"))
            asked = self.adversary.losses(*crop)
        if self.balancer is not None:
            shares = {name: getattr(self.config.loss, name) for name in losses | asked}
            gradient, scales = self.balancer.balance(losses | asked, shares, heard)
            total = (output * gradient).sum()
        elif apart:
            gradient, scales = self._with_share(losses, asked, heard)
            total = (output * gradient).sum()
        else:
            total = self.loss.weighted(losses | asked)
        losses |= asked
        if quantized is not None and self.config.train_only is None:
            counts = torch.tensor(quantized.counts, device=output.device).float()
            counts = mean_over_ranks(counts).clamp(min=1)
            commitment = (quantized.commitment / counts).mean()
            total = total + self.config.loss.commitment * commitment
            losses["commitment"] = commitment
        self.fabric.backward(total / self.config.accumulate)
        losses = {name: loss.detach() for name, loss in losses.items()}
        return Learnt(passed, losses, scales)

    def _with_share(
        self, losses: dict[str, Tensor], asked: dict[str, Tensor], heard: Waveform
    ) -> tuple[Waveform, dict[str, float]]:
        """The gradient at the output, of which what discriminators ask for is held to its share."""
        own = torch.autograd.grad(self.loss.weighted(losses), heard)[0]
        theirs = torch.autograd.grad(self.loss.weighted(asked), heard)[0]
        share = self.config.loss.adversarial_share or 0.0
        scale = share * own.norm() / theirs.norm().clamp(min=1e-12)
        return own + scale * theirs, {"adversary": float(scale)}

    def _mean_losses(self, learnt: list[Learnt]) -> dict[str, Tensor | float]:
        """Means over the batch, by the names they are logged under; between logs, of this rank alone."""
        names = [n for n in learnt[0].losses if all(n in part.losses for part in learnt)]
        means = torch.stack([torch.stack([part.losses[n] for n in names]) for part in learnt])
        means = means.mean(dim=0)
        mean = dict(zip(names, mean_over_ranks(means) if self._logs() else means, strict=True))
        logged: dict[str, Tensor | float] = {f"loss/{name}": loss for name, loss in mean.items()}
        logged |= {f"balancer/{name}": scale for name, scale in learnt[-1].scales.items()}
        return logged | {"loss/total": self.loss.weighted(mean)}

    def _gradient_norms(self) -> dict[str, Tensor]:
        """Norms of the parts' gradients, where they will be logged (in fp16: scaled)."""
        if not self._logs():
            return {}
        parts = {"encoder": self.model.encoder, "decoder": self.model.decoder}
        grads = {
            n: [p.grad for p in m.parameters() if p.grad is not None] for n, m in parts.items()
        }
        return {
            f"gradient/{name}": torch.nn.utils.get_total_norm(held)
            for name, held in grads.items()
            if held
        }

    def _logs(self) -> bool:
        return (self.step + 1) % self.config.log_every == 0

    def _may_update(self, norm: Tensor) -> bool:
        """Whether gradients are finite; where they are not, the update is left out and counted.

        Raises:
            DivergedError: as many updates in a row as `skip_limit` were left out.
        """
        if torch.isfinite(norm):
            self.skipped_in_a_row = 0
            return True
        self.skipped, self.skipped_in_a_row = self.skipped + 1, self.skipped_in_a_row + 1
        if self.skipped_in_a_row >= self.config.skip_limit:
            raise DivergedError(
                f"step {self.step}: {self.skipped_in_a_row} updates in a row had NaN or infinite "
                "gradients; nothing was updated in them, and the last saved state is from before. "
                "Lower optimizer.learning_rate, or set precision=32-true"
            )
        if self.config.precision == "16-mixed":
            self.optimizer.step()  # the scaler updates no weights, but lowers its scale
        return False

    def _update_codebooks(self, parts: list[Quantized | None]) -> dict[str, Tensor]:
        quantized = [part for part in parts if part is not None]
        if not quantized or self.config.train_only is not None:
            return {}
        self.codebooks.decay = codebook_decay(self.step, self.config.steps, self.config.codebook)
        update = self.codebooks.update(concatenate(quantized), self._generator("revival"))
        return {"codebook/dead": update.dead, "codebook/revived": update.revived}

    def _adversary_speaks(self) -> bool:
        adversary = self.config.adversary
        start = adversary.start_step
        return start is not None and self.step >= start + adversary.head_start

    def _teach_adversary(
        self, wavs: Sequence[Waveform], outputs: list[Waveform]
    ) -> dict[str, Tensor]:
        """Let the discriminators learn from what this step put out, with their probability."""
        config = self.config.adversary
        if self.adversary is None or config.start_step is None or self.step < config.start_step:
            return {}
        coin = torch.rand((), generator=self._generator("adversary"))
        if coin >= config.update_probability and self._adversary_speaks():
            return {}
        pairs = zip(wavs, outputs, strict=True)
        return self.adversary.learn(
            [self.adversary.judged(*pair, self._generator("judged")) for pair in pairs]
        )

    @torch.no_grad()
    def _start_quantizer(self) -> None:
        """Set the codebooks by k-means on the latents of batches that training will not see."""
        latents, frames, step = [], 0, -17
        while frames < self.config.codebook.kmeans_frames:
            wav = self.batches[step].to(self.fabric.device)
            latent = self.model.latent(self.model.pad(wav))
            latents.append(gather_rows(latent.transpose(1, 2).reshape(-1, latent.shape[1])))
            frames, step = frames + len(latents[-1]), step - 1
        self.codebooks.initialise(
            torch.cat(latents),
            iterations=self.config.codebook.kmeans_iterations,
            generator=self._generator("kmeans"),
        )
        self.quantizing = True

    def draw_stages(self, batch: int) -> list[tuple[Tensor | None, Tensor | None]]:
        """Mean stages of this rank's items and whether they are even, [B] each, part by part.

        Drawn for the whole batch, so that it does not matter how it was divided.
        """
        config, device = self.config.codebook, self.fabric.device
        if not self.quantizing:
            return [(None, None)] * self.config.accumulate
        generator = self._generator("stages")
        whole = batch * self.fabric.world_size
        quality = draw_quality(
            whole,
            self.config.model.quantizer.stages,
            lowest=config.stages[0],
            highest=config.stages[1],
            full_share=config.full_share,
            generator=generator,
        )
        even = torch.rand(whole, generator=generator) < config.even_share
        first = self.fabric.global_rank * batch
        mine = slice(first, first + batch)
        parts = self.config.accumulate
        return list(
            zip(
                quality[mine].to(device).chunk(parts),
                even[mine].to(device).chunk(parts),
                strict=True,
            )
        )

    def _generator(self, purpose: str) -> torch.Generator:
        """Randomness that depends on seed, step and purpose alone: alike on all ranks, exact on resume."""
        salt = {"stages": 1, "revival": 2, "kmeans": 3, "adversary": 4, "judged": 5, "windows": 6}[
            purpose
        ]
        seed = (self.config.seed * 1_000_003 + self.step) * 8 + salt
        return torch.Generator().manual_seed(seed % 2**63)

    # --- what is kept ---

    def state_dict(self) -> dict[str, Any]:
        state = {
            "step": self.step,
            "quantizing": self.quantizing,
            "skipped": self.skipped,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "codebooks": self.codebooks.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
        }
        if self.balancer is not None:
            state["balancer"] = self.balancer.state_dict()
        if self.adversary is not None:
            state["adversary"] = self.adversary.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state; a part that it lacks, as of an older version, starts anew."""
        self.step, self.quantizing = state["step"], state["quantizing"]
        self.skipped = state.get("skipped", 0)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.codebooks.load_state_dict(state["codebooks"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.fabric.strategy.precision.load_state_dict(state.get("precision", {}))
        if self.balancer is not None and "balancer" in state:
            self.balancer.load_state_dict(state["balancer"])
        if self.adversary is not None and "adversary" in state:
            self.adversary.load_state_dict(state["adversary"])

    def inheritance(self) -> dict[str, Any]:
        """What a fine-tuning run may start from, beside the weights."""
        state = self.state_dict()
        return {n: state[n] for n in ("optimizer", "codebooks", "adversary") if n in state}

    def inherit(self, name: str) -> list[str]:
        """Take over what a checkpoint holds beside its weights, as far as it fits; says what it did."""
        notes = []
        state = load_inheritance(checkpoint.find(name))
        parts = {"optimizer": self.optimizer, "codebooks": self.codebooks}
        if self.adversary is not None:
            parts["adversary"] = self.adversary
        for part, ours in parts.items():
            if part not in state:
                continue
            if fits(state[part], ours.state_dict()):
                ours.load_state_dict(with_settings(state[part], ours.state_dict()))
                notes.append(f"{part} as {name} left it")
            else:
                notes.append(f"{part} starts anew: that of {name} is of another shape")
        return notes
