"""A page served from a folder on this machine, in a headless Chromium that selenium drives."""

import base64
import contextlib
import functools
import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

WAIT = 30
"""Seconds that the page gets for anything."""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """What `python -m http.server` answers with, without its lines on the terminal."""

    def log_message(self, *_: Any) -> None:
        return


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder; its address."""
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f'http://127.0.0.1:{server.server_port}/'
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def chromium(*words: str) -> Iterator[webdriver.Chrome]:
    """A browser of its own profile, with a camera that shows a moving test picture.

    Raises:
        FileNotFoundError: Chromium or its driver is not installed.
    """
    program, driver = shutil.which('chromium'), shutil.which('chromedriver')
    if not (program and driver):
        raise FileNotFoundError('the tests of the page need Chromium: apt install chromium chromium-driver')
    options = webdriver.ChromeOptions()
    options.binary_location = program
    camera = ('--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream')
    for word in ('--headless=new', '--no-sandbox', '--disable-dev-shm-usage', '--no-first-run', *camera, *words):
        options.add_argument(word)
    options.set_capability('goog:loggingPrefs', {'performance': 'ALL', 'browser': 'ALL'})
    browser = webdriver.Chrome(options, Service(driver))
    try:
        browser.set_script_timeout(WAIT)
        yield browser
    finally:
        browser.quit()


def requested(browser: webdriver.Chrome) -> list[str]:
    """The addresses that were asked for since the last time."""
    events = [json.loads(entry['message'])['message'] for entry in browser.get_log('performance')]
    return [event['params']['request']['url'] for event in events if event['method'] == 'Network.requestWillBeSent']


def complaints(browser: webdriver.Chrome) -> list[str]:
    """The errors in the console since the last time."""
    return [entry['message'] for entry in browser.get_log('browser') if entry['level'] == 'SEVERE']


def open_page(browser: webdriver.Chrome, address: str) -> None:
    """Load the page, and wait until its network is there."""
    browser.get(address)
    wait(browser, "return document.body.dataset.ready === 'true'")


def wait(browser: webdriver.Chrome, script: str) -> Any:
    """Wait until a script returns something that is true; that."""
    try:
        return WebDriverWait(browser, WAIT, 0.05).until(lambda _: browser.execute_script(script))
    except TimeoutException:
        said = browser.execute_script("return document.getElementById('status').textContent")
        raise AssertionError(f'{script} did not come true; the page says {said!r}') from None


DROP = """
const bytes = Uint8Array.from(atob(arguments[1]), (letter) => letter.charCodeAt(0));
const transfer = new DataTransfer();
transfer.items.add(new File([bytes], arguments[0], {type: arguments[2]}));
for (const kind of ['dragenter', 'dragover', 'drop']) {
  document.getElementById('stage').dispatchEvent(
    new DragEvent(kind, {dataTransfer: transfer, bubbles: true, cancelable: true}));
}
"""


def drop(browser: webdriver.Chrome, name: str, content: bytes, kind: str = 'image/png') -> None:
    """Drop a file onto the page."""
    browser.execute_script(DROP, name, base64.b64encode(content).decode(), kind)


def answers(browser: webdriver.Chrome, name: str) -> list[tuple[int, str, float]]:
    """Index, name and probability of the classes that the page shows, once it shows the picture of that name."""
    wait(browser, f"return document.getElementById('caption').textContent.startsWith({json.dumps(name)})")
    wait(browser, "return document.getElementById('status').textContent === ''")
    rows = browser.execute_script(
        "return Array.from(document.querySelectorAll('#answers li'), (row) => "
        "[Number(row.dataset.index), row.querySelector('span').textContent, Number(row.querySelector('data').value)])"
    )
    return [(index, label, probability) for index, label, probability in rows]
