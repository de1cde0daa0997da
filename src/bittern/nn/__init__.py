"""Layers without knowledge of the product: streaming state, convolutions, SEANet, transforms."""
