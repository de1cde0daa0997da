"""Tells a sick run from a healthy one, in plain language, out of what is logged anyway."""

from collections import deque
from statistics import mean

from torch import Tensor

_RECENT = 5  # values that a verdict is based on: one bad batch is no illness
_QUIET = 10  # logs for which a warning is not repeated

COLLAPSED = 0.1  # of the entries, as perplexity
DEAD = 0.5  # of the entries
ACCURACY = 0.97  # of the discriminators, half being guesswork
RISE = 3.0  # of a loss, over its lowest mean, or its first value
STEEP = 20.0  # of the gradient's norm, likewise
WAITING = 0.1  # of the time
SILENT = 0.2  # of the items


class Health:
    """Watches the values of a run from log to log."""

    def __init__(
        self, codebook_size: int, *, codebooks_learn: bool = True, skipped: int = 0
    ) -> None:
        """With `skipped` the updates left out before, of which there is nothing new to say."""
        self.codebook_size = codebook_size
        self.codebooks_learn = codebooks_learn
        self._recent: dict[str, deque[float]] = {}
        self._lowest: dict[str, float] = {}
        self._said: dict[str, int] = {}
        self._logs = 0
        self._skipped = float(skipped)

    def check(self, values: dict[str, float], counts: Tensor | None) -> list[str]:
        """What is wrong, if anything is; one sentence each, with what to do.

        Args:
            values: as logged, by name.
            counts: [K, N] moving averages of the codebooks' use; None before there is a quantizer.
        """
        self._logs += 1
        first_quantized = counts is not None and "perplexity" not in self._recent
        if first_quantized:  # losses are of another kind from here on
            self._recent.clear()
            self._lowest.clear()
        found = {
            **self._updates(values),
            **self._codebooks(values, counts),
            **self._losses(values),
            **self._data(values),
        }
        due = {
            kind: text
            for kind, text in found.items()
            if self._logs - self._said.get(kind, -_QUIET) >= _QUIET
        }
        self._said |= dict.fromkeys(due, self._logs)
        return list(due.values())

    def explosions(self, found: dict[str, float]) -> list[str]:
        """What to say of sounds that validation found to come back far too loud, by name."""
        if not found:
            return []
        worst = max(found, key=lambda name: found[name])
        others = f" and {len(found) - 1} more" if len(found) > 1 else ""
        return [
            f"exploded: {worst!r} comes back {found[worst]:.3g} times as loud as it was{others}; "
            "give model.encoder.limit and model.decoder.limit (60 to 200), and training such sounds "
            "(augment)"
        ]

    def _mean(self, name: str, value: float | None) -> float | None:
        """The mean of the last few values, once there are enough; a missing value is not counted."""
        recent = self._recent.setdefault(name, deque(maxlen=_RECENT))
        if value is not None:
            recent.append(value)
        return mean(recent) if len(recent) == _RECENT else None

    def _rise(self, name: str, value: float | None) -> float:
        """How many times its lowest a value's mean is; at first the lowest is the first value."""
        if value is not None:
            self._lowest.setdefault(name, value)
        now = self._mean(name, value)
        if now is None:
            return 1.0
        self._lowest[name] = min(self._lowest.get(name, now), now)
        return now / max(self._lowest[name], 1e-12)

    def _updates(self, values: dict[str, float]) -> dict[str, str]:
        skipped = values.get("guard/skipped", 0.0)
        fresh, self._skipped = skipped - self._skipped, skipped
        if fresh <= 0:
            return {}
        return {
            "skipped": f"{fresh:.0f} updates were left out, as their gradients were NaN or infinite; "
            "if this goes on, lower optimizer.learning_rate or set precision=32-true"
        }

    def _codebooks(self, values: dict[str, float], counts: Tensor | None) -> dict[str, str]:
        if counts is None or not self.codebooks_learn:
            return {}
        share = (counts / counts.sum(dim=1, keepdim=True).clamp(min=1e-12)).double().cpu()
        perplexity = (-(share * share.clamp(min=1e-300).log()).sum(dim=1)).exp()  # [K]
        stage = int(perplexity.argmin())
        worst = self._mean("perplexity", float(perplexity[stage]))
        found = {}
        if worst is not None and worst < COLLAPSED * self.codebook_size:
            found["collapse"] = (
                f"the codebook of stage {stage + 1} has collapsed: it is used as if it had "
                f"{worst:.0f} entries of {self.codebook_size}; set codebook.revival_threshold to 0.1, "
                "start the quantizer later (codebook.start_step), or give k-means more frames"
            )
        dead = [v for n, v in values.items() if n.startswith("codebook/dead/")]
        most = self._mean("dead", max(dead) if dead else None)
        if most is not None and most > DEAD * self.codebook_size:
            found["dead"] = (
                f"a codebook has {most:.0f} dead entries of {self.codebook_size}, step after step; "
                "set codebook.revival_threshold to 0.1, or make the codebooks smaller"
            )
        return found

    def _losses(self, values: dict[str, float]) -> dict[str, str]:
        found = {}
        for name in ("loss/mel", "loss/complex_stft", "loss/disturbance", "loss/waveform"):
            rise = self._rise(name, values.get(name))
            if rise > RISE:
                found["diverged"] = (
                    f"{name} has risen to {rise:.1f} times its lowest: training diverges; "
                    "lower optimizer.learning_rate"
                )
        steep = self._rise("gradient", values.get("gradient/norm"))
        if steep > STEEP:
            found["gradients"] = (
                f"gradients explode: their norm is {steep:.0f} times its lowest; "
                "lower optimizer.learning_rate, or optimizer.gradient_clip"
            )
        accuracy = self._mean("accuracy", values.get("adversary/accuracy"))
        if accuracy is not None and accuracy > ACCURACY:
            found["discriminators"] = (
                f"the discriminators win: they tell {accuracy:.0%} of the outputs from originals, and "
                "the codec learns nothing more from them; lower adversary.learning_rate or "
                "adversary.update_probability"
            )
        return found

    def _data(self, values: dict[str, float]) -> dict[str, str]:
        found = {}
        waiting = self._mean("waiting", values.get("rate/waiting"))
        if waiting is not None and waiting > WAITING:
            found["waiting"] = (
                f"training waits for data {waiting:.0%} of the time; "
                "raise data.workers, or put data.cache on a faster disk"
            )
        silent = self._mean("silent", values.get("data/silent"))
        if silent is not None and silent > SILENT:
            found["silent"] = (
                f"{silent:.0%} of what training hears is silence; "
                "cut silence out of the recordings, or leave such files out"
            )
        return found
