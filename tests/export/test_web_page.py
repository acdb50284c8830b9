"""The page in Chromium: what it answers beside JAX, its resampling beside Pillow's, and how it is used."""

import base64
import dataclasses
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from chromium import answers, chromium, complaints, drop, open_page, requested, served, wait
from pictures import LABELS, PICTURES, assert_same_answers, classifier, five_best, picture
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from flaxmobile.data import Preprocessing, prepare_for_evaluation
from flaxmobile.export import Int8, to_web
from flaxmobile.weights import Model

pytestmark = pytest.mark.web


@pytest.fixture(scope='module')
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('web') / 'page'
    to_web(classifier(), folder)
    return folder


@pytest.fixture(scope='module')
def address(page: Path) -> Iterator[str]:
    with served(page) as found:
        yield found


@pytest.fixture(scope='module')
def shared() -> Iterator[webdriver.Chrome]:
    with chromium() as found:
        yield found


@pytest.fixture
def browser(shared: webdriver.Chrome, address: str) -> Iterator[webdriver.Chrome]:
    """The page, just loaded; what it leaves in the console is no error, and it asks for nothing from elsewhere."""
    shared.set_window_size(1180, 900)
    open_page(shared, address)
    yield shared
    assert complaints(shared) == []
    elsewhere = [url for url in requested(shared) if not url.startswith((address, 'blob:', 'data:'))]
    assert elsewhere == []


def test_the_pictures_are_told_apart() -> None:
    assert len({five_best(name)[0][0] for name in PICTURES}) >= 6


def test_dropped_pictures_get_the_answers_of_jax(browser: webdriver.Chrome, address: str) -> None:
    asked = requested(browser)
    assert f'{address}litert/wasm/litert_wasm_internal.wasm' in asked
    assert f'{address}model.tflite' in asked
    assert not [url for url in asked if not url.startswith(address)]
    for name in PICTURES:
        drop(browser, name, picture(name))
        assert_same_answers(answers(browser, name), name, within=1e-3)
        shown = browser.execute_script("return document.querySelector('#answers data').textContent")
        assert shown == f'{100 * five_best(name)[0][2]:.1f}%'
    facts = browser.execute_script("return document.getElementById('facts').innerText").split('\n')
    assert facts[0] == 'Network'
    assert float(facts[1].removesuffix(' ms')) > 0
    assert facts[-1] == 'CPU (WebAssembly)'


RESAMPLED = """
const [pixels, width, height, preprocessing, done] = arguments;
const bytes = Uint8Array.from(atob(pixels), (letter) => letter.charCodeAt(0));
const strip = (top, rows) => bytes.subarray(4 * width * top, 4 * width * (top + rows));
const text = (array) => btoa(Array.from(new Uint8Array(array.buffer), (byte) => String.fromCharCode(byte)).join(''));
import('./resampling.js').then(({prepare, normalize}) => {
  const found = prepare({width, height, strip}, preprocessing);
  done([text(found), text(normalize(found, preprocessing))]);
}).catch((error) => done(String(error)));
"""
RESIZED = [
    ((131, 97), 32, 0.875),
    ((60, 203), 33, 1.0),
    ((32, 32), 32, 1.0),
    ((7, 5), 24, 0.71),
    ((300, 290), 33, 0.95),
    ((1, 40), 24, 0.875),
    ((2, 1500), 8, 0.9),
    ((2048, 600), 32, 0.875),
    ((1100, 1000), 32, 0.875),
    ((90, 20), 24, 0.8),
    ((60, 40), 60, 0.9),
]
"""Height and width of images, the size that they get, the crop fraction: smaller, larger, in several strips."""


@pytest.mark.parametrize(('interpolation', 'channels'), [('bilinear', 3), ('bicubic', 3), ('bicubic', 1)])
def test_resampling_is_pillows_to_the_last_bit(browser: webdriver.Chrome, interpolation: str, channels: int) -> None:
    random = np.random.default_rng(0)
    for (height, width), size, fraction in RESIZED:
        means, deviations = (0.3, 0.4, 0.5)[:channels], (0.2, 0.1, 0.3)[:channels]
        own = Preprocessing(size, channels, means, deviations, fraction, interpolation)
        rgba = random.integers(0, 256, (height, width, 4), np.uint8)
        rgb = rgba[..., :3]
        grey = np.asarray(Image.fromarray(rgb).convert('L'))[..., None]
        pixels = prepare_for_evaluation(rgb if channels == 3 else grey, own)
        words = (base64.b64encode(rgba.tobytes()).decode(), width, height, dataclasses.asdict(own))
        found = browser.execute_async_script(RESAMPLED, *words)
        assert isinstance(found, list), found
        got, values = (
            np.frombuffer(base64.b64decode(text), kind) for text, kind in zip(found, ('u1', 'f4'), strict=True)
        )
        case = f'{height}x{width} to {size} by {fraction}'
        np.testing.assert_array_equal(got.reshape(pixels.shape), pixels, err_msg=case)
        normalized = np.asarray(own.normalize(pixels)).ravel()
        np.testing.assert_allclose(values, normalized, rtol=1e-6, atol=1e-6, err_msg=case)


