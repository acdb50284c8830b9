"""The mesh of all devices, and what lies on it: the same arrays everywhere, or each device's part of a batch."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of one axis, `data`, over all devices of all processes, or over those given.

    Those of a process lie side by side, in the order of the processes: so do their parts of a batch.
    """
    ordered = sorted(jax.devices() if devices is None else devices, key=lambda device: device.process_index)
    return Mesh(np.array(ordered), ('data',), axis_types=(AxisType.Auto,))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Put a tree of arrays, which is the same on all processes, on every device of the mesh."""
    sharding = NamedSharding(mesh, PartitionSpec())
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)
    # device_put would compare each array between the processes, one after the other.
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), tree)


def check_batch_size(batch_size: int, devices: int) -> None:
    """Raise a ValueError if so many devices cannot share a batch evenly."""
    if batch_size % devices:
        raise ValueError(
            f'batch_size {batch_size} cannot be shared evenly by {devices} devices: use a multiple of {devices}'
        )


def shard_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Split a batch over the mesh, but for the `index` of its examples, which no step reads.

    Each process gives its own part: `image` and, `[batch, ...]` each, whatever targets and masks there are.

    Raises:
        ValueError: the images of this process cannot be shared evenly by its devices.
    """
    size, devices = len(batch['image']), mesh.local_mesh.size
    if size % devices:
        raise ValueError(
            f'a batch of {size} images cannot be shared evenly by {devices} devices: use a multiple of {devices}'
        )
    sharding = NamedSharding(mesh, PartitionSpec('data'))
    return {
        name: jax.make_array_from_process_local_data(sharding, array)
        for name, array in batch.items()
        if name != 'index'
    }
