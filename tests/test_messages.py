"""Text from files in messages: harmless for a terminal, bounded, still readable."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaxmobile.messages import listing, printable, unknown


@pytest.mark.parametrize(
    ('text', 'shown'),
    [
        ('stem.conv/kernel', 'stem.conv/kernel'),
        ('café 図', 'café 図'),
        ('a\nb\r\tc', r'a\nb\r\tc'),
        ('\x1b]0;title\x07\x9b31m', r'\x1b]0;title\x07\x9b31m'),
        ('evil\u202egnp.exe', r'evil\u202egnp.exe'),
        ('lone\udcff', r'lone\udcff'),
        ('line\u2028end', r'line\u2028end'),
    ],
)
def test_what_cannot_be_printed_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(alphabet=st.characters(), max_size=500))
def test_no_control_or_format_character_is_left(text: str) -> None:
    shown = printable(text)
    assert len(shown) <= 200
    assert not {unicodedata.category(character) for character in shown} & {'Cc', 'Cf', 'Cs', 'Zl', 'Zp'}
    assert shown.encode() == shown.encode(errors='replace')


def test_long_texts_keep_both_ends_and_long_lists_their_number() -> None:
    assert printable('a' * 300 + 'z').startswith('aaa')
    assert printable('a' * 300 + 'z').endswith('az')
    assert len(printable('a' * 300, longest=None)) == 300
    assert listing(['a\n', 'b']) == r'a\n, b'
    assert listing(range(12_345), 2) == '0, 1 and 12,343 more'


def test_an_unknown_name_is_shown_harmless() -> None:
    assert '\x1b' not in unknown('network', '\x1b[2J', ['mobilenetv1_100'])
    assert "'mobilenetv1_10'. Did you mean: mobilenetv1_100" in unknown(
        'network', 'mobilenetv1_10', ['mobilenetv1_100']
    )
