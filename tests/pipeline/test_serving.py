"""A served model decodes base64 as programs write it, and refuses all else by row."""

import ast
import base64
import math
import sys
from importlib.metadata import packages_distributions

import pytest
from support.imports import ROOT, closure

from hded.common.errors import HDEDError

serving = pytest.importorskip("pipeline.lib.serving")
CONTENT = bytes(range(200))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("form", ["{}", "{}\n", "data:image/png;base64,{}", " {} "])
@pytest.mark.parametrize("lines", [False, True])
def test_base64_comes_as_programs_write_it(form, lines):
    encode = base64.encodebytes if lines else base64.b64encode
    assert serving._decoded(form.format(encode(CONTENT).decode()), "row 0") == CONTENT


@pytest.mark.parametrize("value", [None, 3, math.nan, "no base64!", "ä"])
def test_anything_else_is_one_line_that_names_the_row(value):
    with pytest.raises(HDEDError, match=r"^row 4: image is "):
        serving._decoded(value, "row 4")


def test_a_served_model_requires_exactly_the_packages_that_its_code_imports():
    imported = set()
    for file in closure("pipeline.lib.serving"):
        for node in ast.walk(ast.parse((ROOT / file).read_bytes())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.split(".")[0])
    imported -= {*sys.stdlib_module_names, "hded", "pipeline"}
    distributions = packages_distributions()
    for package in serving.PACKAGES:  # each is imported
        assert any(package in distributions[name] for name in imported), package
    for name in imported:  # each is required
        assert set(distributions[name]) & set(serving.PACKAGES), name
