/* Draws figures when they come near the screen; the library is loaded for the first of them. */
(() => {
  "use strict";
  const source = document.currentScript.dataset.plotly;
  const wide = matchMedia("(min-width: 46rem)");
  const state = window.attnbenchState;
  const drawings = new Map();
  let library = null;

  const loaded = () => {
    library ??= new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = source;
      script.onload = resolve;
      script.onerror = reject;
      document.head.append(script);
    });
    return library;
  };

  /* "@name" is the style variable --name of the theme in force. */
  const coloured = (value, style) => {
    if (typeof value === "string") {
      return value.startsWith("@") ? style.getPropertyValue(`--${value.slice(1)}`).trim() : value;
    }
    if (Array.isArray(value)) return value.map((item) => coloured(item, style));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, coloured(v, style)]));
    }
    return value;
  };

  /* Names at the ends of lines, moved apart so that none covers another. */
  const labels = (drawing, layout, shown, style) => {
    const height = layout.height - layout.margin.t - layout.margin.b;
    const [low, high] = layout.yaxis.range;
    const along = (y) => ((layout.yaxis.type === "log" ? Math.log10(y) : y) - low) / (high - low) * height;
    const ends = drawing.ends.filter((end) => shown[end.series])
      .map((end) => ({ ...end, at: along(end.y) })).sort((a, b) => a.at - b.at);
    const gap = 15;
    // neighbours that would overlap form a pile around their common middle
    const piles = [];
    ends.forEach((end, i) => {
      piles.push({ sum: end.at - i * gap, count: 1 });
      while (piles.length > 1) {
        const [below, above] = piles.slice(-2);
        if (below.sum / below.count <= above.sum / above.count) break;
        piles.splice(-2, 2, { sum: below.sum + above.sum, count: below.count + above.count });
      }
    });
    let next = 0;
    for (const pile of piles) {
      for (let k = 0; k < pile.count; k += 1, next += 1) {
        ends[next].to = pile.sum / pile.count + next * gap;
      }
    }
    const over = ends.length ? Math.max(0, ends.at(-1).to - height) : 0;
    ends.forEach((end, i) => { end.to = Math.max(end.to - over, i * gap); });
    layout.shapes = [...(layout.shapes || []), ...ends.filter((end) => end.last).map((end) => ({
      type: "path", xref: "paper", yref: "paper", xsizemode: "pixel", ysizemode: "pixel",
      xanchor: 1, yanchor: 0, line: { width: 1, color: coloured(end.colour, style) }, opacity: 0.55,
      path: `M3,${end.at} L18,${end.to}`,
    }))];
    return ends.map((end) => ({
      xref: "paper", x: 1, xanchor: "left", xshift: 21, yref: "paper", y: end.to / height,
      yanchor: "middle", showarrow: false, text: end.text, align: "left",
      font: { size: 12, color: coloured(end.colour, style) },
    }));
  };

  /* Names beside single points: right, left, above or below, the first place that is free. A name
     without one is left out; the point says it when touched, and so do key and data. */
  const beside = (drawing, layout, shown, style, width) => {
    const size = [width - layout.margin.l - layout.margin.r, layout.height - layout.margin.t - layout.margin.b];
    const place = (axis, value, length) =>
      ((axis.type === "log" ? Math.log10(value) : value) - axis.range[0]) / (axis.range[1] - axis.range[0]) * length;
    const points = drawing.names.filter((name) => shown[name.series]).map((name) => ({
      ...name, left: place(layout.xaxis, name.x, size[0]), up: place(layout.yaxis, name.y, size[1]),
    }));
    const taken = points.map((p) => [p.left - 7, p.left + 7, p.up - 7, p.up + 7]);
    const free = (box) => taken.every((other) =>
      box[1] < other[0] || box[0] > other[1] || box[3] < other[2] || box[2] > other[3]);
    return points.flatMap((point) => {
      const long = point.text.length * 6.6;
      const options = [
        ["left", 10, 0, point.left + 10], ["right", -10, 0, point.left - 10 - long],
        ["left", 8, 14, point.left + 8], ["left", 8, -14, point.left + 8],
        ["right", -8, 14, point.left - 8 - long], ["right", -8, -14, point.left - 8 - long],
        ["center", 0, 26, point.left - long / 2], ["center", 0, -26, point.left - long / 2],
      ].map(([anchor, right, above, from]) => ({
        anchor, right, above, box: [from, from + long, point.up + above - 7, point.up + above + 7],
      }));
      const inside = (option) => option.box[0] > 0 && option.box[1] < size[0] + layout.margin.r
        && option.box[2] > 0 && option.box[3] < size[1];
      const chosen = options.find((option) => inside(option) && free(option.box));
      if (!chosen) return [];
      taken.push(chosen.box);
      return [{
        x: layout.xaxis.type === "log" ? Math.log10(point.x) : point.x,
        y: layout.yaxis.type === "log" ? Math.log10(point.y) : point.y,
        text: point.text, showarrow: false, xanchor: chosen.anchor, yanchor: "middle",
        xshift: chosen.right, yshift: chosen.above,
        font: { size: 12, color: coloured(point.colour, style) },
      }];
    });
  };

  const buttons = (holder) => [...holder.parentElement.querySelectorAll(".key button")];
  const named = (holder) => `lines-${holder.parentElement.id.split("-")[0]}`;

  /* The lines that a link names, exactly; what is new since then stays hidden. */
  const restore = (holder) => {
    const wanted = state.get(named(holder));
    if (wanted === null) return;
    const names = new Set(wanted.split(",").filter((name) => name && name !== "none"));
    for (const button of buttons(holder)) {
      button.setAttribute("aria-pressed", String(names.delete(button.dataset.name)));
    }
    for (const name of names) state.missing(`the line ${name}`);
  };

  const draw = (holder) => {
    const drawing = JSON.parse(document.getElementById(holder.dataset.figure).textContent);
    const key = buttons(holder);
    const style = getComputedStyle(document.documentElement);
    const shown = drawing.data.map(() => true);
    key.forEach((button) => button.dataset.series.split(" ").forEach((number) => {
      shown[Number(number)] = button.getAttribute("aria-pressed") === "true";
    }));
    const data = coloured(drawing.data, style).map((trace, i) => ({ ...trace, visible: shown[i] }));
    const layout = coloured(drawing.layout, style);
    const fits = wide.matches && drawing.ends.length > 0;
    if (!wide.matches) {
      layout.height = Math.min(layout.height, 360);
      layout.margin = { ...layout.margin, l: 52, r: 10, b: 84 };
      layout.xaxis.tickangle = layout.xaxis.ticktext ? -45 : "auto";
    }
    if (fits) {
      const longest = Math.max(...drawing.ends.filter((end) => shown[end.series]).map((end) => end.text.length), 8);
      layout.margin = { ...layout.margin, r: Math.min(30 + 6.9 * longest, 270) };
    }
    layout.annotations = [
      ...layout.annotations,
      ...beside(drawing, layout, shown, style, holder.clientWidth),
      ...(fits ? labels(drawing, layout, shown, style) : []),
    ];
    if (!holder.classList.contains("ready")) holder.replaceChildren();
    holder.classList.add("ready");
    return window.Plotly.react(holder, data, layout, {
      displaylogo: false, showSendToCloud: false, responsive: true, scrollZoom: false,
      displayModeBar: "hover", doubleClick: "reset",
      modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
      toImageButtonOptions: { format: "svg", filename: holder.parentElement.id },
    });
  };

  const begin = (holder) => {
    if (drawings.has(holder)) return;
    drawings.set(holder, true);
    restore(holder);
    loaded().then(() => draw(holder)).catch(() => {
      holder.querySelector(".waiting").textContent = "The figure could not be drawn. Its data stand below.";
    });
    buttons(holder).forEach((button) => {
      button.addEventListener("click", () => {
        const pressed = button.getAttribute("aria-pressed") === "true";
        button.setAttribute("aria-pressed", String(!pressed));
        const shown = buttons(holder).filter((one) => one.getAttribute("aria-pressed") === "true");
        state.set({ [named(holder)]: shown.map((one) => one.dataset.name).join(",") || "none" });
        loaded().then(() => draw(holder));
      });
    });
  };

  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) { near.unobserve(entry.target); begin(entry.target); }
    }
  }, { rootMargin: "400px" });
  document.querySelectorAll(".drawing").forEach((holder) => near.observe(holder));
  window.attnbenchFigures = {
    /* Draws a figure that a script made, or made anew. */
    draw: (holder) => { drawings.set(holder, true); return loaded().then(() => draw(holder)); },
  };

  const again = () => { if (window.Plotly) for (const holder of drawings.keys()) draw(holder); };
  document.addEventListener("themechange", again);
  wide.addEventListener("change", again);
})();