def test_a_file_is_chosen_by_the_keyboard_alone(browser: webdriver.Chrome, tmp_path: Path) -> None:
    path = tmp_path / 'photo.jpg'
    path.write_bytes(picture('photo.jpg'))
    ActionChains(browser).send_keys(Keys.TAB).perform()
    chosen = browser.switch_to.active_element
    assert (chosen.get_attribute('id'), chosen.get_attribute('type')) == ('file', 'file')
    outline = "return getComputedStyle(document.getElementById('drop')).outlineStyle"
    assert browser.execute_script(outline) == 'solid'
    chosen.send_keys(str(path))
    assert_same_answers(answers(browser, 'photo.jpg'), 'photo.jpg', within=1e-3)
    assert browser.execute_script('return document.activeElement.id') == 'file'
    ActionChains(browser).send_keys(Keys.TAB).perform()
    assert browser.switch_to.active_element.get_attribute('id') == 'camera'
    assert browser.execute_script('return getComputedStyle(document.activeElement).outlineStyle') == 'solid'


def test_the_camera_is_started_and_stopped_by_the_keyboard(browser: webdriver.Chrome) -> None:
    button = browser.find_element('id', 'camera')
    button.send_keys(Keys.ENTER)
    wait(browser, "return document.querySelectorAll('#answers li').length === 5")
    assert (button.text, button.get_attribute('aria-pressed')) == ('Stop the camera', 'true')
    frames = "return document.getElementById('whole-time').textContent"
    before = browser.execute_script(frames)
    wait(browser, f"return document.getElementById('whole-time').textContent !== '{before}'")
    button.send_keys(Keys.SPACE)
    assert (button.text, button.get_attribute('aria-pressed')) == ('Use the camera', 'false')
    assert browser.execute_script("return document.getElementById('video').srcObject") is None
    # A file comes after it, and is not written over by a frame.
    drop(browser, 'photo.jpg', picture('photo.jpg'))
    assert_same_answers(answers(browser, 'photo.jpg'), 'photo.jpg', within=1e-3)


def test_a_screen_reader_has_names_and_is_told_the_answer(browser: webdriver.Chrome) -> None:
    drop(browser, 'photo.jpg', picture('photo.jpg'))
    answers(browser, 'photo.jpg')
    (first, *_), name = five_best('photo.jpg'), LABELS
    told = browser.find_element('id', 'announcement')
    assert told.get_attribute('aria-live') == 'polite'
    assert told.get_attribute('textContent') == f'Most likely: {name[first[0]]}, {100 * first[2]:.1f}%'
    for identity, role, spoken in [
        ('file', 'button', 'Choose a photo'),
        ('camera', 'button', 'Use the camera'),
        ('preview', 'image', 'Picture: photo.jpg'),
        ('answers', 'list', ''),
    ]:
        element = browser.find_element('id', identity)
        assert (element.aria_role, element.accessible_name) == (role, spoken)
    assert browser.find_element('tag name', 'html').get_attribute('lang') == 'en'


def test_what_is_no_picture_is_said(browser: webdriver.Chrome) -> None:
    drop(browser, 'notes.txt', b'no picture', 'text/plain')
    said = wait(browser, "return document.querySelector('#status.error')?.textContent")
    assert said == 'notes.txt cannot be read as a picture by this browser: try a JPEG or PNG file.'
    drop(browser, 'photo.jpg', picture('photo.jpg'))
    assert_same_answers(answers(browser, 'photo.jpg'), 'photo.jpg', within=1e-3)


