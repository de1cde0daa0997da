"""Where checkpoints are: by name or by folder, or by the entropy model that a file needs. No torch."""

from collections.abc import Callable
from pathlib import Path

from bittern.errors import ModelError, ModelMismatchError
from bittern.format import entropy
from bittern.format.entropy import EntropyModel
from bittern.format.payload import ChunkCoder

CONFIG_FILE = "config.json"


def shipped_folders() -> list[Path]:
    """Where names are looked up: beside the package (wheel), then at the repository's root."""
    package = Path(__file__).resolve().parent
    return [package / "checkpoints", package.parents[1] / "checkpoints"]


def shipped_names() -> list[str]:
    """Names of the checkpoints that come with Bittern."""
    found = {
        path.parent.name for root in shipped_folders() for path in root.glob(f"*/{CONFIG_FILE}")
    }
    return sorted(found)


def find(name_or_folder: str | Path) -> Path:
    """The folder of a checkpoint given by its path or by the name of a shipped one.

    Raises:
        ModelError: neither exists.
    """
    candidates = [Path(name_or_folder)]
    if Path(name_or_folder).name == str(name_or_folder):
        candidates += [root / str(name_or_folder) for root in shipped_folders()]
    for folder in candidates:
        if (folder / CONFIG_FILE).is_file():
            return folder
    known = ", ".join(shipped_names()) or "none"
    raise ModelError(
        f"model {str(name_or_folder)!r} is neither a folder with a {CONFIG_FILE} nor the name of "
        f"a shipped model ({known})"
    )


def find_entropy(fingerprint: bytes, name: str, model: str | None = None) -> EntropyModel:
    """The entropy model of a fingerprint.

    Args:
        fingerprint: from a file's header.
        name: of the file, for messages.
        model: name or folder of the checkpoint that has it; by default all shipped ones are tried.

    Raises:
        ModelMismatchError: it is not there.
        ModelError: there is no such checkpoint, or its entropy model is not usable.
    """
    for shipped in [model] if model else shipped_names():
        found = entropy.load(find(shipped))
        if found and found.fingerprint == fingerprint:
            return found
    owner = f"{model} does not have" if model else "no shipped model has"
    raise ModelMismatchError(
        f"{name}: codes of it must be coded anew, by entropy model {fingerprint.hex()}, which "
        f"{owner}. Pass --model with the folder of the model that made the file"
    )


class DeferredCoder:
    """An entropy model that is loaded when the first codes need it; a `packing.Coder`."""

    def __init__(self, fingerprint: bytes, find: Callable[[], EntropyModel]) -> None:
        self.fingerprint = fingerprint
        self._find = find
        self._model: EntropyModel | None = None

    def start(self, streams: int, frames: int) -> ChunkCoder:
        """Begin a chunk.

        Raises:
            ModelError: the model is not to be had.
        """
        if self._model is None:
            self._model = self._find()
        return self._model.start(streams, frames)
