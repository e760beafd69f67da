"""Several processes train one network: as one that sees the same shares of each batch in turn."""

import json
import math
import os
import shutil
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
import torch.distributed as dist
from support.fit import Project
from support.servers import free_port
from support.stores import write_stores
from torch.multiprocessing.spawn import spawn

from hded.common.errors import HDEDError
from hded.common.threads import limit_threads
from hded.config.schema import Loss, Train, Weighting
from hded.network import HDEDNet
from hded.store import open_store
from hded.training.distributed import Group
from hded.training.frames import TrainingFrames
from hded.training.loop import fit
from hded.training.losses import HDEDLoss
from hded.training.samplers import Sampler, StoredSampler
from pipeline.lib.launch import relaunch_on_devices

# MLflow's own, of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

CPU = torch.device("cpu")
SIZE = (72, 80)
SETTINGS = Train(
    epochs=2,
    batch_size=4,
    hflip=0.5,
    optimizer="sgd",
    lr=1e-3,
    lr_milestone=1.0,
    checkpoint="best",
    val_interval=1,
)


def parts(folder: Path, weighting: Weighting) -> tuple[HDEDNet, HDEDLoss, Sampler, TrainingFrames]:
    torch.manual_seed(0)
    network = HDEDNet(width=1 / 16, depth_scale_m=8.0, dropout=0.0)
    loss = HDEDLoss(Loss(lambda_=0.5, weighting=weighting), 8.0)
    stores = open_store(folder / "scenes"), [open_store(folder / "defocused")]
    train = StoredSampler(TrainingFrames(*stores, np.arange(6), "crop", 64))
    return network, loss, train, TrainingFrames(*stores, np.array([6, 7, 8]), "crop", 64)


def flatten(parameters: Iterable[torch.Tensor]) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in parameters])


def fit_share(rank: int, folder: Path, weighting: Weighting) -> None:
    """One of two processes."""
    limit_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1"}
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / weighting}", rank=rank, world_size=2
    )
    network, loss, train, validation = parts(folder, weighting)
    epochs: list[Mapping[str, float]] = []
    result = fit(
        network, loss, train, validation, SETTINGS, CPU, epochs.append, seed=3, group=Group(rank, 2)
    )
    assert len(epochs) == (2 if rank == 0 else 0)
    torch.save(
        {"network": dict(network.named_parameters()), "loss": loss.state_dict(),
         "history": result.history},
        folder / f"{weighting}{rank}.pt",
    )  # fmt: skip
    dist.destroy_process_group()


@pytest.mark.parametrize(
    "weighting", ["fixed", pytest.param("uncertainty", marks=pytest.mark.slow)]
)
def test_two_processes_train_as_one_that_accumulates_their_half_batches(tmp_path, weighting):
    tiny = write_stores(tmp_path / "tiny", size=SIZE)
    folder = tiny.scenes.folder.parent
    spawn(fit_share, (folder, weighting), nprocs=2)
    first, second = (torch.load(folder / f"{weighting}{r}.pt", weights_only=False) for r in (0, 1))

    network, loss, train, _ = parts(folder, weighting)
    start = flatten(network.parameters())
    learned = [*network.parameters(), *loss.parameters()]
    optimizer = torch.optim.SGD(learned, SETTINGS.lr)
    network.train()
    means = []
    for epoch in (1, 2):
        shares = [
            train.batches(4, seed=3, epoch=epoch, hflip=0.5, rank=rank, devices=2)
            for rank in (0, 1)
        ]
        # six frames: a step of two and two, then one of one and one
        totals = []
        for halves in zip(*shares, strict=True):
            optimizer.zero_grad()
            for half in halves:
                terms = loss(network(half.rgb), half)
                (terms["total"] / 2).backward()
                totals += [terms["total"].item()] * len(half.sharp)
            optimizer.step()
        means.append(sum(totals) / len(totals))
    # normalised over a few values, a small network magnifies the last digit of a sum: what is
    # compared is the way that it went
    expected = flatten(network.parameters()) - start
    found = flatten(first["network"].values()) - start
    assert (found - expected).norm() < 0.005 * expected.norm()
    for name in first["network"]:
        assert torch.equal(first["network"][name], second["network"][name]), name
    for name, value in loss.named_parameters():
        torch.testing.assert_close(first["loss"][name], value.data, rtol=1e-5, atol=1e-7)
    found = [record["train/total"] for record in first["history"]]
    assert found == pytest.approx(means, rel=1e-5)
    # both see the figures of the whole, the validation of all three frames included
    for one, other in zip(first["history"], second["history"], strict=True):
        for name in one.keys() - {"seconds", "samples_per_s", "data_share"}:
            assert one[name] == other[name], name
        assert math.isfinite(one["val/rmse"])


