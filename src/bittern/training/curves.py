"""Pictures of `curves.csv`: runs over each other, one panel a value."""

import csv
from pathlib import Path
from statistics import median

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bittern.training.monitor import CURVES

_COLUMNS = 4
_GROUPS = ("loss/", "validation/", "adversary/", "gradient/", "rate/", "codebook/")


def read_curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) by name, from a run's folder or its `curves.csv`.

    Raises:
        ValueError: the file is not one.
    """
    path = run / CURVES if run.is_dir() else run
    curves: dict[str, list[tuple[int, float]]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            try:
                point = int(row["step"]), float(row["value"])
            except (KeyError, TypeError, ValueError):
                raise ValueError(f"{path} is not a {CURVES} of a run") from None
            curves.setdefault(row["name"], []).append(point)
    return curves


def draw(runs: list[Path], out: Path) -> None:
    """Write a picture of all values that any of the runs has, but for those of single stages."""
    curves = {run: read_curves(run) for run in runs}
    names = {name for held in curves.values() for name in held}
    shown = [n for group in _GROUPS for n in sorted(names) if n.startswith(group)]
    shown = [n for n in shown if not (n.startswith("codebook/") and n.split("/")[-1].isdigit())]
    if not shown:
        raise ValueError(f"{runs[0]} holds no curves yet")
    rows = -(-len(shown) // _COLUMNS)
    figure = Figure(figsize=(4 * _COLUMNS, 2.4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).flat
    for axis, name in zip(axes, shown, strict=False):
        for run, held in curves.items():
            if name in held:
                axis.plot(*zip(*held[name], strict=True), label=run.name, linewidth=1)
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=7)
        if name.startswith("gradient/"):
            axis.set_yscale("log")
    for axis in list(axes)[len(shown) :]:
        axis.set_visible(False)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.savefig(out, dpi=110)


def summarise(run: Path, start: int) -> list[str]:
    """Lines of lowest, median, highest and last value from a step on, of all that `draw` shows."""
    lines = [
        f"{'from step ' + str(start):28}{'lowest':>10}{'median':>10}{'highest':>10}{'last':>10}"
    ]
    for name, points in sorted(read_curves(run).items()):
        values = [value for step, value in points if step >= start]
        if values and name.startswith(_GROUPS):
            shown = (min(values), median(values), max(values), values[-1])
            lines.append(f"{name:28}" + "".join(f"{value:>10.3g}" for value in shown))
    return lines
