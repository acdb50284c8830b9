"""The parts of JAX's distributed runtime that have no public name. No other file takes anything from `jax._src`.

Two things are needed and lack a public name: how JAX detects a cluster, before it connects to the other processes, and
its key-value store, in which the processes write their hosts, their signs of life and their failures. The store is one
that all processes reach wherever JAX itself works.
"""

import os
from typing import Any

import jax
from jax._src import clusters, distributed

Unanswered = jax.errors.JaxRuntimeError
"""What the store raises where process 0, which holds it, does not answer."""


def find_cluster() -> Any | None:
    """The kind of cluster that `jax.distributed.initialize` detects, with `name` and `get_process_count()`; or None."""
    # In a pod that is not one of a job JAX would warn, or fail.
    foreign = () if 'JOB_COMPLETION_INDEX' in os.environ else (clusters.K8sCluster,)
    kinds = [kind for kind in clusters.ClusterEnv._cluster_types if not kind.opt_in_only_method and kind not in foreign]
    return next((kind for kind in kinds if kind.is_env_present()), None)


def store() -> Any | None:
    """The key-value store of the processes; None in a process that is not connected."""
    return distributed.global_state.client


def place() -> tuple[int, int]:
    """The number of this process and the number of processes: 0 and 1 before JAX knows them."""
    return distributed.global_state.process_id, distributed.global_state.num_processes


def coordinator() -> str | None:
    """The host and port at which the processes meet; None before JAX knows them."""
    return distributed.global_state.coordinator_address
