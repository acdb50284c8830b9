"""Int8 numbers by hand, and against torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmobile.quantization.rounding import affine, fake_quantize, fake_quantize_kernel, weight_scale


@pytest.mark.parametrize(
    ('low', 'high', 'scale', 'zero_point'),
    [
        (0.0, 25.5, 0.1, -128),
        (-25.5, 0.0, 0.1, 127),
        (-10.2, 15.3, 0.1, -26),
        (5.1, 25.5, 0.1, -128),  # 0 is always among them.
        (-25.5, -5.1, 0.1, 127),
        (0.0, 0.0, 1e-9, -128),
    ],
)
def test_scale_and_zero_point_by_hand(low: float, high: float, scale: float, zero_point: int) -> None:
    for numpy, tolerance in ((np, 1e-12), (jnp, 1e-6)):
        found = affine(low, high, numpy)
        assert found == (pytest.approx(scale, rel=tolerance), zero_point)


def test_values_and_gradients_by_hand() -> None:
    """Steps of 1/2 from -1 (number -128) to 126.5 (127): to the nearest, ties to even numbers."""
    values = jnp.array([-3.0, -1.0, -0.2, 0.0, 0.25, 0.3, 0.75, 1.25, 126.6, 300.0])
    scale, zero_point = jnp.array(0.5), jnp.array(-126.0)
    rounded = fake_quantize(values, scale, zero_point)
    np.testing.assert_array_equal(rounded, [-1, -1, 0, 0, 0, 0.5, 1, 1, 126.5, 126.5])
    slopes = jax.vmap(jax.grad(lambda value: fake_quantize(value, scale, zero_point)))(values)
    np.testing.assert_array_equal(slopes, [0, 1, 1, 1, 1, 1, 1, 1, 1, 0])  # Up to half a step beyond.
    by_scale = jax.jacobian(lambda scale: fake_quantize(values, scale, zero_point))(scale)
    # Within the range the number less the value in steps, beyond it the number.
    np.testing.assert_allclose(by_scale[jnp.array([0, 2, 5, 6, 9])], [-2, 0.4, 0.4, 0.5, 253], atol=1e-5)


@pytest.mark.parity
def test_values_and_gradients_against_torch() -> None:
    import torch

    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    scale, zero_point = 0.013, 17.0
    given, step = (torch.tensor(each, requires_grad=True) for each in (values, np.float32([scale])))
    theirs = torch._fake_quantize_learnable_per_tensor_affine(given, step, torch.tensor([zero_point]), -128, 127, 1.0)
    theirs.sum().backward()
    assert given.grad is not None
    assert step.grad is not None
    assert 0.05 < (given.grad == 0).float().mean() < 0.95

    def ours(values: jax.Array, scale: jax.Array) -> jax.Array:
        return fake_quantize(values, scale, jnp.float32(zero_point))

    np.testing.assert_allclose(ours(values, jnp.float32(scale)), theirs.detach().numpy(), atol=1e-6)
    gradients = jax.grad(lambda *given: ours(*given).sum(), (0, 1))(values, jnp.float32(scale))
    np.testing.assert_allclose(gradients[0], given.grad.numpy(), atol=1e-6)
    np.testing.assert_allclose(gradients[1], step.grad.item(), rtol=1e-3)


def test_a_kernel_by_hand() -> None:
    """Steps of 1 and of 1/127 for two channels; a channel of zeros stays so."""
    kernel = jnp.array([[127.0, 1.0, 0.0], [-3.4, -0.004, 0.0]])
    np.testing.assert_allclose(weight_scale(np.asarray(kernel)), [1, 1 / 127, 1e-9], rtol=1e-6)
    np.testing.assert_allclose(fake_quantize_kernel(kernel), [[127, 1, 0], [-3, -1 / 127, 0]], rtol=1e-6)
    slopes = jax.grad(lambda kernel: (fake_quantize_kernel(kernel) * jnp.arange(6.0).reshape(2, 3)).sum())(kernel)
    np.testing.assert_array_equal(slopes, np.arange(6.0).reshape(2, 3))
