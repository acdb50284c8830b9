"""The published tables against the blocks as they are built: each network prints its own table."""

import pytest

from flaxmobile import layers, models

# The papers' tables, a line a row: V1 Table 1, V2 Table 2, V3 Tables 1 and 2 (v5), MnasNet Figure 7 and timm's
# definitions of the others; V4 as the authors' code has it (tensorflow/models, mobilenet.py), EdgeTPU as timm's.
V1 = """
separable c64 n1 s1
separable c128 n2 s2
separable c256 n2 s2
separable c512 n6 s2
separable c1024 n2 s2
"""
V2 = """
bottleneck t1 c16 n1 s1
bottleneck t6 c24 n2 s2
bottleneck t6 c32 n3 s2
bottleneck t6 c64 n4 s2
bottleneck t6 c96 n3 s1
bottleneck t6 c160 n3 s2
bottleneck t6 c320 n1 s1
"""
V3_LARGE = """
112x16 bneck 3x3 exp16 out16 - RE s1
112x16 bneck 3x3 exp64 out24 - RE s2
56x24 bneck 3x3 exp72 out24 - RE s1
56x24 bneck 5x5 exp72 out40 SE RE s2
28x40 bneck 5x5 exp120 out40 SE RE s1
28x40 bneck 5x5 exp120 out40 SE RE s1
28x40 bneck 3x3 exp240 out80 - HS s2
14x80 bneck 3x3 exp200 out80 - HS s1
14x80 bneck 3x3 exp184 out80 - HS s1
14x80 bneck 3x3 exp184 out80 - HS s1
14x80 bneck 3x3 exp480 out112 SE HS s1
14x112 bneck 3x3 exp672 out112 SE HS s1
14x112 bneck 5x5 exp672 out160 SE HS s2
7x160 bneck 5x5 exp960 out160 SE HS s1
7x160 bneck 5x5 exp960 out160 SE HS s1
7x160 conv2d 1x1 out960 HS s1
"""
V3_SMALL = """
112x16 bneck 3x3 exp16 out16 SE RE s2
56x16 bneck 3x3 exp72 out24 - RE s2
28x24 bneck 3x3 exp88 out24 - RE s1
28x24 bneck 5x5 exp96 out40 SE HS s2
14x40 bneck 5x5 exp240 out40 SE HS s1
14x40 bneck 5x5 exp240 out40 SE HS s1
14x40 bneck 5x5 exp120 out48 SE HS s1
14x48 bneck 5x5 exp144 out48 SE HS s1
14x48 bneck 5x5 exp288 out96 SE HS s2
7x96 bneck 5x5 exp576 out96 SE HS s1
7x96 bneck 5x5 exp576 out96 SE HS s1
7x96 conv2d 1x1 out576 HS s1
"""
# A stage a line. a: start depthwise kernel, k: middle one, 0 for none; e, s and c as in the authors' code.
CONV_SMALL = """
conv3 s2 c32; conv1 s1 c32
conv3 s2 c96; conv1 s1 c64
a5k5 s2 e3 c96; 4x a0k3 s1 e2 c96; a3k0 s1 e4 c96
a3k3 s2 e6 c128; a5k5 s1 e4 c128; a0k5 s1 e4 c128; a0k5 s1 e3 c128; 2x a0k3 s1 e4 c128
conv1 s1 c960
"""
CONV_MEDIUM = """
fused k3 s2 e4 c48
a3k5 s2 e4 c80; a3k3 s1 e2 c80
a3k5 s2 e6 c160; 2x a3k3 s1 e4 c160; a3k5 s1 e4 c160; a3k3 s1 e4 c160; a3k0 s1 e4 c160; a0k0 s1 e2 c160; a3k0 s1 e4 c160
a5k5 s2 e6 c256; a5k5 s1 e4 c256; 2x a3k5 s1 e4 c256; a0k0 s1 e4 c256; a3k0 s1 e4 c256; a3k5 s1 e2 c256;\
 a5k5 s1 e4 c256; 2x a0k0 s1 e4 c256; a5k0 s1 e2 c256
conv1 s1 c960
"""
CONV_LARGE = """
fused k3 s2 e4 c48
a3k5 s2 e4 c96; a3k3 s1 e4 c96
a3k5 s2 e4 c192; 3x a3k3 s1 e4 c192; a3k5 s1 e4 c192; 5x a5k3 s1 e4 c192; a3k0 s1 e4 c192
a5k5 s2 e4 c512; 3x a5k5 s1 e4 c512; a5k0 s1 e4 c512; a5k3 s1 e4 c512; 2x a5k0 s1 e4 c512; a5k3 s1 e4 c512;\
 a5k5 s1 e4 c512; 3x a5k0 s1 e4 c512
conv1 s1 c960
"""
HYBRID_MEDIUM = """
fused k3 s2 e4 c48
a3k5 s2 e4 c80; a3k3 s1 e2 c80
a3k5 s2 e6 c160; a0k0 s1 e2 c160; a3k3 s1 e4 c160; a3k5 s1 e4 c160; mqa h4 d64 kv2; a3k3 s1 e4 c160; mqa h4 d64 kv2;\
 a3k0 s1 e4 c160; mqa h4 d64 kv2; a3k3 s1 e4 c160; mqa h4 d64 kv2; a3k0 s1 e4 c160
a5k5 s2 e6 c256; a5k5 s1 e4 c256; 2x a3k5 s1 e4 c256; a0k0 s1 e2 c256; a3k5 s1 e2 c256; a0k0 s1 e2 c256;\
 a0k0 s1 e4 c256; mqa h4 d64 kv1; a3k0 s1 e4 c256; mqa h4 d64 kv1; a5k5 s1 e4 c256; mqa h4 d64 kv1; a5k0 s1 e4 c256;\
 mqa h4 d64 kv1; a5k0 s1 e4 c256
conv1 s1 c960
"""
HYBRID_LARGE = """
fused k3 s2 e4 c48
a3k5 s2 e4 c96; a3k3 s1 e4 c96
a3k5 s2 e4 c192; 3x a3k3 s1 e4 c192; a3k5 s1 e4 c192; 2x a5k3 s1 e4 c192; mqa h8 d48 kv2; a5k3 s1 e4 c192;\
 mqa h8 d48 kv2; a5k3 s1 e4 c192; mqa h8 d48 kv2; a5k3 s1 e4 c192; mqa h8 d48 kv2; a3k0 s1 e4 c192
a5k5 s2 e4 c512; 3x a5k5 s1 e4 c512; a5k0 s1 e4 c512; a5k3 s1 e4 c512; 2x a5k0 s1 e4 c512; a5k3 s1 e4 c512;\
 a5k5 s1 e4 c512; mqa h8 d64 kv1; a5k0 s1 e4 c512; mqa h8 d64 kv1; a5k0 s1 e4 c512; mqa h8 d64 kv1; a5k0 s1 e4 c512;\
 mqa h8 d64 kv1; a5k0 s1 e4 c512
conv1 s1 c960
"""
# timm's mobilenetv5.py; stages 2 and 3 end in pairs of attention and feed-forward network.
V5 = f"""
fused k3 s2 e4 c128; 2x fused k3 s1 e4 c128
a3k5 s2 e6 c256; a5k0 s1 e4 c256; a3k0 s1 e4 c256; a5k0 s1 e4 c256; a3k0 s1 e4 c256
a5k5 s2 e6 c640; 7x a5k0 s1 e4 c640; a0k0 s1 e1 c640{14 * '; mqa h12 d64 kv2; a0k0 s1 e2 c640'}
a5k5 s2 e6 c1280{19 * '; mqa h16 d96 kv1; a0k0 s1 e2 c1280'}
"""
MNASNET_B1 = """
k3 e1 c16 s1; noskip
3x k3 e3 c24 s2
3x k5 e3 c40 s2
3x k5 e6 c80 s2
2x k3 e6 c96 s1
4x k5 e6 c192 s2
k3 e6 c320 s1
"""
MNASNET_A1 = """
k3 e1 c16 s1; noskip
2x k3 e6 c24 s2
3x k5 e3 c40 s2 se
4x k3 e6 c80 s2
2x k3 e6 c112 s1 se
3x k5 e6 c160 s2 se
k3 e6 c320 s1
"""
MNASNET_SMALL = """
k3 e1 c8 s1
k3 e3 c16 s2
2x k3 e6 c16 s2
4x k5 e6 c32 s2 se
3x k3 e6 c32 s1 se
3x k5 e6 c88 s2 se
k3 e6 c144 s1
"""
EDGETPU_V1 = """
cn k1 c16
er k3 s2 e8 c32; 3x er k3 s1 e4 c32
er k3 s2 e8 c48; 3x er k3 s1 e4 c48
ir k3 s2 e8 c96; 3x ir k3 s1 e4 c96
ir k3 s1 e8 c96 noskip; 3x ir k3 s1 e4 c96
ir k5 s2 e8 c160; 3x ir k5 s1 e4 c160
ir k3 s1 e8 c192
"""
EDGETPU_V2 = """
cn k1 c{0}
er k3 s2 e8 c{1}; er k3 s1 e4 c{1} gs{gs}
er k3 s2 e8 c{2}; er k3 s1 e4 c{2} gs{gs}; er k3 s1 e4 c{2}; er k3 s1 e4 c{2} gs{gs}
er k3 s2 e8 c{3}; 3x ir k3 s1 e4 c{3}
ir k3 s1 e8 c{4}; 3x ir k3 s1 e4 c{4}
ir k3 s2 e8 c{5}; 3x ir k3 s1 e4 c{5}
ir k3 s1 e8 c{6}
"""


