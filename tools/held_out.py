"""Gather what training leaves out: python tools/held_out.py FOLDER OUT [--below SOURCE] [--share S].

OUT gets copies of those files of a training folder that runs with `data.validation_share=S` hold out, so
that recipes are compared on speech that none of them saw: `bittern evaluate OUT --model runs/mine/last`.
"""

import argparse
import shutil
import sys
from pathlib import Path

from bittern.audio.names import find_audio
from bittern.training.corpus import hash_share


def main() -> None:
    parser = argparse.ArgumentParser(description="Gather the files that training leaves out.")
    parser.add_argument("root", type=Path, metavar="FOLDER", help="data.root of the runs")
    parser.add_argument("out", type=Path, metavar="OUT", help="a folder that is not there yet")
    parser.add_argument("--below", default="", metavar="SOURCE", help="only of this folder of it")
    parser.add_argument(
        "--share", type=float, default=0.04, help="data.validation_share of the runs"
    )
    arguments = parser.parse_args()
    paths = find_audio(arguments.root / arguments.below)
    names = [path.relative_to(arguments.root) for path in paths]
    held_out = [name for name in names if hash_share(name.as_posix()) < arguments.share]
    if not held_out:
        sys.exit(f"held_out: {arguments.root} has {len(names)} audio files, none held out")
    if arguments.out.exists():
        sys.exit(f"held_out: {arguments.out} is there already")
    for name in held_out:
        (arguments.out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(arguments.root / name, arguments.out / name)
    print(f"{len(held_out)} of {len(names)} files to {arguments.out}")


if __name__ == "__main__":
    main()
