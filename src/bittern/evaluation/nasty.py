"""`bittern evaluate --nasty`: sounds that break codecs, one by one, through the models.

`stress.py` makes the sounds and says what is broken; here they are coded to files, decoded and
measured, and the findings put into a table.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bittern.audio import stress
from bittern.audio.stress import Signal
from bittern.errors import AudioError, CodecError
from bittern.evaluation import clips
from bittern.evaluation.clips import Clip, Rejected
from bittern.evaluation.report import Document, finite
from bittern.evaluation.systems import ModelFamily
from bittern.metrics import stoi

FILE = "nasty.json"
STAGES = (4, 8, 12, 16, 32)
SECONDS = 4.0  # of speech, and of each sound
TONES_FROM = 8  # stages; with fewer, tones need not come back
STEADY_FROM = 12  # stages; from there on more stages must not cost intelligibility
COSTS = 0.01  # of ESTOI, that do not count
EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "speech.flac"  # of a checkout

Parallel = Callable[[Callable[[Signal], Document], Iterable[Signal]], Iterable[Document]]


def document(models: Sequence[ModelFamily], speech: Path, parallel: Parallel = map) -> Document:
    """Code all sounds with all models.

    Args:
        models: to try.
        speech: a file of clean speech; the first seconds of it are used.
        parallel: `map`, or that of a pool of processes.

    Raises:
        AudioError: the file cannot be read, or has too little.
    """
    found = []
    for model in models:
        sounds = _sounds(speech, model.sample_rate)
        found.append(
            {
                "name": model.name,
                "identity": model.systems[0].identity,
                "settings": [system.setting for system in model.systems],
                "sounds": list(parallel(functools.partial(judge, model), sounds)),
            }
        )
    return {"speech": speech.name, "models": found}


def judge(model: ModelFamily, sound: Signal) -> Document:
    """One sound at all settings of a model."""
    clip = Clip(sound.name, sound.samples, model.sample_rate)
    try:
        rows = list(model.code(clip, model.systems))
    except CodecError as error:
        nothing = dict.fromkeys(("peak", "energy", "estoi", "hertz", "decibels"))
        failed = nothing | {"faults": [f"not coded: {error}"]}
        return {"name": sound.name, "results": {s.setting: failed for s in model.systems}}
    stages = model.stages or (STEADY_FROM,) * len(rows)  # at a bitrate all is asked for
    results = {}
    best = 0.0
    for row, count in zip(rows, stages, strict=True):
        result = _measured(row.samples, sound, model.sample_rate, tones=count >= TONES_FROM)
        if result["estoi"] is not None and count >= STEADY_FROM:
            if result["estoi"] < best - COSTS:
                result["faults"].append(f"ESTOI {result['estoi']:.2f}, with less {best:.2f}")
            best = max(best, result["estoi"])
        results[row.system.setting] = result
    return {"name": sound.name, "results": results}


def _measured(
    output: NDArray[np.float32], sound: Signal, sample_rate: int, *, tones: bool
) -> Document:
    """What the table shows of one decoding; `tones` says whether they have to have come back."""
    estoi, errors = None, []
    if np.isfinite(output).all():
        if sound.speech:
            estoi = stoi(output, sound.samples, sample_rate, extended=True)
        if sound.tones:
            errors = stress.tone_errors(output, sound.samples, sample_rate, sound.tones)
    found = stress.faults(output, sound.samples, estoi)
    found += stress.tone_faults(errors, sound.tones) if errors and tones else []
    peak, energy = stress.levels(output, sound.samples)
    return {
        "peak": finite(peak),
        "energy": finite(energy),
        "estoi": estoi,
        "hertz": max((error.hertz for error in errors), key=abs, default=None),
        "decibels": max((error.decibels for error in errors), key=abs, default=None),
        "faults": found,
    }


def broken(found: Document) -> list[str]:
    """A line for each sound and setting that something is wrong with."""
    return [
        f"{model['name']} {setting}, {sound['name']}: {', '.join(result['faults'])}"
        for model in found["models"]
        for sound in model["sounds"]
        for setting, result in sound["results"].items()
        if result["faults"]
    ]


def as_text(found: Document) -> str:
    """The table for the terminal: a line a sound, a column a setting."""
    return "\n\n".join(_model_as_text(model) for model in found["models"])


def _model_as_text(model: Document) -> str:
    settings = [setting.split()[0] for setting in model["settings"]]
    width = max(len(sound["name"]) for sound in model["sounds"])
    groups = ("peak, x input", "energy, x input", "ESTOI, or level of tones in dB")
    lines = [f"{model['name']:{width}}" + "".join(f" |{g:{6 * len(settings)}}" for g in groups)]
    lines[0] += " |Hz off"
    head = "".join(f"{setting:>6}" for setting in settings)
    lines.append(f"{'':{width}}" + f" |{head}" * 3 + f" |{'':6}")
    for sound in model["sounds"]:
        results = sound["results"].values()
        cells = [[_ratio(r[key]) for r in results] for key in ("peak", "energy")]
        cells.append([_third(result) for result in results])
        line = f"{sound['name']:{width}}"
        line += "".join(" |" + "".join(f"{cell:>6}" for cell in group) for group in cells)
        line += f" |{_hertz(results):>6}"
        faults = [fault for result in results for fault in result["faults"]]
        lines.append(f"{line}  <- {faults[0]}" if faults else line.rstrip())
    return "\n".join(lines)


def _ratio(value: float | None) -> str:
    if value is None:
        return "inf"
    return f"{value:.2f}" if value < 100 else f"{value:.0e}".replace("e+0", "e")


def _third(result: Document) -> str:
    if result["estoi"] is not None:
        return f"{result['estoi']:.2f}"
    return "" if result["decibels"] is None else f"{result['decibels']:+.1f}"


def _hertz(results: Iterable[Document]) -> str:
    """The last setting's, which has the most bits."""
    last = list(results)[-1]["hertz"]
    return "" if last is None else f"{last:+.0f}"


def _sounds(path: Path, sample_rate: int) -> list[Signal]:
    """All sounds, made of the first seconds of a file."""
    clip = clips.read(path.name, path, sample_rate)
    if isinstance(clip, Rejected):
        raise AudioError(f"{path}: {clip.reason}; --nasty needs a file of clean speech")
    speech = clip.samples[: round(SECONDS * sample_rate)]
    try:
        stoi(speech, speech, sample_rate, extended=True)  # which has to make sense of it
        return stress.signals(speech, sample_rate)
    except ValueError as error:
        raise AudioError(f"{path}: {error}; --nasty needs a file of clean speech") from None
