"""What would be uploaded: versions, what is required, the licence, and what is in the wheels."""

import email
import re
import zipfile

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

# The first test that looks into a wheel has all of them built.
pytestmark = pytest.mark.timeout(600)

LICENCE = "BSD-3-Clause"
CORE = "kernel-provisioner-core"


def metadata_of(wheel):
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def required_by(project):
    return {r.name: r for r in map(Requirement, project["dependencies"])}


def test_all_distributions_have_one_version(packages):
    assert len({package.project["version"] for package in packages}) == 1


def test_the_changelog_has_a_section_for_each_distribution_and_version(packages, root):
    changelog = (root / "CHANGELOG.md").read_text()
    for package in packages:
        assert re.search(rf"^## {package.distribution}$", changelog, re.MULTILINE)
    assert f"### {packages[0].project['version']}" in changelog


def test_the_readme_and_tox_know_each_package(package, root):
    assert f"`{package.distribution}`](packages/{package.name})" in (root / "README.md").read_text()
    tox = (root / "tox.ini").read_text()
    assert f"    {package.name}: PACKAGE = {package.name}\n" in tox
    assert re.search(rf"^    py3\{{[0-9,]+\}}-\{{.*\b{package.name}\b.*\}}$", tox, re.MULTILINE)


def test_the_name_is_the_folders(package):
    assert package.project["name"] == package.distribution


def test_a_backend_takes_the_core_of_its_minor_version(backend):
    version = Version(backend.project["version"])
    specifier = required_by(backend.project)[CORE].specifier
    assert specifier.contains(version)
    assert not specifier.contains(f"{version.major}.{version.minor + 1}.0")


def test_a_backend_requires_no_sibling_but_core(backend):
    ours = {name for name in required_by(backend.project) if name.startswith("kernel-provisioner")}
    assert ours == {CORE}


def test_core_requires_three_distributions(packages):
    assert set(required_by(packages[0].project)) == {"importlib-metadata", "pyzmq", "traitlets"}


def test_python_310_is_enough(package):
    assert package.project["requires-python"] == ">=3.10"


def test_the_licence_is_the_repositorys(package, built, root):
    assert package.project["license"] == LICENCE
    assert metadata_of(built[package.name])["License-Expression"] == LICENCE
    text = (root / "LICENSE").read_bytes()
    with zipfile.ZipFile(built[package.name]) as archive:
        names = [n for n in archive.namelist() if n.endswith(".dist-info/licenses/LICENSE")]
        assert [archive.read(name) for name in names] == [text]


def sources_of(package):
    """Return the files of a package, without what tools leave there, relative to `src`."""
    found = (path.relative_to(package.source.parent) for path in package.source.rglob("*"))
    return {
        path.as_posix()
        for path in found
        if (package.source.parent / path).is_file()
        and not any(part == "__pycache__" or part.startswith(".") for part in path.parts)
    }


def test_the_wheel_holds_the_sources_and_nothing_else(package, built):
    with zipfile.ZipFile(built[package.name]) as archive:
        content = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert content == sources_of(package)


def test_the_wheel_says_that_it_is_typed(package, built):
    with zipfile.ZipFile(built[package.name]) as archive:
        assert f"{package.module}/py.typed" in archive.namelist()


def test_the_sources_are_python_or_data_that_is_needed(package):
    data = (".sh", ".yaml")  # what a backend sends along, or prints
    known = (".py", "/py.typed", *data)
    strays = {name for name in sources_of(package) if not name.endswith(known)}
    assert strays == set()


def test_the_readme_is_the_page_of_the_index(package, built):
    page = metadata_of(built[package.name]).get_payload()
    assert page.strip() == (package.folder / "README.md").read_text().strip()
    assert f"pip install {package.distribution}" in page.replace('"', "")
