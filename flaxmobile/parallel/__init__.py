"""Several devices and processes as one: the mesh, sharding, and processes that a launcher started."""

from typing import TYPE_CHECKING

from flaxmobile.lazy import lazy_names

if TYPE_CHECKING:
    from flaxmobile.parallel.mesh import check_batch_size, make_mesh, replicate, shard_batch
    from flaxmobile.parallel.processes import joined

__all__ = ['check_batch_size', 'joined', 'make_mesh', 'replicate', 'shard_batch']

__getattr__, __dir__ = lazy_names(
    __name__,
    {'.mesh': ('check_batch_size', 'make_mesh', 'replicate', 'shard_batch'), '.processes': ('joined',)},
)
