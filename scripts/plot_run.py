"""Draw the curves of runs over each other: python scripts/plot_run.py RUN... [-o curves.png].

A RUN is a run's folder or its curves.csv. Losses, validation scores, gradient norms, codebooks. With
--table STEP no picture is made: lowest, median, highest and last values from that step on are printed.
"""

import argparse
import sys
from pathlib import Path

from bittern.training.curves import draw, summarise


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the curves of runs over each other.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("-o", "--out", type=Path, default=Path("curves.png"))
    parser.add_argument("--table", type=int, metavar="STEP", help="print figures, draw nothing")
    arguments = parser.parse_args()
    try:
        if arguments.table is not None:
            for run in arguments.runs:
                print(run, *summarise(run, arguments.table), sep="\n")
            return
        draw(arguments.runs, arguments.out)
    except (OSError, ValueError) as error:
        sys.exit(f"plot_run: {error}")
    print(arguments.out)


if __name__ == "__main__":
    main()
