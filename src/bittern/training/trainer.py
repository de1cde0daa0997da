"""A training run, to be read from top to bottom: its data, the loop, and what is kept on disk.

What one step does to the codec is in `learner.py`.
"""

import signal
import time
from pathlib import Path

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor

from bittern import checkpoint, weights
from bittern.errors import ConfigError, ModelError
from bittern.training.augment import Augmentation
from bittern.training.corpus import open_corpus, too_many_skipped
from bittern.training.data import Batches, batches_from, silent_share, validation_batch
from bittern.training.health import Health
from bittern.training.learner import Learner
from bittern.training.monitor import Monitor, Pace, by_stage
from bittern.training.settings import TrainConfig, TrainOnly
from bittern.training.signals import StopSignals
from bittern.training.state import load_state, remove_leftovers, save_inheritance, save_state
from bittern.training.validation import nasty_clips, validate

BEST_METRIC = "estoi"  # mean over the validated numbers of stages decides which model is best


class Trainer:
    """A run: what learns, what it learns from, and its folder."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.folder = Path(config.run)
        if config.threads:
            torch.set_num_threads(config.threads)
        ddp = DDPStrategy(broadcast_buffers=False)  # codebooks are kept equal by `EmaCodebooks`
        world = config.devices * config.nodes
        try:
            self.fabric = Fabric(
                accelerator=config.accelerator,
                devices=config.devices,
                num_nodes=config.nodes,
                precision=config.precision,  # type: ignore[arg-type]  # Fabric names its choices
                strategy=ddp if world > 1 else "auto",
            )
        except (RuntimeError, ValueError) as error:  # also Fabric's own, of devices it lacks
            raise ConfigError(
                f"accelerator={config.accelerator} devices={config.devices} "
                f"precision={config.precision}: {str(error).splitlines()[0]}"
            ) from None
        self.fabric.launch()
        torch.backends.cudnn.benchmark = True  # shapes are the same at every step
        data, rate, quiet = config.data, config.model.sample_rate, self.fabric.local_rank > 0
        self.corpus = open_corpus(
            data.root,
            rate,
            cache=data.cache,
            minimum_seconds=data.minimum_seconds,
            copy=data.copy,
            workers=data.workers,
            quiet=quiet,
        )
        training, held_out = self.corpus.split(data.validation_share)
        each = data.batch_size // self.fabric.world_size
        first = self.fabric.global_rank * each
        self.batches = Batches(
            self.corpus,
            training,
            data,
            seed=config.seed,
            items=range(first, first + each),
            augmentation=Augmentation(config.augment, rate) if config.augment.anything else None,
            device=self.fabric.device,
        )
        self.clips = validation_batch(self.corpus, held_out, config.data)
        self.nasty = nasty_clips(self.clips, rate)
        self.learner = Learner(config, self.fabric, self.batches)
        self.decodes: tuple[bytes, ...] = ()  # weights whose files these will decode
        if config.train_only is TrainOnly.DECODER and config.init is not None:
            self.decodes = checkpoint.lineage(config.init)
        self.best = float("-inf")
        self.notes: list[str] = []  # of the start, for the monitor to say
        if not self._resume() and config.init is not None:
            self.notes += self.learner.inherit(config.init)
        self.health = Health(
            config.model.quantizer.codebook_size,
            codebooks_learn=config.train_only is None,
            skipped=self.learner.skipped,
        )

    # --- the loop ---

    def fit(self) -> None:
        """Train to the last step, or until the time allowed is over; everything is saved then."""
        batch_seconds = self.config.data.batch_size * self.config.data.segment_seconds
        self.monitor = self._monitor(batch_seconds)
        try:
            with StopSignals() as self.stop:
                self._loop(Pace(batch_seconds))
        finally:
            if self.monitor:
                self.monitor.close()

    def _loop(self, pace: Pace) -> None:
        config, began = self.config, time.monotonic()
        workers = config.data.workers
        batches = batches_from(self.batches, self.learner.step, config.steps, workers=workers)
        for wav in pace.batches(batches):
            logged = self.learner.update(wav.to(self.fabric.device))
            step = self.learner.step
            if step % config.log_every == 0:
                self._report(step, logged | {"data/silent": silent_share(wav)} | pace.lap())
            last = step == config.steps or self._time_is_over(began)
            stopped = not last and self._is_stopped()
            with pace.pause():
                if step % config.validate_every == 0 or last:
                    self.validate()
                if step % config.save_every == 0 or last or stopped:
                    self.save(last=last)
            if stopped:
                raise SystemExit(128 + (self.stop.number or signal.SIGTERM))
            if last:
                break

    def _is_stopped(self) -> bool:
        """Whether a signal asked any rank to end; all see it after the same step."""
        if self.fabric.world_size == 1:
            return self.stop.number is not None
        asked = torch.tensor(float(self.stop.number is not None), device=self.fabric.device)
        return bool(self.fabric.all_reduce(asked, reduce_op="sum"))

    def _time_is_over(self, began: float) -> bool:
        """Whether this start has had its minutes, as the first rank's clock has it."""
        minutes = self.config.stop_after_minutes
        if minutes is None:
            return False
        return self.fabric.broadcast(time.monotonic() - began > 60 * minutes)

    def _report(self, step: int, logged: dict[str, Tensor | float]) -> None:
        """Show numbers, and say what is wrong with them."""
        if not self.monitor:
            return
        values = by_stage(logged)
        self.monitor.scalars(step, values)
        self.monitor.progress(step, values["loss/total"], values["rate/audio_seconds"])
        counts = self.learner.codebooks.counts if self.learner.quantizing else None
        for warning in self.health.check(values, counts):
            self.monitor.warn(step, warning)

    # --- what is kept ---

    def validate(self) -> None:
        """Score the averaged weights on the held-out clips; keep them if they are the best so far."""
        if not self.clips or not self.fabric.is_global_zero:
            return
        average = self.learner.average.eval()
        clips, nasty = (
            {name: wav.to(self.fabric.device) for name, wav in group.items()}
            for group in (self.clips, self.nasty)
        )
        scores = validate(average, clips, quantized=self.learner.quantizing, beside=nasty)
        if self.monitor:
            self.monitor.validation(self.learner.step, scores, self.config.model.sample_rate)
            for warning in self.health.explosions(scores.exploded):
                self.monitor.warn(self.learner.step, warning)
        levels = [
            v
            for n, v in scores.values.items()
            if n.startswith(f"{BEST_METRIC}/") and n[-2:] != "/0"
        ]
        if levels and sum(levels) / len(levels) > self.best:
            self.best = sum(levels) / len(levels)
            self._save_checkpoint("best")

    def save(self, *, last: bool) -> None:
        """Write the averaged weights as a checkpoint, and all that resuming needs.

        The state comes last: a run killed before that makes all of it again. At the `last` step
        lies beside the checkpoint what a fine-tuning run may start from.
        """
        if not self.fabric.is_global_zero:
            return
        self._save_checkpoint("last")
        if not self.clips or not (self.folder / "best").exists():
            self._save_checkpoint("best")  # nothing says that another was better
        if last:
            save_inheritance(self.folder / "last", self.learner.inheritance())
        save_state(self.folder, self.learner.state_dict() | {"best": self.best})

    def _save_checkpoint(self, name: str) -> None:
        """Write the averaged weights; where codes keep their meaning, with what belongs to codes."""
        folder = self.folder / name
        weights.save(self.learner.average, folder, decodes=self.decodes)
        if self.decodes and self.config.init is not None:
            checkpoint.keep_entropy(self.learner.average.config, self.config.init, folder)

    def _resume(self) -> bool:
        """Go on from the run folder's last state, if there is one."""
        if self.fabric.is_global_zero:
            remove_leftovers(self.folder)
        found = load_state(self.folder) if self.config.resume else None
        if found is None:
            return False
        state, warning = found
        if warning:
            self.notes.append(f"warning: {warning}")
        try:
            self.best = state["best"]
            self.learner.load_state_dict(state)
        except (RuntimeError, ValueError, KeyError, TypeError, IndexError) as error:
            lines = [line.strip() for line in str(error).splitlines()] or [type(error).__name__]
            raise ModelError(
                f"{self.folder}: holds a run of other settings ({lines[-1]}); give another run=FOLDER, "
                "the settings it was begun with, or resume=false"
            ) from None
        return True

    def _monitor(self, batch_seconds: float) -> Monitor | None:
        if not self.fabric.is_global_zero:
            return None
        monitor = Monitor(
            self.folder,
            steps=self.config.steps,
            start=self.learner.step,
            batch_seconds=batch_seconds,
        )
        seconds = sum(clip.samples for clip in self.corpus.clips) / self.corpus.sample_rate
        monitor.say(
            f"{len(self.corpus.clips)} clips, {seconds / 3600:.2f} h; "
            f"{len(self.clips)} held out for validation; {len(self.corpus.skipped)} files skipped"
        )
        for note in self.notes:
            monitor.say(note)
        for skipped in self.corpus.skipped[:20]:
            monitor.say(f"skipped {skipped.path}: {skipped.reason}")
        if not self.clips:
            monitor.warn(
                self.learner.step,
                "no file is held out for validation, so that best/ is the same as last/; give more "
                "files, or a larger data.validation_share",
            )
        if warning := too_many_skipped(self.corpus):
            monitor.warn(self.learner.step, warning)
        if self.learner.step:
            monitor.say(f"going on from step {self.learner.step}")
        return monitor
