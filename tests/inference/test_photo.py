"""A trained network used: on photographs of any size, as ONNX, over HTTP."""

import base64
import json
import os
import re
import runpy
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import redirect_stderr, redirect_stdout
from io import BytesIO, StringIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from support.imports import ROOT
from support.servers import free_port, serving

from hded.common.errors import HDEDError
from hded.common.resize import resize_bilinear, resize_rgb
from hded.config.schema import Geometry
from hded.inference import Predictor, load_predictor
from hded.inference.photo import estimate, preview, read_photo
from hded.network import HDEDNet
from hded.network.files import Header, read_network, save_network
from hded.network.normalize import to_network_range

LENS = (12.0, 1.5, 29.0, 0.25, 0.0, 0.0)
ARGUMENTS = {"heads": ["depth", "all_in_focus"], "width": 1 / 16, "depth_scale_m": 10.0}


def weights(path: Path, geometry: Geometry = "crop", size_px: int = 64, **arguments) -> Path:
    """Save a network that gives something everywhere: random, not its identity start."""
    torch.manual_seed(0)
    arguments = {**ARGUMENTS, **arguments}
    network = HDEDNet(**arguments)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for head, decoder in network.decoders.items():
            weight = decoder.get_parameter("predict.weight")
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_((0.01 if head == "depth" else 0.02) * noise)
    header = Header(network=arguments, geometry=geometry, size_px=size_px)
    save_network(path, network.state_dict(), header)
    return path


