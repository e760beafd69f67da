"""The stage graph says what the code does, by folder."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML
from support.imports import ROOT, closure

STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]


def dependency(file: str) -> str:
    """Return the package that holds a file, or the file itself where it lies in no package."""
    return "/".join(file.split("/")[:2])


def test_the_stages_are_there_and_described() -> None:
    names = "inputs download convert defocus renderings train evaluate report"
    assert list(STAGES) == names.split()
    assert all(stage["desc"] for stage in STAGES.values())


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_every_package_that_it_imports(name: str) -> None:
    code = {dep for dep in STAGES[name]["deps"] if dep.startswith(("hded/", "pipeline/"))}
    assert code == {dependency(file) for file in closure(f"pipeline.{name}")}


@pytest.mark.parametrize("name", STAGES)
def test_every_dependency_on_code_or_template_exists(name: str) -> None:
    for dep in STAGES[name]["deps"]:
        if not dep.startswith(("data/", "reports/defocus")):  # made by other stages
            assert (ROOT / dep).exists(), dep


def test_every_folder_of_the_library_is_a_package_and_one_dependency() -> None:
    deps = {dep for stage in STAGES.values() for dep in stage["deps"]}
    for folder in (path for path in (ROOT / "hded").iterdir() if path.is_dir()):
        # networks: `inputs` lists those that a training starts from
        if folder.name not in ("__pycache__", "pretrained"):
            assert (folder / "__init__.py").is_file()
            # people run the commands; no stage does
            assert (folder.relative_to(ROOT).as_posix() in deps) == (folder.name != "commands")
    assert not [dep for dep in deps if dep.startswith("hded/") and dep.count("/") > 1]


def test_the_library_never_imports_the_pipeline() -> None:
    for path in (ROOT / "hded").rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        assert not [f for f in closure(module) if f.startswith("pipeline/")], path


def test_stages_do_not_import_each_other() -> None:
    for name in STAGES:
        others = {f"pipeline/{other}.py" for other in STAGES if other != name}
        assert not closure(f"pipeline.{name}") & others


def test_the_import_closure_follows_packages_and_names(tmp_path: Path) -> None:
    found = closure("pipeline.defocus")
    assert {"hded/__init__.py", "hded/blur/cpu.py", "pipeline/lib/stage.py"} <= found
    assert "hded/network/hded.py" not in found
