"""Small HDF5 files in Keras's three layouts, made by h5py as Keras and tf.keras make them."""

import io

import h5py
import numpy as np

VALUES = np.random.default_rng(0)
WEIGHTS = {
    'Conv/kernel': VALUES.normal(size=(3, 3, 3, 4)).astype(np.float32),
    'Conv/BatchNorm/gamma': VALUES.normal(size=4).astype(np.float32),
    'Conv/BatchNorm/beta': VALUES.normal(size=4).astype(np.float32),
    'Conv/BatchNorm/moving_mean': VALUES.normal(size=4).astype(np.float32),
    'Conv/BatchNorm/moving_variance': VALUES.normal(size=4).astype(np.float32),
    'depthwise/kernel': VALUES.normal(size=(3, 3, 4, 1)).astype(np.float32),
    'predictions/kernel': VALUES.normal(size=(4, 2)).astype(np.float32),
    'predictions/bias': VALUES.normal(size=2).astype(np.float32),
}
CLASSES = {
    'Conv': 'conv2d',
    'Conv/BatchNorm': 'batch_normalization',
    'depthwise': 'depthwise_conv2d',
    'predictions': 'dense',
}


def file_of(fill, **options):
    """The bytes of the file that `fill` writes into."""
    buffer = io.BytesIO()
    with h5py.File(buffer, 'w', **options) as file:
        fill(file)
    return buffer.getvalue()


def repacked(content, libver='earliest', endless=False, **options):
    """The same file written anew, its arrays with those options of `create_dataset`, as people pack their files."""

    def copy(source, target):
        for name, value in source.attrs.items():
            target.attrs[name] = value
        for name, item in source.items():
            if isinstance(item, h5py.Group):
                copy(item, target.create_group(name))
            else:
                more = {'maxshape': (None,) * item.ndim} if endless else {}
                dataset = target.create_dataset(name, data=item[()], **(options | more if item.shape else {}))
                for attribute, value in item.attrs.items():
                    dataset.attrs[attribute] = value

    with h5py.File(io.BytesIO(content)) as source:
        return file_of(lambda file: copy(source, file), libver=libver)


def layers():
    found = {}
    for name, array in WEIGHTS.items():
        layer, _, variable = name.rpartition('/')
        found.setdefault(layer, {})[variable] = array
    return found


def legacy(group, scope='', suffix=':0'):
    """tf.keras's weights: `layer/layer/kernel:0`, depthwise kernels under a name of their own."""
    group.attrs['layer_names'] = [name.encode() for name in CLASSES]
    for layer, variables in layers().items():
        inner = group.require_group(layer)
        names = []
        for variable, array in variables.items():
            named = 'depthwise_kernel' if layer == 'depthwise' and suffix else variable
            names.append(f'{scope}{layer}/{named}{suffix}')
            inner.create_dataset(names[-1], data=array)
        inner.attrs['weight_names'] = [name.encode() for name in names]


def whole(file):
    """Keras 3's whole model as `.h5`, of a Sequential model: a scope in the names, an optimiser, configurations."""
    file.attrs['model_config'] = '{"class_name": "Sequential"}'
    legacy(file.create_group('model_weights'), scope='sequential/', suffix='')
    slots = file.create_group('optimizer_weights')
    slots.create_dataset('adam/Conv_kernel_momentum', data=np.ones((3, 3, 3, 4), np.float32))


def nested(file):
    """A fine-tuned network in the legacy layout: a layer that is a network, and a head."""
    group = file.create_group('model_weights')
    for name, array in WEIGHTS.items():
        layer = name if name.startswith('predictions') else f'mobilenetv2_1.00_160/{name}'
        group.create_dataset(f'predictions/{layer}' if layer is name else layer, data=array)


def named(file, names=True):
    """Keras 3's `.weights.h5`: class and number, the layer's name in an attribute, an optimiser, a dropout's seed."""
    for layer, variables in layers().items():
        group = file.create_group(f'layers/{CLASSES[layer]}/vars')
        if names:
            group.attrs['name'] = layer
        for number, array in enumerate(variables.values()):
            group.create_dataset(str(number), data=array)
    file.create_dataset('layers/dropout/seed_generator/vars/0', data=np.array([1, 2], np.uint32))
    file.create_dataset('optimizer/vars/0', data=np.ones(3, np.float32))


LAYOUTS = {'legacy': legacy, 'whole': whole, 'nested': nested, 'named': named}
