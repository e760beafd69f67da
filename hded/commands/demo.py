"""Open a page on this computer: drop a photograph, see depth, click where to focus.

The page is served to this computer alone, on 127.0.0.1, and loads nothing from elsewhere. It needs
`pip install -e '.[demo]'` in the project's folder.
"""

import asyncio
import base64
import socket
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hded.commands.common import LENS, add_device, add_network, load_both_heads
from hded.common.deep_image import eight_bits
from hded.common.errors import HDEDError, first_line
from hded.common.resize import resize_bilinear, resize_rgb
from hded.inference import Predictor
from hded.inference.photo import Estimate, Photo, estimate, preview, read_photo
from hded.inference.refocus import LARGEST_COC_PX, RENDERED_PX, refocus
from hded.inference.view import View, taken_lens, view_of
from hded.optics.photograph import StatedLens

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")  # by which a browser on this computer asks for the page
LARGEST_BYTES = 200_000_000  # of a photograph's file
SHOWN_PX = RENDERED_PX  # the long side of the images on the page
F_NUMBERS = (1.0, 16.0)
LABELS = {
    "focal_length_m": "Focal length [mm]",
    "f_number": "f-number",
    "focus_distance_m": "Focus distance [m]",
    "sensor_width_m": "Sensor width [mm]",
}
STYLE = """
.compare { position: relative; margin: 0 auto; }
.compare img { display: block; max-width: 100%; max-height: 75vh; }
.compare .over { position: absolute; inset: 0; }
.hint { color: #616161; font-size: 0.875rem; }
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    add_network(parser)
    add_device(parser)
    parser.add_argument("--port", type=int, default=8080, help="of the page (default: 8080)")


def demo(arguments: Namespace) -> None:
    """Run the command until it is interrupted."""
    try:
        from nicegui import app, ui
        from starlette.middleware.trustedhost import TrustedHostMiddleware
    except ImportError:
        raise HDEDError(
            "the page needs the package nicegui; run `pip install -e '.[demo]'` in the project's "
            "folder"
        ) from None
    predictor = load_both_heads(arguments.checkpoint, arguments.device, "the page")
    _check_port(arguments.port)
    print(f"http://{HOST}:{arguments.port}  (Ctrl-C ends it)", flush=True)
    # otherwise another site's page could reach it, by a name of its own for this computer's address
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(NAMES))
    alone = asyncio.Lock()  # one photograph at a time has all cores
    ui.run(
        lambda: Page(predictor, alone).build(),
        host=HOST,
        port=arguments.port,
        title="hded",
        reload=False,
        show=False,
        show_welcome_message=False,
        # no address outside this computer, whatever a library's next version may load
        tailwind=False,
    )


def _check_port(port: int) -> None:
    """Raise HDEDError for a port that is none, or that another program uses."""
    if not 0 < port < 65536:
        raise HDEDError(f"--port: {port} is not within 1 and 65535")
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError as error:
            raise HDEDError(
                f"--port: {port} cannot be used ({error.strerror}); take another"
            ) from error


@dataclass(slots=True)
class Desk:
    """One photograph and what was found in it, at the size at which the page shows it."""

    predictor: Predictor
    photo: Photo | None = None
    lens: StatedLens = field(default_factory=StatedLens)
    view: View = field(default_factory=View)
    sharp: NDArray[np.uint8] | None = None
    depth: NDArray[np.float32] | None = None
    depth_shown: Image.Image | None = None
    notes: tuple[str, ...] = ()

    def open(self, content: bytes) -> None:
        """Take a photograph from the bytes of its file; raises HDEDError for any other file."""
        self.photo = read_photo(BytesIO(content))
        self.lens = self.photo.lens
        self.sharp = self.depth = self.depth_shown = None

    def estimate(self, lens: StatedLens) -> None:
        """Estimate depth and the restored photograph; raises HDEDError for an impossible lens."""
        assert self.photo is not None
        rgb = self.photo.rgb
        height, width = rgb.shape[:2]
        self.view, self.lens = view_of(self.predictor, (height, width), lens), lens
        found = estimate(self.predictor, rgb, view=self.view)
        assert found.depth is not None and found.all_in_focus is not None
        size, self.notes = self._shown_size(), (*self.view.notes, *found.notes)
        self.sharp, self.depth = eight_bits(found.all_in_focus), found.depth
        if size != (height, width):
            self.sharp = resize_rgb(self.sharp, size)
            self.depth = resize_bilinear(self.depth, size)
        shown = Estimate(self.depth, None).thousandths
        assert shown is not None
        self.depth_shown = preview(shown)

    @property
    def defocused(self) -> Image.Image:
        """Return the photograph, as large as it is shown."""
        assert self.photo is not None
        return Image.fromarray(resize_rgb(eight_bits(self.photo.rgb), self._shown_size()))

    def depth_at(self, x: float, y: float) -> float:
        """Return the depth at a place of the shown image [px], in the unit of the view."""
        assert self.depth is not None
        height, width = self.depth.shape
        row, column = min(max(int(y), 0), height - 1), min(max(int(x), 0), width - 1)
        return float(self.depth[row, column])

    def refocus(self, distance: float, f_number: float) -> Image.Image:
        """Return the photograph focused at a distance, in the unit of the view.

        Where depth is in units of the focus distance, the lens is one of that unit, too. Raises
        HDEDError where focal length or sensor are not known, and for a distance inside the focal
        length.
        """
        assert self.photo is not None and self.sharp is not None and self.depth is not None
        taken = taken_lens(self.predictor, self.lens, max(self.photo.rgb.shape[:2]))
        depth_m, scale, unit_m = self.depth, self.predictor.scale, 1.0
        if self.view.unit != "m":
            assert scale is not None and scale.focus_distance_m is not None
            unit_m = scale.focus_distance_m  # as which the view took it
        new = replace(taken, focus_distance_m=distance * unit_m, f_number=f_number)
        lens = new.lens(max(self.sharp.shape[:2]), LARGEST_COC_PX, "quarter")
        return Image.fromarray(refocus(self.sharp, depth_m * np.float32(unit_m), lens))

    def _shown_size(self) -> tuple[int, int]:
        assert self.photo is not None
        height, width = self.photo.rgb.shape[:2]
        scale = min(1.0, SHOWN_PX / max(height, width))
        return max(1, round(height * scale)), max(1, round(width * scale))


class Page:
    """The page of one visitor; heavy work runs in a thread while the page answers."""

    def __init__(self, predictor: Predictor, alone: asyncio.Lock) -> None:
        self.desk, self.alone = Desk(predictor), alone
        self.focus: float | None = None

    def build(self) -> None:
        """Build the page's elements."""
        from nicegui import ui

        ui.add_css(STYLE)
        with ui.column().style("max-width: 72rem; margin: 0 auto; width: 100%"):
            ui.label("Depth and sharpness from one out-of-focus photograph").style(
                "font-size: 1.5rem"
            )
            self.upload = ui.upload(
                label="Drop a photograph here",
                auto_upload=True,
                max_file_size=LARGEST_BYTES,
                on_upload=self.take,
                on_rejected=self.refuse,
            ).props("accept=image/* data-testid=upload")
            with ui.row():
                self.fields = {
                    name: ui.number(text, min=0, on_change=self.changed)
                    for name, text in LABELS.items()
                }
            self.button = ui.button("Estimate again", on_click=self.estimate)
            self.button.disable()
            self.message = ui.label("").classes("hint").props("data-testid=message")
            self.results = ui.column().style("width: 100%")

    async def take(self, event: Any) -> None:
        """Take a photograph that was dropped."""
        content = await event.file.read()
        self.upload.reset()
        self.focus = None
        if not await self._work("Reading ...", self.desk.open, content):
            return
        for name, entry in self.fields.items():
            value = getattr(self.desk.lens, name)
            entry.value = None if value is None else float(f"{value / LENS[name][2]:.4g}")
        self.button.enable()
        await self.estimate()

    def refuse(self) -> None:
        """Show why a file was not taken."""
        self.message.text = (
            f"This file is no image, or larger than {LARGEST_BYTES / 1e6:.0f} MB: drop another one."
        )

    def changed(self) -> None:
        """Show that the numbers on the page are no longer those of its images."""
        if self.desk.sharp is not None:
            self.message.text = "The lens was changed: estimate again."

    async def estimate(self) -> None:
        """Estimate depth and the restored photograph by the lens of the fields, and show them."""
        lens = StatedLens(
            **{name: e.value and e.value * LENS[name][2] for name, e in self.fields.items()}
        )
        if await self._work("Estimating ...", self.desk.estimate, lens):
            self.focus = None
            self.results.clear()
            self.message.text = " ".join(f"{note.capitalize()}." for note in self.desk.notes)
            self.show()

    def show(self) -> None:
        """Show what was found."""
        from nicegui import ui

        desk = self.desk
        assert desk.sharp is not None and desk.depth_shown is not None
        with self.results:
            ui.label("Restored (left) and as taken (right)").classes("hint")
            with ui.element("div").classes("compare"):
                ui.html(_image(desk.defocused, "As taken"), sanitize=False)
                over = ui.html(_image(Image.fromarray(desk.sharp), "Restored"), sanitize=False)
                over.classes("over").props("data-testid=restored")

            def cut(event: Any) -> None:
                over.style(f"clip-path: inset(0 {100 - event.value}% 0 0)")

            slider = ui.slider(min=0, max=100, value=50, on_change=cut)
            slider.props('aria-label="Restored and as taken" data-testid=compare')
            over.style("clip-path: inset(0 50% 0 0)")
            ui.label("Depth: dark is near. Click where the photograph shall be sharp.").classes(
                "hint"
            )
            with ui.row().style("width: 100%; flex-wrap: nowrap"):
                for source, name in ((desk.depth_shown, "depth"), (desk.defocused, "refocused")):
                    image = ui.interactive_image(source, on_mouse=self.click, events=["click"])
                    image.style("width: 50%").props(f"data-testid={name}")
                self.refocused = image  # pyright: ignore[reportPossiblyUnboundVariable]
            low, high = F_NUMBERS
            start = desk.lens.f_number or 2.8
            self.f_label = ui.label(f"f/{start:.1f}").classes("hint").props("data-testid=aperture")
            self.f_number = ui.slider(min=low, max=high, step=0.1, value=min(max(start, low), high))
            # rendered once the slider is let go
            self.f_number.props('aria-label="f-number"').on("change", self.aperture)
            self.f_label.bind_text_from(self.f_number, "value", lambda value: f"f/{value:.1f}")

    async def click(self, event: Any) -> None:
        """Focus at the depth of the place that was clicked."""
        if self.desk.depth is None:
            return
        self.focus = self.desk.depth_at(event.image_x, event.image_y)
        await self.aperture()

    async def aperture(self) -> None:
        """Render the photograph by the chosen focus and f-number, if a focus was chosen."""
        if self.focus is None or self.desk.depth is None:
            return
        rendered: list[Image.Image] = []
        work = (self.desk.refocus, self.focus, self.f_number.value)
        unit = "m" if self.desk.view.unit == "m" else "times the photograph's focus distance"
        done = f"Focused at {self.focus:.2f} {unit}, f/{self.f_number.value:.1f}."
        if await self._work("Rendering ...", *work, into=rendered):
            self.refocused.set_source(rendered[0])
            self.message.text = done

    async def _work(self, text: str, work: Any, *arguments: Any, into: list | None = None) -> bool:
        """Do work in a thread; returns whether it was done. A mistake is shown as a sentence."""
        from nicegui import run

        async with self.alone:
            self.message.text = text
            try:
                result = await run.io_bound(work, *arguments)
            except HDEDError as error:
                self.message.text = f"{error}"
                return False
            except Exception as error:
                self.message.text = f"That did not work: {first_line(error)}"
                return False
        if into is not None:
            into.append(result)
        self.message.text = ""
        return True


def _image(image: Image.Image, text: str) -> str:
    """Return an image as HTML that holds its bytes."""
    buffer = BytesIO()
    image.save(buffer, "PNG")
    content = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img alt="{text}" src="data:image/png;base64,{content}">'
