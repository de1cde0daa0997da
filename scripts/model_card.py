"""Write a checkpoint's model card: python scripts/model_card.py CHECKPOINT REPORT_JSON."""

import sys
from pathlib import Path

from bittern.errors import CodecError
from bittern.evaluation.card import write_card

if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        print(write_card(Path(sys.argv[1]), Path(sys.argv[2])))
    except CodecError as error:
        sys.exit(str(error))
