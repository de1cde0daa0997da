"""Everything that an evaluation found: one JSON document, and a table with a row a result."""

import csv
import datetime
import io
import json
import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import bittern
from bittern.evaluation import codebooks, statistics
from bittern.evaluation.cache import METRIC_PACKAGES
from bittern.evaluation.clips import Clip, Rejected
from bittern.evaluation.scores import METRICS
from bittern.evaluation.systems import Family, System

_IN_MARKDOWN = ("pesq_wb", "estoi", "visqol", "dnsmos", "log_mel")


@dataclass(frozen=True)
class Result:
    """One clip, coded by one system and scored; or the reason why not."""

    clip: str
    system: System
    payload_bytes: int = 0
    file_bytes: int = 0
    delay: int = 0  # samples
    values: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)  # what failed ("coding", a metric): why

    @property
    def coded(self) -> bool:
        return "coding" not in self.failures


@dataclass(frozen=True)
class Report:
    """An evaluation's findings; `as_json` and `as_csv` write them down."""

    clips: Sequence[Clip]
    families: Sequence[Family]
    results: Sequence[Result]
    codebooks: dict[str, codebooks.CodebookReport]  # by family
    rejected: Sequence[Rejected]
    missing: Sequence[str]  # baselines that could not run
    command: str

    @property
    def failures(self) -> list[tuple[Result, str, str]]:
        """Each failed score: its result, what failed, and why."""
        return [
            (result, what, why) for result in self.results for what, why in result.failures.items()
        ]

    def as_dict(self) -> dict[str, Any]:
        """The document; docs/evaluation.md describes its fields."""
        return {
            "bittern": bittern.__version__,
            "command": self.command,
            "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
            "packages": {name: metadata.version(name) for name in METRIC_PACKAGES},
            "metrics": [
                {
                    "key": metric.key,
                    "label": metric.label,
                    "unit": metric.unit,
                    "higher_is_better": metric.higher_is_better,
                    "decimals": metric.decimals,
                }
                for metric in METRICS
            ],
            "systems": [self._system(f, system) for f in self.families for system in f.systems],
            "clips": [self._clip(clip) for clip in self.clips],
            "comparisons": self._comparisons(),
            "codebooks": {name: _codebook(found) for name, found in self.codebooks.items()},
            "rejected": [{"clip": entry.name, "reason": entry.reason} for entry in self.rejected],
            "failures": [
                {"clip": result.clip, "system": result.system.name, "what": what, "reason": why}
                for result, what, why in self.failures
            ],
            "missing": list(self.missing),
        }

    def as_json(self) -> str:
        return json.dumps(self.as_dict(), indent=1, ensure_ascii=False) + "\n"

    def as_csv(self) -> str:
        """A row for each clip and system; empty where a score failed."""
        seconds = {clip.name: clip.seconds for clip in self.clips}
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        keys = [metric.key for metric in METRICS]
        sizes = ["seconds", "payload_bytes", "file_bytes", "kbps", "file_kbps"]
        writer.writerow(["clip", "family", "setting", *sizes, *keys, "failures"])
        for result in self.results:
            length = seconds[result.clip]
            counts = (result.payload_bytes, result.file_bytes)
            rates = [f"{kbps(count, length):.3f}" for count in counts]
            scored = [f"{result.values[key]:.5g}" if key in result.values else "" for key in keys]
            failed = "; ".join(f"{what}: {why}" for what, why in result.failures.items())
            system = [result.system.family, result.system.setting]
            writer.writerow(
                [result.clip, *system, f"{length:.3f}", *counts, *rates, *scored, failed]
            )
        return table.getvalue()

    def _of(self, system: System) -> list[Result]:
        return [result for result in self.results if result.system == system]

    def _system(self, family: Family, system: System) -> dict[str, Any]:
        coded = [result for result in self._of(system) if result.coded]
        seconds = {clip.name: clip.seconds for clip in self.clips}
        total = sum(seconds[result.clip] for result in coded)
        scores = {}
        for metric in METRICS:
            values = [result.values[metric.key] for result in coded if metric.key in result.values]
            if values:
                scores[metric.key] = statistics.mean(values)._asdict()
        return {
            "name": system.name,
            "family": system.family,
            "setting": system.setting,
            "is_model": family.is_model,
            "identity": system.identity,
            "clips": len(coded),
            "kbps": kbps(sum(result.payload_bytes for result in coded), total),
            "file_kbps": kbps(sum(result.file_bytes for result in coded), total),
            "scores": scores,
        }

    def _clip(self, clip: Clip) -> dict[str, Any]:
        return {
            "name": clip.name,
            "seconds": clip.seconds,
            "sample_rate": clip.sample_rate,
            "note": clip.note,
            "results": {
                result.system.name: {
                    "payload_bytes": result.payload_bytes,
                    "file_bytes": result.file_bytes,
                    "kbps": kbps(result.payload_bytes, clip.seconds),
                    "delay_ms": 1000 * result.delay / clip.sample_rate,
                    "scores": result.values,
                    "failures": result.failures,
                }
                for result in self.results
                if result.clip == clip.name
            },
        }

    def _comparisons(self) -> list[dict[str, Any]]:
        """Every setting of every model against every setting of every baseline."""
        by_system = {
            system: {result.clip: result.values for result in self._of(system)}
            for family in self.families
            for system in family.systems
        }
        pairs = [
            (first, second)
            for family in self.families
            for other in self.families
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
                    metrics[metric.key] = {
                        "won": result.won,
                        "difference": result.difference._asdict(),
                    }
            found.append({"first": first.name, "second": second.name, "metrics": metrics})
        return found


def kbps(count: int, seconds: float) -> float:
    """Bytes over seconds in kbit/s; 0 for no audio."""
    return 8 * count / seconds / 1000 if seconds else 0.0


def as_text(report: Report) -> str:
    """A table for the terminal: one line a system, by measured bitrate."""
    document = report.as_dict()
    shown = [metric for metric in METRICS if metric.key != "stoi"]
    lines = [f"{'':24} {'kbit/s':>7} " + " ".join(f"{_short(m.label):>8}" for m in shown)]
    for system in sorted(document["systems"], key=lambda entry: entry["kbps"]):
        cells = []
        for metric in shown:
            value = system["scores"].get(metric.key, {}).get("mean", math.nan)
            cells.append(f"{value:8.{metric.decimals}f}" if math.isfinite(value) else f"{'-':>8}")
        lines.append(f"{system['name'][:24]:24} {system['kbps']:7.2f} " + " ".join(cells))
    return "\n".join(lines)


def as_markdown(report: Report) -> str:
    """The same for a README or a model card, with intervals."""
    document = report.as_dict()
    shown = [metric for metric in METRICS if metric.key in _IN_MARKDOWN]
    seconds = sum(clip.seconds for clip in report.clips)
    lines = [
        "| codec | kbit/s | " + " | ".join(metric.label for metric in shown) + " |",
        "|---|---:|" + "---:|" * len(shown),
    ]
    for system in sorted(document["systems"], key=lambda entry: entry["kbps"]):
        cells = []
        for metric in shown:
            score = system["scores"].get(metric.key)
            if score is None:
                cells.append("–")
                continue
            mean, low, high = (f"{score[k]:.{metric.decimals}f}" for k in ("mean", "low", "high"))
            cells.append(f"{mean} ({low} to {high})")
        name = f"**{system['name']}**" if system["is_model"] else system["name"]
        lines.append(f"| {name} | {system['kbps']:.2f} | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"Means over {len(report.clips)} clips ({seconds / 60:.1f} minutes) with 95 % bootstrap "
        "intervals; measured bitrates, without container.",
    ]
    return "\n".join(lines) + "\n"


def _short(label: str) -> str:
    words = {"Log-mel distance": "log-mel", "Log-spectral distance": "LSD"}
    return words.get(label, label.removesuffix(" speech"))


def _codebook(found: codebooks.CodebookReport) -> dict[str, Any]:
    return {
        "frames": found.frames,
        "codebook_size": found.codebook_size,
        "bits_per_code": found.bits_per_code,
        "sent_bits": found.sent_bits,
        "entropy_bits": found.entropy_bits,
        "stages": [stage._asdict() for stage in found.stages],
    }
