import io
import os
import random
import shutil
import unicodedata
import warnings
from collections import Counter

import numpy as np
import pytest
from image_files import tiff
from PIL import Image

from flaxmobile.data import Augmentation, Preprocessing, load_dataset
from flaxmobile.data.folders import find_images
from flaxmobile.runs.splits import same_images

TINY = Preprocessing(2, 3, crop_fraction=1.0)


def fill(folder, count, colour='red', suffix='.png'):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new('RGB', (2, 2), colour).save(folder / f'{number:02}{suffix}')


def names(dataset):
    return [dataset._examples[index].name for index in range(len(dataset))]


@pytest.fixture
def flowers(tmp_path):
    """Thirty red tulips and ten blue irises."""
    fill(tmp_path / 'tulip', 30, 'red')
    fill(tmp_path / 'iris', 10, 'blue')
    return tmp_path


def test_classes_are_sorted_and_labels_fit_the_images(flowers):
    train = load_dataset(str(flowers), 'train')
    assert train.classes == ('iris', 'tulip')
    for batch in train.evaluation_batches(8, TINY):
        for image, label in zip(batch['image'][batch['mask']], batch['label'][batch['mask']], strict=True):
            assert tuple(image[0, 0]) == {'iris': (0, 0, 255), 'tulip': (255, 0, 0)}[train.classes[label]]
    assert next(train.train_batches(4, TINY, Augmentation(), seed=0))['image'].shape == (4, 2, 2, 3)


def test_a_fifth_of_each_class_is_for_testing(flowers):
    parts = {split: names(load_dataset(str(flowers), split)) for split in ('train', 'test')}
    assert not set(parts['train']) & set(parts['test'])
    assert len(set(parts['train']) | set(parts['test'])) == 40
    assert Counter(name.split('/')[0] for name in parts['test']) == {'tulip': 6, 'iris': 2}


def test_any_slice_has_the_proportions_of_the_whole(flowers):
    train = [name.split('/')[0] for name in names(load_dataset(str(flowers), 'train'))]
    for start in range(0, 32, 4):
        assert Counter(train[start : start + 4]) == {'tulip': 3, 'iris': 1}
    assert names(load_dataset(str(flowers), 'train[75%:]')) == names(load_dataset(str(flowers), 'train'))[24:]
    assert names(load_dataset(str(flowers), 'train[:2]+test[:1]'))[2] == names(load_dataset(str(flowers), 'test'))[0]


def test_the_order_follows_the_seed_and_outlives_new_images(flowers):
    first = names(load_dataset(str(flowers), 'train'))
    assert first == names(load_dataset(str(flowers), 'train'))
    other = names(load_dataset(str(flowers), 'train', seed=1))
    assert set(first) != set(other)
    assert [name for name in first if name.startswith('tulip')] != sorted(n for n in first if n.startswith('tulip'))
    fill(flowers / 'tulip', 31)
    assert len(set(first) - set(names(load_dataset(str(flowers), 'train')))) <= 1


def test_folders_of_splits(tmp_path):
    for split, count in (('train', 3), ('val', 2)):
        fill(tmp_path / split / 'b', count)
        fill(tmp_path / split / 'a', count)
    fill(tmp_path / 'train' / 'c', 1)
    with pytest.warns(UserWarning, match='val has no images'):
        assert len(load_dataset(str(tmp_path), 'train')) == 7
    with pytest.warns(UserWarning, match="val has no images of 1 of the 3 classes: 'c'$"):
        validation = load_dataset(str(tmp_path), 'val')
    assert validation.classes == ('a', 'b', 'c')
    assert sorted(names(validation)) == ['val/a/00.png', 'val/a/01.png', 'val/b/00.png', 'val/b/01.png']
    with pytest.raises(ValueError, match=r"unknown split 'test'.*train has 7, val has 4"):
        load_dataset(str(tmp_path), 'test')
    shutil.rmtree(tmp_path / 'train' / 'c')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        load_dataset(str(tmp_path), 'train')


def test_a_class_may_be_called_train(tmp_path):
    fill(tmp_path / 'train', 5)
    fill(tmp_path / 'bus', 5)
    assert load_dataset(str(tmp_path), 'train').classes == ('bus', 'train')


@pytest.mark.parametrize('suffix', ['.jpg', '.JPEG', '.webp'])
def test_kinds_of_files(tmp_path, suffix):
    fill(tmp_path / 'a', 2, suffix=suffix)
    fill(tmp_path / 'b', 2, suffix=suffix)
    [batch] = load_dataset(str(tmp_path), 'train').evaluation_batches(2, TINY)
    assert batch['mask'].all()


