"""A small language to write ONNX graphs in: operators, constants, weights by reference, and state.

Weights stay in model.safetensors: initializers name it, with an offset. What else is large (the MDCT's
basis) is computed by operators of constants, which runtimes fold when they load the graph.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bittern.checkpoint import WEIGHTS_FILE

_OPSET, _IR = 20, 10
_KINDS = {"F32": TensorProto.FLOAT, "F16": TensorProto.FLOAT16, "BF16": TensorProto.BFLOAT16}
_END = 2**62
Shape = Sequence[int | str]


def read_places(path: Path) -> dict[str, dict[str, Any]]:
    """Where tensors lie in a safetensors file: dtype, shape and `data_offsets` from the file's start."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        places = json.loads(file.read(size))
    places.pop("__metadata__", None)
    if "spread" in places:  # of weights from before paths had a room of their own
        places["path.spread"] = places.pop("spread")
    for place in places.values():
        place["data_offsets"] = [8 + size + offset for offset in place["data_offsets"]]
    return places


class Graph:
    """Operators one after the other; values are names."""

    def __init__(self, name: str, places: Mapping[str, dict[str, Any]]) -> None:
        """Begin an empty graph whose weights are at `places`, see `read_places`."""
        self._name, self._places = name, places
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._fixed: dict[object, onnx.TensorProto] = {}
        self._cast: dict[str, str] = {}

    def op(
        self, kind: str, *inputs: str, count: int = 1, domain: str = "", **attributes: Any
    ) -> Any:
        """Add an operator: the name of what it gives, or a list of `count` names."""
        names = [f"{kind.lower()}_{len(self._nodes)}_{place}" for place in range(count)]
        self._nodes.append(helper.make_node(kind, inputs, names, domain=domain, **attributes))
        return names[0] if count == 1 else names

    def constant(self, value: Any, kind: type = np.float32) -> str:
        """A small constant."""
        array = np.asarray(value, kind)
        key = (array.tobytes(), array.shape, kind)
        name = f"constant_{len(self._fixed)}"
        return self._fixed.setdefault(key, numpy_helper.from_array(array, name)).name

    def ints(self, *values: int) -> str:
        """A vector of int64, such as a shape."""
        return self.constant(list(values), np.int64)

    def weight(self, key: str) -> str:
        """A weight in float32, by reference."""
        if key not in self._cast:
            self._cast[key] = self.wide(self.stored(key))
        return self._cast[key]

    def wide(self, x: str) -> str:
        """In float32; what rearranges weights does so before, when they take half the memory."""
        return self.op("Cast", x, to=TensorProto.FLOAT)

    def stored(self, key: str) -> str:
        """A weight of the type that it is stored in, by reference."""
        place = self._places[key]
        begin, end = place["data_offsets"]
        tensor = TensorProto(
            name=key,
            data_type=_KINDS[place["dtype"]],
            dims=place["shape"],
            data_location=TensorProto.EXTERNAL,
        )
        for name, value in (("location", WEIGHTS_FILE), ("offset", begin), ("length", end - begin)):
            tensor.external_data.add(key=name, value=str(value))
        self._fixed.setdefault(key, tensor)
        return key

    def size(self, key: str) -> list[int]:
        """The shape of a weight."""
        return self._places[key]["shape"]

    def input(self, name: str, shape: Shape, kind: int = TensorProto.FLOAT) -> str:
        self._inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, name: str, value: str, shape: Shape) -> None:
        self._nodes.append(helper.make_node("Identity", [value], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def state(self, key: str, *shape: int | str) -> str:
        """What a stream remembers under `key`; zeros at the start. `keep` says what it is next."""
        return self.input(f"state.{key}", shape)

    def keep(self, key: str, value: str, *shape: int | str) -> None:
        self.output(f"next.{key}", value, shape)

    def slice(self, x: str, begin: int, end: int, axis: int) -> str:
        return self.op("Slice", x, self.ints(begin), self.ints(end or _END), self.ints(axis))

    def concat(self, *parts: str, axis: int) -> str:
        first, *others = parts
        return self.op("Concat", *parts, axis=axis) if others else first

    def reshape(self, x: str, *shape: int | str) -> str:
        """0 stands for the same size, -1 for what is left; a name for a size that is computed."""
        if all(isinstance(size, int) for size in shape):
            return self.op("Reshape", x, self.constant(shape, np.int64))
        sizes = [size if isinstance(size, str) else self.ints(size) for size in shape]
        return self.op("Reshape", x, self.concat(*sizes, axis=0))

    def length(self, x: str, axis: int) -> str:
        """A size of `x`, for `reshape`."""
        return self.op("Shape", x, start=axis, end=axis + 1)

    def times(self, x: str, factor: float) -> str:
        return self.op("Mul", x, self.constant(factor))

    def clip(self, x: str, low: float | None, high: float | None) -> str:
        limits = ["" if limit is None else self.constant(limit) for limit in (low, high)]
        return self.op("Clip", x, *limits)

    def model(self, metadata: Mapping[str, str]) -> onnx.ModelProto:
        """The whole, checked."""
        graph = helper.make_graph(
            self._nodes, self._name, self._inputs, self._outputs, list(self._fixed.values())
        )
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(
            graph, opset_imports=opsets, ir_version=_IR, producer_name="bittern"
        )
        helper.set_model_props(model, dict(metadata))
        return model
