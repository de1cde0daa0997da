"""Build a corpus of free speech: python tools/prepare_debian_speech.py OUT [FOLDER ...]."""

import sys

from debian_speech.build import main

if __name__ == "__main__":
    sys.exit(main())
