import ast
import importlib.metadata
import importlib.util
import json
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import flaxmobile

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / 'flaxmobile'

# What each part may import, as docs/architecture.md draws it.
MAY_IMPORT = {
    'messages': set(),
    'lazy': set(),
    'rules': {'messages'},
    'files': {'messages'},
    'compilation': set(),
    'memory': set(),
    'drawing': {'messages'},
    'markdown': {'messages'},
    'ops': {'messages'},
    'layers': {'messages', 'rules', 'ops'},
    'models': {'messages', 'rules', 'ops', 'layers'},
    'quantization': {'rules', 'layers'},
    'analysis': {'messages', 'ops', 'layers', 'models'},
    'data': {'messages', 'rules', 'lazy'},
    'parallel': {'messages', 'lazy'},
    'tasks': {'messages', 'lazy', 'rules', 'drawing', 'markdown', 'layers', 'models', 'data', 'parallel'},
    'weights': {'messages', 'rules', 'files', 'ops', 'layers', 'models', 'quantization', 'data', 'tasks'},
    'training': {
        'messages',
        'lazy',
        'rules',
        'files',
        'layers',
        'models',
        'quantization',
        'data',
        'parallel',
        'tasks',
    },
    'runs': {
        'messages',
        'lazy',
        'rules',
        'files',
        'drawing',
        'markdown',
        'layers',
        'models',
        'quantization',
        'analysis',
        'data',
        'parallel',
        'tasks',
        'weights',
        'training',
    },
    'inspection': {
        'messages',
        'lazy',
        'files',
        'drawing',
        'models',
        'data',
        'parallel',
        'tasks',
        'weights',
        'training',
        'runs',
    },
    'zoo': {'layers', 'models', 'analysis', 'weights'},
    'export': {
        'messages',
        'lazy',
        'rules',
        'files',
        'drawing',
        'markdown',
        'ops',
        'layers',
        'models',
        'quantization',
        'analysis',
        'data',
        'tasks',
        'weights',
    },
    'cli': {
        'messages',
        'rules',
        'ops',
        'export',
        'layers',
        'models',
        'quantization',
        'data',
        'weights',
        'analysis',
        'parallel',
        'tasks',
        'training',
        'runs',
        'inspection',
        'compilation',
        'memory',
        '__init__',
    },
    '__main__': {'cli'},
    '__init__': {'lazy', 'ops', 'layers', 'models', 'weights', 'runs', 'zoo'},
}
HEAVY = {'tensorflow', 'tensorflow_datasets', 'torch', 'keras', 'timm', 'grain', 'orbax', 'matplotlib', 'PIL'}
HEAVY |= {'tensorboardX', 'tyro', 'rich'}


