"""Frames that are read as they are needed: the same samples, in the same order, to the bit."""

import os
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support.fit import Project
from training.test_samplers import (  # pyright: ignore[reportAttributeAccessIssue]
    SIZE,
    cameras,
    noisy,
    rendered,  # noqa: F401  (a fixture)
    stored_by,
)

from hded.common.memory import available_bytes
from hded.common.threads import ahead
from hded.config.schema import Train
from hded.training.batch import Batch
from hded.training.build import _streams
from hded.training.frames import TrainingFrames, resident_bytes
from hded.training.samplers import BLOCK_FRAMES, WINDOW_FRAMES, build_sampler, epoch_order
from hded.training.stream import AHEAD, THREADS, Streamed, batches_ahead
from hded.training.validation import whole_frames

CPU = torch.device("cpu")
HOW = {
    "crop": {"geometry": "crop"},
    "resize": {"geometry": "resize"},
    "sharp": {"geometry": "crop", "network_input": "sharp"},
    "sharp alone": {"geometry": "crop", "network_input": "sharp", "stored": False},
}


def frames_of(data: SimpleNamespace, streams: bool, **how: Any) -> TrainingFrames:
    return TrainingFrames(
        data.scenes, [data.defocused], np.arange(4), size_px=32, streams=streams, **how
    )


def epochs(frames: TrainingFrames, cameras: Any = (), **options: Any) -> list[Batch]:
    sampler = build_sampler(frames, cameras)
    return [
        batch.to(CPU)
        for epoch in (1, 2)
        for batch in sampler.batches(2, seed=0, epoch=epoch, hflip=0.5, **options)
    ]


def same(one: list[Batch], other: list[Batch]) -> bool:
    names = ("rgb", "sharp", "defocused", "depth_m", "valid", "lenses")
    for a, b in zip(one, other, strict=True):
        if a.indices != b.indices:
            return False
        for name in names:
            x, y = getattr(a, name), getattr(b, name)
            if not (x is y is None or torch.equal(x, y)):
                return False
    return True


@pytest.mark.parametrize("how", HOW)
def test_streamed_samples_are_those_in_memory(rendered: SimpleNamespace, how: str) -> None:  # noqa: F811
    resident, streamed = (frames_of(rendered, streams, **HOW[how]) for streams in (False, True))
    assert isinstance(streamed.sharp, Streamed) and isinstance(resident.sharp, torch.Tensor)
    assert same(epochs(resident), epochs(streamed))
    assert same(epochs(resident, start=1), epochs(streamed, start=1))
    shares = [epochs(streamed, rank=rank, devices=2) for rank in (0, 1)]
    assert same(shares[0], epochs(resident, rank=0, devices=2))
    assert not set(shares[0][0].indices) & set(shares[1][0].indices)
    for a, b in zip(whole_frames(resident), whole_frames(streamed), strict=True):
        assert same([a[0]], [b[0]])
        assert np.array_equal(a[1], b[1]) and np.array_equal(a[2], b[2])


@pytest.mark.parametrize("geometry", ["crop", "resize"])
def test_so_are_those_that_are_rendered_anew(rendered: SimpleNamespace, geometry: str) -> None:  # noqa: F811
    both = [
        epochs(
            frames_of(rendered, streams, geometry=geometry, stored=False), [cameras(1.0, 2.0, 5.0)]
        )
        for streams in (False, True)
    ]
    assert same(*both)


def test_and_those_with_noise(rendered: SimpleNamespace, tmp_path: Path) -> None:  # noqa: F811
    data = stored_by(noisy(), rendered, tmp_path)
    both = [frames_of(data, streams, geometry="crop") for streams in (False, True)]
    assert same(*map(epochs, both))
    shown = [
        frames_of(data, s, geometry="crop", exposed=True).shots[0].images for s in (False, True)
    ]
    assert torch.equal(shown[0][:], shown[1][:])


