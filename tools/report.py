"""One evaluation, and all that shows its figures made anew: README, picture, page, card.

    python tools/report.py CLIPS [--lyra DIR] [--limit N]

`make report DATA=CLIPS LYRA=DIR` is the same. Nothing is taken from an evaluation that is not complete.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from bittern.audio.names import find_audio
from bittern.evaluation import tables
from bittern.evaluation.baselines import TOOLS

ROOT = Path(__file__).parents[1]
MODEL = "speech-16khz"
ASKED = ["--bitrates", "1.5,3,6,8,9,12", "--stages", "4,6,12,16,32"]
PAGE = ["--page-clips", "5", "--page-audio", "opus"]
FASTEST_KBPS = 18.0  # of what README shows
TABLE = re.compile(r"(<!-- report -->\n).*?(<!-- /report -->)", re.DOTALL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", type=Path, help="folder of speech that the model never heard")
    parser.add_argument("--lyra", type=Path, help="folder of Lyra's .tflite files")
    parser.add_argument("--limit", type=int, help="clips to evaluate on, to try it (default: all)")
    parser.add_argument("--root", type=Path, default=ROOT, help="checkout to write into")
    args = parser.parse_args()
    out = args.root / "build" / "report"
    model = args.root / "checkpoints" / MODEL
    inputs = [args.clips] if args.limit is None else list(find_audio(args.clips))[: args.limit]
    lyra = ["--lyra", args.lyra] if args.lyra else []
    common = ["--model", model, "--out", out]
    others = [
        word for name in TOOLS for word in ("--baseline", name)
    ]  # none of them may be missing
    _run("evaluate", *inputs, *common, *ASKED, *others, *lyra, *PAGE)
    _run("evaluate", "--nasty", ROOT / "examples" / "speech.flac", *common, may_be=(0, 2))
    _run("card", model, out / "report.json")
    document = json.loads((out / "report.json").read_text())
    docs = args.root / "docs"
    shutil.copy(out / "rate_distortion.svg", docs / "img")
    shutil.copy(out / "index.html", docs / "listen")
    (docs / "report.json").write_text(json.dumps(document, separators=(",", ":")) + "\n")
    readme = args.root / "README.md"
    readme.write_text(TABLE.sub(lambda m: m[1] + _table(document) + m[2], readme.read_text()))
    return 0


def _run(command: str, *arguments: object, may_be: tuple[int, ...] = (0,)) -> None:
    """One of Bittern's commands, by a process of its own, so that the report names the command."""
    line = [sys.executable, "-m", "bittern", command, *map(str, arguments)]
    code = subprocess.run(line, check=False).returncode
    if code not in may_be:
        raise SystemExit(code)


def _table(document: dict[str, Any]) -> str:
    """What README shows: the model by bitrate, and whatever else is at most so fast."""
    shown = []
    for system in document["systems"]:
        if system["kbps"] <= FASTEST_KBPS and not (
            system["is_model"] and "stage" in system["setting"]
        ):
            name = system["name"].replace(" by bitrate", "").replace(".0 kbit/s", " kbit/s")
            shown.append(system | {"name": name})
    lines = tables.markdown_rows(document, shown, intervals=False)
    about = tables.about(document).replace(" with 95 % bootstrap intervals", "")
    about += " " + tables.versions(document)
    return "\n".join([*lines, "", about, ""])


if __name__ == "__main__":
    raise SystemExit(main())
