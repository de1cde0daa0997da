"""Rate-distortion curves as PNG and SVG, for cards and READMEs; the page draws its own."""

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from bittern.errors import one_line

SHOWN = ("pesq_wb", "dnsmos", "estoi")
# of models, then of baselines; told apart also by marker and by colour-blind readers
_MODEL_COLOURS = ("#0b6e99", "#7b3fa0", "#2a7f3f")
_BASELINE_COLOURS = {
    "Opus": "#d1495b",
    "Opus, NoLACE decoder": "#8f1d3f",
    "Lyra v2": "#3d7a5f",
    "MP3": "#c98a00",
    "AAC": "#6b705c",
    "Codec 2": "#9a5b2d",
}
_OTHER_COLOURS = ("#444444", "#b0578d", "#4f6d9f")
_MARKERS = "osD^vP*X"


def write(document: dict[str, Any], out: Path) -> None:
    """Write rate_distortion.png and .svg: mean scores with 95 % intervals over measured kbit/s."""
    figure = draw(document)
    FigureCanvasAgg(figure).print_figure(out / "rate_distortion.png", dpi=150)
    FigureCanvasSVG(figure).print_figure(out / "rate_distortion.svg", metadata={"Date": None})


def colours(document: dict[str, Any]) -> dict[str, str]:
    """A colour for each family, the same in plots and page."""
    chosen: dict[str, str] = {}
    counts = {True: 0, False: 0}
    for system in document["systems"]:
        family, is_model = system["family"], system["is_model"]
        if family in chosen:
            continue
        if family in _BASELINE_COLOURS and not is_model:
            chosen[family] = _BASELINE_COLOURS[family]
            continue
        palette = _MODEL_COLOURS if is_model else _OTHER_COLOURS
        chosen[family] = palette[counts[is_model] % len(palette)]
        counts[is_model] += 1
    return chosen


def draw(document: dict[str, Any]) -> Figure:
    metrics = sorted(
        (metric for metric in document["metrics"] if metric["key"] in SHOWN),
        key=lambda metric: SHOWN.index(metric["key"]),
    )
    figure = Figure(figsize=(4.2 * len(metrics), 4.0), layout="constrained")
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    for panel, metric in zip(panels, metrics, strict=True):
        for number, (family, colour) in enumerate(colours(document).items()):
            points = [
                (system["kbps"], system["scores"][metric["key"]])
                for system in document["systems"]
                if system["family"] == family and metric["key"] in system["scores"]
            ]
            if not points:
                continue
            points.sort(key=lambda point: point[0])
            rates = [rate for rate, _ in points]
            means = [score["mean"] for _, score in points]
            spans = [
                [score["mean"] - score["low"] for _, score in points],
                [score["high"] - score["mean"] for _, score in points],
            ]
            panel.errorbar(
                rates,
                means,
                yerr=spans,
                label=one_line(family),
                color=colour,
                marker=_MARKERS[number % len(_MARKERS)],
                markersize=4.5,
                linewidth=1.6,
                capsize=2,
                elinewidth=0.8,
            )
        panel.set_xscale("log", base=2)
        ticks = _ticks(document)
        panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        panel.minorticks_off()
        panel.set_xlabel("measured kbit/s")
        unit = f" ({metric['unit']})" if metric["unit"] else ""
        panel.set_title(metric["label"] + unit, fontsize=11)
        panel.grid(alpha=0.25)
    for text in panels[0].legend(fontsize=8, framealpha=0.8).get_texts():
        text.set_parse_math(False)  # names are no formulas
    return figure


def _ticks(document: dict[str, Any]) -> list[float]:
    """Powers of two around all measured bitrates."""
    rates = [system["kbps"] for system in document["systems"] if system["kbps"] > 0]
    ticks = [2.0**power for power in range(-3, 9)]
    inside = [tick for tick in ticks if min(rates) / 1.5 <= tick <= max(rates) * 1.5]
    return inside or [1.0]
