"""Write the API reference, as HTML: python tools/reference.py [FOLDER]. `make docs` runs it."""

import sys
from pathlib import Path

import pdoc
import pdoc.render

import bittern

MODULES = (
    *("bittern", "bittern.codec", "bittern.config", "bittern.corpus", "bittern.corpus.sources"),
    *(
        "bittern.checkpoint",
        "bittern.weights",
        "bittern.errors",
        "bittern.metrics",
    ),
    *(
        "bittern.model.stream",
        "bittern.audio.streams",
        "bittern.format.container",
        "bittern.pipeline",
    ),
)


def main(folder: Path) -> None:
    for name in bittern.__all__:  # are looked up when they are first used, which pdoc does not
        setattr(bittern, name, getattr(bittern, name))
    pdoc.render.configure(docformat="google")
    pdoc.pdoc(*MODULES, output_directory=folder)
    print(folder / "index.html")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "build/site"))
