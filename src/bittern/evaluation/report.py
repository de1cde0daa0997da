"""Everything that an evaluation found: one JSON document, and a table with a row a result."""

import csv
import datetime
import io
import math
import platform
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import bittern
from bittern.evaluation import codebooks, statistics
from bittern.evaluation.cache import METRIC_PACKAGES
from bittern.evaluation.clips import Clip, Rejected
from bittern.evaluation.scores import METRICS
from bittern.evaluation.systems import Family, ModelFamily, Row, System

_IN_MARKDOWN = ("pesq_wb", "estoi", "visqol", "dnsmos", "log_mel")


Document = dict[str, Any]


def document(
    *,
    clips: Sequence[Clip],
    families: Sequence[Family],
    rows: Sequence[Row],
    rejected: Sequence[Rejected],
    missing: Sequence[str],
    command: str,
) -> Document:
    """All that was found, as plain JSON; docs/evaluation.md describes its fields.

    Args:
        clips: that were evaluated.
        families: that were run.
        rows: one for each clip and system, in any order.
        rejected: files that could not be evaluated.
        missing: what to say of baselines that could not run.
        command: that made it.
    """
    seconds = {clip.name: clip.seconds for clip in clips}
    return {
        "bittern": bittern.__version__,
        "command": command,
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in METRIC_PACKAGES},
        "metrics": [metric.about for metric in METRICS],
        "systems": [
            _system(system, family.is_model, [row for row in rows if row.system == system], seconds)
            for family in families
            for system in family.systems
        ],
        "clips": [_clip(clip, [row for row in rows if row.clip == clip.name]) for clip in clips],
        "comparisons": _comparisons(families, rows),
        "codebooks": _codebooks(families, rows),
        "rejected": [{"clip": entry.name, "reason": entry.reason} for entry in rejected],
        "failures": [
            {"clip": row.clip, "system": row.system.name, "what": what, "reason": why}
            for row in rows
            for what, why in row.failures.items()
        ],
        "missing": list(missing),
    }


def _system(
    system: System, is_model: bool, rows: Sequence[Row], seconds: dict[str, float]
) -> Document:
    coded = [row for row in rows if row.coded]
    total = sum(seconds[row.clip] for row in coded)
    scores = {}
    for metric in METRICS:
        values = [row.values[metric.key] for row in coded if metric.key in row.values]
        if values:
            scores[metric.key] = statistics.mean(values)._asdict()
    return {
        "name": system.name,
        "family": system.family,
        "setting": system.setting,
        "is_model": is_model,
        "identity": system.identity,
        "clips": len(coded),
        "kbps": kbps(sum(row.payload_bytes for row in coded), total),
        "file_kbps": kbps(sum(row.file_bytes for row in coded), total),
        "scores": scores,
    }


def _clip(clip: Clip, rows: Sequence[Row]) -> Document:
    return {
        "name": clip.name,
        "seconds": clip.seconds,
        "sample_rate": clip.sample_rate,
        "note": clip.note,
        "results": {
            row.system.name: {
                "payload_bytes": row.payload_bytes,
                "file_bytes": row.file_bytes,
                "kbps": kbps(row.payload_bytes, clip.seconds),
                "file_kbps": kbps(row.file_bytes, clip.seconds),
                "delay_ms": 1000 * row.delay / clip.sample_rate,
                "scores": row.values,
                "failures": row.failures,
            }
            for row in rows
        },
    }


def _comparisons(families: Sequence[Family], rows: Sequence[Row]) -> list[Document]:
    """Every setting of every model against every setting of every baseline."""
    by_system: dict[System, dict[str, dict[str, float]]] = {}
    for row in rows:
        by_system.setdefault(row.system, {})[row.clip] = row.values
    pairs = [
        (first, second)
        for family in families
        for other in families
        if family.is_model and not other.is_model
        for first in family.systems
        for second in other.systems
    ]
    found = []
    for first, second in pairs:
        metrics = {}
        for metric in METRICS:
            one, two = (
                {name: v[metric.key] for name, v in by_system[s].items() if metric.key in v}
                for s in (first, second)
            )
            result = statistics.compare(one, two, higher_is_better=metric.higher_is_better)
            if result:
                difference = result.difference._asdict()
                metrics[metric.key] = result._asdict() | {"difference": difference}
        found.append({"first": first.name, "second": second.name, "metrics": metrics})
    return found