def imported_modules(source: str, package: str) -> set[str]:
    """The absolute names of all a file imports, inside functions too; `package` is the one the file lies in."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parent = package.split('.')[: len(package.split('.')) - node.level + 1] if node.level else []
            module = '.'.join([*parent, *([node.module] if node.module else [])])
            names |= {f'{module}.{alias.name}' for alias in node.names}
    return names


def part_of(module: str) -> str | None:
    """`flaxmobile.ops.padding` -> `ops`; a name taken from the package itself counts as `__init__`."""
    top, *rest = module.split('.')
    if top != 'flaxmobile':
        return None
    return rest[0] if rest and rest[0] in MAY_IMPORT else '__init__'


def upward_imports(source: str, package: str, part: str) -> set[str]:
    return {
        module for module in imported_modules(source, package) if part_of(module) not in {None, part} | MAY_IMPORT[part]
    }


def files_by_part() -> list[tuple[str, Path]]:
    files = sorted(PACKAGE.rglob('*.py'))
    return [(path.relative_to(PACKAGE).parts[0].removesuffix('.py'), path) for path in files]


@pytest.mark.parametrize(
    ('line', 'part', 'wrong'),
    [
        ('from flaxmobile.layers import blocks', 'ops', {'flaxmobile.layers.blocks'}),
        ('from flaxmobile import layers', 'ops', {'flaxmobile.layers'}),
        ('from ..training import step', 'data', {'flaxmobile.training.step'}),
        ('def f():\n    import flaxmobile.cli', 'training', {'flaxmobile.cli'}),
        ('from flaxmobile import create_model', 'models', {'flaxmobile.create_model'}),
        ('import jax\nfrom . import other\nfrom flaxmobile.ops.padding import pad', 'layers', set()),
    ],
)
def test_an_upward_import_is_seen(line: str, part: str, wrong: set[str]) -> None:
    assert upward_imports(line, f'flaxmobile.{part}', part) == wrong


def test_imports_go_downward_only() -> None:
    wrong = {}
    for part, path in files_by_part():
        assert part in MAY_IMPORT, f'{path.name}: say in MAY_IMPORT and docs/architecture.md where {part!r} stands'
        package = '.'.join(path.relative_to(ROOT).parts[:-1])
        if found := upward_imports(path.read_text(), package, part):
            wrong[str(path.relative_to(ROOT))] = sorted(found)
    assert not wrong


# Readers of bytes of unknown origin: what they may import of the package.
FORMATS_MAY_IMPORT = ('flaxmobile.weights.formats', 'flaxmobile.messages', 'flaxmobile.files', 'flaxmobile.rules')


def test_byte_formats_know_nothing_of_networks() -> None:
    found = {}
    for path in sorted((PACKAGE / 'weights/formats').rglob('*.py')):
        names = imported_modules(path.read_text(), '.'.join(path.relative_to(ROOT).parts[:-1]))
        found[path.name] = {name for name in names if name.startswith('flaxmobile')}
    assert any('flaxmobile.messages.printable' in names for names in found.values())
    wrong = {file: {name for name in names if not name.startswith(FORMATS_MAY_IMPORT)} for file, names in found.items()}
    assert {file: names for file, names in wrong.items() if names} == {}


def packages() -> list[str]:
    """The package and those in it, by name."""
    inside = pkgutil.walk_packages(flaxmobile.__path__, 'flaxmobile.')
    return ['flaxmobile', *(module.name for module in inside if module.ispkg and 'formats' not in module.name)]


FORKS = """
import json, os, sys, traceback, warnings
import jax, flax.linen, optax
warnings.filterwarnings('ignore', 'os.fork', RuntimeWarning)  # JAX has no threads before its first array.
for name, program in json.load(sys.stdin).items():
    print(f'@{name}', flush=True)
    if not os.fork():
        try:
            exec(program, {})
        except BaseException:
            traceback.print_exc(file=sys.stdout)
        sys.stdout.flush()
        os._exit(0)
    os.wait()
"""


def each_by_itself(programs: dict[str, str]) -> dict[str, str]:
    """What each program prints, a traceback too, in a process of its own in which JAX, Flax and Optax are imported."""
    words = [sys.executable, '-c', FORKS]
    printed = subprocess.run(
        words, input=json.dumps(programs), stdout=subprocess.PIPE, text=True, check=True, timeout=300
    ).stdout
    return dict(part.split('\n', 1) for part in printed.split('@')[1:])


def uses_of_names(name: str) -> str:
    return f"""
import {name} as package
listed = dir(package)
assert set(getattr(package, '__all__', ())) <= set(listed), listed
assert not {{'TYPE_CHECKING', 'lazy_names'}} & set(listed), listed
for each in listed:
    getattr(package, each)
assert set(listed) <= set(dir(package))
try:
    package.no_such_name
except AttributeError as error:
    assert 'no_such_name' in str(error) and {name!r} in str(error), error
