"""Checkpoint folders: `config.json` and `model.safetensors`; `shipped.py` finds them.

Weights are stored folded (no weight norm) and never pickled. What a run needs to go on training is
not here but in `training/state.py`.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor
from torch.nn.utils import parametrize

from bittern.config import CodecConfig
from bittern.errors import ConfigError, ModelError
from bittern.format.entropy import ENTROPY_FILE, EntropyModel
from bittern.format.entropy import load as load_entropy
from bittern.model.codec_model import CodecModel
from bittern.shipped import CONFIG_FILE as CONFIG_FILE
from bittern.shipped import find as find

WEIGHTS_FILE = "model.safetensors"
FINGERPRINT_BYTES = 8
_KEPT_WIDE = ("path.",)  # small, and the linear path needs them exact


@dataclass(frozen=True)
class Checkpoint:
    """A model as loaded, with the folder it came from and the fingerprint of its weights."""

    model: CodecModel
    fingerprint: bytes
    folder: Path
    entropy: EntropyModel | None = None
    decodes: tuple[bytes, ...] = ()  # earlier weights' fingerprints, whose codes mean the same here


def load(name_or_folder: str | Path, device: str | torch.device = "cpu") -> Checkpoint:
    """Load a codec for use: in eval mode, weight norm folded.

    Raises:
        ModelError: the folder or a file is missing, damaged, or weights do not fit the config.
    """
    folder = find(name_or_folder)
    model = CodecModel(read_config(folder))
    fold_weight_norm(model)
    state, data = _read_weights(folder)
    _fill(model, state, folder)
    model = model.eval().requires_grad_(False).to(device)
    return Checkpoint(
        model, _fingerprint(data), folder, _entropy_model(model, folder), _decodes(data, folder)
    )


def _entropy_model(model: CodecModel, folder: Path) -> EntropyModel | None:
    entropy = load_entropy(folder)
    own = model.config.quantizer
    if entropy and (entropy.stages, entropy.codebook_size) != (own.stages, own.codebook_size):
        raise ModelError(
            f"{folder / ENTROPY_FILE}: is for {entropy.stages} stages of {entropy.codebook_size} "
            f"codes; the model has {own.stages} of {own.codebook_size}. Fit it anew"
        )
    return entropy


def load_into(model: CodecModel, name_or_folder: str | Path) -> None:
    """Load weights into a model that goes on training, whose weight norm is kept.

    The model may have fewer or more stages than the checkpoint: what is missing stays as it is. It
    may tell its decoder the stages of a frame where the checkpoint's did not: it then begins deaf to it.

    Raises:
        ModelError: as for `load`.
    """
    folder = find(name_or_folder)
    state, _ = _read_weights(folder)
    _tell_stages(state, model)
    own, given = model.quantizer.codewords, state.get("quantizer.codewords")
    if given is not None and given.shape[1:] == own.shape[1:] and len(given) != len(own):
        merged = own.detach().clone()
        shared = min(len(given), len(own))
        merged[:shared] = given[:shared]
        state["quantizer.codewords"] = merged
    for key, module in _normed(model).items():
        if key in state:
            module.weight = state.pop(key)  # the parametrization splits it into size and direction
    missing = [k for k in model.state_dict() if k not in state and ".parametrizations." not in k]
    _fill(model, state, folder, missing=missing, strict=False)


def _tell_stages(state: dict[str, Tensor], model: CodecModel) -> None:
    """Give a decoder that was not told a frame's stages one more input, which it does not use yet."""
    own, given = model.decoder.state_dict(), state
    key = "0.conv.weight"
    if model.config.counts_stages and key in own and f"decoder.{key}" in given:
        missing = own[key].shape[1] - given[f"decoder.{key}"].shape[1]
        if missing == 1:
            state[f"decoder.{key}"] = torch.nn.functional.pad(given[f"decoder.{key}"], (0, 0, 0, 1))