def built(network):
    """The blocks by stage, as the network builds them, each with its input's stride and channels."""
    model = network()
    channels, stride, stages = model.bind({}).stem.features, 2, {}
    for placed, block in zip(model.plan.blocks, model.bind({}).block.values(), strict=True):
        stages.setdefault(placed.stage, []).append((block, 224 // stride, channels))
        channels, stride = getattr(block, 'features', channels), stride * getattr(block, 'strides', 1)
    return list(stages.values())


def counted(rows):
    """`3x row` for a row three times over."""
    found = []
    for row in rows:
        if found and found[-1][1] == row:
            found[-1][0] += 1
        else:
            found.append([1, row])
    return [f'{times}x {row}' if times > 1 else row for times, row in found]


def repeated(rows):
    """The first row, behind it the same with a stride of 1: `n` of them."""
    (first, *others), strides = rows, {stride for *_, stride in rows[1:]}
    assert all(row[:-1] == first[:-1] for row in others)
    assert strides <= {1}
    return ' '.join([*first[:-1], f'n{len(rows)}', f's{first[-1]}'])


def v1(block, side, channels):
    assert (type(block), block.kernel_size, block.activation) == (layers.DepthwiseSeparable, 3, 'relu6')
    return 'separable', f'c{block.features}', block.strides


def v2(block, side, channels):
    assert (type(block), block.kernel_size, block.activation) == (layers.InvertedResidual, 3, 'relu6')
    return 'bottleneck', f't{block.expansion_ratio}', f'c{block.features}', block.strides


def v3(block, side, channels):
    form = {'relu': 'RE', 'hard_swish': 'HS'}[block.activation]
    if isinstance(block, layers.ConvNorm):
        assert block.kind == 'pointwise'
        return f'{side}x{channels} conv2d 1x1 out{block.features} {form} s{block.strides}'
    expanded = block.expansion(channels).channels if block.expansion(channels) else channels
    squeeze = 'SE' if block.squeeze_excite else '-'
    kernel = f'{block.kernel_size}x{block.kernel_size}'
    return f'{side}x{channels} bneck {kernel} exp{expanded} out{block.features} {squeeze} {form} s{block.strides}'


def v4(block, side, channels):
    if isinstance(block, layers.MultiQueryAttention):
        return f'mqa h{block.heads} d{block.key_features} kv{block.key_strides}'
    if isinstance(block, layers.ConvNorm):
        assert block.kind == ('pointwise' if block.kernel_size == 1 else 'standard')
        return f'conv{block.kernel_size} s{block.strides} c{block.features}'
    shape = f's{block.strides} e{block.expansion_ratio} c{block.features}'
    if isinstance(block, layers.FusedInvertedBottleneck):
        return f'fused k{block.kernel_size} {shape}'
    return f'a{block.start_kernel_size}k{block.kernel_size} {shape}'


@pytest.mark.parametrize('network', [models.MobileNetV5, models.MobileNetV5Encoder])
def test_stages_of_mobilenetv5(network):
    assert ['; '.join(counted(v4(*block) for block in stage)) for stage in built(network)] == lines(V5)
    bound = network().bind({})
    blocks = list(bound.block.values())
    assert [len(stage) for stage in built(network)] == [3, 5, 37, 39]
    fused = (layers.FusedInvertedBottleneck,)
    assert {block.layer_scale for block in blocks if not isinstance(block, fused)} == {1e-5}
    assert {block.activation for block in (bound.stem, *blocks) if hasattr(block, 'activation')} == {'gelu_tanh'}
    assert {block.norm for block in (bound.stem, bound.head_conv, *blocks)} == {'rms'}
    assert (bound.stem.features, bound.stem.use_bias, bound.stem.kernel_size) == (64, True, 3)


def mnasnet(block, side, channels):
    # A quarter of the block's input: of the expanded channels, four times the expansion.
    assert block.squeeze_reduction == 4 * block.expansion_ratio
    shape = f'k{block.kernel_size} e{block.expansion_ratio} c{block.features}'
    return shape, *(['se'] if block.squeeze_excite else []), block.residual, block.strides


def edgetpu(block, side, channels):
    if isinstance(block, layers.ConvNorm):
        return f'cn k{block.kernel_size} c{block.features}'
    shape = f'k{block.kernel_size} s{block.strides} e{block.expansion_ratio} c{block.features}'
    if isinstance(block, layers.FusedInvertedBottleneck):
        return f'er {shape}' + (f' gs{block.group_size}' if block.group_size else '')
    skips = block.residual or block.strides > 1 or channels != block.features
    return f'ir {shape}' + ('' if skips else ' noskip')


def lines(text):
    return text.strip().splitlines()


@pytest.mark.parametrize(('network', 'row', 'table'), [(models.MobileNetV1, v1, V1), (models.MobileNetV2, v2, V2)])
def test_rows_of_repeats(network, row, table):
    assert [repeated([row(*block) for block in stage]) for stage in built(network)] == lines(table)


@pytest.mark.parametrize(
    ('network', 'table'), [(models.MobileNetV3Large, V3_LARGE), (models.MobileNetV3Small, V3_SMALL)]
)
def test_tables_1_and_2_of_mobilenetv3(network, table):
    assert [v3(*block) for stage in built(network) for block in stage] == lines(table)


@pytest.mark.parametrize(
    ('network', 'table'),
    [
        (models.MobileNetV4ConvSmall, CONV_SMALL),
        (models.MobileNetV4ConvMedium, CONV_MEDIUM),
        (models.MobileNetV4ConvLarge, CONV_LARGE),
        (models.MobileNetV4HybridMedium, HYBRID_MEDIUM),
        (models.MobileNetV4HybridLarge, HYBRID_LARGE),
    ],
)
def test_stages_of_mobilenetv4(network, table):
    assert ['; '.join(counted(v4(*block) for block in stage)) for stage in built(network)] == lines(table)
    large, hybrid = 'Large' in network.__name__, 'Hybrid' in network.__name__
    blocks = network().bind({}).block.values()
    scales = {getattr(block, 'layer_scale', None) for block in blocks}
    assert scales == ({None, 1e-5} if hybrid else {None})
    activations = {block.activation for block in blocks if hasattr(block, 'activation')}
    assert activations == ({'gelu'} if hybrid and large else {'relu'})
    assert network().bind({}).stem.features == (24 if large else 32)


@pytest.mark.parametrize(
    ('network', 'table', 'stem'),
    [
        (models.MnasNet, MNASNET_B1, 32),
        (models.SemNASNet, MNASNET_A1, 32),
        (models.MnasNetSmall, MNASNET_SMALL, 8),
    ],
)
def test_rows_of_mnasnet(network, table, stem):
    rows, first_skips = [], []
    for stage in built(network):
        printed = [mnasnet(*block) for block in stage]
        shape, *squeeze, residual, strides = printed[0]
        assert all(row == (shape, *squeeze, residual, 1) for row in printed[1:])
        first_skips.append(residual)
        rows.append(' '.join([f'{len(stage)}x' * (len(stage) > 1), shape, f's{strides}', *squeeze]).strip())
    assert all(first_skips[1:])
    rows[0] += '' if first_skips[0] else '; noskip'
    assert rows == lines(table)
    assert network().bind({}).stem.features == stem


@pytest.mark.parametrize(
    ('network', 'table', 'ends'),
    [
        (models.MobileNetEdgeTPUV1, EDGETPU_V1, (32, 3, 1280)),
        (
            models.MobileNetEdgeTPUV2XS,
            EDGETPU_V2.format(16, 32, 48, 96, 144, 160, 192, gs=64),
            (32, 3, 1280),
        ),
        (models.MobileNetEdgeTPUV2S, EDGETPU_V2.format(24, 48, 64, 128, 160, 192, 256, gs=64), (64, 5, 1280)),
        (models.MobileNetEdgeTPUV2M, EDGETPU_V2.format(32, 64, 80, 160, 192, 240, 320, gs=64), (64, 5, 1344)),
        (models.MobileNetEdgeTPUV2L, EDGETPU_V2.format(32, 64, 96, 192, 240, 256, 384, gs=128), (64, 7, 1408)),
    ],
)
def test_stages_of_edgetpu(network, table, ends):
    assert ['; '.join(counted(edgetpu(*block) for block in stage)) for stage in built(network)] == lines(table)
    model = network().bind({})
    assert (model.stem.features, model.stem.kernel_size, model.head_conv.features) == ends
