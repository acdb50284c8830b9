"""Safetensors files by the format's own description, whether or not they are sound."""

import json
import struct


def safetensors_of(header, numbers=b''):
    """A file of such a header (JSON of it, or bytes as they are) and such numbers."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack('<Q', len(text)) + text + numbers
