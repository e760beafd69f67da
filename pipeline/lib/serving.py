"""The trained network as an MLflow model, for `mlflow models serve`.

MLflow runs this file where the model is loaded ("models from code"), so that nothing is unpickled.
A request holds image files in base64, one in each row of the column `image`. The answer has a row
for each, with `depth_mm` (PNG, 16-bit) and `all_in_focus` (PNG) in base64, if the network has them.
"""

import base64
import binascii
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import ModelSignature, set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from mlflow.types import ColSpec, DataType, Schema
from PIL import Image

from hded.common.deep_image import eight_bits
from hded.common.errors import HDEDError
from hded.inference import Predictor, load_predictor
from hded.inference.photo import estimate, read_photo
from hded.inference.view import view_of

COLUMN = "image"
OUTPUTS = {"depth": "depth_mm", "all_in_focus": "all_in_focus"}
PACKAGES = (  # what this file and the modules of `hded` that it imports need
    "torch", "numpy", "scipy", "numba", "pandas", "pydantic", "safetensors", "pillow",
    "opencv-python-headless", "matplotlib", "mlflow",
)  # fmt: skip


class ServedNetwork(PythonModel):
    """A network whose answers are image files."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the weights that were logged with the model."""
        self.predictor: Predictor = load_predictor(Path(context.artifacts["weights"]))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: Any = None
    ) -> pd.DataFrame:
        """Return the output files of each row's `image`; raises HDEDError for an unreadable one."""
        rows = []
        for number, text in enumerate(model_input[COLUMN]):
            file = BytesIO(_decoded(text, f"row {number}"))
            photo = read_photo(file)
            height, width = photo.rgb.shape[:2]
            view = view_of(self.predictor, (height, width), photo.lens)
            if view.unit != "m":
                raise HDEDError(f"row {number}: {'; '.join(view.notes)}")
            found = estimate(self.predictor, photo.rgb, view=view)
            sharp = found.all_in_focus
            images = {
                "depth": found.thousandths,
                "all_in_focus": None if sharp is None else eight_bits(sharp),
            }
            rows.append({OUTPUTS[h]: _png(images[h]) for h in self.predictor.network.heads})
        return pd.DataFrame(rows)


def signature(heads: Sequence[str]) -> ModelSignature:
    """Return the columns of a request and of its answer."""
    names = [COLUMN], [OUTPUTS[head] for head in heads]
    request, answer = (Schema([ColSpec(DataType.string, n) for n in part]) for part in names)
    return ModelSignature(request, answer)


def _decoded(text: Any, where: str) -> bytes:
    """Return the bytes of base64 text, which may have line breaks or be a data URL."""
    if not isinstance(text, str):
        raise HDEDError(f"{where}: {COLUMN} is {text!r}; give the image file in base64")
    _, _, content = text.rpartition(",") if text.lstrip().startswith("data:") else ("", "", text)
    try:
        return base64.b64decode("".join(content.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise HDEDError(f"{where}: {COLUMN} is not base64 ({error})") from error


def _png(pixels: Any) -> str:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


set_model(ServedNetwork())
