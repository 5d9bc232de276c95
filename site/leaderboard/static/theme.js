/* Colour theme: as the system until the reader chooses. Runs in the head, before anything is painted. */
(() => {
  "use strict";
  const root = document.documentElement;
  const names = { "": "as the system", light: "light", dark: "dark" };
  const next = { "": "dark", dark: "light", light: "" };
  let chosen = "";
  try { chosen = localStorage.getItem("attnbench-theme") || ""; } catch { /* storage is blocked */ }
  if (!(chosen in names)) chosen = "";
  root.classList.add("scripted");

  const apply = () => {
    if (chosen) root.dataset.theme = chosen; else delete root.dataset.theme;
  };
  apply();

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.querySelector("button.theme");
    const say = () => {
      button.setAttribute("aria-label", `Colour theme: ${names[chosen]}`);
      button.title = `Colour theme: ${names[chosen]}`;
    };
    const menu = document.querySelector("details.more");
    document.addEventListener("click", (event) => { if (!menu.contains(event.target)) menu.open = false; });
    document.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !menu.open) return;
      menu.open = false;
      menu.querySelector("summary").focus();
    });
    button.hidden = false;
    say();
    button.addEventListener("click", () => {
      chosen = next[chosen];
      try { localStorage.setItem("attnbench-theme", chosen); } catch { /* storage is blocked */ }
      apply();
      say();
      document.dispatchEvent(new Event("themechange"));
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
      document.dispatchEvent(new Event("themechange")));
  });
})();
