"""Checkpoint folders: where they are, what they hold, and whose files they decode. No torch.

    config.json          what the codec is
    model.safetensors    its weights, folded (no weight norm), never pickled; `weights.py` loads them
    entropy.safetensors  the model that its codes are coded by, where one was fitted

What a run needs to go on training is not here but in `training/state.py`.
"""

import hashlib
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from bittern.audio.atomic import write_atomically
from bittern.config import DEFAULT_MODEL, CodecConfig
from bittern.errors import ConfigError, ModelError, ModelMismatchError, extra
from bittern.format.entropy import ENTROPY_FILE, EntropyModel

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
FINGERPRINT_BYTES = 8
_LONGEST_TOLD = 400  # characters of what is wrong with a config
_LARGEST_CONFIG, _LARGEST_WEIGHTS = 1 << 20, 1 << 30  # bytes
_HUB_ID = re.compile(r"(?P<repository>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+))?")
_PUBLISHED = [CONFIG_FILE, "*.safetensors", "README.md"]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a folder holds, but for the weights themselves."""

    config: CodecConfig
    fingerprint: bytes  # of the weights; files made with them carry it
    folder: Path
    entropy: EntropyModel | None = None
    decodes: tuple[bytes, ...] = ()  # earlier weights' fingerprints, whose codes mean the same here

    def entropy_of(self, wanted: bytes) -> EntropyModel | None:
        """The entropy model of a fingerprint: the one in use, or one of before (`retire_entropy`)."""
        if self.entropy is not None and self.entropy.fingerprint == wanted:
            return self.entropy
        found = _load_entropy(self.folder / _former(wanted), self.config)
        return found if found is not None and found.fingerprint == wanted else None


def load(name_or_folder: str | Path) -> Checkpoint:
    """Read what a checkpoint is, by the name of a shipped one, its folder or its id on a Hub.

    Raises:
        ModelError: the folder or a file is missing or damaged, or files do not belong together.
    """
    folder = find(name_or_folder)
    config = read_config(folder)
    data, decodes = read_weights(folder)
    return Checkpoint(
        config=config,
        fingerprint=fingerprint(data),
        folder=folder,
        entropy=_load_entropy(folder / ENTROPY_FILE, config),
        decodes=decodes,
    )


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
    """The folder of a checkpoint given by the name of a shipped one, by its path, or by a Hub id.

    A folder in the working directory that is called like a shipped one is `./name`, or a `Path`. Of an
    id such as "org/name" or "org/name@revision" config and weights are downloaded into
    huggingface_hub's cache, or taken from there. Shipped names and folders come first.

    Raises:
        ModelError: there is none of these.
        ConfigError: it can only be a Hub id, and huggingface_hub is not installed.
    """
    candidates = [Path(name_or_folder)]
    if isinstance(name_or_folder, str) and Path(name_or_folder).name == name_or_folder:
        candidates = [root / name_or_folder for root in shipped_folders()] + candidates
    for folder in candidates:
        if (folder / CONFIG_FILE).is_file():
            return folder
    known = ", ".join(shipped_names()) or "none"
    match = _HUB_ID.fullmatch(str(name_or_folder))
    if match and not candidates[0].parent.is_dir():
        return _download(match["repository"], match["revision"])
    raise ModelError(
        f"model {str(name_or_folder)!r} is neither a folder with a {CONFIG_FILE} nor the name of "
        f"a shipped model ({known})"
    )


def _download(repository: str, revision: str | None) -> Path:
    with extra("hub"):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    try:
        folder = snapshot_download(repository, revision=revision, allow_patterns=_PUBLISHED)
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise ModelError(
            f"model {repository!r} is no folder, and cannot be had from the Hub"
            f"{f' at {revision!r}' if revision else ''} ({_first_line(error)})"
        ) from None
    if not (Path(folder) / CONFIG_FILE).is_file():
        raise ModelError(f"model {repository!r} on the Hub has no {CONFIG_FILE}")
    return Path(folder)


def push(name_or_folder: str | Path, repository: str, *, private: bool = False) -> str:
    """Put config, weights and card of a checkpoint on the Hub, each byte as it is.

    Args:
        name_or_folder: of the checkpoint.
        repository: "org/name", made if it does not exist.
        private: of a repository that is made.

    Returns:
        The address of the commit.

    Raises:
        ModelError: there is no such checkpoint, it is damaged, or the Hub does not take it.
    """
    with extra("hub"):
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError
    folder = load(name_or_folder).folder
    try:
        api = HfApi(library_name="bittern")
        api.create_repo(repository, private=private, exist_ok=True)
        done = api.upload_folder(repo_id=repository, folder_path=folder, allow_patterns=_PUBLISHED)
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise ModelError(f"{repository}: the Hub does not take it ({_first_line(error)})") from None
    return done.commit_url


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


def find_maker(wanted: bytes) -> str | None:
    """The shipped checkpoint whose files carry a fingerprint, by name; the default one is tried first."""
    for name in sorted(shipped_names(), key=lambda name: name != DEFAULT_MODEL):
        if wanted in lineage(name):
            return name
    return None


def fingerprint(data: bytes) -> bytes:
    """What ties files to weights, [8 bytes] of a hash of the weights' file."""
    return hashlib.sha256(data).digest()[:FINGERPRINT_BYTES]


