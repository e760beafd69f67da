"""The trained network as an MLflow model, for `mlflow models serve`.

MLflow runs this file to load the model ("models from code"), so that nothing is unpickled. A
request has one image file per row, base64-encoded, in the column `image`. The response has a row
for each, with the columns `depth_mm` (16-bit PNG) and `all_in_focus` (PNG), base64-encoded, for the
heads that the network has.
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

from hded.common.errors import HDEDError
from hded.inference import Predictor, load_predictor
from hded.inference.photo import estimate, read_photo

COLUMN = "image"
OUTPUTS = {"depth": "depth_mm", "all_in_focus": "all_in_focus"}
PACKAGES = ("torch", "numpy", "pandas", "pillow", "zarr", "scipy", "numba", "tqdm", "mlflow")


class ServedNetwork(PythonModel):
    """MLflow's interface to a network: base64-encoded image files in and out."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the weights that were logged with the model."""
        self.predictor: Predictor = load_predictor(Path(context.artifacts["weights"]))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: Any = None
    ) -> pd.DataFrame:
        """Return a row of output files for each input; raises HDEDError for an invalid image."""
        rows = []
        for number, text in enumerate(model_input[COLUMN]):
            try:
                file = BytesIO(base64.b64decode(text, validate=True))
            except binascii.Error as error:
                raise HDEDError(f"row {number}: {COLUMN} is not base64 ({error})") from error
            found = estimate(self.predictor, read_photo(file))
            images = {"depth": found.depth_mm, "all_in_focus": found.all_in_focus}
            rows.append({OUTPUTS[h]: _png(images[h]) for h in self.predictor.network.heads})
        return pd.DataFrame(rows)


def signature(heads: Sequence[str]) -> ModelSignature:
    """Return the columns of a request and of its response."""
    answer = [ColSpec(DataType.string, OUTPUTS[head]) for head in heads]
    return ModelSignature(Schema([ColSpec(DataType.string, COLUMN)]), Schema(answer))


def _png(pixels: Any) -> str:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


set_model(ServedNetwork())
