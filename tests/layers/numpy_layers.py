"""The layers once more, in NumPy float64 and by the papers' formulas."""

import numpy as np


def pad(images, kernel_size, strides, padding):
    """SAME with its odd pixel last, or `(kernel - 1) // 2` on both sides."""
    widths = [(0, 0)]
    for side in images.shape[1:3]:
        total = max(0, (-(-side // strides) - 1) * strides + kernel_size - side)
        before = total // 2 if padding == 'same' else (kernel_size - 1) // 2
        widths.append((before, total - before if padding == 'same' else before))
    return np.pad(images, [*widths, (0, 0)])


def windows(images, kernel_size, strides, padding):
    """`[batch, height', width', channels, kernel, kernel]`."""
    padded = pad(images, kernel_size, strides, padding)
    views = np.lib.stride_tricks.sliding_window_view(padded, (kernel_size, kernel_size), axis=(1, 2))
    return views[:, ::strides, ::strides]


def conv(images, kernel, strides=1, padding='same'):
    return np.einsum('nhwcij,ijcf->nhwf', windows(images, len(kernel), strides, padding), kernel, optimize=True)


def depthwise(images, kernel, strides=1, padding='same'):
    return np.einsum('nhwcij,ijc->nhwc', windows(images, len(kernel), strides, padding), kernel[:, :, 0], optimize=True)


def pointwise(images, kernel):
    return images @ kernel[0, 0]


def norm(images, scale, bias, mean, var, epsilon):
    return (images - mean) / np.sqrt(var + epsilon) * scale + bias


def relu(values):
    return np.maximum(values, 0)


def relu6(values):
    return np.clip(values, 0, 6)


def hard_sigmoid(values):
    return relu6(values + 3) / 6


def hard_swish(values):
    return values * hard_sigmoid(values)


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


def squeeze_excite(images, reduce, expand, gate=hard_sigmoid):
    squeezed = relu(images.mean(axis=(1, 2)) @ reduce['kernel'][0, 0] + reduce['bias'])
    gates = gate(squeezed @ expand['kernel'][0, 0] + expand['bias'])
    return images * gates[:, None, None, :]