def photo(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    smooth = gaussian_filter(rng.uniform(0, 255, (height, width, 3)), (2, 2, 0))
    return np.clip(128 + 6 * (smooth - 128), 0, 255).astype(np.uint8)


def command(*arguments: object) -> SimpleNamespace:
    """Run `python -m hded` in this process, which has torch imported already."""
    out, err, argv = StringIO(), StringIO(), sys.argv
    sys.argv = ["hded", *map(str, arguments)]
    try:
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as end:
            runpy.run_module("hded", run_name="__main__")
    finally:
        sys.argv = argv
    return SimpleNamespace(returncode=end.value.code, stdout=out.getvalue(), stderr=err.getvalue())


@pytest.fixture(scope="module")
def crop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return weights(tmp_path_factory.mktemp("crop") / "weights.pt")


def test_the_mean_with_the_mirrored_photograph(crop):
    plain, both = load_predictor(crop), load_predictor(crop, hflip=True)
    rgb = photo(64, 96)
    mirrored = np.ascontiguousarray(rgb[:, ::-1])
    one, other = plain(rgb, rounded=False), plain(mirrored, rounded=False)
    found, again = both(rgb, rounded=False), both(mirrored, rounded=False)
    for head in ("depth", "all_in_focus"):
        mean = (one[head] + other[head][:, ::-1]) / 2
        assert np.abs(one[head] - mean).max() > 1e-3
        np.testing.assert_allclose(found[head], mean, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(again[head][:, ::-1], found[head], rtol=1e-4, atol=1e-3)


def test_a_small_photograph_is_what_the_network_gives(crop):
    predictor = load_predictor(crop)
    rgb = photo(70, 95)
    found, outputs = estimate(predictor, rgb), predictor(rgb)
    expected = np.clip(np.rint(1000 * outputs["depth"]), 0, 65535)
    assert found.thousandths is not None and found.thousandths.dtype == np.uint16
    assert expected.std() > 1
    np.testing.assert_array_equal(found.thousandths, expected)
    np.testing.assert_array_equal(found.all_in_focus, outputs["all_in_focus"])


class Local:
    """Stands in for a network: each pixel's answer is its own place in the photograph."""

    geometry, size_px, cameras = "crop", 64, ()

    def __init__(self, predictor: Predictor) -> None:
        self.network, self.seen = predictor.network, []

    def __call__(self, rgb: NDArray[np.uint8], lens: object, **_: object) -> dict[str, NDArray]:
        self.seen.append(rgb.shape[:2])
        return {"depth": rgb[..., 0] / np.float32(10), "all_in_focus": rgb}


@pytest.mark.parametrize(
    "size", [(300, 420), (100, 421), (257, 90), (128, 128), (129, 128), (7, 5)]
)
@pytest.mark.parametrize(("tile", "overlap"), [(128, 32), (100, 0), (64, 63)])
def test_tiles_cover_the_photograph_and_agree_where_they_meet(crop, size, tile, overlap):
    local, rgb = Local(load_predictor(crop)), photo(*size)
    found = estimate(local, rgb, tile, overlap)  # pyright: ignore[reportArgumentType]
    np.testing.assert_array_equal(found.all_in_focus, rgb)
    np.testing.assert_array_equal(found.thousandths, rgb[..., 0].astype(int) * 100)
    assert max(max(shape) for shape in local.seen) <= tile


def test_tiles_are_blended_without_a_seam(crop):
    """Tiles that disagree by a constant: no step between neighbours is larger than the ramp's."""
    local = Local(load_predictor(crop))
    count = iter(range(100))

    def disagree(rgb: NDArray[np.uint8], lens: object, **_: object) -> dict[str, NDArray]:
        level = 2.0 + next(count) % 2
        return {"depth": np.full(rgb.shape[:2], level, np.float32), "all_in_focus": rgb}

    disagree.network, disagree.geometry, disagree.cameras = local.network, "crop", ()  # pyright: ignore
    depth = estimate(disagree, photo(300, 400), 128, 63).thousandths  # pyright: ignore
    assert depth is not None and depth.min() == 2000 and depth.max() == 3000
    steps = max(np.abs(np.diff(depth.astype(int), axis=axis)).max() for axis in (0, 1))
    assert steps <= 1000 / 16


def test_a_photograph_in_tiles_is_nearly_the_whole_one(crop):
    predictor, rgb = load_predictor(crop), photo(260, 300)
    whole, tiled = estimate(predictor, rgb), estimate(predictor, rgb, 192, 96)
    assert whole.all_in_focus is not None and tiled.all_in_focus is not None
    difference = np.abs(whole.all_in_focus.astype(int) - tiled.all_in_focus)
    assert difference.mean() < 1.5


def test_a_network_of_squashed_frames_sees_the_photograph_at_its_training_size(tmp_path):
    predictor = load_predictor(weights(tmp_path / "w.pt", "resize", 64))
    rgb = photo(150, 220)
    found, outputs = estimate(predictor, rgb), predictor(rgb)
    assert outputs["depth"].shape == (64, 64)
    enlarged = resize_bilinear(outputs["depth"], (150, 220))
    np.testing.assert_array_equal(found.thousandths, np.clip(np.rint(1000 * enlarged), 0, 65535))
    np.testing.assert_array_equal(
        found.all_in_focus, resize_rgb(outputs["all_in_focus"], (150, 220))
    )


def test_the_command_writes_what_it_says_upright(crop, tmp_path):
    rgb = photo(60, 90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(rgb).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(rgb).convert("L").save(tmp_path / "grey.png")
    out = tmp_path / "out"
    done = command(
        "predict",
        tmp_path / "turned.png",
        tmp_path / "grey.png",
        "--checkpoint",
        crop,
        "--out",
        out,
    )
    assert done.returncode == 0, done.stderr
    names = ("_depth.png", "_depth_preview.png", "_all_in_focus.png", ".json")
    assert {f.name for f in out.iterdir()} == {f"{i}{n}" for i in ("turned", "grey") for n in names}
    upright = np.rot90(rgb, -1)
    expected = estimate(load_predictor(crop), np.ascontiguousarray(upright))
    with Image.open(out / "turned_depth.png") as depth:
        assert depth.mode == "I;16"
        np.testing.assert_array_equal(np.asarray(depth), expected.thousandths)
    with Image.open(out / "turned_all_in_focus.png") as sharp:
        np.testing.assert_array_equal(np.asarray(sharp), expected.all_in_focus)
    with Image.open(out / "grey_depth_preview.png") as shown:
        assert shown.size == (90, 60) and len(np.unique(np.asarray(shown))) > 5


def test_one_head_alone_is_the_same_head(crop, tmp_path):
    Image.fromarray(photo(60, 90)).save(tmp_path / "a.png")
    for heads, out in ((["depth", "all_in_focus"], "both"), (["depth"], "one")):
        done = command(
            "predict", tmp_path / "a.png", "--checkpoint", crop, "--out", tmp_path / out,
            "--heads", *heads,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    written = {f.name for f in (tmp_path / "one").iterdir()}
    assert written == {"a_depth.png", "a_depth_preview.png", "a.json"}
    depths = [(tmp_path / out / "a_depth.png").read_bytes() for out in ("both", "one")]
    assert depths[0] == depths[1]


def test_a_squashing_network_says_so(tmp_path):
    Image.fromarray(photo(60, 90)).save(tmp_path / "a.png")
    checkpoint = weights(tmp_path / "w.pt", "resize", 64)
    done = command(
        "predict", tmp_path / "a.png", "--checkpoint", checkpoint, "--out", tmp_path / "out"
    )
    assert done.returncode == 0 and "resized to 64x64" in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "missing.png"], "missing.png: no such file"),
        (["predict", "text.png"], "text.png: cannot be read as an image"),
        (["predict", "a.png", "sub/a.png"], "two images are named a"),
        (["predict", "out/b.png"], "--out: out is the folder of b.png"),
        (["predict", "a.png", "--tile", "64", "--overlap", "64"], "overlap 64"),
        (["predict", "a.png", "--device", "cuda"], "cuda is not available"),
        (["predict", "a.png", "--heads", "normals"], "normals"),
        (["predict"], "PHOTO"),
        (["predict", "a.png", "--f-number", "0"], "--f-number: invalid"),
        (["predict", "empty"], "empty: has no photograph"),
        (["fly"], "fly"),
    ],
)
def test_a_mistake_is_one_line(crop, tmp_path, arguments, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photo(60, 90)).save("a.png")
    Path("text.png").write_text("no image")
    Path("empty").mkdir()
    Path("out").mkdir()
    Image.fromarray(photo(60, 90)).save("out/b.png")
    rest = ["--checkpoint", crop, "--out", "out"] if arguments != ["fly"] else []
    if message.startswith("cuda") and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = command(*arguments, *rest)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert message in done.stderr.strip().splitlines()[-1]


