"""Networks from the weights of a checkpoint folder and back; folders themselves are `checkpoint.py`."""

import json
import pickle
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor
from torch.nn.utils import parametrize

from bittern import checkpoint
from bittern.checkpoint import CONFIG_FILE, WEIGHTS_FILE, Checkpoint
from bittern.errors import ConfigError, ModelError
from bittern.model import encodec
from bittern.model.codec_model import CodecModel

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_LARGEST = 1e6  # of any weight
_KEPT_WIDE = ("path.",)  # small, and the linear path needs them exact


def build(found: Checkpoint, device: str | torch.device = "cpu") -> CodecModel:
    """The networks of a checkpoint for use: in eval mode, weight norm folded.

    Raises:
        ModelError: the weights are missing, damaged, or do not fit the config.
    """
    state = _read_state(found.folder)
    given = sum(value.numel() for value in state.values())
    if found.config.least_weights > given:
        raise ModelError(
            f"{found.folder / WEIGHTS_FILE}: has {given} numbers, which are too few for this "
            f"{CONFIG_FILE}"
        )
    with _usual_defaults():
        model = CodecModel(found.config)
        fold_weight_norm(model)
        _fill(model, state, found.folder / WEIGHTS_FILE)
    return model.eval().requires_grad_(False).to(device)


def import_encodec(source: str, folder: Path) -> CodecModel:
    """Write a checkpoint folder of EnCodec's weights.

    Args:
        source: a released `.th` file, a folder with the `config.json` and `model.safetensors` of
            `transformers`, or the id of such on the Hugging Face Hub, which is then fetched.
        folder: made if it does not exist.

    Raises:
        ModelError: there are no such weights, or they are not of EnCodec.
        ConfigError: huggingface_hub is needed and not installed.
    """
    found = _encodec_files(source)
    try:
        facts = json.loads((found / CONFIG_FILE).read_text()) if found.is_dir() else None
        if found.is_dir():
            state = load_tensors((found / WEIGHTS_FILE).read_bytes())
        else:
            state = torch.load(found, map_location="cpu", weights_only=True)
    except (OSError, ValueError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{source}: cannot be read ({reason})") from None
    try:
        config, state = encodec.converted(state, facts)
    except ModelError as error:
        raise ModelError(f"{source}: {error}") from None
    except (AttributeError, TypeError):
        raise ModelError(f"{source}: holds something else than named weights") from None
    with _usual_defaults():
        model = CodecModel(config)
        fold_weight_norm(model)
        _fill(model, state, Path(source))
    save(model, folder)
    return model


def _encodec_files(source: str) -> Path:
    """A file of weights, or a folder with the files of `transformers`."""
    path = Path(source)
    if path.is_file() or (path / CONFIG_FILE).is_file():
        return path
    if path.exists() or source.count("/") != 1:
        raise ModelError(f"{source}: is no file of weights, no folder with them and no id of a hub")
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError:
        raise ConfigError(
            f"{source}: no such file; to fetch it from the hub, pip install huggingface_hub"
        ) from None
    try:
        return Path(snapshot_download(source, allow_patterns=[CONFIG_FILE, WEIGHTS_FILE]))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{source}: not had from the hub ({str(error).split(chr(10))[0]})"
        ) from None


def load_into(model: CodecModel, name_or_folder: str | Path) -> None:
    """Load weights into a model that goes on training, whose weight norm is kept.

    The model may have fewer or more stages than the checkpoint: what is missing stays as it is. It
    may tell its decoder the stages of a frame where the checkpoint's did not: it is deaf to them at first.

    Raises:
        ModelError: as for `build`.
    """
    folder = checkpoint.find(name_or_folder)
    state = _read_state(folder)
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
    _fill(model, state, folder / WEIGHTS_FILE, missing=missing, strict=False)


def save(
    model: CodecModel,
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    decodes: Iterable[bytes] = (),
) -> bytes:
    """Write a checkpoint folder: config and folded weights, each file whole or not at all.

    Args:
        model: what to save; it is not changed.
        folder: made if it does not exist.
        dtype: of the stored weights; float16 halves the size.
        decodes: fingerprints of earlier weights that differ in the decoder alone: files made with
            them can be decoded with these.

    Returns:
        The fingerprint of the weights.
    """
    state = {
        key: value.cpu().contiguous().to(torch.float32 if key.startswith(_KEPT_WIDE) else dtype)
        for key, value in folded_state(model).items()
    }
    metadata = {"format": "bittern"}
    if earlier := ",".join(fingerprint.hex() for fingerprint in decodes):
        metadata["decodes"] = earlier
    return checkpoint.write(folder, model.config, dump_tensors(state, metadata=metadata))


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


@contextmanager
def _usual_defaults() -> Iterator[None]:
    """Float32 on the CPU, fit for training, whatever a script has set for other models."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.inference_mode(False), torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(dtype)


def _normed(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Modules with weight norm, by the key that their weight has when folded."""
    return {
        f"{path}.weight": module
        for path, module in model.named_modules()
        if parametrize.is_parametrized(module, "weight")
    }


def _read_state(folder: Path) -> dict[str, Tensor]:
    """Tensors in float32.

    Raises:
        ModelError: they are no weights: no floats, not finite, or larger than any network's.
    """
    data, _ = checkpoint.read_weights(folder)
    state: dict[str, Tensor] = {}
    try:
        tensors = load_tensors(data)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:  # types that torch has not
        raise ModelError(
            f"{folder / WEIGHTS_FILE}: has tensors of no known type ({error})"
        ) from None
    for key, value in tensors.items():
        if value.dtype not in _FLOATS:
            what = f"is {value.dtype}; expected float32 or float16"
        elif not bool((value.abs() < _LARGEST).all()):
            what = "has values that are not finite, or too large for weights"
        elif key.endswith("spread") and not bool((value > 0).all()):
            what = "has sizes that are not above 0"
        else:
            state[key] = value.float()
            continue
        raise ModelError(f"{folder / WEIGHTS_FILE}: {key!r} {what}")
    if "spread" in state:  # of weights from before paths had a room of their own
        state["path.spread"] = state.pop("spread")
    return state


def _tell_stages(state: dict[str, Tensor], model: CodecModel) -> None:
    """Give a decoder that was not told a frame's stages one more input, which it does not use yet."""
    own, given = model.state_dict(), "decoder.0.conv.weight"
    if model.config.counts_stages and given in own and given in state:
        missing = own[given].shape[1] - state[given].shape[1]
        if missing == 1:
            state[given] = torch.nn.functional.pad(state[given], (0, 0, 0, 1))


def _fill(
    model: CodecModel,
    state: dict[str, Tensor],
    source: Path,
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
                f"{source}: {what} {keys[0]!r} ({len(keys)} in all); "
                f"it does not belong to this {CONFIG_FILE}"
            )
    model.load_state_dict(state, strict=strict)