def fit_broken(rank: int, folder: Path) -> None:
    """One of two processes, of which the second meets a number that is not finite."""
    limit_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'broken'}", rank=rank, world_size=2
    )
    network, loss, train, _ = parts(folder, "fixed")
    if rank == 1:
        loss.register_forward_hook(lambda m, given, terms: {n: t / 0 for n, t in terms.items()})
    settings = SETTINGS.model_copy(update={"checkpoint": "last"})
    try:
        fit(network, loss, train, None, settings, CPU, seed=3, group=Group(rank, 2))
    except HDEDError as error:
        (folder / f"said{rank}").write_text(f"{type(error).__name__}: {error}")
    dist.destroy_process_group()


@pytest.mark.slow
def test_a_number_that_is_not_finite_in_one_process_ends_both_with_its_line(tmp_path):
    tiny = write_stores(tmp_path / "tiny", size=SIZE)
    folder = tiny.scenes.folder.parent
    spawn(fit_broken, (folder,), nprocs=2)
    first, second = ((folder / f"said{rank}").read_text() for rank in (0, 1))
    assert second.startswith("NotFiniteError: training: ") and "epoch 1, step 1" in second
    assert first == second.replace("NotFiniteError", "HDEDError")


def test_the_shares_of_a_batch_are_its_samples(tmp_path):
    tiny = write_stores(tmp_path, size=SIZE)
    samples = StoredSampler(TrainingFrames(tiny.scenes, [tiny.defocused], np.arange(7), "crop", 32))
    options = {"seed": 1, "epoch": 2, "hflip": 0.5}
    whole = [batch.to(CPU) for batch in samples.batches(4, **options)]
    shares = [
        [batch.to(CPU) for batch in samples.batches(4, **options, rank=rank, devices=2)]
        for rank in (0, 1)
    ]
    assert samples.steps(4) == 2 and samples.steps(4, 2) == 2 and samples.steps(1, 2) == 0
    for name in ("defocused", "sharp", "depth_m"):
        both = torch.cat([getattr(share[0], name) for share in shares])
        assert torch.equal(both, getattr(whole[0], name))
    # of the last three one is left out, since two cannot share it
    assert [len(share[1].sharp) for share in shares] == [1, 1]
    (rest,) = samples.batches(4, **options, start=1)
    assert torch.equal(rest.to(CPU).sharp, whole[1].sharp)


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path):
    tiny = write_stores(tmp_path, size=SIZE)
    network, loss, train, _ = parts(tiny.scenes.folder.parent, "fixed")
    settings = Train(epochs=1, batch_size=3, checkpoint="last")
    with pytest.raises(HDEDError, match=r"batch_size 3 .* 2 devices"):
        fit(network, loss, train, None, settings, CPU, seed=3, group=Group(0, 2))


@pytest.mark.parametrize(
    ("devices", "nodes", "words"),
    [(3, 1, "multiple of devices 3, which"), (2, 4, "multiple of devices 2 x nodes 4, which")],
)
def test_a_batch_that_machines_cannot_share_is_refused(devices, nodes, words):
    with pytest.raises(ValueError, match=f"batch_size 4 is not a {words} share it equally"):
        Train(epochs=1, batch_size=4, devices=devices, nodes=nodes)
    assert Train(epochs=1, batch_size=8, devices=2, nodes=4).nodes == 4


