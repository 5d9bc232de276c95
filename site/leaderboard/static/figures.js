/* Draws figures when they come near the screen; the library is loaded for the first of them. */
(() => {
  "use strict";
  const source = document.currentScript.dataset.plotly;
  const wide = matchMedia("(min-width: 46rem)");
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
    ends.forEach((end, i) => { end.to = i ? Math.max(end.at, ends[i - 1].to + gap) : end.at; });
    for (let i = ends.length - 1; i >= 0; i -= 1) {
      const most = i === ends.length - 1 ? height : ends[i + 1].to - gap;
      ends[i].to = Math.min(ends[i].to, most);
    }
    return ends.map((end) => ({
      xref: "paper", x: 1, xanchor: "left", xshift: 8, yref: "paper", y: end.to / height,
      yanchor: "middle", showarrow: false, text: end.text, align: "left",
      font: { size: 12, color: coloured(end.colour, style) },
    }));
  };

  const draw = (holder) => {
    const drawing = JSON.parse(document.getElementById(holder.dataset.figure).textContent);
    const key = holder.parentElement.querySelectorAll(".key button");
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
      layout.margin = { ...layout.margin, l: 52, r: 10 };
      layout.xaxis.tickangle = layout.xaxis.ticktext ? -45 : "auto";
    } else if (!fits) {
      layout.margin = { ...layout.margin, r: 16 };
    }
    layout.annotations = [
      ...(layout.annotations || []).filter((note) => note.series === undefined || shown[note.series])
        .map(({ series, ...note }) => note),
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
    loaded().then(() => draw(holder)).catch(() => {
      holder.querySelector(".waiting").textContent = "The figure could not be drawn. Its data stand below.";
    });
    holder.parentElement.querySelectorAll(".key button").forEach((button) => {
      button.addEventListener("click", () => {
        const pressed = button.getAttribute("aria-pressed") === "true";
        button.setAttribute("aria-pressed", String(!pressed));
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

  const again = () => { if (window.Plotly) for (const holder of drawings.keys()) draw(holder); };
  document.addEventListener("themechange", again);
  wide.addEventListener("change", again);
})();