def test_hidden_files_and_notes_are_passed_over(flowers):
    (flowers / '.cache').mkdir()
    (flowers / 'iris' / '.hidden.png').write_bytes(b'no image')
    (flowers / 'iris' / 'notes.txt').write_text('nothing')
    (flowers / 'iris' / '._00.png').write_bytes(b'what macOS leaves beside a file')
    (flowers / 'read me.md').write_text('nothing')
    with pytest.warns(UserWarning, match=r'files that are no images: 2 \(read me\.md, iris/notes\.txt\)$'):
        assert len(load_dataset(str(flowers), 'train+test')) == 40


def test_a_broken_photo_is_named(flowers):
    victim = random.Random(0).choice(names(load_dataset(str(flowers), 'test')))
    (flowers / victim).write_bytes(b'broken')
    test = load_dataset(str(flowers), 'test')
    mask = np.concatenate([batch['mask'] for batch in test.evaluation_batches(4, TINY)])
    assert mask.sum() == 7
    assert test.unreadable == [victim]


def test_layouts_that_are_refused(tmp_path):
    def refused(folder, message):
        with pytest.raises(ValueError, match=message):
            load_dataset(str(tmp_path / folder), 'train')

    (tmp_path / 'nothing').mkdir()
    refused('nothing', r'holds no folders; root/class/image\.jpg or root/split/class/image\.jpg is expected')
    fill(tmp_path / 'single' / 'cat', 3)
    refused('single', "the one class 'cat'")
    fill(tmp_path / 'empty' / 'cat', 3)
    (tmp_path / 'empty' / 'dog').mkdir()
    refused('empty', r'class folder .*dog holds no images')
    fill(tmp_path / 'mixed' / 'train' / 'cat', 1)
    fill(tmp_path / 'mixed' / 'dog', 1)
    refused('mixed', r'dog holds no folders, and train beside it does')
    fill(tmp_path / 'beside' / 'cat' / 'sub', 1)
    fill(tmp_path / 'beside' / 'cat', 1)
    refused('beside', r'cat holds folders and images \(00\.png\) side by side')
    fill(tmp_path / 'deep' / 'train' / 'cat' / 'sub', 1)
    refused('deep', r'sub lies too deep')
    for name in ('train/cat', 'train/dog', 'val/Cat'):
        fill(tmp_path / 'extra' / name, 1)
    refused('extra', r"val has classes that train has not: 'Cat' \(there is 'cat'\)")
    fill(tmp_path / 'phone' / 'cat', 1)
    (tmp_path / 'phone' / 'cat' / 'IMG_1.HEIC').write_bytes(b'')
    refused('phone', r'images of kinds that are not read: 1 HEIC \(IMG_1\.HEIC\)')


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'there is no folder .*nowhere'):
        load_dataset(str(tmp_path / 'nowhere'), 'train')
    with pytest.raises(ValueError, match='max_unreadable is 2'):
        load_dataset(str(tmp_path), 'train', max_unreadable=2)


def test_relative_folders(flowers, monkeypatch):
    (flowers.parent / 'my photos').symlink_to(flowers)
    monkeypatch.chdir(flowers.parent)
    for name in (f'./{flowers.name}', flowers.name, 'my photos', f'../{flowers.parent.name}/{flowers.name}'):
        # Where TFDS has its sets there may be a folder of the name, too.
        assert len(load_dataset(name, 'train', data_dir=flowers.parent)) == 32


def test_other_images_have_another_fingerprint(flowers, tmp_path_factory):
    def fingerprint(root=flowers):
        return load_dataset(str(root), 'train').fingerprint

    first = fingerprint()
    assert first.startswith('32 images (names ')
    copied = shutil.copytree(flowers, tmp_path_factory.mktemp('elsewhere') / 'flowers')
    assert fingerprint(copied) == first
    (copied / 'iris/00.png').rename(copied / 'iris/99.png')
    assert fingerprint(copied) != first
    (copied / 'iris/99.png').rename(copied / 'iris/00.png')
    assert fingerprint(copied) == first


def test_an_image_that_is_gone_is_no_damaged_image(flowers):
    """A damaged one is left out; one that was there and is gone says that the disk is, and nothing stands in for it."""
    train = load_dataset(str(flowers), 'train', max_unreadable=1.0)
    (flowers / names(train)[3]).write_bytes(b'no image')
    batches = train.train_batches(32, TINY, Augmentation(), seed=0)
    assert next(batches)['mask'].all()
    assert train.unreadable == [names(train)[3]]
    again = load_dataset(str(flowers), 'train', max_unreadable=1.0)
    (flowers / names(again)[5]).unlink()
    with pytest.raises(FileNotFoundError, match='was there at the beginning and is gone'):
        next(again.train_batches(32, TINY, Augmentation(), seed=0))


def encoded(kind):
    content = io.BytesIO()
    Image.new('RGB', (8, 8), 'red').save(content, kind)
    return content.getvalue()


