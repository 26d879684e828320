const find = (name) => element.querySelector(name);
const follow = () => {
  const stage = find(".stage");
  const at = Number(stage.querySelector("input").value);
  stage.style.setProperty("--before", `${at}%`);
  stage.classList.toggle("start", at < 4);
  stage.classList.toggle("end", at > 96);
};
element.addEventListener("input", follow);
// the threshold sends new layers alone, so that the image is sent once
watch("value", () => {
  const { image, size, layers, name } = props.value;
  const stage = find(".stage");
  for (const [layer, url] of Object.entries(layers)) find(`.${layer}`).src = url;
  if (!image) return;
  find(".image").src = image;
  find(".image").alt = name;
  const [height, width] = size;
  stage.style.aspectRatio = `${width} / ${height}`;
  stage.style.maxWidth = `min(100%, ${(70 * width) / height}vh)`;
  const isFirst = stage.hidden;
  stage.hidden = false;
  find(".empty").hidden = true;
  follow();
  // on a phone it is below what was touched
  const { top, bottom } = element.getBoundingClientRect();
  if (isFirst || top < 0 || bottom > innerHeight) {
    element.scrollIntoView({ block: top > innerHeight / 2 ? "start" : "nearest" });
  }
});
