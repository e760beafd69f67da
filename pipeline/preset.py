"""Apply a preset of params.yaml to params.yaml, keeping its comments.

python -m pipeline.preset paper
"""

import sys
import tempfile
from collections.abc import Mapping, MutableMapping
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from hded.common.errors import HDEDError, hide_secrets
from hded.config.params import load_params
from pipeline.lib import stage

NULL = "tag:yaml.org,2002:null"


def main() -> None:
    """Change the preset's keys in place and print each change; nothing is written on an error."""
    arguments = stage.parser(__doc__)
    arguments.add_argument("name", help="a name from `presets` in params.yaml")
    name = arguments.parse_args().name
    presets = load_params(stage.PARAMS).presets
    if name not in presets:
        raise HDEDError(f"preset {name!r} does not exist; choose from {list(presets)}")
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = sys.maxsize
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.add_representer(
        type(None), lambda representer, _: representer.represent_scalar(NULL, "null")
    )
    before = stage.PARAMS.read_text(encoding="utf-8")
    content = yaml.load(before)
    _apply(content, presets[name], "", f"params.yaml: presets.{name}")
    text = StringIO()
    yaml.dump(content, text)
    with tempfile.TemporaryDirectory(dir=stage.PARAMS.parent) as folder:
        draft = Path(folder) / stage.PARAMS.name
        draft.write_text(text.getvalue(), encoding="utf-8")
        load_params(draft)  # raises before anything is replaced
        draft.replace(stage.PARAMS)


def _apply(section: Any, changes: Mapping[str, Any], path: str, where: str) -> None:
    """Set the values of nested `changes` in a section of the file, and print what changed."""
    for key, value in changes.items():
        name = f"{path}{key}"
        if not isinstance(section, MutableMapping) or key not in section:
            raise HDEDError(f"{where}.{name} is not a known key")
        old = section[key]
        if isinstance(value, Mapping) and old is not None:
            _apply(old, value, f"{name}.", where)
        elif old != value:
            print(hide_secrets(f"{name}: {old} -> {value}"))
            if isinstance(old, list) and isinstance(value, list):
                old[:] = value  # in place, so that the list stays on one line
            else:
                section[key] = value


if __name__ == "__main__":
    stage.run(main)
