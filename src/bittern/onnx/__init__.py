"""A codec without torch: its networks as ONNX graphs, and the engine that runs them."""
