"""Speed of the training loop beside bare steps: python tools/bench.py [KEY=VALUE ...].

Two kinds of lap take turns: the real training loop (data, averages, codebooks, monitoring; not
validation and saving), and bare forward, backward and optimizer step on one batch held in memory. The
arguments are those of `bittern train`; without data.root the example speech is trained on.
"""

import csv
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bittern.errors import CodecError
from bittern.training.run import compose
from bittern.training.trainer import Trainer

EXAMPLES = Path(__file__).parents[1] / "examples"
LAPS, STEPS = 7, 5
ENOUGH, WAIT = 0.85, 0.05  # what the training loop should reach


def last_value(run: Path, name: str) -> float:
    """The newest value of a curve in a run's folder."""
    with (run / "curves.csv").open(newline="") as file:
        return [float(row["value"]) for row in csv.DictReader(file) if row["name"] == name][-1]


def bare_lap(trainer: Trainer, wav, drawn, steps: int) -> float:
    """Seconds of forward, backward and step, with nothing else."""
    learner = trainer.learner
    began = time.perf_counter()
    for _ in range(steps):
        learner.optimizer.zero_grad(set_to_none=True)
        output, heard, quantized = learner.autoencoder(wav, *drawn)
        total = learner.loss.weighted(learner.loss(output, heard))
        if quantized is not None:
            total = total + trainer.config.loss.commitment * quantized.commitment.mean()
        learner.fabric.backward(total)
        learner.optimizer.step()
        float(total.detach())  # waits for a GPU
    return time.perf_counter() - began


def measure_training(arguments: list[str]) -> None:
    """Print seconds of audio a second of both, their ratio, and the share spent waiting for data."""
    with tempfile.TemporaryDirectory(prefix="bittern-bench-") as folder:
        given = [f"run={folder}/run", "codebook.start_step=0", "data.validation_share=0"]
        if not any(argument.startswith("data.root=") for argument in arguments):
            given += [f"data.root={EXAMPLES}", f"data.cache={folder}/cache"]
        trainer = Trainer(compose([*given, f"log_every={STEPS}", *arguments]))
        learner = trainer.learner
        wav = trainer.batches[0].to(learner.fabric.device)
        audio = STEPS * trainer.config.data.batch_size * trainer.config.data.segment_seconds
        loop_rates, ratios, waits = [], [], []
        for lap in range(LAPS + 1):
            trainer.config.steps = learner.step + 2 * STEPS  # the second half shows the pace
            trainer.fit()
            drawn = learner.draw_stages(len(wav))[0]
            bare = audio / bare_lap(trainer, wav, drawn, STEPS)
            if lap:  # the first warms up
                loop_rates.append(last_value(trainer.folder, "rate/audio_seconds"))
                waits.append(last_value(trainer.folder, "rate/waiting"))
                ratios.append(loop_rates[-1] / bare)
    loop, ratio, wait = map(statistics.median, (loop_rates, ratios, waits))
    print(
        f"{trainer.config.model.name}, batches of {audio / STEPS:g} s, medians of {LAPS} laps\n"
        f"training loop: {loop:.1f} audio s/s, {ratio:.0%} of bare forward, backward and step "
        f"({loop / ratio:.1f} audio s/s); {wait:.1%} of the time spent waiting for data\n"
        f"at least {ENOUGH:.0%}, and under {WAIT:.0%} waiting: "
        + ("met" if ratio >= ENOUGH and wait < WAIT else "missed")
    )


if __name__ == "__main__":
    try:
        measure_training(["threads=1", *sys.argv[1:]])
    except CodecError as error:
        print(f"bench: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