CONTRAST = """
const light = (text) => text.match(/[0-9.]+/g).slice(0, 3).map((part) => {
  const value = part / 255;
  return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
}).reduce((sum, value, place) => sum + value * [0.2126, 0.7152, 0.0722][place], 0);
const behind = (element) => {
  const colour = getComputedStyle(element).backgroundColor;
  return colour === 'rgba(0, 0, 0, 0)' ? behind(element.parentElement) : colour;
};
return Array.from(document.querySelectorAll('h1, h2, p, strong, dt, dd, .answer *, .button, figcaption, .drop *'))
  .filter((element) => element.innerText && element.offsetParent)
  .map((element) => {
    const pair = [light(getComputedStyle(element).color), light(behind(element))].sort((a, b) => a - b);
    return [element.innerText, (pair[1] + 0.05) / (pair[0] + 0.05)];
  });
"""


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_text_stands_out_in_light_and_dark(browser: webdriver.Chrome, scheme: str) -> None:
    emulate(browser, scheme)
    page = browser.execute_script('return getComputedStyle(document.body).backgroundColor')
    assert page == {'light': 'rgb(246, 245, 241)', 'dark': 'rgb(18, 22, 21)'}[scheme]
    found = browser.execute_script(CONTRAST)
    drop(browser, 'photo.jpg', picture('photo.jpg'))
    answers(browser, 'photo.jpg')
    found += browser.execute_script(CONTRAST)
    assert len(found) > 20
    assert {text: ratio for text, ratio in found if ratio < 4.5} == {}


def emulate(browser: webdriver.Chrome, scheme: str) -> None:
    features = [{'name': 'prefers-color-scheme', 'value': scheme}]
    browser.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': features})


def test_a_narrow_screen_is_not_scrolled_sideways(browser: webdriver.Chrome) -> None:
    metrics = {'width': 320, 'height': 640, 'deviceScaleFactor': 2, 'mobile': True}
    browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', metrics)
    try:
        for name in ['wide.jpg', 'palette.png', f'{"long" * 40}.png']:
            drop(browser, name, picture(name if name in PICTURES else 'drawing.png'))
            answers(browser, name)
            assert browser.execute_script('return [innerWidth, document.documentElement.scrollWidth]') == [320, 320]
    finally:
        browser.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})


def test_on_webgpu_it_answers_the_same(address: str) -> None:
    """The CPU plays the graphics card."""
    with chromium('--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader') as other:
        open_page(other, address)
        assert other.find_element('id', 'runtime').get_attribute('textContent') == 'GPU (WebGPU)'
        for name in ['photo.jpg', 'noise.png']:
            drop(other, name, picture(name))
            assert_same_answers(answers(other, name), name, within=1e-3)
        assert complaints(other) == []


CARD = """
import {loadAndCompile as load} from './own.js';
export * from './own.js';

export async function loadAndCompile(file, options) {
  const model = await load(file, {accelerator: 'wasm'});
  if (options.accelerator === 'wasm') return model;
  const change = new URLSearchParams(location.search).get('change');
  const run = async (input) => {
    const [output] = await model.run(input);
    const logits = Array.from(await output.data());
    logits[logits.indexOf(Math.min(...logits))] -= Number(change);
    return [{data: async () => logits, delete: () => output.delete()}];
  };
  return {run, delete: () => model.delete()};
}
"""
"""A graphics card that takes something from the least logit."""
HAS_A_CARD = "Object.defineProperty(Navigator.prototype, 'gpu', {value: {requestAdapter: async () => ({})}});"


def test_a_graphics_card_is_not_taken_that_answers_an_improbable_class_wrong(page: Path, tmp_path: Path) -> None:
    """Its probability is near 0, right or wrong."""
    there = shutil.copytree(page, tmp_path / 'page')
    (there / 'litert' / 'index.js').rename(there / 'litert' / 'own.js')
    (there / 'litert' / 'index.js').write_text(CARD)
    with chromium() as other, served(there) as address:
        other.execute_cdp_cmd('Page.addScriptToEvaluateOnNewDocument', {'source': HAS_A_CARD})
        for change, runtime in [('0', 'GPU (WebGPU)'), ('9', 'CPU (WebAssembly)')]:
            open_page(other, f'{address}?change={change}')
            assert other.find_element('id', 'runtime').get_attribute('textContent') == runtime
        assert complaints(other) == []


def even() -> Model:
    """The same answers in the same order with probabilities so near each other that no rounding moves one far."""
    model = classifier()
    params = dict(model.variables['params'])
    params['classifier'] = {name: 0.1 * leaf for name, leaf in params['classifier'].items()}
    return dataclasses.replace(model, variables={**model.variables, 'params': params})