def test_a_network_of_two_images_is_refused_before_any_photograph_is_read(tmp_path):
    checkpoint = weights(tmp_path / "two.pt", shots=2)
    for name in ("a.png", "b.png"):
        Image.fromarray(photo(60, 90)).save(tmp_path / name)
    done = command("predict", tmp_path, "--checkpoint", checkpoint, "--out", tmp_path / "out")
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    assert "two.pt: reads 2 images of one scene at once" in done.stderr.strip().splitlines()[-1]


def test_the_other_images_are_written_beside_one_that_cannot_be_read(crop, tmp_path):
    Image.fromarray(photo(60, 90)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"nothing")
    done = command(
        "predict", tmp_path / "bad.png", tmp_path / "good.png", "--checkpoint", crop,
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert done.returncode == 2 and "bad.png" in done.stderr
    assert (tmp_path / "out/good_depth.png").is_file()


def test_files_that_cannot_be_read_are_named_and_results_are_counted(crop, tmp_path):
    for name in ("a.png", "b.png"):
        Image.fromarray(photo(60, 90)).save(tmp_path / name)
    for name in ("c.HEIC", "d.dng", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    out = tmp_path / "out"
    done = command("predict", tmp_path, "--checkpoint", crop, "--out", out)
    assert done.returncode == 0 and f"{tmp_path}: leaves out c.HEIC and 1 more" in done.stderr
    assert done.stdout.splitlines()[-1] == f"{out}: results of 2 photographs"


def test_depth_beyond_16_bits_and_below_zero_is_clipped(crop):
    local = Local(load_predictor(crop))

    def far(rgb: NDArray[np.uint8], lens: object, **_: object) -> dict[str, NDArray]:
        depth = np.where(rgb[..., 0] > 128, 1e3, -1.0).astype(np.float32)
        return {"depth": depth, "all_in_focus": rgb}

    far.network, far.geometry, far.cameras = local.network, "crop", ()  # pyright: ignore
    found = estimate(far, photo(40, 40)).thousandths  # pyright: ignore
    assert found is not None and set(np.unique(found)) == {0, 65535}
    assert preview(np.zeros((4, 4), np.uint16)).size == (4, 4)


def test_depth_that_16_bits_cannot_hold_is_said(crop, tmp_path):
    header, state = read_network(crop)
    network = {**header.network, "depth_scale_m": 1e9}
    save_network(tmp_path / "far.pt", state, header.model_copy(update={"network": network}))
    Image.fromarray(photo(40, 40)).save(tmp_path / "a.png")
    for checkpoint, said in ((crop, False), (tmp_path / "far.pt", True)):
        done = command(
            "predict", tmp_path / "a.png", "--checkpoint", checkpoint, "--out", tmp_path / "out"
        )
        assert done.returncode == 0, done.stderr
        line = r"a\.png: \d+\.\d% of the depth is at or beyond 65\.535 m"
        assert bool(re.search(line, done.stdout + done.stderr)) == said


@pytest.mark.parametrize("content", [None, b"", b"epoch,lr\n1,2\n", b"\x80\x04."])
def test_what_is_no_checkpoint_is_named_in_one_line(tmp_path, content):
    path = tmp_path / "weights.pt"
    path.mkdir() if content is None else path.write_bytes(content)
    done = command("predict", tmp_path / "a.png", "--checkpoint", path, "--out", tmp_path / "out")
    assert done.returncode == 2 and "weights.pt" in done.stderr
    assert done.stderr.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize("head", ["depth", "all_in_focus"])
def test_a_network_that_diverged_gives_no_picture(tmp_path, head):
    path = weights(tmp_path / "weights.pt")
    header, state = read_network(path)
    state[f"decoders.{head}.predict.weight"][:] = torch.nan
    save_network(path, state, header)
    with pytest.raises(HDEDError, match=f"{head.replace('_', '-')} head .* diverged"):
        load_predictor(path)(photo(40, 40))


def test_a_file_that_claims_to_be_huge_is_refused(tmp_path, monkeypatch):
    Image.fromarray(photo(40, 40)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(HDEDError, match=r"a\.png"):
        read_photo(tmp_path / "a.png")


def test_greyscale_is_read_and_refused_where_it_would_be_made_white(tmp_path):
    grey = photo(40, 40)[..., 0]
    Image.fromarray(grey.astype(np.int32) * 257).save(tmp_path / "a.tif")
    with pytest.raises(HDEDError, match=r"a\.tif: greyscale of more than 8 bits"):
        read_photo(tmp_path / "a.tif")
    for pixels in (grey, grey.astype(np.uint16) * 257):
        Image.fromarray(pixels).save(tmp_path / "a.png")
        expected = np.repeat(pixels[..., None], 3, -1)
        np.testing.assert_array_equal(read_photo(tmp_path / "a.png").rgb, expected)


# ---- taken elsewhere ----


@pytest.mark.parametrize("out", ["", "."])
def test_an_export_into_a_folder_is_one_line(out):
    done = command("export", "--out", out)
    assert done.returncode == 2
    assert done.stderr == "error: --out: . is a folder; give the name of the file to write\n"


@pytest.mark.slow  # the export of either takes a third of a minute
@pytest.mark.parametrize(
    "network",
    [
        {},
        {"encoder": "efficientnet_lite0", "decoder": "bilinear", "width": 0.25, "joint": "concat"},
        {
            "encoder": "efficientnet_lite0",
            "decoder": "bilinear",
            "width": 0.25,
            "readout": "coc",
            "confidence": True,
            "reads_lens": True,
        },
        {"shots": 2},
    ],
    ids=["paper", "slim", "any lens", "two images"],
)
def test_onnx_gives_what_torch_gives_at_any_size(tmp_path, network):
    runtime = pytest.importorskip("onnxruntime")
    checkpoint = weights(tmp_path / "w.pt", **network)
    done = command("export", "--checkpoint", checkpoint, "--out", tmp_path / "n.onnx")
    assert done.returncode == 0, done.stderr
    assert "depth, all_in_focus" in done.stdout
    session = runtime.InferenceSession(tmp_path / "n.onnx")
    assert [o.name for o in session.get_outputs()] == ["depth", "all_in_focus"]
    predictor = load_predictor(checkpoint)
    for size in ((64, 96), (70, 45), (17, 33), (427, 561)):
        shots = [photo(*size, seed) for seed in range(predictor.network.shots)]
        rgb = torch.cat([to_network_range(shot) for shot in shots])[None]
        with torch.no_grad():
            expected = predictor.network(rgb, lens=torch.tensor([LENS]))
        given = {"rgb": rgb.numpy()}
        if predictor.network.needs_lens:
            given["lens"] = np.array([LENS], np.float32)
        found = session.run(None, given)
        for head, array in zip(("depth", "all_in_focus"), found, strict=True):
            assert expected[head].std() > 1e-3
            np.testing.assert_allclose(array, expected[head].numpy(), rtol=0, atol=1e-4)


@pytest.mark.slow
def test_the_logged_model_is_served_by_mlflow_and_answers(crop, tmp_path):
    code = (
        "import sys; from pathlib import Path\n"
        "from pipeline.lib.mlflow_model import log_model; from pipeline.lib.tracking import track\n"
        "with track('t', {}) as tracker:\n"
        "    log_model(tracker, Path(sys.argv[1]), ('depth', 'all_in_focus'))\n"
        "print(tracker.run_id)\n"
    )
    env = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}"}
    env |= {"MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    done = subprocess.run(
        [sys.executable, "-c", code, crop], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    model, port = f"runs:/{done.stdout.split()[-1]}/model", free_port()
    serve = ["mlflow", "models", "serve", "-m", model, "--env-manager", "local"]
    url = f"http://127.0.0.1:{port}"
    command = [*serve, "--host", "127.0.0.1", "--port", str(port)]
    with serving(command, f"{url}/ping", tmp_path, env):
        rgb = photo(50, 70)
        buffer = BytesIO()
        Image.fromarray(rgb).save(buffer, "PNG")
        answer = post(f"{url}/invocations", base64.b64encode(buffer.getvalue()).decode())
        (row,) = answer["predictions"]
        images = {n: np.asarray(Image.open(BytesIO(base64.b64decode(t)))) for n, t in row.items()}
        expected = estimate(load_predictor(crop), rgb)
        np.testing.assert_array_equal(images["depth_mm"], expected.thousandths)
        np.testing.assert_array_equal(images["all_in_focus"], expected.all_in_focus)
        with pytest.raises(urllib.error.HTTPError) as caught:
            post(f"{url}/invocations", "!!!")
        assert "base64" in caught.value.read().decode()


def post(url: str, image: str) -> dict:
    body = json.dumps({"dataframe_split": {"columns": ["image"], "data": [[image]]}}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def test_the_console_command_is_the_module(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("hded")
    for command in ([str(script)], [sys.executable, "-m", "hded"]):
        arguments = ["predict", "none.jpg", "--checkpoint", "none.pt", "--out", str(tmp_path)]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1 and "none.pt: no such file" in done.stderr
