"""What is shipped: the wheel, and the versions that `make` installs."""

import ast
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import swa_tools

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Copy the sources: setuptools leaves files of its own beside what it builds."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(
        ROOT / "swa_tools", source / "swa_tools", ignore=shutil.ignore_patterns("__pycache__")
    )
    return source


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    """Build the wheel."""
    build = "import setuptools.build_meta as b, sys; b.build_wheel(sys.argv[1])"
    folder = tmp_path_factory.mktemp("wheel")
    result = subprocess.run(
        [sys.executable, "-c", build, folder],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    (path,) = folder.iterdir()
    return path


def test_wheel_is_named_after_the_one_version(wheel):
    assert wheel.name == f"swa_tools-{swa_tools.__version__}-py3-none-any.whl"


def test_wheel_holds_the_package_and_nothing_else(wheel, source):
    shipped = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = {
        str(path.relative_to(source))
        for path in (source / "swa_tools").rglob("*")
        if path.suffix == ".py" or path.parent.name == "templates"
    }
    assert "swa_tools/report/templates/page.html" in package
    assert shipped == package | {"swa_tools/py.typed"}


def test_wheel_ships_the_licence_and_the_command(wheel):
    info = f"swa_tools-{swa_tools.__version__}.dist-info"
    archive = zipfile.ZipFile(wheel)
    assert archive.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert b"swa-tools = swa_tools.cli:main" in archive.read(f"{info}/entry_points.txt")


def normalised(requirement):
    """Return the name of a requirement as the package index writes it."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


NOT_LOCKED = ("s3", "gs", "az")
"""Extras whose drivers no test needs: the server for S3 is started where they are installed."""


def test_every_requirement_is_locked():
    extras = PROJECT["project"]["optional-dependencies"]
    requirements = [
        *PROJECT["project"]["dependencies"],
        *(item for name in extras.keys() - set(NOT_LOCKED) for item in extras[name]),
        *PROJECT["dependency-groups"]["dev"],
    ]
    locked = set(re.findall(r"^([a-z0-9.-]+)==", LOCK, re.MULTILINE))
    assert {normalised(requirement) for requirement in requirements} <= locked


def test_every_library_that_is_imported_is_a_requirement():
    requirements = [
        *PROJECT["project"]["dependencies"],
        *(item for extra in PROJECT["project"]["optional-dependencies"].values() for item in extra),
    ]
    imported = {
        name.partition(".")[0]
        for path in (ROOT / "swa_tools").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names]
        )
    }
    libraries = imported - sys.stdlib_module_names - {"swa_tools"}
    assert libraries >= {"torch", "PIL", "sklearn"}
    distributions = importlib.metadata.packages_distributions()
    names = {normalised(distributions[library][0]) for library in libraries}
    assert names <= {normalised(requirement) for requirement in requirements}


def test_every_locked_version_has_a_hash():
    entries = re.split(r"^(?=[a-z0-9])", LOCK, flags=re.MULTILINE)[1:]
    assert entries
    for entry in entries:
        assert re.match(r"[a-z0-9.-]+==\S+", entry), entry
        assert "--hash=sha256:" in entry, entry


def test_lock_names_no_index_and_no_folder():
    assert "://" not in LOCK
    assert "index-url" not in LOCK
    assert "find-links" not in LOCK
    assert not re.search(r"(^|\s)/\w", LOCK, re.MULTILINE)


def test_version_stands_in_one_place():
    assert "version" in PROJECT["project"]["dynamic"]
    assert "version" not in PROJECT["project"]
