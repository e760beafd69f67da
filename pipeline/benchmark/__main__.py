"""Benchmark of speed and memory, as ratios to baselines of the same run: reports/benchmark.json.

    python -m pipeline.benchmark          # or `make benchmark`, after `make repro`

- One frame of data/frames/nyu blurred with the camera `paper`, focused at 2 m: our implementations
  against a scipy stack of quantised sigmas, a numpy loop over taps, and the float64 reference, from
  which the largest errors are computed. On a GPU, if there is one, also batches of it.
- The stages `convert` and `defocus` on NYU's raw files, each in a separate process in a temporary
  folder: frames per second, and the process's peak memory.
- Training of the paper's network, and frames that are streamed (`training`); evaluation
  (`evaluation`).
- The small network's training steps in mixed precision on the CPU (`depthwise`).
- Every system of Table IV: a training step, and one picture (`systems`).
- A photograph of 12 megapixels (`photographs`).
"""

import torch

from hded.common.files import write_json
from hded.config.params import load_params
from hded.store import open_store
from pipeline.benchmark import depthwise, evaluation, photographs, systems, training
from pipeline.benchmark.blur import measure_blur, measure_gpu_blur
from pipeline.benchmark.stages import measure_stages
from pipeline.lib import provenance, stage

DATASET = "nyu"


def main() -> None:
    """Run all measurements and write the file."""
    stage.parser(__doc__).parse_args()
    params = load_params(stage.PARAMS)
    scenes = open_store(stage.FRAMES / DATASET)
    sections = [measure_blur(scenes)]
    if torch.cuda.is_available():
        sections.append(measure_gpu_blur(scenes))
    sections.append(measure_stages(DATASET, len(scenes)))
    defocused = open_store(stage.DEFOCUSED / DATASET / "paper")
    for name in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        sections.append(training.measure(scenes, defocused, torch.device(name)))
        sections.append(training.measure_streaming(scenes, defocused, torch.device(name)))
        sections.append(evaluation.measure(scenes, defocused, torch.device(name)))
        sections.append(systems.measure(scenes, params, DATASET, torch.device(name)))
    sections.append(depthwise.measure())
    sections.append(photographs.measure(torch.device("cpu")))
    write_json(
        stage.BENCHMARK,
        {
            "machine": {
                "hardware": provenance.hardware(torch.device("cpu")),
                "commit": provenance.commit(),
                "versions": provenance.versions("numba", "numpy", "scipy"),
            },
            "sections": sections,
        },
    )
    for section in sections:
        print(section["title"])
        for row in section["rows"]:
            print("  ", ", ".join(f"{k} {v:.4g}" if k != "name" else v for k, v in row.items()))


if __name__ == "__main__":
    stage.run(main)