names = {{}}
exec('from {name} import *', names)
assert set(getattr(package, '__all__', ())) <= names.keys()
print('all there')
"""


def test_every_name_that_a_package_lists_is_there() -> None:
    """Each in a process of its own, before anything else imports what is imported late; `__all__` is listed too."""
    printed = each_by_itself({name: uses_of_names(name) for name in packages()})
    assert printed == dict.fromkeys(packages(), 'all there\n')


@pytest.mark.parametrize('name', packages())
def test_no_late_name_is_that_of_a_module_too(name: str) -> None:
    """It would be one or the other by what was imported before."""
    package = importlib.import_module(name)
    if '__getattr__' in vars(package):
        modules = {module.name for module in pkgutil.iter_modules(package.__path__) if not module.ispkg}
        assert not modules & set(package.__all__)


def test_no_two_public_things_share_a_name() -> None:
    things: dict[str, dict[int, str]] = {}
    for package in map(importlib.import_module, packages()):
        for name in getattr(package, '__all__', ()):
            things.setdefault(name, {})[id(getattr(package, name))] = package.__name__
    shared = {name: list(places.values()) for name, places in things.items() if len(places) > 1}
    assert shared == {'export': ['flaxmobile', 'flaxmobile.export']}  # The package, and the function that it is about.


def test_the_package_is_the_command_too() -> None:
    words = [sys.executable, '-m', 'flaxmobile', '--version']
    assert subprocess.check_output(words, text=True, timeout=300) == f'flaxmobile {flaxmobile.__version__}\n'


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """The names of a function's parameters, but for the one that a method is called on."""
    given = function.args
    names = [argument.arg for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return [name for name in names if name not in ('self', 'cls')]


def long_signatures(source: str) -> dict[str, int]:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = {node.name: len(parameters(node)) for node in ast.walk(ast.parse(source)) if isinstance(node, functions)}
    return {name: count for name, count in found.items() if count > 8}


def test_no_function_has_more_than_eight_parameters() -> None:
    assert long_signatures('class A:\n    def f(self, a, b, /, c, d, *, e, f, g, h, i): ...') == {'f': 9}
    assert long_signatures('def f(a, b, c, d, e, f, g, *, h, **i): ...') == {}
    found = {str(path.relative_to(ROOT)): long_signatures(path.read_text()) for _, path in files_by_part()}
    assert {path: names for path, names in found.items() if names} == {}


LIGHT = ('models', 'layers', 'ops', 'tasks', 'training', 'parallel', 'runs')


def imports_of(module: str) -> str:
    return f"""
import sys
before = set(sys.modules)
import {module}
print(*{{name.split('.')[0] for name in set(sys.modules) - before}})
"""


def test_import_is_light() -> None:
    modules = ['flaxmobile', *(f'flaxmobile.{part}' for part in LIGHT)]
    printed = each_by_itself({module: imports_of(module) for module in modules})
    assert list(printed) == modules
    for module, loaded in printed.items():
        assert 'flaxmobile' in loaded.split(), module
        assert not HEAVY & set(loaded.split()), module


def test_version_agrees() -> None:
    written = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['version']
    newest_change = re.search(r'^## (\S+)', (ROOT / 'CHANGELOG.md').read_text(), re.MULTILINE)[1]
    assert flaxmobile.__version__ == importlib.metadata.version('flaxmobile') == newest_change == written


def test_what_the_documents_name_exists() -> None:
    targets = re.findall(r'^([a-z-]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE)
    configs = [path.stem for path in (ROOT / 'configs').glob('*.py')]
    for document in [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *(ROOT / 'docs').glob('*.md')]:
        text = document.read_text()
        links = re.findall(r'\]\((?!https?:|#)([^)#]+)', text)
        assert set(re.findall(r'flaxmobile train ([a-z]\w+)', text)) <= set(configs), document.name
        assert set(re.findall(r'(?:^|`)make ([\w-]+)', text, re.MULTILINE)) <= set(targets), document.name
        assert [link for link in links if not (document.parent / link).exists()] == [], document.name


def names_in(text: str) -> set[str]:
    """`flaxmobile.data.Preprocessing` and the like; no files' names."""
    return set(re.findall(r'(?<![\w./-])flaxmobile(?:\.[A-Za-z_]\w*)+', text))


def test_every_name_that_is_told_can_be_reached() -> None:
    """Those in the package's own strings after `import flaxmobile` alone, those in the documents by their module."""
    told, documents = set(), [ROOT / 'README.md', *(ROOT / 'docs').glob('*.md')]
    for _, path in files_by_part():
        strings = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
        told |= names_in('\n'.join(text for text in strings if isinstance(text, str)))
    assert {'flaxmobile.data.Preprocessing.normalize', 'flaxmobile.load'} <= told
    for name in sorted(set().union(*(names_in(document.read_text()) for document in documents))):
        pkgutil.resolve_name(name)
    program = f"""
import operator, flaxmobile
for name in {sorted(name.removeprefix('flaxmobile.') for name in told)}:
    operator.attrgetter(name)(flaxmobile)
"""
    subprocess.run([sys.executable, '-c', program], check=True, timeout=120)


@pytest.mark.slow
def test_readme_table_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location('update_readme', ROOT / 'scripts' / 'update_readme.py')
    update_readme = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(update_readme)
    readme = update_readme.README.read_text()
    assert update_readme.with_table(readme, update_readme.models_table()) == readme


@pytest.mark.slow
def test_readme_code_runs() -> None:
    program, fast, pretrained = re.findall(r'```python\n(.*?)```', (ROOT / 'README.md').read_text(), re.DOTALL)
    assert 'load_pretrained' in pretrained  # That one downloads.
    found: dict = {}
    exec(program + fast, found)
    assert found['logits'].shape == (8, 1000)
    assert [maps.shape for maps in found['maps']] == [
        (8, 112, 112, 16),
        (8, 56, 56, 24),
        (8, 28, 28, 32),
        (8, 14, 14, 96),
        (8, 7, 7, 320),
    ]
