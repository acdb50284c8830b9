"""Torch's zip archives without torch: Python's own pickler, which names globals that are never imported."""

import collections
import io
import pickle
import zipfile

import numpy as np


class Named:
    """Pickled as that global by name, which is never imported."""

    def __init__(self, name):
        self.name = name


class Made:
    """Pickled as a call of that global."""

    def __init__(self, name, *arguments):
        self.name, self.arguments = name, arguments


class Writer(pickle._Pickler):
    """Python's own pickler; it writes a `Named` as its global, a `Made` as its call and arrays as torch's tensors."""

    def __init__(self, file, protocol):
        super().__init__(file, protocol)
        self.storages = []

    def persistent_id(self, value):
        if not isinstance(value, Made) or value.name != 'storage':
            return None
        self.storages.append(value.arguments[0])
        array = self.storages[-1]
        kind = {'f': 'FloatStorage', 'l': 'LongStorage'}[array.dtype.char]
        return 'storage', Named(f'torch.{kind}'), str(len(self.storages) - 1), 'cpu', array.size

    def save(self, value, save_persistent_id=True):
        if isinstance(value, Named):
            module, _, name = value.name.rpartition('.')
            self.write(b'c' + module.encode() + b'\n' + name.encode() + b'\n')
        elif isinstance(value, Made) and value.name != 'storage':
            self.save(Named(value.name))
            self.save(value.arguments)
            self.write(pickle.REDUCE)
        elif type(value) is np.ndarray and id(value) not in self.memo:
            strides = tuple(step // value.itemsize for step in value.strides)
            about = (Made('storage', value), 0, value.shape, strides, False, collections.OrderedDict())
            self.save(Made('torch._utils._rebuild_tensor_v2', *about))
            self.memoize(value)
        else:
            super().save(value, save_persistent_id)


def torch_zip(root, protocol=2):
    """What `torch.save` would write of `root`, with NumPy's arrays in place of tensors."""
    stream, file = io.BytesIO(), io.BytesIO()
    writer = Writer(stream, protocol)
    writer.dump(root)
    with zipfile.ZipFile(file, 'w') as archive:
        archive.writestr('archive/data.pkl', stream.getvalue())
        for number, array in enumerate(writer.storages):
            archive.writestr(f'archive/data/{number}', array.tobytes())
    return file.getvalue()


def weights(count=3, first=0.0):
    return {f'layer{number}.weight': np.array([first + number, -1], np.float32) for number in range(count)}
