"""Everything that an evaluation found, as one JSON document; `tables.py` and `page.py` show it."""

import datetime
import math
import platform
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

import bittern
from bittern.evaluation import statistics
from bittern.evaluation.cache import METRIC_PACKAGES
from bittern.evaluation.clips import Clip, Rejected
from bittern.evaluation.scores import METRICS
from bittern.evaluation.systems import Family, ModelFamily, Row, System

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
        "codecs": {family.name: family.version for family in families},
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
        values = {row.clip: row.values[metric.key] for row in coded if metric.key in row.values}
        if values:
            lowest = min if metric.higher_is_better else max
            worst = lowest(values, key=lambda clip: values[clip])
            mean = statistics.mean(list(values.values()))._asdict()
            scores[metric.key] = mean | {"worst": {"clip": worst, "value": values[worst]}}
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
        "loudest": _loudest(coded),
        "broken": [{"clip": row.clip, "faults": list(row.faults)} for row in coded if row.faults],
    }


def _loudest(rows: Sequence[Row]) -> Document:
    """The clips that came back with the greatest peak and energy, over the original's."""
    found = {}
    for number, what in enumerate(("peak", "energy")):
        if rows:
            row = max(rows, key=lambda row: _order(row.levels[number]))
            found[what] = {"clip": row.clip, "value": finite(row.levels[number])}
    return found


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
                "peak_ratio": finite(row.levels[0]),
                "energy_ratio": finite(row.levels[1]),
                "broken": list(row.faults),
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
                {clip: v[metric.key] for clip, v in by_system[s].items() if metric.key in v}
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
            found[family.name] = codebooks(codes, family.codebook_size)
    return found


def codebooks(codes: Sequence[NDArray[np.integer]], codebook_size: int) -> Document:
    """How much of each codebook is used, and bits that could be saved, of the codes [k, F] of all clips.

    A finite sample looks less random than its source: the plain estimate is too low by about
    (entries seen - 1) / (2 F ln 2) bits, which is added here, up to log2(N).

    Source: Miller, "Note on the bias of information estimates", 1955.
    """
    everything = np.concatenate(codes, axis=1)
    frames = max(everything.shape[1], 1)
    stages = []
    for number, row in enumerate(everything, start=1):
        counts = np.bincount(row, minlength=codebook_size)
        share = counts[counts > 0] / frames
        corrected = (len(share) - 1) / (2 * frames * np.log(2)) - (share * np.log2(share)).sum()
        entropy = float(min(corrected, np.log2(codebook_size)))
        one = {"stage": number, "usage": len(share) / codebook_size}
        stages.append(one | {"perplexity": 2**entropy, "entropy": entropy})
    bits = (codebook_size - 1).bit_length()
    return {
        "frames": frames,
        "codebook_size": codebook_size,
        "bits_per_code": bits,
        "sent_bits": frames * bits * len(stages),
        "entropy_bits": frames * sum(stage["entropy"] for stage in stages),
        "stages": stages,
    }


def _order(value: float) -> float:
    """Greater than all, where it is no number."""
    return value if value == value else math.inf


def finite(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None


def kbps(count: int, seconds: float) -> float:
    """Bytes over seconds in kbit/s; 0 for no audio."""
    return 8 * count / seconds / 1000 if seconds else 0.0
