"""The training loop, to be read from top to bottom."""

import time
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor, nn

from bittern import checkpoint
from bittern.codebook import EmaCodebooks
from bittern.model import CodecModel
from bittern.quantizer import Quantized, draw_stages
from bittern.shapes import Waveform
from bittern.training.data import Batches, Corpus, batches_from, open_corpus, validation_batch
from bittern.training.losses import ReconstructionLoss
from bittern.training.monitor import Monitor
from bittern.training.schedule import build_optimizer, learning_rate, update_average
from bittern.training.settings import TrainConfig
from bittern.training.state import load_state, save_state
from bittern.training.validation import validate

BEST_METRIC = "estoi"  # mean over the validated numbers of stages decides which model is best


class Autoencoder(nn.Module):
    """What one training step runs forward, as a module for Fabric to wrap."""

    def __init__(self, model: CodecModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, wav: Waveform, stages: Tensor | None) -> tuple[Waveform, Quantized | None]:
        """Reconstruct [B, C, T], T a multiple of the hop; stages [B], or None for no quantizer."""
        model = self.model
        latent = model.latent(model.pad(wav))
        quantized = None if stages is None else model.quantizer(latent, stages)
        out = model.synthesise(latent if quantized is None else quantized.latent)
        delay = model.config.delay
        return out[..., delay : delay + wav.shape[-1]], quantized