@pytest.mark.slow
def test_the_stage_trains_on_two_devices_into_one_run(tmp_path):
    project = Project(tmp_path, SIZE, size_px=64, devices=2, batch_size=4, epochs=2)
    code, errors = project.run()
    assert code == 0, errors
    weights, history = project.result()
    assert len(history) == 2 and all(t.isfinite().all() for t in weights.values())
    run = json.loads((tmp_path / "data/trained/nyu/full/0/run.json").read_text())
    assert run["devices"] == 2
    (tracked,) = project.mlflow_runs()
    assert tracked.info.status == "FINISHED"


@pytest.mark.slow
def test_a_finished_fit_of_two_devices_is_not_repeated_by_torchrun_itself(tmp_path):
    project = Project(tmp_path, SIZE, size_px=64, devices=2, batch_size=4, epochs=1)
    code, errors = project.run()
    assert code == 0 and "train:" in errors, errors
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    code, errors = project.run(*torchrun, "--nproc-per-node=2")
    assert code == 0 and "train:" not in errors, errors


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"size_px": 96}, "train.size_px is 96"),
        ({"optimizer": "sgd", "lr": 1e30}, "loss is"),
    ],
)
def test_a_mistake_of_several_processes_is_one_line_and_exit_status_2(tmp_path, settings, words):
    settings = {"size_px": 64, "devices": 2, "batch_size": 4, "schedule": "step", **settings}
    code, errors = Project(tmp_path, SIZE, **settings).run()
    lines = [line for line in errors.splitlines() if "error" in line.lower()]
    assert code == 2 and "Traceback" not in errors, errors
    assert lines and all(words in line for line in lines), errors


@pytest.mark.slow
def test_processes_stop_with_the_torchrun_that_was_killed_or_interrupted(tmp_path):
    project = Project(tmp_path, SIZE, size_px=64, devices=2, batch_size=4, epochs=1000)
    for number, status in ((signal.SIGKILL, -9), (signal.SIGINT, 130)):
        process = project.start_and_wait_for_saves(2)
        workers = psutil.Process(process.pid).children(recursive=True)
        assert len(workers) >= 2
        process.send_signal(number)
        _, alive = psutil.wait_procs(workers, timeout=60)
        assert not alive
        _, errors = process.communicate(timeout=60)
        assert process.returncode == status and "Traceback" not in errors, errors
    (run,) = project.mlflow_runs()
    assert run.info.status == "KILLED"


def test_as_many_processes_as_devices(monkeypatch):
    relaunch_on_devices("pipeline.train", 1)
    monkeypatch.setenv("WORLD_SIZE", "1")  # as schedulers set it, for what they start
    relaunch_on_devices("pipeline.train", 1)
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(HDEDError, match=r"train.devices is 2, but torchrun started 1"):
        relaunch_on_devices("pipeline.train", 2)
    with pytest.raises(HDEDError, match=r"devices is 2 and train.nodes 3, but torchrun started 1"):
        relaunch_on_devices("pipeline.train", 2, 3)
    relaunch_on_devices("pipeline.train", 1)


@pytest.mark.parametrize("address", ["", "host", "host:", ":29500", "host:port"])
def test_several_machines_need_the_address_of_the_first(monkeypatch, address):
    monkeypatch.setenv("HDED_RENDEZVOUS", address)
    with pytest.raises(HDEDError, match=r"train.nodes is 2, but HDED_RENDEZVOUS .* HOST:PORT"):
        relaunch_on_devices("pipeline.train", 1, 2)
    monkeypatch.setenv("HDED_RENDEZVOUS", "host:29500")
    for node in ("2", "-1", "first"):
        monkeypatch.setenv("HDED_NODE", node)
        with pytest.raises(HDEDError, match=r"HDED_NODE is .*; number the machines 0 to 1"):
            relaunch_on_devices("pipeline.train", 1, 2)


