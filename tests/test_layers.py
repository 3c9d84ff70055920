"""Who may import whom: the layers of the package, checked on its source."""

import ast
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

import swa_tools

PACKAGE = Path(swa_tools.__file__).parent
FOUNDATION = frozenset(
    {
        *("errors", "options", "statistics", "json_documents", "records", "measurements"),
        *("lazy_names", "listening", "run_files", "run_directory", "checkpoints", "distributed"),
        *("models", "data", "ranks"),
    }
)
BELOW_SELECTION = FOUNDATION | {"averaging", "batchnorm", "evaluation"}
MAY_IMPORT = {
    "errors": frozenset(),
    "options": frozenset({"errors"}),
    "statistics": frozenset(),
    "lazy_names": frozenset(),
    "listening": frozenset(),
    "ranks": frozenset({"errors"}),
    "json_documents": frozenset(),
    "records": frozenset({"errors", "json_documents"}),
    "measurements": frozenset({"errors", "json_documents"}),
    "run_files": frozenset(),
    "checkpoints": frozenset({"errors", "run_files", "json_documents"}),
    "run_directory": frozenset({"errors", "json_documents", "records", "run_files", "checkpoints"}),
    "distributed": frozenset({"errors"}),
    "averaging": frozenset(
        {
            *("errors", "options", "records", "listening", "ranks", "checkpoints"),
            *("run_files", "run_directory"),
        }
    ),
    "models": frozenset({"errors", "options", "lazy_names", "checkpoints", "distributed"}),
    "data": frozenset({"errors", "options", "lazy_names", "checkpoints", "distributed"}),
    "batchnorm": FOUNDATION,
    "evaluation": FOUNDATION,
    "training": FOUNDATION | {"batchnorm", "evaluation"},
    "selection": BELOW_SELECTION,
    "landscape": BELOW_SELECTION,
    "report": frozenset(
        {
            *("errors", "options", "statistics", "json_documents", "records", "measurements"),
            *("run_files", "run_directory"),
        }
    ),
    # The public names.
    "__init__": BELOW_SELECTION | {"training", "selection", "landscape", "report"},
    "cli": BELOW_SELECTION | {"training", "selection", "landscape", "report"},
    "__main__": frozenset({"cli"}),
}
ALSO = {
    "training": "swa_tools.averaging.running_mean",
    "report": "swa_tools.training.options",  # which of them tell experiments apart
}
"""A single module of another layer, beside those above."""
LIGHT = (
    *("__init__", "__main__", "errors", "options", "statistics", "records", "measurements"),
    *("json_documents", "lazy_names", "listening", "ranks", "run_files", "run_directory"),
    *("checkpoints", "averaging", "report", "cli"),
)
LIGHT_ROOMS = tuple(
    f"swa_tools.{name}"
    for name in ("models", "data", "batchnorm", "evaluation", "training", "landscape")
)
"""Their options are known, and their names listed, before torch is needed."""
HEAVY = {"torch", "torchvision", "timm", "matplotlib", "rich", "sklearn", "tensorboard", "fsspec"}


@dataclasses.dataclass(frozen=True)
class Import:
    """One imported module, under its absolute name.

    `on_import` tells whether importing the file imports it: it stands neither in a function nor
    under TYPE_CHECKING.
    """

    module: str
    line: int
    on_import: bool


def imports_of(source: str, *, package: str, modules: frozenset[str]) -> list[Import]:
    """Find `import a.b`, `from a import b` and `from . import b` anywhere in a source.

    `package` is the package that relative imports start from; `modules` are the names of all of
    our modules, which tell `from a import module` from `from a import function`.
    """
    return list(_imports_below(ast.parse(source), package, modules, on_import=True))


