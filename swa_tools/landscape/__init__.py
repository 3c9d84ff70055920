"""The surface of loss and error around checkpoints: planes, rays, segments, and trajectories.

Distances and directions live in the space of parameters, which includes BatchNorm's weight and
bias, but neither running statistics nor counters. `geometry`, `trajectory` and `width` need no
torch.
"""
