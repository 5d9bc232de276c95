/* Shows one panel of a chooser. The choice stands in the address, so that it can be sent on. */
(() => {
  "use strict";
  document.querySelectorAll(".chooser").forEach((chooser) => {
    const panels = [...chooser.querySelectorAll(":scope > .panel")].map((element) => ({
      element,
      values: JSON.parse(element.dataset.values),
      labels: JSON.parse(element.dataset.labels),
      title: element.querySelector("h2").textContent,
    }));
    if (!panels.length) return;
    const form = chooser.querySelector(":scope > .facets");
    const selects = [...form.querySelectorAll("select")];
    const announce = chooser.querySelector(":scope > .announce");

    selects.forEach((select, facet) => {
      const labels = new Map(panels.map((panel) => [panel.values[facet], panel.labels[facet]]));
      for (const [value, label] of labels) select.append(new Option(label, value));
      // what cannot be chosen is said in the panel itself
      select.parentElement.hidden = labels.size < 2;
    });

    const show = (panel, speak) => {
      for (const other of panels) other.element.hidden = other !== panel;
      selects.forEach((select, facet) => { select.value = panel.values[facet]; });
      if (speak) announce.textContent = panel.title;
    };
    /* The panel that has the value just chosen and keeps as many of the other choices as there are. */
    const nearest = (facet) => {
      const wanted = selects.map((select) => select.value);
      let best = null;
      for (const panel of panels) {
        if (panel.values[facet] !== wanted[facet]) continue;
        const kept = panel.values.reduce((sum, value, at) =>
          sum + (value === wanted[at] ? 2 ** (selects.length - at) : 0), 0);
        if (!best || kept > best.kept) best = { panel, kept };
      }
      return best.panel;
    };
    const named = () => panels.find((panel) => `#${panel.element.id}` === location.hash);

    selects.forEach((select, facet) => select.addEventListener("change", () => {
      const panel = nearest(facet);
      show(panel, true);
      history.replaceState(null, "", `${location.search}#${panel.element.id}`);
    }));
    form.addEventListener("submit", (event) => event.preventDefault());
    window.addEventListener("hashchange", () => { if (named()) show(named(), true); });
    form.hidden = false;
    show(named() || panels[0], false);
    const wanted = location.hash.slice(1);
    if (wanted && !document.getElementById(wanted)) window.attnbenchState.missing(`the part ${wanted}`);
  });
})();