@pytest.fixture(scope='module')
def narrow(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages with weights of fewer bits; int8 by the pictures and their mirror images."""
    folder, model = tmp_path_factory.mktemp('narrow'), even()
    pixels = np.stack([prepare_for_evaluation(picture(name), model.preprocessing) for name in PICTURES])
    to_web(model, folder / 'float16', float16=True)
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='.*its first answer is')
        to_web(model, folder / 'int8', int8=Int8(np.concatenate([pixels, pixels[:, :, ::-1]])))
    return {name: folder / name for name in ('float16', 'int8')}


def assert_answers_of_litert(browser: webdriver.Chrome, page: Path) -> None:
    """On the CPU, the class and the probability that the page's file answers first in LiteRT in Python."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(page / 'model.tflite')).get_signature_runner('serving_default')
    own, seen = classifier().preprocessing, set()
    with served(page) as there:
        open_page(browser, there)
        for name in PICTURES:
            image = prepare_for_evaluation(picture(name), own)[None]
            logits = runner(image=np.asarray(own.normalize(image)))['logits'][0]
            drop(browser, name, picture(name))
            index, _, probability = answers(browser, name)[0]
            assert index == logits.argmax(), name
            assert probability == pytest.approx(np.exp(logits[index]) / np.exp(logits).sum(), abs=1e-3), name
            seen.add(index)
    assert len(seen) >= 4
    assert browser.find_element('id', 'runtime').get_attribute('textContent') == 'CPU (WebAssembly)'
    assert complaints(browser) == []
    requested(browser)


@pytest.mark.parametrize('kind', ['float16', 'int8'])
def test_in_fewer_bits_it_answers_as_litert_in_python(
    shared: webdriver.Chrome, narrow: dict[str, Path], kind: str
) -> None:
    assert_answers_of_litert(shared, narrow[kind])


def test_in_int8_it_leaves_webgpu_alone(narrow: dict[str, Path]) -> None:
    """Which would compute it in float, and agree to less than the page's bound."""
    with chromium('--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader') as other:
        assert_answers_of_litert(other, narrow['int8'])


WITHOUT_RELAXED_SIMD = """
const instantiate = WebAssembly.instantiate;
WebAssembly.instantiate = (module, ...others) =>
  module.length < 99 ? Promise.reject(new Error('relaxed SIMD is not known')) : instantiate(module, ...others);
"""


def test_in_a_browser_without_relaxed_simd_it_answers_the_same(address: str) -> None:
    """As in Safari: the small program by which LiteRT.js asks for it is refused."""
    with chromium() as other:
        other.execute_cdp_cmd('Page.addScriptToEvaluateOnNewDocument', {'source': WITHOUT_RELAXED_SIMD})
        open_page(other, address)
        asked = requested(other)
        assert f'{address}litert/wasm/litert_wasm_compat_internal.wasm' in asked
        assert f'{address}litert/wasm/litert_wasm_internal.wasm' not in asked
        for name in ['photo.jpg', 'noise.png']:
            drop(other, name, picture(name))
            assert_same_answers(answers(other, name), name, within=1e-3)
        assert complaints(other) == []


ASK_ELSEWHERE = """
const [address, done] = arguments;
document.addEventListener('securitypolicyviolation', (event) => done([event.effectiveDirective, event.blockedURI]));
fetch(address).then(() => done('answered'), () => {});
"""


def test_the_browser_is_forbidden_to_ask_another_server(shared: webdriver.Chrome, address: str, tmp_path: Path) -> None:
    open_page(shared, address)
    with served(tmp_path) as elsewhere:
        assert shared.execute_async_script(ASK_ELSEWHERE, elsewhere) == ['connect-src', elsewhere]
    complaints(shared)
    requested(shared)


def test_a_broken_page_says_what_is_missing(shared: webdriver.Chrome, page: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(page, tmp_path / 'page')
    (broken / 'model.json').unlink()
    with served(broken) as there:
        shared.get(there)
        said = wait(shared, "return document.querySelector('#status.error')?.textContent")
    assert said == 'The network was not loaded: model.json is missing (status 404)'
    assert complaints(shared)
    requested(shared)


def test_without_a_server_the_page_says_what_it_needs(shared: webdriver.Chrome, page: Path) -> None:
    shared.get((page / 'index.html').as_uri())
    assert 'python3 -m http.server' in shared.find_element('id', 'status').text
    complaints(shared)
    requested(shared)
