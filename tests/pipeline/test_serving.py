"""A served model decodes base64 as programs write it, and refuses all else by row."""

import base64
import math

import pytest

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
