"use strict";
// Slider that compares two of several images: a range input moves it, radio buttons choose the pair.
for (const compare of document.querySelectorAll(".compare")) {
  const stage = compare.querySelector(".stage");
  const range = compare.querySelector("input[type=range]");
  const tags = compare.querySelectorAll(".tag");
  const layers = [...compare.querySelectorAll(".layer")];
  const show = () => {
    const pair = compare.dataset.pair.split("-");
    for (const layer of layers) {
      layer.dataset.side = ["left", "right"][pair.indexOf(layer.dataset.name)] ?? "";
    }
    const [left, right] = pair.map((name) => layers.find((e) => e.dataset.name === name).dataset.label);
    stage.style.setProperty("--x", `${range.value}%`);
    tags[0].textContent = left;
    tags[1].textContent = right;
    range.setAttribute("aria-valuetext", `${range.value}% ${left}, the rest ${right}`);
  };
  const follow = (event) => {
    const box = stage.getBoundingClientRect();
    range.value = String(Math.round(100 * (event.clientX - box.left) / box.width));
    show();
  };
  range.addEventListener("input", show);
  for (const radio of compare.querySelectorAll("input[type=radio]")) {
    // on reload, the browser may restore another choice than the page's default
    if (radio.checked) compare.dataset.pair = radio.value;
    radio.addEventListener("change", () => { compare.dataset.pair = radio.value; show(); });
  }
  stage.addEventListener("pointerdown", (event) => {
    stage.setPointerCapture(event.pointerId);
    follow(event);
  });
  stage.addEventListener("pointermove", (event) => { if (event.buttons) follow(event); });
  show();
}
// open all details for printing
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
