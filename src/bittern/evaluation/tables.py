"""A report's document as tables: for programs (CSV), for the terminal, and for READMEs (Markdown)."""

import csv
import io
import math
from pathlib import PurePosixPath

from bittern.evaluation.report import Document

_IN_MARKDOWN = ("pesq_wb", "estoi", "visqol", "dnsmos", "plcmos", "log_mel")


def as_csv(document: Document) -> str:
    """A row for each clip and system; empty where a score failed."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    keys = [metric["key"] for metric in document["metrics"]]
    systems = {system["name"]: system for system in document["systems"]}
    sizes = ["seconds", "payload_bytes", "file_bytes", "kbps", "file_kbps"]
    levels = ["peak_ratio", "energy_ratio"]
    writer.writerow(["clip", "family", "setting", *sizes, *keys, *levels, "broken", "failures"])
    for clip in document["clips"]:
        for name, row in clip["results"].items():
            writer.writerow(
                [
                    *map(_cell, (clip["name"], systems[name]["family"])),
                    _cell(systems[name]["setting"]),
                    *(f"{clip['seconds']:.3f}", row["payload_bytes"], row["file_bytes"]),
                    *(f"{row[rate]:.3f}" for rate in ("kbps", "file_kbps")),
                    *(f"{row['scores'][k]:.5g}" if k in row["scores"] else "" for k in keys),
                    *("" if row[k] is None else f"{row[k]:.4g}" for k in levels),
                    "; ".join(row["broken"]),
                    _cell("; ".join(f"{what}: {why}" for what, why in row["failures"].items())),
                ]
            )
    return table.getvalue()


def _cell(text: str) -> str:
    """Text that no spreadsheet takes for a formula to work out."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def as_text(document: Document) -> str:
    """A table for the terminal: one line a system, by measured bitrate."""
    shown = [metric for metric in document["metrics"] if metric["key"] != "stoi"]
    width = max(len(system["name"]) for system in document["systems"])
    lines = [
        f"{'':{width}} {'kbit/s':>7} " + " ".join(f"{m['label'].split()[0][:8]:>8}" for m in shown)
    ]
    for system in _by_bitrate(document):
        cells = []
        for metric in shown:
            value = system["scores"].get(metric["key"], {}).get("mean", math.nan)
            cells.append(f"{value:8.{metric['decimals']}f}" if value == value else f"{'-':>8}")
        lines.append(f"{system['name']:{width}} {system['kbps']:7.2f} " + " ".join(cells))
    return "\n".join([*lines, "", versions(document)])


def worst_as_text(document: Document) -> str:
    """For each system the clips that PESQ and ESTOI like least, the loudest, and the broken ones."""
    rows: list[tuple[str, ...]] = [
        ("worst clips by", "PESQ-WB", "ESTOI", "peak, x original", "energy, x original")
    ]
    broken = []
    for system in _by_bitrate(document):
        if not system["clips"]:
            continue
        scores, loudest = system["scores"], system["loudest"]
        cells = [scores.get(key, {}).get("worst") for key in ("pesq_wb", "estoi")]
        cells += [loudest["peak"], loudest["energy"]]
        rows.append((system["name"], *map(_with_clip, cells)))
        broken += [
            f"broken: {system['name']}, {entry['clip']}: {', '.join(entry['faults'])}"
            for entry in system["broken"]
        ]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return "\n".join([*lines, *broken])


def _with_clip(entry: Document | None) -> str:
    if entry is None:
        return "-"
    value = "inf" if entry["value"] is None else f"{entry['value']:.2f}"
    return f"{value} {PurePosixPath(entry['clip']).name}"


def as_markdown(document: Document) -> str:
    """The same for a README, with intervals."""
    said = f"{about(document)} {versions(document)}"
    return "\n".join([*markdown_rows(document, document["systems"]), "", said]) + "\n"


def markdown_rows(
    document: Document, systems: list[Document], *, intervals: bool = True, by: str = "name"
) -> list[str]:
    """A table of some of the systems, by bitrate; each is called by its `name` or its `setting`."""
    shown = [metric for metric in document["metrics"] if metric["key"] in _IN_MARKDOWN]
    lines = [
        f"| {'codec' if by == 'name' else 'coded with'} | kbit/s | "
        + " | ".join(metric["label"] for metric in shown)
        + " |",
        "|---|---:|" + "---:|" * len(shown),
    ]
    for system in sorted(systems, key=lambda entry: entry["kbps"]):
        name = f"**{system[by]}**" if system["is_model"] and by == "name" else system[by]
        cells = " | ".join(_score(system, metric, intervals=intervals) for metric in shown)
        lines.append(f"| {name} | {system['kbps']:.2f} | {cells} |")
    return lines


def about(document: Document) -> str:
    """What the figures of such a table are."""
    seconds = sum(clip["seconds"] for clip in document["clips"])
    return (
        f"Means over {len(document['clips'])} clips ({seconds / 60:.1f} minutes) with 95 % bootstrap "
        "intervals; measured bitrates, without container."
    )


def _score(system: Document, metric: Document, *, intervals: bool) -> str:
    score = system["scores"].get(metric["key"])
    if score is None:
        return "–"
    mean, low, high = (f"{score[key]:.{metric['decimals']}f}" for key in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})" if intervals else mean


def versions(document: Document) -> str:
    """What each codec is."""
    return "; ".join(f"{name}: {version}" for name, version in document["codecs"].items()) + "."


def _by_bitrate(document: Document) -> list[Document]:
    return sorted(document["systems"], key=lambda system: system["kbps"])
