const buttons = [...element.querySelectorAll("button")];
buttons.forEach((button, number) => {
  button.setAttribute("aria-label", `Sample ${number + 1}`);
  button.addEventListener("click", () => trigger("click", { number }));
});
