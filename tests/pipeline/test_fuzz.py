"""Whatever is written into params.yaml or on a command line: it works, or one line names it.

`make test-all` tries more of it (HDED_FUZZ, the number of examples).
"""

import copy
import io
import os
import re
import runpy
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from support.imports import ROOT

from hded.common.errors import HDEDError, one_line
from hded.config.params import Params, load_params

COMMITTED = (ROOT / "params.yaml").read_text(encoding="utf-8")
CONTENT = YAML(typ="safe").load(COMMITTED)
ODD_SCALARS = (
    "1e-4", "1.e3", "-0.0", ".inf", ".nan", "no", "on", "y", "null", "~", "2020-01-01", "0x1f",
    "0o17", "1_000", "12:30:45", "'1'", '"\\u0000"', "!!python/object:os.system x", "!!binary aGk=",
    "!!set {a, b}", "*alias", "&anchor 3", "<<", "=", "[", "{", "}", "- 1", "? x", "|", ">", "%",
    "@", "`", "\t1", "1e400", "-1", "[1, [2]]", "{a: {b: c}}", "'", "🙂", "\u2028", "1.0.0",
)  # fmt: skip
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=20),
    st.dates(), st.binary(max_size=5),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=5,
)


def leaves(content: Any, path: tuple = ()) -> Iterator[tuple]:
    """Every place in the file: sections, lists and values."""
    if path:
        yield path
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        if isinstance(value, dict | list):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key)


PLACES = sorted(leaves(CONTENT), key=str)


def outcome(path: Path, text: str) -> Params | str:
    """What the file gives: parameters that can be used, or one line that names the file."""
    path.write_text(text, encoding="utf-8", newline="\n")
    try:
        params = load_params(path)
    except HDEDError as error:
        message = str(error)
        assert message.startswith("params.yaml: ") or f"{path}: " in message
        assert "\n" not in message and message.isprintable(), message
        return message
    for name in params.variants:
        params.variant(name)
    return params


def dumped(content: Any) -> str:
    stream = io.StringIO()
    YAML(typ="safe").dump(content, stream)
    return stream.getvalue()


EXAMPLES = int(os.environ.get("HDED_FUZZ", "10"))
quiet = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@quiet
@given(place=st.sampled_from(PLACES), value=VALUES)
@example(place=("train", "epochs"), value=True)
@example(place=("variants",), value=[])
@example(place=("variants", "pretrained", "network"), value={"heads": None})
@example(place=("download", "nyu", "official"), value={})
def test_any_value_anywhere_is_taken_or_refused_in_one_line(
    tmp_path: Path, place: tuple, value: Any
) -> None:
    content = copy.deepcopy(CONTENT)
    parent = content
    for key in place[:-1]:
        parent = parent[key]
    parent[place[-1]] = value
    try:
        text = dumped(content)
    except Exception:  # YAML cannot write it, so no user can
        return
    found = outcome(tmp_path / "params.yaml", text)
    if isinstance(found, str) and place[0] != "presets":
        # the line names the key, or one that it makes impossible
        assert str(place[0]) in found or any(str(p) in found for p in place), found


@quiet
@given(place=st.sampled_from(PLACES), name=st.text(max_size=12), value=SCALARS)
def test_an_unknown_key_anywhere_is_named(
    tmp_path: Path, place: tuple, name: str, value: Any
) -> None:
    content = copy.deepcopy(CONTENT)
    parent = content
    for key in place[:-1]:
        parent = parent[key]
    if not isinstance(parent, dict) or name in parent:
        return
    parent[name] = value
    try:
        text = dumped(content)
    except Exception:
        return
    found = outcome(tmp_path / "params.yaml", text)
    if (place[0] == "presets" and len(place) > 1) or name == "<<":  # any key is looked up later
        return
    assert isinstance(found, str)
    assert one_line(name) in found or any(str(p) in found for p in place[:-1]), found


@quiet
@given(
    line=st.integers(0, COMMITTED.count("\n")),
    scalar=st.sampled_from(ODD_SCALARS) | st.text(max_size=15),
)
@example(line=0, scalar="\ufeff")
def test_what_yaml_makes_of_odd_scalars_is_taken_or_refused_in_one_line(
    tmp_path: Path, line: int, scalar: str
) -> None:
    lines = COMMITTED.split("\n")
    head, colon, _ = lines[line].partition(":")
    lines[line] = f"{head}{colon} {scalar}" if colon else scalar
    text = "\n".join(lines)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return
    outcome(tmp_path / "params.yaml", text)