FILES = {  # What Pillow's own lists of suffixes and signatures say of each.
    '0.jpg': 'JPEG',
    '1.jfif': 'JPEG',
    '2.jpe': 'JPEG',
    '3.ppm': 'PPM',
    '4.GIF': 'GIF',
    '5.bmp': 'BMP',
    '6.tif': 'TIFF',
    '7.mpo': 'MPO',
    '8': 'JPEG',
    '9': 'PNG',
    '10.image': 'WEBP',
    '11.1024x768': 'TIFF',
    '12.jp2': 'JPEG2000',
    '13.tga': 'TGA',
}
NO_IMAGES = {
    'README': b'BM is how a bitmap begins, and P6 a pixmap',
    'Pyramids': b'P6 is no header',
    'Thumbs.db': bytes.fromhex('d0cf11e0a1b11ae1') + bytes(600),
    'desktop.ini': '\ufeff[.ShellClassInfo]'.encode('utf-16'),
    'labels.csv': b'file,label',
    'clip.mp4': b'\0\0\0\x18ftypmp42' + bytes(99),
    'nothing': b'',
    'header.h': b'#define X 1',
}


def test_what_pillow_reads_is_read(tmp_path):
    for folder in ('a', 'b'):
        (tmp_path / folder).mkdir()
        for name, kind in FILES.items():
            (tmp_path / folder / name).write_bytes(encoded(kind))
    for name, content in NO_IMAGES.items():
        (tmp_path / 'b' / name).write_bytes(content)
    (tmp_path / 'b' / 'gone.png').symlink_to('nowhere.png')
    (tmp_path / 'stray.jpg').write_bytes(encoded('JPEG'))
    with pytest.warns(UserWarning, match='passed over') as told:
        dataset = load_dataset(str(tmp_path), 'train+test')
    assert sorted(names(dataset)) == sorted(f'{folder}/{name}' for folder in 'ab' for name in FILES)
    for batch in dataset.evaluation_batches(7, TINY):
        assert batch['mask'].all()
    [message] = {str(one.message) for one in told}
    assert f'files that are no images: {len(NO_IMAGES)} (b/Pyramids, b/README' in message
    assert 'images in no class folder: 1 (stray.jpg)' in message
    assert 'lead to no file: 1 (b/gone.png)' in message
    found = find_images(tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in found.images} == {*names(dataset), 'stray.jpg'}
    assert sum(map(len, found.others.values())) == len(NO_IMAGES) + 1


@pytest.mark.parametrize(
    ('name', 'content', 'kind'),
    [
        ('IMG_1.HEIC', b'', 'HEIC'),
        ('IMG_1', b'\0\0\0\x18ftypheic' + bytes(99), 'HEIC'),
        ('IMG_1', b'\0\0\0\x0cJXL \r\n\x87\n' + bytes(99), 'JPEG XL'),
        ('IMG_1.DNG', encoded('TIFF'), 'camera raw'),
        ('IMG_1', tiff(np.zeros((8, 8, 1), int), 8, 1, before=b'CR\x02\0\0\0\0\0'), 'camera raw'),
        ('drawing.svg', b'<svg>', 'SVG'),
        ('drawing', encoded('EPS'), 'EPS'),  # Pillow would start Ghostscript.
    ],
)
def test_images_that_are_not_read_are_named(flowers, name, content, kind):
    (flowers / 'iris' / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf'iris holds images of kinds that are not read: 1 {kind} \({name}\)'):
        load_dataset(str(flowers), 'train')
    assert find_images(flowers).unread == {flowers / 'iris' / name: kind}


def test_a_photo_that_was_converted_and_kept_its_suffix_is_read(flowers):
    (flowers / 'iris' / 'IMG_1.HEIC').write_bytes(encoded('JPEG'))
    assert 'iris/IMG_1.HEIC' in names(load_dataset(str(flowers), 'train+test'))
    assert flowers / 'iris' / 'IMG_1.HEIC' in find_images(flowers).images


def test_a_class_of_other_files_says_what_it_holds(flowers):
    (flowers / 'rose').mkdir()
    for number in range(9):
        (flowers / 'rose' / f'{number}.txt').write_text('no image')
    with pytest.raises(ValueError, match=r'rose holds no images, only 9 other files \(0\.txt, .* and 4 more\)'):
        load_dataset(str(flowers), 'train')


