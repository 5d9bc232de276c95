/* What the chooser and the comparison share: data of one context, numbers as text, ranks with ties.
   Ranks follow the rules of bench/derived.py; a test compares the two. */
(() => {
  "use strict";
  const whole = (value) => String(Math.round(value)).replace(/\B(?=(\d{3})+(?!\d))/g, ",");
  /* Rounded once, half away from zero, as leaderboard/format.py does. */
  const significant = (value, digits = 3) => {
    if (value === 0) return "0";
    const rounded = Number(value.toPrecision(digits));
    const decimals = Math.max(0, digits - 1 - Number(rounded.toExponential().split("e")[1]));
    const [front, back] = rounded.toFixed(decimals).split(".");
    return front.replace(/\B(?=(\d{3})+(?!\d))/g, ",") + (back ? `.${back}` : "");
  };
  const prefixed = (unit) => [[1e12, `T${unit}`], [1e9, `G${unit}`], [1e6, `M${unit}`], [1e3, `k${unit}`], [1, unit]];
  const steps = {
    s: [[1, "s"], [1e-3, "ms"], [1e-6, "µs"], [1e-9, "ns"]],
    byte: [[2 ** 40, "TiB"], [2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"], [1, "B"]],
    flop: prefixed("FLOPs"),
    j: [[1, "J"], [1e-3, "mJ"]],
  };
  const scaleFor = (quantity, values) => {
    const sizes = values.filter((value) => value).map(Math.abs).sort((a, b) => a - b);
    const middle = sizes.length ? sizes[Math.floor((sizes.length - 1) / 2)] : steps[quantity].at(-1)[0];
    const [factor, unit] = steps[quantity].find((step) => middle >= step[0]) || steps[quantity].at(-1);
    return { unit, text: (value) => significant(value / factor) };
  };
  const measure = (quantity, value) => {
    if (quantity === "ratio") return `${significant(value)}×`;
    const scale = scaleFor(quantity, [value]);
    return `${scale.text(value)}\u00a0${scale.unit}`;
  };
  const listed = (names) => (names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`);

  const apart = (a, b, floor, varies) => {
    if (!varies || a.value === b.value) return a.value !== b.value;
    let known = false;
    if (floor !== null) {
      known = true;
      if (Math.abs(Math.log(a.value / b.value)) <= floor) return false;
    }
    if (a.low !== null && b.low !== null) {
      known = true;
      if (a.low <= b.high && b.low <= a.high) return false;
    }
    return known;
  };
  /* Ranks of rows that are sorted, best first: who cannot be told from the leader shares its rank. */
  const ranks = (rows, floor) => {
    let leader = null;
    let rank = 0;
    return rows.map((row, at) => {
      if (!leader || apart(leader, row, floor, true)) { leader = row; rank = at + 1; }
      return rank;
    });
  };

  /* The largest noise floor; null where none is known. */
  const loudest = (floors) => floors.reduce((most, floor) => (floor === null ? most : Math.max(most ?? 0, floor)), null);

  const loading = new Map();
  /* The data of one machine and context, from its file under data/answers. */
  const load = (root, key) => {
    if (!loading.has(key)) {
      loading.set(key, new Promise((resolve, reject) => {
        const script = document.createElement("script");
        script.src = `${root}data/answers/${key}.js`;
        script.onload = () => resolve(opened(window.attnbenchAnswers[key]));
        script.onerror = () => reject(new Error(key));
        document.head.append(script);
      }));
    }
    return loading.get(key);
  };
  const METRICS = ["latency", "memory", "energy", "flops"];
  /* Columns to one list of cells an execution and family, small sizes first. */
  const opened = (data) => {
    const cells = new Map();
    data.cells.execution.forEach((execution, at) => {
      const column = (name) => (data.cells[name] ? data.cells[name][at] : null);
      const [family, size] = data.places[column("place")];
      const cell = {
        ...data.families[family].sizes[size], noise: data.noise[column("place")], outcome: data.outcomes[column("outcome")],
        address: data.documents[column("document")] + column("digest"),
        latency: column("latency") === null ? null
          : { value: column("latency"), low: column("low"), high: column("high") },
      };
      for (const metric of METRICS.slice(1)) {
        const value = column(metric);
        cell[metric] = value === null ? null : { value, low: null, high: null };
      }
      const key = `${execution} ${family}`;
      if (!cells.has(key)) cells.set(key, []);
      cells.get(key).push(cell);
    });
    for (const list of cells.values()) list.sort((a, b) => a.tokens - b.tokens);
    return { ...data, of: (execution, family) => cells.get(`${execution} ${family}`) || [] };
  };

  const element = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children);
    return made;
  };
  const SVG = "http://www.w3.org/2000/svg";
  const swatch = (execution) => {
    const drawn = document.createElementNS(SVG, "svg");
    drawn.setAttribute("class", `swatch ${execution.colour} ${execution.dash}${execution.main ? "" : " open"}`);
    drawn.setAttribute("viewBox", "0 0 26 12");
    drawn.setAttribute("aria-hidden", "true");
    const line = document.createElementNS(SVG, "line");
    for (const [name, value] of Object.entries({ x1: 1, y1: 6, x2: 25, y2: 6 })) line.setAttribute(name, value);
    const mark = document.createElementNS(SVG, "use");
    mark.setAttribute("href", `#s-${execution.symbol}`);
    for (const [name, value] of Object.entries({ x: 8, y: 1, width: 10, height: 10 })) mark.setAttribute(name, value);
    drawn.append(line, mark);
    return drawn;
  };
  const label = (execution) => `${execution.title}${execution.detail ? ` (${execution.detail})` : ""}`;
  const nameCell = (root, execution) => element("span", { class: "variant" }, swatch(execution), element("span", {},
    element("a", { href: `${root}variants/${execution.variant}.html` }, execution.title),
    ...(execution.detail ? [" ", element("span", { class: "muted" }, execution.detail)] : [])));

  /* heads: [title, number?, unit?, secondary?]; cells: text, element, or { content, tone }. */
  const table = (caption, heads, rows, nameColumn, aligned) => {
    const classes = (head, tone) => [tone, head.number && "number", head.secondary && "secondary"].filter(Boolean).join(" ") || null;
    const top = element("tr", {}, ...heads.map((head) => element("th",
      { scope: "col", class: [classes(head), head.shape && `as-${head.shape}`].filter(Boolean).join(" ") || null, title: head.help },
      element("span", { class: "word" }, head.title), ...(head.unit ? [" ", element("span", { class: "unit" }, head.unit)] : []))));
    const body = rows.map((row) => element("tr", { class: row.tone }, ...row.cells.map((cell, at) => {
      const { content, tone } = typeof cell === "object" && !(cell instanceof Node) ? cell : { content: cell, tone: null };
      const named = at === nameColumn;
      return element(named ? "th" : "td", { scope: named && "row", class: classes(heads[at], tone) }, content);
    })));
    const all = element("label", { class: "columns" }, element("input", { type: "checkbox" }), ` All ${heads.length} columns`,
      element("span", { class: "hidden" }, ` of ${caption}`));
    const region = element("div", { class: aligned ? "table aligned" : "table", role: "region", "aria-label": caption, tabindex: "0" },
      element("table", {}, element("caption", { class: "hidden" }, caption), element("thead", {}, top), element("tbody", {}, ...body)));
    return element("div", {}, ...(heads.some((head) => head.secondary) ? [all] : []), region);
  };

  const select = (name, options, chosen) => {
    const box = element("select", { name });
    for (const [value, text] of options) box.append(new Option(text, value, false, value === chosen));
    return box;
  };
  const span = (quantity, low, high) => {
    const scale = scaleFor(quantity, [low, high]);
    return `${scale.text(low)} to ${scale.text(high)}\u00a0${scale.unit}`;
  };
  const labelled = (text, control, wide) => element("label", { class: wide && "wide" }, element("span", {}, text), control);

  window.attnbenchTools = {
    whole, significant, scaleFor, measure, span, listed, apart, ranks, loudest, load, element, swatch, label, nameCell, table, select, labelled,
  };
})();
