"""The codec as most people use it: waveforms, bytes and files to codes and back.

    codec = bittern.load("speech-16khz")
    codes = codec.encode(wav)                      # [B, C, T] -> [B, k, F]
    wav = codec.decode(codes)                      # and back
    data = codec.compress(wav[0], 44_100)          # bytes of a .btn file
    wav, sample_rate = codec.decompress(data)

`tensors.py` is the codec in torch, `arrays.py` the one in numpy, which needs no torch. What the networks do
is in `model/` and `onnx/`, how files are worked on in `pipeline.py`, samples as they come in
`model/stream.py`.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from bittern.errors import ConfigError, extra

if TYPE_CHECKING:
    from bittern.codec.arrays import ArrayCodec
    from bittern.codec.tensors import Codec

ENGINES = ("auto", "torch", "onnx")


@overload
def load(
    name_or_folder: str | Path, device: str = ..., *, engine: Literal["onnx"]
) -> "ArrayCodec": ...
@overload
def load(
    name_or_folder: str | Path, device: str = ..., engine: Literal["auto", "torch"] = ...
) -> "Codec": ...
@overload
def load(name_or_folder: str | Path, device: str = ..., engine: str = ...) -> Any: ...
def load(name_or_folder: str | Path, device: str = "auto", engine: str = "auto") -> Any:
    """Load a codec by the name of a shipped checkpoint or by its folder.

    Args:
        name_or_folder: "speech-16khz", or the folder that a training run wrote.
        device: "auto" takes a GPU if there is one; otherwise as torch names it: "cpu", "cuda:1".
        engine: "torch" works on tensors; "onnx" on numpy arrays, without torch, on a CPU; "auto" takes
            torch if it is installed.

    Raises:
        ModelError: there is no such checkpoint, or it is damaged, or engine onnx has no graph for it.
        ConfigError: there is no such device or engine, or torch is not installed.
    """
    if engine not in ENGINES:
        raise ConfigError(f"engine is {engine!r}; give {', '.join(ENGINES)}")
    if engine == "auto":
        engine = "torch" if find_spec("torch") else "onnx"
    if engine == "onnx":
        from bittern.codec import arrays

        return arrays.load(name_or_folder, device)
    with extra("torch"):
        from bittern.codec import tensors
    return tensors.load(name_or_folder, device)


def __getattr__(name: str) -> Any:
    if name == "Codec":
        with extra("torch"):
            from bittern.codec.tensors import Codec
        return Codec
    raise AttributeError(f"module 'bittern.codec' has no attribute {name!r}")
