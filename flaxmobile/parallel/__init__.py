"""Several devices and processes as one: the mesh, sharding, and processes that a launcher started."""