def lineage(name_or_folder: str | Path) -> tuple[bytes, ...]:
    """Fingerprints of a checkpoint and of those whose files it decodes, for a better decoder of theirs.

    Raises:
        ModelError: as for `load`.
    """
    data, decodes = read_weights(find(name_or_folder))
    return (fingerprint(data), *decodes)


def read_config(folder: Path) -> CodecConfig:
    """The codec's configuration.

    Raises:
        ModelError: it cannot be read, or is none.
    """
    path = folder / CONFIG_FILE
    try:
        return CodecConfig.from_json(_read(path, _LARGEST_CONFIG).decode())
    except ConfigError as error:
        raise ModelError(f"{path}: {str(error)[:_LONGEST_TOLD]}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: cannot be read ({error})") from None


def read_weights(folder: Path) -> tuple[bytes, tuple[bytes, ...]]:
    """The bytes of the weights' file, and the fingerprints of earlier weights that it names.

    Raises:
        ModelError: it cannot be read, or is cut short.
    """
    path = folder / WEIGHTS_FILE
    try:
        data = _read(path, _LARGEST_WEIGHTS)
        with safe_open(path, "numpy") as file:
            given = (file.metadata() or {}).get("decodes", "")
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from None
    except SafetensorError as error:
        raise ModelError(f"{path}: not a complete safetensors file ({error})") from None
    try:
        return data, tuple(bytes.fromhex(part) for part in given.split(",") if part)
    except ValueError:
        raise ModelError(
            f"{path}: `decodes` is {given!r}; expected fingerprints in hexadecimal"
        ) from None


def _read(path: Path, most: int) -> bytes:
    """The bytes of a file that is one, and not larger than what it is for.

    Raises:
        ModelError: it is not.
        OSError: it cannot be read.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ModelError(f"{path}: is not a regular file")
    if status.st_size > most:
        raise ModelError(f"{path}: has {status.st_size} bytes, which is more than any has")
    return path.read_bytes()


def write(folder: Path, config: CodecConfig, weights: bytes) -> bytes:
    """Write config and weights; each file replaces its predecessor at once, or not at all.

    Args:
        folder: made if it does not exist.
        config: of the codec.
        weights: a safetensors file, whose metadata may name weights whose files it `decodes`.

    Returns:
        The fingerprint of the weights.
    """
    write_atomically(folder / WEIGHTS_FILE, weights)
    write_atomically(folder / CONFIG_FILE, config.to_json().encode())
    return fingerprint(weights)


def keep_entropy(config: CodecConfig, source: str | Path, folder: Path) -> None:
    """Copy the entropy model of a checkpoint, if it has one, beside weights whose codes mean the same.

    Nothing is copied where `config` has another number of stages.
    """
    origin = find(source)
    own, given = config.quantizer, read_config(origin).quantizer
    path = origin / ENTROPY_FILE
    if (own.stages, own.codebook_size) == (given.stages, given.codebook_size) and path.exists():
        write_atomically(folder / ENTROPY_FILE, path.read_bytes())


def retire_entropy(folder: Path) -> None:
    """Give way to another entropy model: files made with this one go on to decode."""
    path = folder / ENTROPY_FILE
    if path.exists():
        path.rename(folder / _former(EntropyModel(path.read_bytes(), str(path)).fingerprint))


def _former(wanted: bytes) -> str:
    return f"entropy-{wanted.hex()}.safetensors"


def _load_entropy(path: Path, config: CodecConfig) -> EntropyModel | None:
    try:
        data = _read(path, _LARGEST_WEIGHTS)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from None
    found, own = EntropyModel(data, str(path)), config.quantizer
    if (found.stages, found.codebook_size) != (own.stages, own.codebook_size):
        raise ModelError(
            f"{path}: is for {found.stages} stages of {found.codebook_size} "
            f"codes; the model has {own.stages} of {own.codebook_size}. Fit it anew"
        )
    return found


def find_entropy(wanted: bytes, name: str, model: str | None = None) -> EntropyModel:
    """The entropy model of a fingerprint.

    Args:
        wanted: the fingerprint, from a file's header.
        name: of the file, for messages.
        model: name or folder of the checkpoint that has it; by default all shipped ones are tried.

    Raises:
        ModelMismatchError: it is not there.
        ModelError: there is no such checkpoint, or its entropy model is not usable.
    """
    for shipped in [model] if model else shipped_names():
        folder = find(shipped)
        config = read_config(folder)
        for path in (folder / ENTROPY_FILE, folder / _former(wanted)):
            found = _load_entropy(path, config)
            if found is not None and found.fingerprint == wanted:
                return found
    owner = f"{model} does not have" if model else "no shipped model has"
    raise ModelMismatchError(
        f"{name}: codes of it must be coded anew, by entropy model {wanted.hex()}, which "
        f"{owner}. Pass --model with the folder of the model that made the file"
    )