def _codebooks(families: Sequence[Family], rows: Sequence[Row]) -> Document:
    """What the codes of each model say, by its name."""
    found = {}
    for family in families:
        codes = [r.codes for r in rows if r.system.family == family.name and r.codes is not None]
        if isinstance(family, ModelFamily) and codes:
            about = codebooks.report(codes, family.codebook_size)
            found[family.name] = {
                "frames": about.frames,
                "codebook_size": about.codebook_size,
                "bits_per_code": about.bits_per_code,
                "sent_bits": about.sent_bits,
                "entropy_bits": about.entropy_bits,
                "stages": [stage._asdict() for stage in about.stages],
            }
    return found


def as_csv(document: Document) -> str:
    """A row for each clip and system; empty where a score failed."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    keys = [metric["key"] for metric in document["metrics"]]
    systems = {system["name"]: system for system in document["systems"]}
    sizes = ["seconds", "payload_bytes", "file_bytes", "kbps", "file_kbps"]
    writer.writerow(["clip", "family", "setting", *sizes, *keys, "failures"])
    for clip in document["clips"]:
        for name, row in clip["results"].items():
            writer.writerow(
                [
                    *(clip["name"], systems[name]["family"], systems[name]["setting"]),
                    *(f"{clip['seconds']:.3f}", row["payload_bytes"], row["file_bytes"]),
                    *(f"{row[rate]:.3f}" for rate in ("kbps", "file_kbps")),
                    *(f"{row['scores'][k]:.5g}" if k in row["scores"] else "" for k in keys),
                    "; ".join(f"{what}: {why}" for what, why in row["failures"].items()),
                ]
            )
    return table.getvalue()


def kbps(count: int, seconds: float) -> float:
    """Bytes over seconds in kbit/s; 0 for no audio."""
    return 8 * count / seconds / 1000 if seconds else 0.0


def as_text(document: Document) -> str:
    """A table for the terminal: one line a system, by measured bitrate."""
    shown = [metric for metric in document["metrics"] if metric["key"] != "stoi"]
    width = max(len(system["name"]) for system in document["systems"])
    lines = [f"{'':{width}} {'kbit/s':>7} " + " ".join(f"{_short(m['label']):>8}" for m in shown)]
    for system in _by_bitrate(document):
        cells = []
        for metric in shown:
            value = system["scores"].get(metric["key"], {}).get("mean", math.nan)
            cells.append(f"{value:8.{metric['decimals']}f}" if value == value else f"{'-':>8}")
        lines.append(f"{system['name']:{width}} {system['kbps']:7.2f} " + " ".join(cells))
    return "\n".join(lines)


def as_markdown(document: Document) -> str:
    """The same for a README, with intervals."""
    shown = [metric for metric in document["metrics"] if metric["key"] in _IN_MARKDOWN]
    seconds = sum(clip["seconds"] for clip in document["clips"])
    lines = [
        "| codec | kbit/s | " + " | ".join(metric["label"] for metric in shown) + " |",
        "|---|---:|" + "---:|" * len(shown),
    ]
    for system in _by_bitrate(document):
        name = f"**{system['name']}**" if system["is_model"] else system["name"]
        cells = " | ".join(interval(system, metric) for metric in shown)
        lines.append(f"| {name} | {system['kbps']:.2f} | {cells} |")
    lines += [
        "",
        f"Means over {len(document['clips'])} clips ({seconds / 60:.1f} minutes) with 95 % bootstrap "
        "intervals; measured bitrates, without container.",
    ]
    return "\n".join(lines) + "\n"


def interval(system: Document, metric: Document) -> str:
    """A system's mean score with its interval, as Markdown."""
    score = system["scores"].get(metric["key"])
    if score is None:
        return "–"
    mean, low, high = (f"{score[key]:.{metric['decimals']}f}" for key in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"


def _by_bitrate(document: Document) -> list[Document]:
    return sorted(document["systems"], key=lambda system: system["kbps"])


def _short(label: str) -> str:
    words = {"Log-mel distance": "log-mel", "Log-spectral distance": "LSD"}
    return words.get(label, label.removesuffix(" speech"))
