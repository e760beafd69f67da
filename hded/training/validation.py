"""Validation: which training frames are held out, and how a network does on them."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from hded.common.errors import HDEDError
from hded.metrics import psnr
from hded.network import HDEDNet
from hded.network.normalize import to_uint8
from hded.training.batch import Batch, network_inputs, to_batch
from hded.training.distributed import Group
from hded.training.frames import TrainingFrames
from hded.training.losses import HDEDLoss


def validation_split(
    frames: pd.DataFrame, indices: NDArray[np.integer], fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split training frames into those to train on and those to validate on, by whole scenes.

    frames: a store's table; indices: its training frames. A scene is what the column `scene` names,
    or, where that is empty, a run of consecutive numeric ids (neighbouring NYU frames show one
    room). Scenes are drawn until they hold `fraction` of the frames, at least one frame, without
    those that would make it more than twice as many and more than a quarter of all. Where every
    scene would, or there is one only, neighbouring frames of one scene are held out.
    """
    indices = np.asarray(indices, np.int64)
    if fraction == 0:
        return indices, indices[:0]
    rows = frames.iloc[indices]
    if (rows["scene"] != "").all():
        group = pd.factorize(rows["scene"])[0]
    else:
        number = pd.Series(pd.to_numeric(rows["frame"], errors="coerce"))
        group = np.cumsum(number.diff().to_numpy() != 1)
    if len(indices) < 2:
        raise HDEDError(
            f"train.val_fraction: of {len(indices)} training frames none can be held out; set it "
            "to 0 and train.checkpoint to last"
        )
    wanted = max(1, round(fraction * len(indices)))
    most = max(2 * wanted, len(indices) // 4)
    held = np.zeros(len(indices), bool)
    scenes = np.random.default_rng(seed).permutation(np.unique(group))
    for scene in scenes:
        members = group == scene
        if held.sum() >= wanted:
            break
        if held.sum() + members.sum() > most or (held | members).all():
            continue
        held |= members
    if not held.any():
        held[np.flatnonzero(group == scenes[0])[:wanted]] = True
    return indices[~held], indices[held]


def whole_frames(
    frames: TrainingFrames, rank: int = 0, devices: int = 1
) -> Iterator[tuple[Batch, NDArray[np.uint8], NDArray[np.uint8]]]:
    """Yield every stored rendering, uncut: a batch of one, its defocused and its sharp image.

    The images are uint8 (H, W, 3), the defocused one by the first camera. With several `devices`,
    only every `devices`-th frame from `rank` on.
    """
    for i in range(rank, len(frames), devices):
        sharp, depth_m = frames.sharp[i : i + 1], frames.depth_m[i : i + 1]
        for rows in zip(*(shot.rows[i] for shot in frames.shots), strict=True):
            pairs = zip(frames.shots, rows, strict=True)
            shots = [shot.images[row : row + 1] for shot, row in pairs]
            batch = to_batch(
                shots, sharp, depth_m, (int(frames.indices[i]),), frames.lenses([rows]),
                reads_sharp=frames.reads_sharp,
            )  # fmt: skip
            yield batch, shots[0][0].cpu().numpy(), sharp[0].cpu().numpy()


@torch.no_grad()
def validate(
    network: HDEDNet,
    loss: HDEDLoss,
    frames: TrainingFrames,
    device: torch.device,
    group: Group = Group(),  # noqa: B008  (frozen)
) -> dict[str, float]:
    """Return the mean over whole renderings of the loss terms, rmse [m], psnr and input_psnr [dB].

    `total` weights the tasks by the fixed lambda, so that epochs can be compared. A frame without
    valid depth does not count for rmse. The processes of a group share the renderings, and each
    gets the mean over all.
    """
    network.eval()
    rows: list[dict[str, float]] = []
    for batch, defocused, sharp in whole_frames(frames, group.rank, group.size):
        batch = batch.to(device)
        outputs = network(*network_inputs(network, batch))
        terms = loss(outputs, batch)
        row = {name: term.item() for name, term in terms.items()}
        if "depth" in outputs and batch.valid.any():
            error = (outputs["depth"] - batch.depth_m)[batch.valid]
            row["rmse"] = error.square().mean().sqrt().item()
        if "all_in_focus" in outputs:
            row["psnr"] = psnr(to_uint8(outputs["all_in_focus"])[0], sharp)
            row["input_psnr"] = psnr(defocused, sharp)
        rows.append(row)
    rows = [row for share in group.gather(rows) for row in share]
    names = dict.fromkeys(name for row in rows for name in row)
    means = {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}
    return means | {"total": loss.by_lambda(means)}