def _imports_below(
    node: ast.AST, package: str, modules: frozenset[str], *, on_import: bool
) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, child.lineno, on_import)
        elif isinstance(child, ast.ImportFrom):
            base = _absolute(child, package)
            for alias in child.names:
                member = f"{base}.{alias.name}"
                yield Import(member if member in modules else base, child.lineno, on_import)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for statement in child.body:
                wrapped = ast.Module([statement], [])
                yield from _imports_below(wrapped, package, modules, on_import=False)
            for statement in child.orelse:
                wrapped = ast.Module([statement], [])
                yield from _imports_below(wrapped, package, modules, on_import=on_import)
        else:
            deferred = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            later = on_import and not deferred
            yield from _imports_below(child, package, modules, on_import=later)


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if node.level == 0:
        return node.module or ""
    parts = package.split(".")
    base = parts[: len(parts) - node.level + 1]
    return ".".join([*base, node.module] if node.module else base)


def module_files(package: Path) -> dict[str, Path]:
    """Return the files of a package by the absolute names of their modules."""
    files = {}
    for path in sorted(package.rglob("*.py")):
        parts = (package.name, *path.relative_to(package).with_suffix("").parts)
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


def read_imports(files: dict[str, Path]) -> dict[str, list[Import]]:
    """Return the imports of every module."""
    found = {}
    for name, path in files.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        source = path.read_text(encoding="utf-8")
        found[name] = imports_of(source, package=package, modules=frozenset(files))
    return found


def layer_of(module: str) -> str:
    """Return the layer of one of our modules: the part after `swa_tools`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def is_ours(module: str) -> bool:
    return module == PACKAGE.name or module.startswith(PACKAGE.name + ".")


def offences(imports: dict[str, list[Import]]) -> list[str]:
    """Return every import that crosses the layers, as `importer:line imports module`."""
    found = []
    for importer, items in imports.items():
        own = layer_of(importer)
        # `from swa_tools import __version__` is how every layer reads the version; the walker
        # reports it as the bare package, whose own imports are all lazy.
        allowed = MAY_IMPORT[own] | {own, "__init__"}
        if importer == f"{PACKAGE.name}.training.schedules":
            allowed = {"errors", "__init__"}
        found += [
            f"{importer}:{item.line} imports {item.module}"
            for item in items
            if is_ours(item.module)
            and layer_of(item.module) not in allowed
            and item.module != ALSO.get(own)
        ]
    return found


def heavy_chains(imports: dict[str, list[Import]], start: str) -> list[str]:
    """Return the chains of module-level imports by which `start` loads a heavy library."""
    chains, seen, queue = [], {start}, [(start,)]
    while queue:
        chain = queue.pop()
        for item in imports[chain[-1]]:
            if not item.on_import:
                continue
            if item.module.split(".")[0] in HEAVY:
                chains.append(" -> ".join([*chain, item.module]))
            elif is_ours(item.module):
                parts = item.module.split(".")
                # Importing a.b.c imports a and a.b first.
                for depth in range(1, len(parts) + 1):
                    name = ".".join(parts[:depth])
                    if name in imports and name not in seen:
                        seen.add(name)
                        queue.append((*chain, name))
    return chains


IMPORTS = read_imports(module_files(PACKAGE))
LIGHT_MODULES = [
    name
    for name in IMPORTS
    if layer_of(name) in LIGHT
    or name in LIGHT_ROOMS
    or (name.endswith((".options", ".choice")) and name.rpartition(".")[0] in LIGHT_ROOMS)
    or name == "swa_tools.training.schedules"
]
"""Modules that load no heavy library."""


def test_every_module_has_a_row_in_the_table():
    assert {layer_of(name) for name in IMPORTS} <= set(MAY_IMPORT)


def test_no_module_imports_a_layer_above_it():
    assert offences(IMPORTS) == []


def test_nothing_but_main_imports_cli():
    importers = {
        name
        for name, items in IMPORTS.items()
        for item in items
        if is_ours(item.module) and layer_of(item.module) == "cli" and layer_of(name) != "cli"
    }
    assert importers <= {"swa_tools.__main__"}


def test_nothing_takes_public_names_from_the_package_itself():
    """Inside, a name comes from where it is defined; the package itself gives the version."""
    offenders = []
    for name, path in module_files(PACKAGE).items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == PACKAGE.name:
                taken = {alias.name for alias in node.names} - {"__version__"}
                offenders += [f"{name}: {t}" for t in taken if f"{PACKAGE.name}.{t}" not in IMPORTS]
    assert offenders == []


@pytest.mark.parametrize("module", LIGHT_MODULES)
def test_light_modules_load_no_heavy_library(module):
    assert heavy_chains(IMPORTS, module) == []


SOURCE = """
import os, swa_tools.cli.output as output
import torch.nn
from swa_tools import __version__, evaluation
from swa_tools.checkpoints import metadata, open_checkpoint
from . import loop
from .. import models
from ..averaging.plan import plan
from .loop import train
import typing
if typing.TYPE_CHECKING:
    import timm
