"""What a run shows: TensorBoard, `curves.csv` in the run's folder, one line of progress, and its pace."""

import csv
import io
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from bittern.audio.atomic import write_atomically
from bittern.metrics import stft
from bittern.training.validation import Scores

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # the backend must be chosen first

CURVES, WARNINGS = "curves.csv", "warnings.log"
FIELDS = ("step", "audio_seconds", "name", "value")


class Monitor:
    """Writes scalars to TensorBoard and to a CSV of (step, audio seconds, name, value)."""

    def __init__(self, folder: Path, *, steps: int, start: int, batch_seconds: float) -> None:
        """With `start` over 0 the curves behind it, of steps that will be done again, are dropped."""
        folder.mkdir(parents=True, exist_ok=True)
        self.batch_seconds = batch_seconds
        self._path = folder / CURVES
        self._keep_until(start)
        self._file = self._path.open("a", newline="")
        self._rows = csv.writer(self._file)
        if self._path.stat().st_size == 0:
            self._rows.writerow(FIELDS)
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=start)
        self.bar = tqdm(total=steps, initial=start, desc="train", unit="step", dynamic_ncols=True)

    def _keep_until(self, start: int) -> None:
        if not self._path.exists():
            return
        with self._path.open(newline="") as file:
            rows = list(csv.reader(file))
        kept = [row for row in rows[1:] if len(row) == len(FIELDS) and int(row[0]) <= start]
        text = io.StringIO(newline="")
        csv.writer(text).writerows([FIELDS, *kept])
        write_atomically(self._path, text.getvalue().encode())

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.board.add_scalar(name, value, step)
            self._rows.writerow((step, round(step * self.batch_seconds), name, f"{value:.6g}"))
        self._file.flush()

    def progress(self, step: int, loss: float, audio_rate: float) -> None:
        """Move the bar; `audio_rate` is seconds of audio trained on per second."""
        self.bar.set_postfix_str(f"loss {loss:.3f}, {audio_rate:.0f} audio s/s", refresh=False)
        self.bar.update(step - self.bar.n)

    def say(self, text: str) -> None:
        self.bar.write(text)

    def warn(self, step: int, text: str) -> None:
        """Say what is wrong, and keep it in `warnings.log` and TensorBoard."""
        self.say(f"warning, step {step}: {text}")
        self.board.add_text("warnings", text, step)
        with (self._path.parent / WARNINGS).open("a") as file:
            file.write(f"step {step}: {text}\n")

    def validation(self, step: int, scores: Scores, sample_rate: int) -> None:
        """Log scores, codebook use, and the first clip to hear and to see."""
        self.scalars(step, {f"validation/{name}": v for name, v in scores.values.items()})
        if scores.usage is not None and scores.entropy is not None:
            health = {}
            for stage, (usage, bits) in enumerate(
                zip(scores.usage.tolist(), scores.entropy.tolist(), strict=True), start=1
            ):
                health[f"codebook/usage/{stage:02d}"] = usage
                health[f"codebook/perplexity/{stage:02d}"] = 2**bits
            self.scalars(step, health)
        for name, wav in scores.audio.items():
            self.board.add_audio(f"validation/{name}", wav[None], step, sample_rate=sample_rate)
        self.board.add_figure("validation/spectrograms", draw_spectrograms(scores.audio), step)
        self.board.flush()
        line = [f"step {step}"]
        counts = sorted({int(name.split("/")[1]) for name in scores.values})
        for k in counts:
            shown = [f"{scores.values[f'{m}/{k}']:.2f}" for m in ("si_sdr", "log_mel")]
            shown.append(f"{scores.values.get(f'estoi/{k}', float('nan')):.3f}")
            line.append(f"{k or 'no'} stages: " + " / ".join(shown))
        self.say("   ".join(line) + "   (SI-SDR dB / log-mel / ESTOI)")

    def close(self) -> None:
        self.bar.close()
        self.board.close()
        self._file.close()


class Pace:
    """Clocks the loop between one lap and the next."""

    def __init__(self, batch_seconds: float) -> None:
        """With `batch_seconds` of audio in each step."""
        self.batch_seconds = batch_seconds
        self._begin()

    def _begin(self) -> None:
        self._began, self._waited, self._paused, self._steps = time.monotonic(), 0.0, 0.0, 0

    def batches(self, source: Iterator[Tensor]) -> Generator[Tensor]:
        """The same batches, with the time that each was waited for."""
        while True:
            asked = time.monotonic()
            batch = next(source, None)
            self._waited += time.monotonic() - asked
            if batch is None:
                return
            self._steps += 1
            yield batch

    @contextmanager
    def pause(self) -> Generator[None]:
        """Leave out what is not training."""
        began = time.monotonic()
        yield
        self._paused += time.monotonic() - began

    def lap(self) -> dict[str, float]:
        """Seconds of audio a second, and the share of time spent waiting, since the last lap."""
        seconds = max(time.monotonic() - self._began - self._paused, 1e-9)
        values = {
            "rate/audio_seconds": self._steps * self.batch_seconds / seconds,
            "rate/waiting": self._waited / seconds,
        }
        self._begin()
        return values


def by_stage(logged: dict[str, Tensor | float]) -> dict[str, float]:
    """Numbers by name; of a vector over the stages its sum, and each stage's under its number."""
    values = {}
    for name, value in logged.items():
        if isinstance(value, Tensor) and value.ndim:
            values |= {f"{name}/{k:02d}": float(v) for k, v in enumerate(value.tolist(), start=1)}
        values[name] = float(value.sum()) if isinstance(value, Tensor) else value
    return values


def draw_spectrograms(versions: dict[str, Tensor]):
    """A figure with the log spectrogram of each version, [T] each."""
    figure, axes = plt.subplots(
        len(versions), 1, figsize=(8, 1.6 * len(versions)), sharex=True, squeeze=False
    )
    for axis, (name, wav) in zip(axes[:, 0], versions.items(), strict=True):
        power = stft(wav, 512).abs().clamp(min=1e-6).log10() * 20
        axis.imshow(power.numpy(), origin="lower", aspect="auto", vmin=-110, vmax=-20)
        axis.set_ylabel(name)
        axis.set_yticks([])
    figure.tight_layout()
    return figure
