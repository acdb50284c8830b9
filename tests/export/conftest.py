"""Only `pytest -m web` imports selenium."""

from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the page's tests out, unless they are asked for."""
    selected = config.option.markexpr
    asked = 'web' in selected and 'not web' not in selected
    return None if asked or collection_path.name != 'test_web_page.py' else True
