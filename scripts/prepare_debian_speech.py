"""Build a corpus of free speech: python scripts/prepare_debian_speech.py OUT [FOLDER ...]."""

import sys

from bittern.training.corpus_builder import main

if __name__ == "__main__":
    sys.exit(main())
