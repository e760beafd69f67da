"""The stage graph says what the code does."""

from pathlib import Path

import pytest
from imports import ROOT, closure
from ruamel.yaml import YAML

STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]


def test_the_six_stages_are_there_and_described() -> None:
    assert list(STAGES) == ["download", "convert", "defocus", "train", "evaluate", "report"]
    assert all(stage["desc"] for stage in STAGES.values())


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_every_project_file_that_it_imports(name: str) -> None:
    code = {dep for dep in STAGES[name]["deps"] if dep.endswith(".py")}
    assert code == closure(f"pipeline.{name}")


@pytest.mark.parametrize("name", STAGES)
def test_every_dependency_on_code_or_template_exists(name: str) -> None:
    for dep in STAGES[name]["deps"]:
        if not dep.startswith(("data/", "reports/defocus")):  # made by other stages
            assert (ROOT / dep).exists(), dep


def test_the_report_depends_on_every_file_that_it_renders_from() -> None:
    deps = set(STAGES["report"]["deps"])
    for path in (ROOT / "hded/report").rglob("*"):
        if path.is_file() and path.suffix in {".csv", ".j2", ".css", ".js", ".html"}:
            names = {path.relative_to(ROOT).as_posix(), path.parent.relative_to(ROOT).as_posix()}
            assert names & deps, path


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
    assert {"hded/__init__.py", "hded/blur/cpu.py", "hded/store.py", "pipeline/stage.py"} <= found
    assert "hded/network/hded.py" not in found