def test_an_accent_has_one_form(tmp_path):
    composed, apart = (unicodedata.normalize(form, 'café') for form in ('NFC', 'NFD'))
    fill(tmp_path / 'train' / composed, 2, 'red')
    fill(tmp_path / 'test' / apart, 2, 'red')
    for split in ('train', 'test'):
        fill(tmp_path / split / 'cafz', 2, 'blue')
    for split in ('train', 'test'):
        dataset = load_dataset(str(tmp_path), split)
        assert dataset.classes == ('cafz', composed)  # Apart it would come first.
        for batch in dataset.evaluation_batches(4, TINY):
            assert [dataset.classes[label] for label in batch['label']] == [
                composed if red else 'cafz' for red in batch['image'][:, 0, 0, 0]
            ]
    fill(tmp_path / 'train' / apart, 1)
    with pytest.raises(ValueError, match=r"two folders of one name, .*: 'cafe\\u0301' and 'caf\\xe9'"):
        load_dataset(str(tmp_path), 'train')


def test_a_name_that_is_not_utf_8(tmp_path):
    for name in ('a', 'b'):
        fill(tmp_path / name, 5)
    latin = os.fsdecode('é.png'.encode('latin-1'))
    try:
        (tmp_path / 'a' / '00.png').rename(tmp_path / 'a' / latin)
    except OSError:
        pytest.skip('this file system has no such names')
    dataset = load_dataset(str(tmp_path), 'train+test')
    assert len(dataset) == 10
    assert r'a/\udce9.png' in names(dataset)
    assert all(batch['mask'].all() for batch in dataset.evaluation_batches(5, TINY))
    (tmp_path / 'b').rename(tmp_path / latin)
    with pytest.raises(ValueError, match=r'udce9\.png is not UTF-8, so it cannot be that of a class: rename it'):
        load_dataset(str(tmp_path), 'train')


@pytest.mark.parametrize(('one', 'other'), [('cat', 'Cat'), ('cat', 'cat '), ('straße', 'STRASSE')])
def test_classes_that_are_all_but_alike(tmp_path, one, other):
    for name in (one, other):
        fill(tmp_path / name, 4)
    with pytest.warns(UserWarning, match='classes that differ in nothing but case or spaces') as told:
        assert len(load_dataset(str(tmp_path), 'train').classes) == 2
    assert all(repr(name) in str(told[0].message) for name in (one, other))


def test_folders_that_were_read_before_are_divided_as_before(tmp_path):
    """The digest was taken before files of all kinds were read: a run goes on, and its test images stay those."""
    for name in ('a', 'é'):
        fill(tmp_path / name, 5)
    fingerprint = load_dataset(str(tmp_path), 'train').fingerprint
    assert fingerprint.startswith('8 images (names 32e9906bd8068997, contents ')
    assert same_images('8 images (names 32e9906bd8068997)', fingerprint)
    assert not same_images('8 images (names 32e9906bd8068998)', fingerprint)
    assert not same_images(f'{fingerprint[:-3]}00)', fingerprint)
    assert names(load_dataset(str(tmp_path), 'test')) == ['é/02.png', 'a/02.png']


def test_a_drawn_part_says_what_it_is_drawn_from(flowers, tmp_path_factory):
    assert load_dataset(str(flowers), 'test').drawn_from == 40
    own = tmp_path_factory.mktemp('own')
    for split in ('train', 'test'):
        shutil.copytree(flowers, own / split)
    assert load_dataset(str(own), 'test').drawn_from == 0


def test_a_link_that_leads_back_ends(flowers):
    (flowers / 'iris' / 'again').symlink_to(flowers)
    (flowers.parent / 'elsewhere').mkdir(exist_ok=True)
    fill(flowers.parent / 'elsewhere', 1)
    (flowers / 'linked').symlink_to(flowers.parent / 'elsewhere')
    assert len(find_images(flowers).images) == 41


def test_a_folder_is_known_by_its_names_and_some_contents(flowers, tmp_path_factory):
    other = tmp_path_factory.mktemp('other')
    fill(other / 'tulip', 30, 'red')
    fill(other / 'iris', 10, 'blue')
    fingerprint = load_dataset(str(flowers), 'train').fingerprint
    assert load_dataset(f'{other}/', 'train').fingerprint == fingerprint
    fill(other / 'tulip', 30, 'pink')
    changed = load_dataset(str(other), 'train').fingerprint
    assert changed.split(', contents')[0] == fingerprint.split(', contents')[0]
    assert changed != fingerprint


def test_folders_classes_and_files_of_any_name(tmp_path):
    root = tmp_path / 'a [1]*\\ $0_to_$5'
    for label in ('[ab]*', '$0_to_$5', 'c\\d', ' ', '<b>'):
        fill(root / label, 5, suffix=' [1]*?\\.png')
    train = load_dataset(str(root), 'train')
    assert train.classes == (' ', '$0_to_$5', '<b>', '[ab]*', 'c\\d')
    assert sum(batch['mask'].sum() for batch in train.evaluation_batches(8, TINY)) == len(train) == 20
    assert train.unreadable == []
