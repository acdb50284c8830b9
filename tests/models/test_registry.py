"""Networks by name: which there are, what a name stands for, and what is refused."""

import dataclasses

import pytest

import flaxmobile


def test_list_models():
    names = flaxmobile.list_models()
    assert len(names) == len(set(names))
    assert set(names) >= {
        *(f'mobilenetv1_{width}' for width in ['025', '050', '075', '100', '125', '100h']),
        *(f'mobilenetv2_{width}' for width in ['035', '050', '075', '100', '110d', '120d', '130', '140']),
        *(f'mobilenetv3_large_{width}' for width in ['035', '050', '075', '100', '125', '150d', 'minimal_100']),
        *(f'mobilenetv3_small_{width}' for width in ['035', '050', '075', '100', '125', 'minimal_100']),
        *(f'tf_mobilenetv3_{form}' for form in ['large_075', 'large_100', 'small_075', 'small_100']),
        *('mobilenetv3_rw', 'tf_mobilenetv3_large_minimal_100', 'tf_mobilenetv3_small_minimal_100'),
        *(f'mobilenetv4_conv_{form}' for form in ['small_035', 'small_050', 'small', 'medium', 'large']),
        *(f'mobilenetv4_conv_{form}' for form in ['aa_medium', 'aa_large', 'blur_medium']),
        *(f'mobilenetv4_hybrid_{form}' for form in ['medium_075', 'medium', 'large_075', 'large']),
        *('mobilenetv5_300m', 'mobilenetv5_300m_enc'),
        *(f'mobilenet_edgetpu_{form}' for form in ['100', 'v2_xs', 'v2_s', 'v2_m', 'v2_l']),
        *(f'{family}_{width}' for family in ['mnasnet', 'semnasnet'] for width in ['050', '075', '100', '140']),
        'mnasnet_small',
    }
    assert flaxmobile.list_models('mobilenetv1_1*') == ['mobilenetv1_100', 'mobilenetv1_125', 'mobilenetv1_100h']
    assert flaxmobile.list_models('tv_*') == ['tv_mobilenetv3_large_100', 'tv_mobilenetv3_small_100']
    assert flaxmobile.list_models('resnet*') == []


@pytest.mark.parametrize(
    ('name', 'padding', 'epsilon', 'momentum'),
    [
        ('mobilenetv2_100', 'symmetric', 1e-5, 0.9),
        ('mobilenetv3_rw', 'symmetric', 1e-3, 0.9),
        ('tf_mobilenetv1_025', 'bottom_right', 1e-3, 0.99),
        ('tf_mobilenetv2_100', 'same', 1e-3, 0.99),
        ('tv_mobilenetv3_large_100', 'symmetric', 1e-3, 0.99),
        ('mobilenetv4_hybrid_large', 'symmetric', 1e-5, 0.9),
        ('mobilenetv5_300m', 'symmetric', 1e-5, 0.9),
        ('mobilenetv5_300m_enc', 'same', 1e-5, 0.9),
    ],
)
def test_the_prefix_is_the_convention(name, padding, epsilon, momentum):
    convention = dataclasses.asdict(flaxmobile.create_model(name).convention)
    assert convention | {'padding': padding, 'epsilon': epsilon, 'momentum': momentum} == convention


def test_create_model_overrides():
    model = flaxmobile.create_model('mobilenetv2_050', num_classes=10, stem_stride=1, dropout_rate=0.0)
    assert (model.num_classes, model.stem_stride, model.dropout_rate, model.width_multiplier) == (10, 1, 0.0, 0.5)
    assert flaxmobile.create_model('mobilenetv2_050', convention='tensorflow').convention == 'tensorflow'


@pytest.mark.parametrize(
    ('name', 'fields', 'message'),
    [
        ('mobilnetv2_100', {}, r"unknown model 'mobilnetv2_100'.*Did you mean.*mobilenetv2_100"),
        (None, {}, "unknown model 'None'"),
        ('mobilenetv2_100', {'num_clases': 3}, r"unknown field of MobileNetV2 'num_clases'.*num_classes"),
        (
            'mobilenetv2_100',
            {'num_classes': -1},
            'MobileNetV2: num_classes must be a whole number, 0 or more, not -1',
        ),
        ('mobilenetv2_100', {'width_multiplier': 0}, 'width_multiplier must be a number above 0, not 0'),
        ('mobilenetv1_100', {'output_stride': 4}, 'output_stride must be a whole number, 8, 16 or 32, not 4'),
        ('mobilenetv1_100', {'stem_stride': 3}, 'stem_stride must be a whole number, 1 or 2, not 3'),
        ('mobilenetv3_small_100', {'dropout_rate': 1.0}, 'dropout_rate must be a number from 0 to below 1, not 1.0'),
        (
            'mobilenetv3_small_100',
            {'stochastic_depth_rate': -0.1},
            'stochastic_depth_rate must be a number from 0',
        ),
    ],
)
def test_refused_names_and_fields(name, fields, message):
    with pytest.raises(ValueError, match=message):
        flaxmobile.create_model(name, **fields)