def save(
    model: CodecModel,
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    decodes: Iterable[bytes] = (),
) -> bytes:
    """Write config and folded weights; each file replaces its predecessor at once, or not at all.

    Args:
        model: what to save; it is not changed.
        folder: made if it does not exist.
        dtype: of the stored weights; float16 halves the size.
        decodes: fingerprints of earlier weights that differ in the decoder alone: files made with
            them can be decoded with these.

    Returns:
        The fingerprint of the weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        key: value.cpu().contiguous().to(torch.float32 if key.startswith(_KEPT_WIDE) else dtype)
        for key, value in folded_state(model).items()
    }
    metadata = {"format": "bittern"}
    if earlier := ",".join(fingerprint.hex() for fingerprint in decodes):
        metadata["decodes"] = earlier
    data = dump_tensors(state, metadata=metadata)
    write_atomically(folder / WEIGHTS_FILE, data)
    write_atomically(folder / CONFIG_FILE, model.config.to_json().encode())
    return _fingerprint(data)


def keep_entropy(model: CodecModel, source: str | Path, folder: Path) -> None:
    """Copy the entropy model of a checkpoint, if it has one, beside a model whose codes mean the same.

    Nothing is copied where the model has another number of stages.
    """
    origin = find(source)
    own, given = model.config.quantizer, read_config(origin).quantizer
    path = origin / ENTROPY_FILE
    if (own.stages, own.codebook_size) == (given.stages, given.codebook_size) and path.exists():
        write_atomically(folder / ENTROPY_FILE, path.read_bytes())


def read_config(folder: Path) -> CodecConfig:
    try:
        return CodecConfig.from_json((folder / CONFIG_FILE).read_text())
    except ConfigError as error:
        raise ModelError(f"{folder / CONFIG_FILE}: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{folder / CONFIG_FILE}: cannot be read ({error})") from None


def folded_state(model: torch.nn.Module) -> dict[str, Tensor]:
    """The state dict with every weight-normed weight as its product; the model is not changed."""
    state = {k: v.detach() for k, v in model.state_dict().items() if ".parametrizations." not in k}
    products = {key: cast(Tensor, module.weight) for key, module in _normed(model).items()}
    return state | {key: product.detach() for key, product in products.items()}


def fold_weight_norm(model: torch.nn.Module) -> None:
    """Replace every weight-normed weight by its product, in place."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Write to a temporary name in the same folder, flush to disk, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _normed(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Modules with weight norm, by the key that their weight has when folded."""
    return {
        f"{path}.weight": module
        for path, module in model.named_modules()
        if parametrize.is_parametrized(module, "weight")
    }


def _fingerprint(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:FINGERPRINT_BYTES]


def lineage(name_or_folder: str | Path) -> tuple[bytes, ...]:
    """Fingerprints of a checkpoint and of those whose files it decodes, for a better decoder of theirs.

    Raises:
        ModelError: as for `load`.
    """
    folder = find(name_or_folder)
    _, data = _read_weights(folder)
    return (_fingerprint(data), *_decodes(data, folder))


def _decodes(data: bytes, folder: Path) -> tuple[bytes, ...]:
    """What `save` was told, from a file that has been read before."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    given = header.get("__metadata__", {}).get("decodes", "")
    try:
        return tuple(bytes.fromhex(part) for part in given.split(",") if part)
    except ValueError:
        raise ModelError(
            f"{folder / WEIGHTS_FILE}: `decodes` is {given!r}; expected fingerprints in hexadecimal"
        ) from None


def _read_weights(folder: Path) -> tuple[dict[str, Tensor], bytes]:
    """Tensors in float32, and the file's bytes."""
    path = folder / WEIGHTS_FILE
    try:
        data = path.read_bytes()
        state = load_tensors(data)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from None
    except SafetensorError as error:
        raise ModelError(f"{path}: not a complete safetensors file ({error})") from None
    if "spread" in state:  # of weights from before paths had a room of their own
        state["path.spread"] = state.pop("spread")
    return {key: value.float() for key, value in state.items()}, data


def _fill(
    model: CodecModel,
    state: dict[str, Tensor],
    folder: Path,
    *,
    missing: list[str] | None = None,
    strict: bool = True,
) -> None:
    own = model.state_dict()
    if strict:
        missing = [key for key in own if key not in state]
    unknown = [key for key in state if key not in own]
    misfits = [k for k, v in state.items() if k in own and own[k].shape != v.shape]
    for what, keys in (
        ("lacks", missing or []),
        ("has unknown", unknown),
        ("has misshapen", misfits),
    ):
        if keys:
            raise ModelError(
                f"{folder / WEIGHTS_FILE}: {what} {keys[0]!r} ({len(keys)} in all); "
                f"it does not belong to this {CONFIG_FILE}"
            )
    model.load_state_dict(state, strict=strict)
