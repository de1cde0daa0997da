"""Make a checkpoint fit to be passed on: python scripts/publish.py CHECKPOINT OUT.

Weights become float16, half as large. The entropy model goes along if there is one; if not, fit one with
scripts/train_entropy.py, so that files are smaller. Left behind is what only training needs.
"""

import argparse
import sys
from pathlib import Path

import torch

from bittern import checkpoint
from bittern.errors import CodecError


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a checkpoint fit to be passed on.")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="name or folder")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write to")
    arguments = parser.parse_args()
    try:
        loaded = checkpoint.load(arguments.checkpoint)
        fingerprint = checkpoint.save(
            loaded.model, arguments.out, dtype=torch.float16, decodes=loaded.decodes
        )
        checkpoint.keep_entropy(loaded.model, arguments.checkpoint, arguments.out)
    except (CodecError, OSError) as error:
        sys.exit(f"publish: {error}")
    size = sum(path.stat().st_size for path in arguments.out.glob("*.safetensors"))
    print(f"{arguments.out}: {size / 1e6:.1f} MB, fingerprint {fingerprint.hex()}")


if __name__ == "__main__":
    main()
