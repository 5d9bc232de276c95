/* Up to six executions side by side: who is faster, slower, or cannot be told apart, size by size. */
(() => {
  "use strict";
  const { significant, measure, span, scaleFor, apart, load, element, swatch, label, nameCell, table, select, labelled } = window.attnbenchTools;
  const state = window.attnbenchState;
  const island = document.getElementById("comparison");
  const { contexts, kinds, start } = JSON.parse(document.getElementById("comparison-data").textContent);
  const root = island.dataset.root;
  const MOST = 6;
  const METRICS = {
    latency: { title: "Latency", quantity: "s", varies: true, words: ["faster", "slower", "undecided"] },
    memory: { title: "Peak memory", quantity: "byte", varies: false, words: ["less", "more", "equal"] },
    energy: { title: "Energy", quantity: "j", varies: true, words: ["less", "more", "undecided"] },
    flops: { title: "FLOPs", quantity: "flop", varies: false, words: ["fewer", "more", "equal"] },
  };
  const functions = new Map(kinds.map(([kind, title]) => [kind, title]));
  const unique = (pairs) => [...new Map(pairs)];

  const fields = {
    machine: select("machine", unique(contexts.map((c) => [c.machine, c.machineTitle]))),
    context: select("context", []),
    metric: select("metric", Object.entries(METRICS).map(([name, metric]) => [name, metric.title])),
    add: element("input", { list: "comparison-names", autocomplete: "off", spellcheck: "false", placeholder: "variant" }),
  };
  const names = element("datalist", { id: "comparison-names" });
  const chips = element("ul", { class: "chips", "aria-label": "Compared" });
  const said = element("p", { class: "announce hidden", "aria-live": "polite" });
  const form = element("form", { class: "facets", "aria-label": "What is compared" },
    labelled("Machine", fields.machine, true), labelled("What ran", fields.context, true), labelled("By", fields.metric),
    labelled("Add (up to six)", fields.add), names);
  const shown = element("div", { class: "compared" });
  const before = [...island.childNodes];
  island.append(form, chips, said, shown);
  before.forEach((node) => shown.append(node));

  let chosen = [];
  let data = null;

  const narrow = (machine, context) => {
    fields.machine.value = machine;
    fields.machine.parentElement.hidden = fields.machine.options.length < 2;
    const mine = contexts.filter((c) => c.machine === fields.machine.value);
    fields.context.replaceChildren(...mine.map((c) => new Option(c.title, c.context)));
    fields.context.value = mine.some((c) => c.context === context) ? context : mine[0].context;
    fields.context.parentElement.hidden = mine.length < 2;
    return `${fields.machine.value}/${fields.context.value}`;
  };
  const found = () => chosen.map((id) => data.executions.findIndex((e) => e.id === id)).filter((at) => at >= 0);
  const write = () => state.set({ machine: fields.machine.value, context: fields.context.value, by: fields.metric.value === "latency" ? null : fields.metric.value, e: chosen.join(",") });

  const verdict = (metric, cell, base, noise) => {
    const { varies, words } = METRICS[metric];
    if (!apart(cell, base, noise, varies)) return words[2];
    return cell.value < base.value ? words[0] : words[1];
  };
  const interval = (metric, { low, high }) => (low === null ? "" : ` (${span(METRICS[metric].quantity, low, high)})`);
  const cellOf = (metric, cell, base, scale) => {
    if (!cell) return { content: "–", tone: "muted" };
    if (cell.outcome !== "ok") return { content: element("a", { href: root + cell.address }, cell.outcome), tone: "failure" };
    if (!cell[metric]) return { content: "not measured", tone: "muted" };
    const link = element("a", { href: root + cell.address, title: interval(metric, cell[metric]).slice(2, -1) || null }, scale.text(cell[metric].value));
    if (!base) return link;
    const word = verdict(metric, cell[metric], base, cell.noise);
    // "2 times faster" and "2 times slower", never "0.5 times faster"
    const ratio = cell[metric].value / base.value;
    const words = word === METRICS[metric].words[2] ? `${measure("ratio", ratio)}, ${word}` : `${measure("ratio", Math.max(ratio, 1 / ratio))} ${word}`;
    return element("span", {}, link, " ", element("span", { class: `verdict ${word}` }, words));
  };

  const sizesTable = (family, at, metric, list) => {
    const cells = list.map((execution) => new Map(data.of(execution, at).map((cell) => [cell.slug, cell])));
    const values = cells.flatMap((of) => [...of.values()]).filter((cell) => cell.outcome === "ok" && cell[metric]).map((cell) => cell[metric].value);
    if (!values.length) return null;
    const scale = scaleFor(METRICS[metric].quantity, values);
    const heads = [{ title: "Size" }, ...list.map((execution) => ({ title: label(data.executions[execution]), unit: scale.unit, number: true }))];
    const rows = family.sizes.map((size) => {
      const first = cells[0].get(size.slug);
      const base = first && first.outcome === "ok" ? first[metric] : null;
      return { tone: null, cells: [size.title, ...cells.map((of, n) => cellOf(metric, of.get(size.slug), n ? base : null, scale))] };
    });
    return table(`${METRICS[metric].title}: ${family.title}`, heads, rows, 0, false);
  };

  const figure = (family, at, metric, list) => {
    const traces = [];
    list.forEach((execution) => {
      const one = data.executions[execution];
      const cells = data.of(execution, at).filter((cell) => cell.outcome === "ok" && cell[metric] && cell[metric].value > 0);
      if (cells.length) {
        traces.push({
          type: "scatter", mode: "lines+markers", name: label(one).replace(/[&<>]/g, ""),
          x: cells.map((cell) => cell.tokens), y: cells.map((cell) => cell[metric].value),
          line: { color: `@${one.colour}`, width: 1.75, dash: one.line },
          marker: { color: one.main ? `@${one.colour}` : "@surface", symbol: one.symbol, size: 7, line: { color: `@${one.colour}`, width: one.main ? 0 : 1.5 } },
          ...(METRICS[metric].varies ? { error_y: {
            type: "data", symmetric: false, thickness: 1, width: 2.5, color: `@${one.colour}`,
            array: cells.map(({ [metric]: { value, high } }) => (high === null ? 0 : high - value)),
            arrayminus: cells.map(({ [metric]: { value, low } }) => (low === null ? 0 : value - low)),
          } } : {}),
          text: cells.map((cell) => `${cell.title}, ${measure(METRICS[metric].quantity, cell[metric].value)}${interval(metric, cell[metric])}`),
          hovertemplate: "<b>%{fullData.name}</b><br>%{text}<extra></extra>",
        });
      }
    });
    if (!traces.length) return null;
    const ends = (values) => { const [a, b] = [Math.log10(Math.min(...values)), Math.log10(Math.max(...values))]; const room = Math.max(0.04 * (b - a), 0.05); return [a - room, b + room]; };
    const ys = traces.flatMap((trace) => trace.y);
    const furthest = Math.max(...traces.flatMap((trace) => trace.x));
    const decades = [];
    const [low, high] = ends(ys);
    const factors = high - low < 2.3 ? [1, 2, 5] : [1];
    for (let n = Math.floor(low) - 1; n <= Math.ceil(high); n += 1) for (const f of factors) decades.push(f * 10 ** n);
    const short = (value) => measure(METRICS[metric].quantity, value).replace(/(\.\d*?)0+(?=\u00a0)/, "$1").replace(/\.(?=\u00a0)/, "");
    const axis = { gridcolor: "@grid", linecolor: "@strong-line", zeroline: false, ticks: "outside", ticklen: 4, tickcolor: "@strong-line", type: "log", automargin: "left" };
    const drawing = {
      data: traces, ends: traces.map((trace, n) => ({ series: n, x: trace.x.at(-1), y: trace.y.at(-1), text: trace.name, colour: trace.line.color, last: trace.x.at(-1) === furthest })), names: [],
      layout: {
        height: 480, margin: { l: 68, r: 170, t: 10, b: 62 }, paper_bgcolor: "@surface", plot_bgcolor: "@surface",
        font: { family: "system-ui, sans-serif", size: 12, color: "@muted" }, showlegend: false, hovermode: "closest", dragmode: false,
        hoverlabel: { bgcolor: "@panel", bordercolor: "@strong-line", font: { size: 12, color: "@text" } },
        modebar: { bgcolor: "#00000000", color: "@muted", activecolor: "@text" }, annotations: [],
        xaxis: { ...axis, title: { text: family.axis, standoff: 12 }, range: ends(family.sizes.map((size) => size.tokens)), tickvals: family.sizes.map((size) => size.tokens), ticktext: family.sizes.map((size) => size.short) },
        yaxis: { ...axis, title: { text: METRICS[metric].title, standoff: 12 }, range: [low, high], tickvals: decades, ticktext: decades.map(short) },
      },
    };
    const id = `compared-${family.key}-data`;
    const holder = element("div", { class: "drawing", role: "group", "aria-label": `${METRICS[metric].title}, ${family.title}. The table above has the numbers.`, "data-figure": id });
    const text = element("script", { type: "application/json", id });
    text.textContent = JSON.stringify(drawing);
    return { node: element("figure", { class: "drawn", id: `compared-${family.key}` }, holder, text), holder };
  };

  const draw = () => {
    const list = found();
    chips.replaceChildren(...list.map((at, n) => {
      const one = data.executions[at];
      const first = element("button", { type: "button", "aria-label": `${label(one)}: compare the others with this one` }, "make base");
      first.addEventListener("click", () => { chosen = [one.id, ...chosen.filter((id) => id !== one.id)]; write(); draw(); });
      const away = element("button", { type: "button", "aria-label": `Remove ${label(one)}` }, "×");
      away.addEventListener("click", () => { chosen = chosen.filter((id) => id !== one.id); write(); draw(); fields.add.focus(); });
      return element("li", {}, swatch(one), label(one), " ", ...(n ? [first] : [element("span", { class: "muted" }, "base")]), away);
    }));
    fields.add.disabled = list.length >= MOST;
    if (!list.length) { shown.replaceChildren(element("p", { class: "empty" }, "Add two or more executions to compare them.")); return; }
    const metric = fields.metric.value;
    const facts = table("What is compared", [{ title: "Execution" }, { title: "Function" }, { title: "Order", help: "FLOPs of the core in tokens." }, { title: "Source", secondary: true }],
      list.map((at) => { const one = data.executions[at]; return { tone: null, cells: [nameCell(root, one), functions.get(one.kind), one.order, one.source] }; }), 0, false);
    const parts = [facts];
    const holders = [];
    data.families.forEach((family, at) => {
      const numbers = sizesTable(family, at, metric, list);
      if (!numbers) return;
      const drawn = figure(family, at, metric, list);
      parts.push(element("section", { class: "part" }, element("h2", {}, `${METRICS[metric].title}: ${family.title.toLowerCase()}`), numbers, ...(drawn ? [drawn.node] : [])));
      if (drawn) holders.push(drawn.holder);
    });
    if (parts.length === 1) parts.push(element("p", { class: "empty" }, `${METRICS[metric].title} was not measured for these.`));
    const floors = data.noise.filter((floor) => floor !== null).sort((a, b) => a - b).map((floor) => significant(100 * floor, 2));
    const ends = [...new Set([floors[0], floors.at(-1)])];
    const noise = floors.length ? ` Noise floor: ${ends.join(" to ")} %, by the runs that measured a size.` : "";
    parts.splice(1, 0, element("p", { class: "small" }, `Ratios are to ${label(data.executions[list[0]])}. Undecided: the intervals overlap, or the difference is within the noise.${noise}`));
    shown.replaceChildren(...parts);
    holders.forEach((holder) => window.attnbenchFigures.draw(holder));
  };
  const open = (key) => load(root, key).then((loadedData) => {
    data = loadedData;
    names.replaceChildren(...data.executions.map((one) => new Option(label(one), label(one))));
    for (const id of chosen) if (!data.executions.some((e) => e.id === id)) state.missing(id);
    draw();
  }).catch(() => { shown.replaceChildren(element("p", { class: "notice warning" }, `The data could not be loaded from data/answers/${key}.js.`)); });

  const linked = state.get("e") !== null;
  const asked = [state.get("machine") || start.machine, state.get("context") || start.context];
  if (linked && !contexts.some((c) => c.machine === asked[0] && c.context === asked[1])) state.missing(asked.join("/"));
  const known = contexts.some((c) => c.machine === asked[0]);
  chosen = linked ? state.get("e").split(",").filter(Boolean).slice(0, MOST) : start.e;
  fields.metric.value = state.get("by") in METRICS ? state.get("by") : "latency";
  const key = narrow(known ? asked[0] : start.machine, asked[1]);

  fields.machine.addEventListener("change", () => { const next = narrow(fields.machine.value, fields.context.value); write(); open(next); });
  fields.context.addEventListener("change", () => { write(); open(`${fields.machine.value}/${fields.context.value}`); });
  fields.metric.addEventListener("change", () => { write(); draw(); });
  const add = () => {
    const one = data && data.executions.find((e) => label(e) === fields.add.value || e.id === fields.add.value);
    if (!one) { if (fields.add.value) said.textContent = `${fields.add.value} is not here.`; return; }
    fields.add.value = "";
    if (!chosen.includes(one.id) && chosen.length < MOST) { chosen.push(one.id); write(); draw(); said.textContent = `${label(one)} added.`; }
  };
  fields.add.addEventListener("change", add);
  form.addEventListener("submit", (event) => { event.preventDefault(); add(); });
  open(key);
})();