def test_frames_are_read_ahead_and_few_are_held(rendered: SimpleNamespace) -> None:  # noqa: F811
    frames = frames_of(rendered, True, geometry="crop")
    assert isinstance(frames.sharp, Streamed)
    fetch, read = frames.sharp.fetch, Counter[str]()

    def counted(i: int) -> np.ndarray:
        read[threading.current_thread().name.split("_")[0]] += 1
        return fetch(i)

    frames.sharp.fetch = counted
    epochs(frames)
    assert set(read) == {"ahead"}  # never the thread that trains
    assert len(frames.sharp.ready) <= 2


def test_threads_are_at_most_so_many_items_ahead() -> None:
    started: list[int] = []
    asked = iter(range(100))
    results = ahead(lambda i: started.append(i) or i * i, asked, AHEAD, THREADS)
    assert [next(results) for _ in range(10)] == [i * i for i in range(10)]
    assert len(started) <= 10 + AHEAD + 1
    results.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert not [t for t in threading.enumerate() if t.name.startswith("ahead")]
    with pytest.raises(ZeroDivisionError):
        list(ahead(lambda i: 1 // i, [1, 0, 1], AHEAD, THREADS))
    assert THREADS >= 2
    assert batches_ahead(20 << 20) == AHEAD and batches_ahead(300 << 20) == 1


def test_a_large_epoch_is_every_frame_once_and_stays_in_few_places_for_a_time() -> None:
    count = 3 * WINDOW_FRAMES + 17
    order = epoch_order(count, 0, 1)
    assert sorted(order) == list(range(count))
    assert not np.array_equal(order, epoch_order(count, 0, 2))
    window = np.sort(order[:WINDOW_FRAMES])
    assert len(np.unique(window // BLOCK_FRAMES)) <= WINDOW_FRAMES / BLOCK_FRAMES + 2
    assert np.ptp(window) > count / 2  # from anywhere
    near = np.diff(order[:WINDOW_FRAMES])
    assert (np.abs(near) < BLOCK_FRAMES).mean() < 0.05  # and not in turn
    small = np.random.default_rng([0, 1]).permutation(795)
    assert np.array_equal(epoch_order(795, 0, 1), small)


def test_frames_are_streamed_where_memory_is_short(rendered: SimpleNamespace, monkeypatch) -> None:  # noqa: F811
    needed = resident_bytes(rendered.scenes, [rendered.defocused], 4)
    assert needed == 4 * SIZE[0] * SIZE[1] * (3 + 4 + 3 * 3)  # three renderings each
    kept = frames_of(rendered, False, geometry="crop")
    tensors = (kept.sharp, kept.depth_m, kept.shots[0].images)
    assert needed == sum(t.numel() * t.element_size() for t in tensors)  # pyright: ignore
    anew = frames_of(rendered, False, geometry="crop", stored=False)
    tensors = (anew.sharp, anew.depth_m, anew.blur_depth_m)
    assert resident_bytes(rendered.scenes, [], 4) == sum(
        t.numel() * t.element_size()  # pyright: ignore
        for t in tensors
    )
    settings = {m: Train(epochs=1, memory=m) for m in ("auto", "resident", "stream")}
    for left, streams in ((2 * needed, False), (2 * needed - 2, True)):
        monkeypatch.setattr("hded.training.build.available_bytes", lambda left=left: left)
        assert _streams(settings["auto"], needed) == streams
        assert not _streams(settings["resident"], needed) and _streams(settings["stream"], needed)
    monkeypatch.setattr("hded.training.build.available_bytes", lambda: 3 * needed)
    assert _streams(Train(epochs=1, devices=2, batch_size=4), needed)


def test_the_memory_that_is_left_is_some_of_what_there_is() -> None:
    everything = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < available_bytes() <= everything


@pytest.mark.slow
def test_a_fit_that_streams_is_the_same_fit_under_the_same_key(tmp_path: Path) -> None:
    results = {}
    for memory in ("resident", "stream"):
        project = Project(tmp_path / memory, memory=memory, epochs=2)
        code, errors = project.run()
        assert code == 0, errors
        results[memory] = project.result()
        results[f"{memory} key"] = [f.parent.name for f in project.files("finished.pt")]
    (one, history), (other, again) = results["resident"], results["stream"]
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert history.equals(again)
    assert results["resident key"] == results["stream key"]
