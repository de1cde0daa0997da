"""Evaluate a codec without installing the command line: the same as `bittern evaluate`."""

import argparse
import sys

from bittern.errors import CodecError
from bittern.evaluation import run


def main() -> int:
    parser = argparse.ArgumentParser()
    run.add_arguments(parser)
    try:
        return run.run(parser.parse_args())
    except CodecError as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