def test_a_machines_number_is_slurms_unless_it_is_stated(monkeypatch):
    monkeypatch.setenv("HDED_RENDEZVOUS", "host:29500")
    monkeypatch.setenv("SLURM_NODEID", "2")
    with pytest.raises(HDEDError, match=r"HDED_NODE is '2'"):
        relaunch_on_devices("pipeline.train", 1, 2)
    seen = []
    monkeypatch.setattr(
        "pipeline.lib.launch._torchrun", lambda module, devices, where: seen.append(where)
    )
    for stated, expected in ((None, "--node-rank=2"), ("1", "--node-rank=1")):
        if stated:
            monkeypatch.setenv("HDED_NODE", stated)
        with pytest.raises(HDEDError, match="torchrun started 1"):  # _torchrun would have ended
            relaunch_on_devices("pipeline.train", 1, 3)
        assert expected in seen[-1]


def machines(root: Path, **settings: Any) -> list[Project]:
    """Two folders with the same data, which share nothing."""
    found = [Project(root / name, SIZE, **settings) for name in ("first", "second")]
    address = f"127.0.0.1:{free_port()}"
    for node, project in enumerate(found):
        project.variables |= {"HDED_RENDEZVOUS": address, "HDED_NODE": str(node)}
    return found


def train_together(found: Sequence[Project]) -> None:
    processes = [each.start() for each in found]
    said = [process.communicate(timeout=200)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said


@pytest.mark.slow
def test_two_machines_train_as_two_processes_of_one_do(tmp_path):
    settings = {"size_px": 64, "batch_size": 4, "epochs": 2}
    alone = Project(tmp_path / "alone", SIZE, devices=2, **settings)
    code, errors = alone.run()
    assert code == 0, errors
    both = machines(tmp_path, nodes=2, **settings)
    train_together(both)
    (weights, history), (expected, as_before) = both[0].result(), alone.result()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    pd.testing.assert_frame_equal(history, as_before)
    # the second one keeps nothing
    assert not (both[1].root / "data/trained").exists() and not both[1].files("*.pt")
    assert not (both[1].root / "mlflow.db").exists()


@pytest.mark.slow
def test_a_machine_that_dies_ends_the_other_and_the_next_run_goes_on(tmp_path):
    settings = {"size_px": 64, "batch_size": 4, "epochs": 40}
    smooth = machines(tmp_path / "smooth", nodes=2, **settings)
    train_together(smooth)
    both = machines(tmp_path / "killed", nodes=2, **settings)
    second = both[1].start()
    first = both[0].start_and_wait_for_saves(5)
    whole_machine = [*psutil.Process(second.pid).children(recursive=True), second]
    for process in whole_machine:
        process.kill()
    second.communicate()
    _, errors = first.communicate(timeout=100)
    assert first.returncode == 2 and "Traceback" not in errors, errors
    assert "another process was lost" in errors and len(both[0].files("latest.pt")) == 1
    train_together(both)
    (weights, history), (expected, whole) = both[0].result(), smooth[0].result()
    assert len(history) == len(whole) == 40
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_a_machine_with_other_data_is_refused(tmp_path):
    both = machines(tmp_path, nodes=2, size_px=64, batch_size=4, epochs=1)
    table = both[1].root / "data/frames/nyu/frames.csv"
    table.write_text(table.read_text() + "\n")
    marker = both[1].root / "data/frames/nyu/store.json"
    content = json.loads(marker.read_text())
    content["files"]["frames.csv"] += 1
    marker.write_text(json.dumps(content))
    processes = [each.start() for each in both]
    said = [process.communicate(timeout=100)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2], said
    assert all("process 2 of 2 has other data" in errors for errors in said)
    assert not any("Traceback" in errors for errors in said)


@pytest.mark.slow
def test_a_machine_without_the_data_ends_the_other_too(tmp_path):
    both = machines(tmp_path, nodes=2, size_px=64, batch_size=4, epochs=1)
    shutil.rmtree(both[1].root / "data/frames/nyu")
    processes = [each.start() for each in both]
    said = [process.communicate(timeout=100)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2], said
    assert "another process was lost" in said[0] and "no finished store" in said[1], said
    assert not any("Traceback" in errors for errors in said)
