"""The page to listen to: one HTML file with all audio, scripts and styles in it.

What it shows and how it plays is in `web/`; here the clips and versions are chosen, their audio is
encoded, and everything is put together. The page asks the network for nothing.
"""

import argparse
import base64
import io
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np
import soundfile as sf

from bittern.audio.atomic import atomic_path
from bittern.errors import ConfigError
from bittern.evaluation.cache import Cache
from bittern.evaluation.clips import Clip, to_int16
from bittern.evaluation.plots import colours
from bittern.evaluation.systems import Family, ModelFamily, System

STAGES, MOST = (4, 8, 16, 32), 6  # of a model's settings, those to hear; of its bitrates
SCRIPTS = ("plot.js", "spectrogram.js", "player.js", "blind.js", "page.js")
_FORMATS = {  # libsndfile's container and coding, media type
    "flac": ("FLAC", "PCM_16", "audio/flac"),
    "opus": ("OGG", "OPUS", "audio/ogg"),
}


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
        help="flac is exact; opus is smaller, at a rate far above what is compared, but "
        "older Safari does not play it (default: flac)",
    )


def check(args: argparse.Namespace) -> None:
    """Refuse what no page can have."""
    if args.page_clips < 0 or args.page_seconds <= 0:
        raise ConfigError("--page-clips must be 0 or more and --page-seconds above 0")


def write(
    document: dict[str, Any],
    clips: Sequence[Clip],
    families: Sequence[Family],
    store: Cache,
    args: argparse.Namespace,
) -> None:
    """Write index.html of a report's `document` into `args.out`; `store` has the decoded audio."""
    shown = audible(families, document)
    heard = []
    for clip in clips[: args.page_clips]:
        versions = [{"system": None, "audio": _audio(clip, clip.samples, args)}]
        for system in shown:
            row = store.get(clip, system)
            if row is not None:
                versions.append({"system": system.name, "audio": _audio(clip, row.samples, args)})
        heard.append({"clip": clip.name, "versions": versions})
    data = document | {"heard": heard, "colours": colours(document)}
    with atomic_path(args.out / "index.html") as path:
        path.write_text(_assemble(data), encoding="utf-8", errors="backslashreplace")


def audible(families: Sequence[Family], document: dict[str, Any]) -> list[System]:
    """Of each model its bitrates, else 4, 8, 16, 32 stages; of each baseline the nearest to these.

    A model with losses, or by stages where there is the same by bitrate, is not heard.
    """
    rates = {system["name"]: system["kbps"] for system in document["systems"]}
    models = [family for family in families if family.is_model]
    asked = [f for f in models if isinstance(f, ModelFamily) and f.bitrates and f.loss is None]
    chosen: list[System] = []
    for family in asked or models:
        labels = {f"{count} stages" for count in STAGES}
        heard = () if asked else [s for s in family.systems if s.setting in labels]
        chosen += heard or family.systems[-MOST:]
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


def _audio(clip: Clip, samples: np.ndarray, args: argparse.Namespace) -> str:
    """The excerpt as a URL."""
    container, coding, media_type = _FORMATS[args.page_audio]
    excerpt = samples[: round(args.page_seconds * clip.sample_rate)]
    file = io.BytesIO()
    sf.write(file, to_int16(excerpt), clip.sample_rate, coding, format=container)
    return f"data:{media_type};base64,{base64.b64encode(file.getvalue()).decode()}"


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
