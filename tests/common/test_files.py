"""Rules for files: encodings, names that stay apart, writing that leaves no half file."""

import json
import math
import os

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hded.common.errors import HDEDError
from hded.common.files import (
    finite,
    is_hidden,
    read_text,
    replacing,
    safe_name,
    write_csv,
    write_json,
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_is_read_whatever_the_editor_saved_it_as(tmp_path, encoding):
    path = tmp_path / "train.txt"
    path.write_text("0000\nä1\n", encoding=encoding)
    assert read_text(path) == "0000\nä1\n"


def test_other_bytes_are_refused_by_name(tmp_path):
    path = tmp_path / "train.txt"
    path.write_bytes(b"\xff\x00\xff")
    with pytest.raises(HDEDError, match=r"train\.txt: is not UTF-8 text"):
        read_text(path)


@given(st.lists(st.text(min_size=1, max_size=12), min_size=2, max_size=20, unique=True))
def test_safe_names_stay_apart_and_are_safe(names):
    safe = [safe_name(name) for name in names]
    assert len(set(safe)) == len(names)
    assert not any(set(name) & set('#?%/\\:*"<>|\n') for name in safe)


def test_plain_names_stay_as_they_are():
    for name in ("0001", "0001-1.5m", "img_2 (copy)".replace("(", "").replace(")", ""), "a-b.c"):
        assert safe_name(name) == name
    assert is_hidden("._0001.png") and not is_hidden("0001.png")


def test_an_error_leaves_the_old_file_and_no_draft(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as draft:
        draft.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_writing_through_a_link_leaves_what_it_points_to(tmp_path, link):
    """DVC's cache may hold the file: a stage run by hand must not change it there."""
    cached, path = tmp_path / "cache", tmp_path / "rows.csv"
    cached.write_text("cached")
    link(cached, path)
    write_csv(path, pd.DataFrame({"a": [1]}))
    assert cached.read_text() == "cached" and path.read_text() == "a\n1\n"


def test_json_has_no_number_that_json_does_not_have(tmp_path):
    content = {"b": math.inf, "a": {"c": math.nan, "d": 1.5}, "e": 2}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", content)
    write_json(tmp_path / "a.json", finite(content))
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": {"d": 1.5}, "e": 2}