class Trainer:
    """A run: its model, its state on disk, and the loop."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.folder = Path(config.run)
        if config.threads:
            torch.set_num_threads(config.threads)
        ddp = DDPStrategy(broadcast_buffers=False)  # codebooks are kept equal by `EmaCodebooks`
        world = config.devices * config.nodes
        self.fabric = Fabric(
            accelerator=config.accelerator,
            devices=config.devices,
            num_nodes=config.nodes,
            precision=config.precision,  # type: ignore[arg-type]  # Fabric names its choices
            strategy=ddp if world > 1 else "auto",
        )
        self.fabric.launch()
        torch.manual_seed(config.seed)
        self.model = CodecModel(config.model)
        self.average = CodecModel(config.model)
        self.loss = ReconstructionLoss(config.loss, config.model.sample_rate)
        self.step = 0
        self.quantizing = False  # whether k-means has set the codebooks
        self.best = float("-inf")

        self.corpus = self._open_corpus()
        training, held_out = self.corpus.split(config.data.validation_share)
        each = config.data.batch_size // self.fabric.world_size
        first = self.fabric.global_rank * each
        self.batches = Batches(
            self.corpus, training, config.data, seed=config.seed, items=range(first, first + each)
        )
        self.clips = validation_batch(self.corpus, held_out, config.data)
        self.codebooks = EmaCodebooks(
            self.model.quantizer,
            decay=config.codebook.decay,
            revival_threshold=config.codebook.revival_threshold,
        )
        self._begin()
        optimizer = build_optimizer(self.model, config.optimizer)
        self.autoencoder, self.optimizer = self.fabric.setup(Autoencoder(self.model), optimizer)
        self.average.to(self.fabric.device)
        self.codebooks.to(self.fabric.device)
        self._resume()

    def _open_corpus(self) -> Corpus:
        """Scan on the first process of each node, then read what it found on the others."""
        if self.fabric.local_rank == 0:
            corpus = open_corpus(self.config.data, self.config.model.sample_rate)
        self.fabric.barrier()
        if self.fabric.local_rank != 0:
            corpus = open_corpus(self.config.data, self.config.model.sample_rate, quiet=True)
        return corpus

    def _begin(self) -> None:
        """Start from the given checkpoint, or from the statistics of the data."""
        if self.config.init is not None:
            checkpoint.load_into(self.model, self.config.init)
            self.quantizing = True
            self.codebooks.restart()
        else:
            everyone = range(self.config.data.batch_size)  # the same on each rank
            sample = torch.cat([self.batches.draw(step, everyone) for step in range(-16, 0)])
            self.model.fit_transform(sample)
        self.average.load_state_dict(self.model.state_dict())

    # --- the loop ---

    def fit(self) -> None:
        """Train to the last step, or until the time allowed is over; everything is saved then."""
        config, began = self.config, time.monotonic()
        batch_seconds = config.data.batch_size * config.data.segment_seconds
        self.monitor = self._monitor(batch_seconds)
        batches = batches_from(self.batches, self.step, config.steps, workers=config.data.workers)
        clock, mark = time.monotonic(), self.step
        for wav in batches:
            logged = self.train_step(wav.to(self.fabric.device))
            self.step += 1
            if self.step % config.log_every == 0 and self.monitor:
                now = time.monotonic()
                rate = (self.step - mark) * batch_seconds / (now - clock)
                clock, mark = now, self.step
                values = {name: float(value) for name, value in logged.items()}
                self.monitor.scalars(self.step, values | {"rate/audio_seconds": rate})
                self.monitor.progress(self.step, values["loss/total"], rate)
            over = (
                config.stop_after_minutes is not None
                and time.monotonic() - began > 60 * config.stop_after_minutes
            )
            last = self.step == config.steps or over
            if self.step % config.validate_every == 0 or last:
                pause = time.monotonic()
                self.validate()
                clock += time.monotonic() - pause
            if self.step % config.save_every == 0 or last:
                self.save()
            if last:
                break
        if self.monitor:
            self.monitor.close()

    def train_step(self, wav: Waveform) -> dict[str, Tensor | float]:
        """One update on [B, C, T]; returns what is worth logging."""
        config = self.config
        if not self.quantizing and self.step >= config.codebook.start_step:
            self._start_quantizer()
        rate = learning_rate(self.step, config.steps, config.optimizer)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        stages = self._draw_stages(len(wav)) if self.quantizing else None
        output, quantized = self.autoencoder(wav, stages)
        terms = self.loss(output, wav)
        total = self.loss.weighted(terms)
        logged: dict[str, Tensor | float] = {f"loss/{n}": t.detach() for n, t in terms.items()}
        if quantized is not None:
            commitment = quantized.commitment.mean()
            total = total + config.loss.commitment * commitment
            logged["loss/commitment"] = commitment.detach()
            update = self.codebooks.update(quantized, self._generator("revival"))
            logged["codebook/dead"] = update.dead.sum()
            logged["codebook/revived"] = update.revived.sum()
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(total)
        if config.optimizer.gradient_clip:
            norm = self.fabric.clip_gradients(
                self.autoencoder, self.optimizer, max_norm=config.optimizer.gradient_clip
            )
            assert norm is not None
            logged["gradient/norm"] = norm.detach()
        self.optimizer.step()
        update_average(self.average, self.model, config.optimizer.average_decay, self.step)
        return logged | {"loss/total": total.detach(), "rate/learning": rate}

    @torch.no_grad()
    def _start_quantizer(self) -> None:
        """Set the codebooks by k-means on the latents of batches that training will not see."""
        latents, frames, step = [], 0, -17
        while frames < self.config.codebook.kmeans_frames // self.fabric.world_size:
            wav = self.batches[step].to(self.fabric.device)
            latent = self.model.latent(self.model.pad(wav))
            latents.append(latent.transpose(1, 2).reshape(-1, latent.shape[1]))
            frames, step = frames + len(latents[-1]), step - 1
        self.codebooks.initialise(
            torch.cat(latents),
            iterations=self.config.codebook.kmeans_iterations,
            generator=self._generator("kmeans"),
        )
        self.quantizing = True

    def _draw_stages(self, batch: int) -> Tensor:
        """Stages of this rank's items, out of a draw for the whole batch."""
        drawn = draw_stages(
            batch * self.fabric.world_size,
            self.config.model.quantizer.stages,
            self.config.codebook.full_share,
            self._generator("stages"),
        )
        first = self.fabric.global_rank * batch
        return drawn[first : first + batch].to(self.fabric.device)

    def _generator(self, purpose: str) -> torch.Generator:
        """Randomness that depends on seed, step and purpose alone: alike on all ranks, exact on resume."""
        salt = {"stages": 1, "revival": 2, "kmeans": 3}[purpose]
        seed = (self.config.seed * 1_000_003 + self.step) * 8 + salt
        return torch.Generator().manual_seed(seed % 2**63)

    # --- what is kept ---

    def validate(self) -> None:
        """Score the averaged weights on the held-out clips; keep them if they are the best so far."""
        if not self.clips or not self.fabric.is_global_zero:
            return
        self.average.eval()
        clips = [clip.to(self.fabric.device) for clip in self.clips]
        scores = validate(self.average, clips, quantized=self.quantizing)
        if self.monitor:
            self.monitor.validation(self.step, scores, self.config.model.sample_rate)
        levels = [
            v
            for n, v in scores.values.items()
            if n.startswith(f"{BEST_METRIC}/") and n[-2:] != "/0"
        ]
        if levels and sum(levels) / len(levels) > self.best:
            self.best = sum(levels) / len(levels)
            checkpoint.save(self.average, self.folder / "best")

    def save(self) -> None:
        """Write the averaged weights as a checkpoint, and all that resuming needs."""
        if not self.fabric.is_global_zero:
            return
        checkpoint.save(self.average, self.folder / "last")
        save_state(self.folder, self._state())

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "quantizing": self.quantizing,
            "best": self.best,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "codebooks": self.codebooks.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def _resume(self) -> None:
        found = load_state(self.folder) if self.config.resume else None
        if found is None:
            return
        state, warning = found
        if warning and self.fabric.is_global_zero:
            print(f"bittern-train: warning: {warning}", flush=True)  # noqa: T201
        self.step, self.quantizing, self.best = state["step"], state["quantizing"], state["best"]
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.codebooks.load_state_dict(state["codebooks"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _monitor(self, batch_seconds: float) -> Monitor | None:
        if not self.fabric.is_global_zero:
            return None
        monitor = Monitor(
            self.folder, steps=self.config.steps, start=self.step, batch_seconds=batch_seconds
        )
        seconds = sum(clip.samples for clip in self.corpus.clips) / self.corpus.sample_rate
        monitor.say(
            f"{len(self.corpus.clips)} clips, {seconds / 3600:.2f} h; "
            f"{len(self.clips)} held out for validation; {len(self.corpus.skipped)} files skipped"
        )
        for skipped in self.corpus.skipped[:20]:
            monitor.say(f"skipped {skipped.path}: {skipped.reason}")
        if self.step:
            monitor.say(f"going on from step {self.step}")
        return monitor
