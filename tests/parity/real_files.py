"""Real photos that installed packages carry."""

from importlib.util import find_spec
from pathlib import Path

PHOTOS = {
    'cat': ('skimage', 'data/chelsea.png'),
    'coffee': ('skimage', 'data/coffee.png'),
    'rocket': ('skimage', 'data/rocket.jpg'),
    'temple': ('sklearn', 'datasets/images/china.jpg'),
    'flower': ('sklearn', 'datasets/images/flower.jpg'),
}


def photo(name: str) -> Path:
    """A photo that scikit-image or scikit-learn comes with."""
    package, member = PHOTOS[name]
    return Path(find_spec(package).origin).parent / member
