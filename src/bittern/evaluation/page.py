"""The page to listen to: one HTML file with all audio, scripts and styles in it.

What it shows and how it plays is in `web/`; here the clips and versions are chosen, their audio is
encoded, and everything is put together. The page asks the network for nothing.
"""

import argparse
import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf

from bittern.audio.atomic import atomic_path
from bittern.errors import ConfigError
from bittern.evaluation.cache import Cache
from bittern.evaluation.clips import Clip, to_int16
from bittern.evaluation.plots import colours
from bittern.evaluation.systems import Family, System

STAGES = (4, 8, 16, 32)  # of a model's settings, those to hear
SCRIPTS = ("plot.js", "spectrogram.js", "player.js", "rows.js", "blind.js", "page.js")
_FORMATS = {  # libsndfile's container and coding, media type
    "flac": ("FLAC", "PCM_16", "audio/flac"),
    "opus": ("OGG", "OPUS", "audio/ogg"),
    "wav": ("WAV", "PCM_16", "audio/wav"),
}


@dataclass(frozen=True)
class PageOptions:
    clips: int = 10
    seconds: float = 7.0  # of each clip, from its start
    audio: str = "flac"
    beside: bool = False  # audio in files beside the page, not in it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--page-clips", type=int, default=10, metavar="N", help="clips to hear (default: 10)"
    )
    parser.add_argument(
        "--page-seconds",
        type=float,
        default=7.0,
        metavar="S",
        help="seconds of each clip to hear (default: 7)",
    )
    parser.add_argument(
        "--page-audio",
        choices=sorted(_FORMATS),
        default="flac",
        help="flac and wav are exact; opus is smaller, at a rate far above what is compared, but "
        "older Safari does not play it (default: flac)",
    )
    parser.add_argument(
        "--page-files",
        action="store_true",
        help="put audio in files beside the page; it must then be opened over HTTP",
    )


def options(args: argparse.Namespace) -> PageOptions:
    if args.page_clips < 0 or args.page_seconds <= 0:
        raise ConfigError("--page-clips must be 0 or more and --page-seconds above 0")
    return PageOptions(args.page_clips, args.page_seconds, args.page_audio, args.page_files)


def write(
    document: dict[str, Any],
    clips: Sequence[Clip],
    families: Sequence[Family],
    store: Cache,
    out: Path,
    wanted: PageOptions,
) -> None:
    """Write index.html (and audio/ where files beside it are wanted).

    Args:
        document: of `report.document`.
        clips: that it is about.
        families: that it is about.
        store: where the decoded audio is.
        out: folder to write to.
        wanted: what to show.
    """
    shown = audible(families, document)
    heard = []
    for number, clip in enumerate(clips[: wanted.clips]):
        versions = [{"system": None, "audio": _audio(clip, clip.samples, wanted, out, f"{number}")}]
        for index, system in enumerate(shown):
            row = store.get(clip, system)
            if row is not None:
                name = f"{number}-{index + 1}"
                audio = _audio(clip, row.samples, wanted, out, name)
                versions.append({"system": system.name, "audio": audio})
        heard.append({"clip": clip.name, "versions": versions})
    data = document | {"heard": heard, "colours": colours(document)}
    with atomic_path(out / "index.html") as path:
        path.write_text(_assemble(data), encoding="utf-8")


def audible(families: Sequence[Family], document: dict[str, Any]) -> list[System]:
    """Each model at 4, 8, 16, 32 stages (or its last settings), and each baseline's nearest to these."""
    rates = {system["name"]: system["kbps"] for system in document["systems"]}
    chosen: list[System] = []
    for family in families:
        if family.is_model:
            labels = {f"{count} stages" for count in STAGES}
            chosen += [s for s in family.systems if s.setting in labels] or family.systems[
                -len(STAGES) :
            ]
    targets = [rates[system.name] for system in chosen]
    for family in families:
        if family.is_model:
            continue
        nearest = [
            min(family.systems, key=lambda s, t=target: abs(np.log((rates[s.name] + 1e-9) / t)))
            for target in targets
            if target > 0
        ]
        chosen += [system for system in family.systems if system in nearest]
    return chosen


def _audio(clip: Clip, samples: np.ndarray, wanted: PageOptions, out: Path, name: str) -> str:
    """A URL: the excerpt itself, or where it was written."""
    container, coding, media_type = _FORMATS[wanted.audio]
    excerpt = samples[: round(wanted.seconds * clip.sample_rate)]
    file = io.BytesIO()
    sf.write(file, to_int16(excerpt), clip.sample_rate, coding, format=container)
    if not wanted.beside:
        return f"data:{media_type};base64,{base64.b64encode(file.getvalue()).decode()}"
    path = out / "audio" / f"{name}.{wanted.audio}"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(file.getvalue())
    return path.relative_to(out).as_posix()


def _assemble(data: dict[str, Any]) -> str:
    web = resources.files("bittern.evaluation") / "web"
    # "<" would end the script element early in a clip's name such as "</script>"
    encoded = json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    parts = {
        "style": (web / "page.css").read_text(encoding="utf-8"),
        "data": encoded,
        "script": "\n".join((web / name).read_text(encoding="utf-8") for name in SCRIPTS),
    }
    html = (web / "page.html").read_text(encoding="utf-8")
    # in one pass, so that nothing inside the data is taken for a place to fill
    pieces = html.split("{{")
    filled = [pieces[0]]
    for piece in pieces[1:]:
        key, _, rest = piece.partition("}}")
        filled += [parts[key.strip()], rest]
    return "".join(filled)