@quiet
@given(cut=st.integers(0, len(COMMITTED)), junk=st.binary(max_size=12))
def test_a_file_cut_short_or_damaged_is_refused_or_read(
    tmp_path: Path, cut: int, junk: bytes
) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(COMMITTED.encode()[:cut] + junk)
    try:
        load_params(path)
    except HDEDError as error:
        assert "\n" not in str(error) and str(error).isprintable()


# --- command lines ---


def commands() -> dict[str, Callable[[], None]]:
    from pipeline import (
        compare,
        convert,
        defocus,
        download,
        evaluate,
        inputs,
        preset,
        publish,
        report,
        train,
    )

    modules = (
        compare, convert, defocus, download, evaluate, inputs, preset, publish, report, train,
    )  # fmt: skip
    hded = partial(runpy.run_module, "hded", run_name="__main__")  # leaves no module behind
    return {"hded": hded} | {m.__name__: m.main for m in modules}  # pyright: ignore[reportReturnType]


JUNK = st.lists(
    st.sampled_from(
        ("--dataset", "--variant", "--seed", "--name", "--out", "--checkpoint", "--tile", "--help",
         "-h", "--", "-", "predict", "export", "../..", "/", "", " ", "0", "1e9", "nan", "\n",
         "--dataset=nyu", "--seed=0", "\x00")
    )
    | st.text(max_size=10),
    max_size=7,
)  # fmt: skip
DATASET = ("--dataset", ("nyu", "make3d", "typo", "../..", "", "~nobody/x", "\x00"))
CELL = (
    DATASET,
    ("--variant", ("full", "wrong_focus", "typo", "", "..")),
    ("--seed", ("0", "-1", "4294967296", "x", "1e3", "")),
)
USE = (
    ("--checkpoint", ("none.pt", ".", "params.yaml", "", "/dev/null", "\x00")),
    ("--out", ("new", "params.yaml", ".", "")),
    ("--heads", ("depth", "typo")),
)
# what each command takes: words first, then options and what may be given to them
LINES: dict[str, list[tuple[tuple[str, ...], tuple[tuple[str, tuple[str, ...]], ...]]]] = {
    "hded": [
        (("predict", "params.yaml"), (*USE, ("--tile", ("0", "-3", "x")), ("--overlap", ("9",)))),
        (("export",), USE),
    ],
    "pipeline.compare": [(("nyu/full/0", "nobody"), ()), (("", "\x00"), (("--out", (".",)),))],
    "pipeline.convert": [((), (DATASET,))],
    "pipeline.defocus": [((), (DATASET,))],
    "pipeline.download": [((), (DATASET,))],
    "pipeline.evaluate": [((), CELL)],
    "pipeline.inputs": [((), ())],
    "pipeline.preset": [(("paper",), ()), (("typo",), ()), (("",), ())],
    "pipeline.publish": [((), (("--name", ("nyu", "..", ".", "a/b", "", "\x00")),))],
    "pipeline.report": [((), ())],
    "pipeline.train": [((), CELL)],
}
WORK = {
    "pipeline.convert",
    "pipeline.download",
    "pipeline.inputs",
    "pipeline.preset",
}  # what can be done in a folder of params.yaml alone
TINY = COMMITTED.replace("sample: {train: 64, test: 16,", "sample: {train: 1, test: 1,").replace(
    "sample: {train: 64, test: 8,", "sample: {train: 1, test: 1,"
)


@st.composite
def lines(draw: st.DrawFn, name: str) -> list[str]:
    """Draw a line that is right but for some of its values, or for what is left out."""
    words, options = draw(st.sampled_from(LINES[name]))
    line = list(words)
    for option, values in options:
        if draw(st.integers(0, 5)):
            line += [option, draw(st.sampled_from(values))]
    return line


@pytest.mark.parametrize("name", sorted(commands()))
@quiet
@given(data=st.data())
def test_any_command_line_ends_with_one_line_or_does_its_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, data: st.DataObject
) -> None:
    """In a folder that holds params.yaml, where little can succeed."""
    from hded.common.cli import run

    arguments = data.draw(JUNK | lines(name))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(TINY, encoding="utf-8")
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        run(commands()[name])
    exports = name == "hded" and "export" in arguments  # the project's own network, by default
    if ended.value.code == 0:
        assert "usage:" in out.getvalue() or name in WORK or exports
    else:
        assert ended.value.code == 2
        texts = re.split(r"[\r\n]", err.getvalue())
        said = [text for text in texts if text.strip() and "%|" not in text]  # below progress bars
        assert len(said) == 1 and "error: " in said[0], err.getvalue()
    made = {path.name for path in tmp_path.iterdir()} - {"params.yaml"}
    if exports and ended.value.code == 0:
        (file,) = made or ["params.yaml"]
        (tmp_path / file).unlink()
        return
    assert made <= ({"data"} if name in WORK else {"mlflow.db", "mlflow.db.lock"}), made
