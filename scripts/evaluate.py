"""Evaluate a codec: the same as `bittern evaluate`."""

import sys

from bittern.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