else:
    import xxhash
try:
    import rich
except ImportError:
    pass
class A:
    import numpy
    def f(self):
        from swa_tools import batchnorm
async def g():
    import click
h = lambda: __import__("os")
"""
MODULES = frozenset(
    f"swa_tools.{name}"
    for name in ("evaluation", "models", "batchnorm", "checkpoints.metadata", "training.loop")
)


def test_walker_sees_all_forms_of_import():
    found = imports_of(SOURCE, package="swa_tools.training", modules=MODULES)
    assert [(item.module, item.on_import) for item in found] == [
        ("os", True),
        ("swa_tools.cli.output", True),
        ("torch.nn", True),
        ("swa_tools", True),
        ("swa_tools.evaluation", True),
        ("swa_tools.checkpoints.metadata", True),
        ("swa_tools.checkpoints", True),
        ("swa_tools.training.loop", True),
        ("swa_tools.models", True),
        ("swa_tools.averaging.plan", True),
        ("swa_tools.training.loop", True),
        ("typing", True),
        ("timm", False),
        ("xxhash", True),
        ("rich", True),
        ("numpy", True),
        ("swa_tools.batchnorm", False),
        ("click", False),
    ]


@pytest.mark.parametrize(
    ("importer", "source"),
    [
        ("swa_tools.errors", "import swa_tools.records"),
        ("swa_tools.records", "from swa_tools import checkpoints"),
        ("swa_tools.measurements", "from swa_tools.checkpoints import atomic_output"),
        ("swa_tools.averaging.kernel", "from ..models import create_model"),
        ("swa_tools.models", "def f():\n    from swa_tools.data import open_images"),
        ("swa_tools.batchnorm", "from . import evaluation"),
        ("swa_tools.evaluation.metrics", "import swa_tools.averaging.plan as plan"),
        ("swa_tools.training.loop", "from swa_tools.averaging import average"),
        ("swa_tools.training.schedules", "from swa_tools.training import loop"),
        ("swa_tools.selection.soup", "from swa_tools.training.loop import finetune"),
        ("swa_tools.report.page", "import swa_tools.checkpoints"),
        ("swa_tools.data", "from swa_tools.cli.output import notice"),
    ],
)
def test_walker_finds_an_import_across_the_layers(importer, source):
    names = frozenset(f"swa_tools.{layer}" for layer in MAY_IMPORT)
    imports = imports_of(source, package=importer.rpartition(".")[0], modules=names)
    assert len(offences({importer: imports})) == 1


def test_walker_follows_a_chain_to_a_heavy_library():
    imports = {
        "swa_tools": [],
        "swa_tools.cli": [Import("swa_tools.averaging.plan", 1, True)],
        "swa_tools.averaging": [Import("swa_tools.models", 1, True)],
        "swa_tools.averaging.plan": [Import("torch", 1, False)],
        "swa_tools.models": [Import("torch.nn", 1, True)],
    }
    assert heavy_chains(imports, "swa_tools.cli") == [
        "swa_tools.cli -> swa_tools.averaging -> swa_tools.models -> torch.nn"
    ]
    assert heavy_chains({"swa_tools.cli": [Import("torch", 1, False)]}, "swa_tools.cli") == []
