"""A corpus of free speech from Debian packages: `python tools/prepare_debian_speech.py`."""
