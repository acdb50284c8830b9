"""Eight virtual CPU devices for the tests of `pmap`, `shard_map` and meshes; set before JAX starts."""

import os

DEVICES = '--xla_force_host_platform_device_count'

if DEVICES not in os.environ.get('XLA_FLAGS', ''):
    os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {DEVICES}=8'.strip()
