"""The surface of loss and error around checkpoints: planes, rays, segments, and trajectories.

All of it lives in the space of parameters: BatchNorm's weight and bias included, running statistics
and counters not. `geometry`, `trajectory` and `width` need no torch.
"""
