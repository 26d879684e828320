// What the page's own controls do in the browser; Gradio calls these by name.
const plainunet = {
  setOpacity(value) {
    document.documentElement.style.setProperty("--overlay-opacity", value);
  },
  show(view) {
    document.querySelector("#viewer .stage").classList.toggle("mask", view === "mask");
  },
  // a result of the server, saved under its name
  save(file) {
    if (!file) return;
    const link = document.createElement("a");
    link.href = file.url;
    link.download = file.orig_name;
    link.click();
  },
};
window.plainunet = plainunet;
document.addEventListener("paste", (event) => {
  const input = document.querySelector("#files input[type=file]");
  if (!input || !event.clipboardData?.files.length) return;
  event.preventDefault();
  const moved = new DataTransfer();
  for (const file of event.clipboardData.files) moved.items.add(file);
  input.files = moved.files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
});
