/* The chooser of the home page: machine, size, passes, memory and kind of function in, ranked answer out. */
(() => {
  "use strict";
  const { significant, whole, scaleFor, measure, span, listed, ranks, loudest, load, element, label, nameCell, table, select, labelled } = window.attnbenchTools;
  const state = window.attnbenchState;
  const island = document.getElementById("answer");
  const { contexts, kinds, start } = JSON.parse(document.getElementById("answer-data").textContent);
  const root = island.dataset.root;
  const GIB = 2 ** 30;
  const FURTHEST = 4;
  const MOST = 10;
  const UNMEASURED = "unmeasured";
  const unique = (pairs) => [...new Map(pairs)];

  // Form -------------------------------------------------------------------------------------------
  const fields = {
    machine: select("machine", []),
    passes: select("passes", []),
    type: select("type", []),
    along: select("along", []),
    at: element("input", { type: "number", min: "1", step: "1", name: "at", required: true }),
    gb: element("input", { type: "number", min: "0", step: "any", name: "gb", placeholder: "any" }),
    kind: select("function", [["any", "any function"], ["exact", "exact softmax only"], ["softmax", "exact or approximate"]]),
  };
  const atLabel = labelled("", fields.at);
  const form = element("form", { class: "facets", "aria-label": "What do you have, and what do you need?" },
    labelled("Machine", fields.machine, true), labelled("Passes", fields.passes), labelled("Type and width", fields.type, true),
    labelled("Input", fields.along), atLabel, labelled("Memory limit, GB", fields.gb), labelled("Function", fields.kind));
  const announce = element("p", { class: "announce hidden", "aria-live": "polite" });
  const answer = element("div", { class: "answer" });
  answer.append(...island.childNodes);
  island.append(form, announce, answer);

  const fill = (box, options, wanted) => {
    const kept = options.some(([value]) => value === wanted) ? wanted : options[0][0];
    box.replaceChildren(...options.map(([value, text]) => new Option(text, value, false, value === kept)));
    box.value = kept;
    box.parentElement.hidden = options.length < 2;
  };
  /* Each choice narrows the next; what is chosen stays as long as it is there. */
  const narrow = (wanted) => {
    fill(fields.machine, [...unique(contexts.map((c) => [c.machine, c.machineTitle])), [UNMEASURED, "another machine"]], wanted.machine);
    // what does not depend on the machine is read from the one that has measured most
    const machine = fields.machine.value === UNMEASURED ? contexts[0].machine : fields.machine.value;
    const here = contexts.filter((c) => c.machine === machine);
    fill(fields.passes, unique(here.map((c) => [c.passes, c.passesTitle])), wanted.passes);
    const mine = here.filter((c) => c.passes === fields.passes.value);
    fill(fields.type, unique(mine.map((c) => [c.context, c.typeTitle])), wanted.context);
    const context = mine.find((c) => c.context === fields.type.value);
    fill(fields.along, context.families.map((f) => [f.key, f.title]), wanted.along);
    const family = context.families.find((f) => f.key === fields.along.value);
    atLabel.firstChild.textContent = family.image ? "Image side, px" : "Tokens";
    return context;
  };

  // Arithmetic -------------------------------------------------------------------------------------
  const mix = (a, b, share) => Math.exp(Math.log(a) + (Math.log(b) - Math.log(a)) * share);
  const between = (one, other, metric, share) => {
    const [a, b] = [one[metric], other[metric]];
    if (!a || !b || a.value <= 0 || b.value <= 0) return null;
    const value = mix(a.value, b.value, share);
    if (a.low === null || b.low === null) return { value, low: null, high: null };
    // beyond the measured sizes the steepest and the flattest line join opposite ends
    const ends = [a.low, a.high].flatMap((from) => [b.low, b.high].map((to) => mix(from, to, share)));
    return { value, low: Math.min(...ends), high: Math.max(...ends) };
  };
  /* One execution at a size that need not have been measured. */
  const estimate = (cells, tokens) => {
    const exact = cells.find((cell) => cell.tokens === tokens);
    if (exact) return { how: "measured", noise: exact.noise, cell: exact, word: exact.outcome === "ok" ? null : exact.outcome, latency: exact.latency, memory: exact.memory, flops: exact.flops };
    const below = cells.filter((cell) => cell.tokens < tokens).at(-1);
    const above = cells.find((cell) => cell.tokens > tokens);
    if (below && above) {
      for (const cell of [below, above]) {
        if (cell.outcome !== "ok") return { how: "interpolated", cell, word: cell.outcome, where: `at ${whole(cell.tokens)} tokens` };
      }
      return pair("interpolated", below, above, tokens, below);
    }
    if (below && below.outcome !== "ok") return { how: "extrapolated", cell: below, word: below.outcome, where: `at ${whole(below.tokens)} tokens` };
    const able = cells.filter((cell) => cell.outcome === "ok" && cell.latency);
    if (able.length < 2) return { how: "extrapolated", cell: cells[0], word: "too few sizes" };
    const [one, other] = below ? able.slice(-2) : able.slice(0, 2);
    return pair("extrapolated", one, other, tokens, below ? other : one);
  };
  const pair = (how, one, other, tokens, cell) => {
    const share = Math.log(tokens / one.tokens) / Math.log(other.tokens / one.tokens);
    const values = Object.fromEntries(["latency", "memory", "flops"].map((m) => [m, between(one, other, m, share)]));
    return { how, noise: loudest([one.noise, other.noise]), cell, word: values.latency ? null : "not timed", from: one.tokens, to: other.tokens, ...values };
  };

  // Answer -----------------------------------------------------------------------------------------
  const allowed = (kind) => fields.kind.value === "any" || kind === "exact" || (fields.kind.value === "softmax" && kind === "approximate");
  const show = (data, context) => {
    const familyAt = data.families.findIndex((f) => f.key === fields.along.value);
    const family = data.families[familyAt];
    const wanted = Number(fields.at.value);
    const first = family.sizes[0];
    const patch = family.image ? Math.round(first.px / Math.sqrt(first.tokens - family.extra)) : null;
    const side = patch && Math.max(1, Math.round(wanted / patch));
    const tokens = patch ? side ** 2 + family.extra : wanted;
    const sizes = family.sizes.map((size) => size.tokens);
    const budget = fields.gb.value === "" ? null : Number(fields.gb.value) * GIB;
    const rows = data.executions.map((execution, at) => ({ execution, cells: data.of(at, familyAt) }))
      .filter((row) => row.cells.length && allowed(row.execution.kind))
      .map((row) => ({ ...row, ...estimate(row.cells, tokens) }));
    for (const row of rows) {
      if (!row.word && budget !== null && !row.memory) row.word = "memory not known";
      row.over = !row.word && budget !== null && row.memory.value > budget;
      if (row.over) row.word = `needs ${measure("byte", row.memory.value)}`;
      if (!row.word && !row.latency) row.word = "not timed";
    }
    const timed = rows.filter((row) => !row.word);
    const noise = loudest(timed.map((row) => row.noise));
    const main = scaleFor("s", timed.map((row) => row.latency.value));
    const memory = scaleFor("byte", timed.filter((row) => row.memory).map((row) => row.memory.value));
    const base = data.baseline === null ? null : estimate(data.of(data.baseline, familyAt), tokens);
    const ratio = base && !base.word && base.latency ? base.latency.value : null;
    const groups = kinds.map(([kind, title]) => ({ kind, title, rows: rows.filter((row) => row.execution.kind === kind) }))
      .filter((group) => group.rows.length);
    const measured = sizes.includes(tokens);
    const size = measured ? family.sizes[sizes.indexOf(tokens)] : null;
    const heading = element("h2", {}, `${size ? size.title : sizeWords(family, patch ? side * patch : wanted, tokens)}, ${context.passesTitle}`);
    if (fields.machine.value === UNMEASURED) {
      answer.replaceChildren(heading, ...elsewhere(groups, context, memory, base));
      announce.textContent = answer.querySelector(".notice").textContent;
      return;
    }
    const parts = [];
    for (const group of groups) {
      const able = group.rows.filter((row) => !row.word).sort((a, b) => a.latency.value - b.latency.value || (a.execution.id < b.execution.id ? -1 : 1));
      const found = ranks(able.map((row) => row.latency), noise);
      able.forEach((row, at) => { row.rank = found[at]; row.tied = found.filter((rank) => rank === found[at]).length > 1; });
      group.able = able;
      const failed = group.rows.filter((row) => row.word);
      parts.push(element("div", { class: "subpart" }, element("h3", {}, group.title),
        answerTable(group, [...able.slice(0, MOST), ...failed.slice(0, MOST)], main, memory, ratio),
        ...more(able.length + failed.length, Math.min(able.length, MOST) + Math.min(failed.length, MOST))));
    }
    const patches = patch ? `, patches of ${patch} px` : "";
    answer.replaceChildren(
      heading,
      element("p", { class: "small" }, `Measured on ${context.machineTitle}; on another machine the order can be another.`),
      ...(patch && side * patch !== wanted ? [element("p", { class: "notice" }, `${whole(wanted)} px is no whole number of patches of ${patch} px: this is the answer for ${whole(side * patch)} px.`)] : []),
      ...flagged(measured, tokens, sizes, timed),
      element("ul", { class: "bullets finding" }, ...groups.map((group) => element("li", {}, ...verdict(group)))),
      element("p", {}, ...reason(groups, base && !base.word ? base : null),
        "Speed says nothing about accuracy: ", element("a", { href: `${root}tradeoff.html` }, "Trade-off"), " shows both."),
      element("p", { class: "small" }, `${context.conditions}${patches}. ${noiseWords(noise)}${budget === null ? "" : " The memory is that of one call of one layer, above its inputs and parameters; what a whole model holds comes on top."}`),
      ...parts,
      ...(size ? [element("p", {}, element("a", { href: root + size.path }, "All columns, all rows, and the provenance of each"))] : []),
    );
    announce.textContent = answer.querySelector(".finding").textContent;
  };
  const sizeWords = (family, wanted, tokens) => (family.image ? `${whole(wanted)} px, ${whole(tokens)} tokens` : `${whole(tokens)} tokens in a row`);
  const noiseWords = (noise) => (noise === null ? "The noise floor is not known: rows are told apart by intervals alone."
    : `Rows closer than ${significant(100 * noise, 2)} %, or with overlapping intervals, share a rank.`);
  const more = (all, shown) => (all > shown ? [element("p", { class: "small" }, `${whole(all - shown)} more rows are not shown here.`)] : []);
  const flagged = (measured, tokens, sizes, timed) => {
    if (measured) {
      const guessed = timed.filter((row) => row.how !== "measured").length;
      return guessed ? [element("p", { class: "notice" }, `${whole(guessed)} of ${whole(timed.length)} rows were not measured at this size: they are marked ~ and lie on straight log-log lines through sizes that were.`)] : [];
    }
    const below = sizes.filter((n) => n < tokens).at(-1);
    const above = sizes.find((n) => n > tokens);
    if (below && above) {
      return [element("p", { class: "notice" }, element("strong", {}, "Interpolated. "),
        `Nothing was measured at ${whole(tokens)} tokens: times, intervals and memory lie on straight log-log lines between ${whole(below)} and ${whole(above)} tokens.`)];
    }
    const far = below ? tokens / below : above / tokens;
    return [element("p", { class: "notice warning" }, element("strong", {}, "Extrapolated. "),
      `The ${below ? "largest" : "smallest"} measured size is ${whole(below || above)} tokens; the slope there was carried on${far > FURTHEST ? `, ${significant(far, 2)} times as far: take this as a guess` : ""}; an interval spans every line through those of the two sizes next to it. The order may differ, and what runs out of memory is not known.`)];
  };
  const answerTable = (group, rows, main, memory, ratio) => table(group.title, [
    { title: "Rank", number: true, shape: "rank" }, { title: "Variant", shape: "name" },
    { title: "Latency", unit: main.unit, number: true, shape: "number" },
    { title: "95 % interval", unit: main.unit, number: true, secondary: true, shape: "interval" },
    { title: "To softmax", number: true, shape: "number", help: "Ratio to exact softmax attention by PyTorch's SDPA." },
    { title: "Peak memory", unit: memory.unit, number: true, secondary: true, shape: "number" },
  ], rows.map((row) => {
    const dash = { content: "–", tone: "muted" };
    const name = nameCell(root, row.execution);
    if (row.word) return { tone: "failed", cells: [dash, name, { content: element("a", { href: root + row.cell.address, title: row.where }, row.word), tone: "failure" }, dash, dash, dash] };
    const { value, low, high } = row.latency;
    const shown = row.how === "measured" ? element("a", { href: root + row.cell.address }, main.text(value)) : `~ ${main.text(value)}`;
    return { tone: null, cells: [
      row.tied ? `=${row.rank}` : String(row.rank), name, { content: shown, tone: row.rank === 1 ? "best" : null },
      { content: low === null ? "–" : `${main.text(low)} to ${main.text(high)}`, tone: "muted" },
      ratio === null ? dash : measure("ratio", value / ratio),
      row.memory ? memory.text(row.memory.value) : dash,
    ] };
  }), 1, true);
  /* Who leads one kind of function, how clearly, and who comes next. */
  const verdict = (group) => {
    const best = group.able.filter((row) => row.rank === 1);
    if (!best.length) {
      const words = [...new Set(group.rows.map((row) => row.word))].slice(0, 3);
      return [`${group.title}: none is possible here: ${listed(words)}.`];
    }
    const names = best.map((row) => label(row.execution));
    const shown = names.length > 3 ? [...names.slice(0, 2), `${whole(names.length - 2)} more`] : names;
    const { value, low, high } = best[0].latency;
    const about = best[0].how === "measured" ? "" : "about ";
    const interval = low === null ? "" : ` (${span("s", low, high)})`;
    const pieces = [`${group.title}: `, element("strong", {}, listed(shown)),
      best.length > 1 ? ` cannot be told apart: ${about}${measure("s", value)} for the first.` : `, ${about}${measure("s", value)}${interval}.`];
    if (group.rows.length === 1) pieces.push(" Nothing else of this kind was measured.");
    const next = group.able[best.length];
    if (next) pieces.push(` The next, ${label(next.execution)}, takes ${measure("ratio", next.latency.value / value)} as long.`);
    return pieces;
  };
  /* How the fastest of all compares with softmax attention. */
  const reason = (groups, base) => {
    const [best] = groups.flatMap((group) => group.able.slice(0, 1)).sort((a, b) => a.latency.value - b.latency.value);
    if (!best || !base || !base.latency || best.latency.value === base.latency.value) return [];
    const share = best.flops && base.flops ? ` and does ${portion(best.flops.value / base.flops.value)} its arithmetic` : "";
    return [`${label(best.execution)} takes ${portion(best.latency.value / base.latency.value)} the time of softmax attention by SDPA${share}. `];
  };
  const portion = (ratio) => (ratio < 0.1 ? `1/${whole(1 / ratio)} of` : measure("ratio", ratio));
  /* What is known of a machine that nobody has measured: no time, but arithmetic and memory. */
  const elsewhere = (groups, context, memory, base) => {
    const flops = scaleFor("flop", groups.flatMap((group) => group.rows.filter((row) => row.flops).map((row) => row.flops.value)));
    const parts = [element("p", { class: "notice warning" }, element("strong", {}, "No data. "),
      "Nothing was measured on your machine: which mechanism is fastest there is not known, and it need not be the one that is fastest elsewhere. ",
      "To know, run ", element("code", {}, "nox -s bench"), " on it (ten minutes on two CPU cores), or ", element("code", {}, "nox -s gpu_results"),
      " on a GPU; ", element("a", { href: `${root}submit.html` }, "the result can be submitted"), "."),
    element("p", {}, `What is known: the arithmetic, which is the same everywhere and does not predict time; between and beyond measured sizes it lies on straight log-log lines. Fewest FLOPs first, without ranks; peak memory is that of ${context.machineTitle}.`)];
    const dash = { content: "–", tone: "muted" };
    for (const group of groups) {
      const rows = group.rows.filter((row) => row.flops && (row.execution.main || (base && row.cell === base.cell)))
        .sort((a, b) => a.flops.value - b.flops.value || (a.execution.id < b.execution.id ? -1 : 1));
      if (!rows.length) continue;
      parts.push(element("div", { class: "subpart" }, element("h3", {}, group.title), table(group.title, [
        { title: "Variant", shape: "name" }, { title: "FLOPs", unit: flops.unit, number: true, shape: "number" },
        { title: "To softmax", number: true, shape: "number", help: "Ratio of FLOPs to exact softmax attention." },
        { title: "Peak memory", unit: memory.unit, number: true, shape: "number" },
      ], rows.slice(0, MOST).map((row) => ({ tone: row.over ? "failed" : null, cells: [
        nameCell(root, row.execution), flops.text(row.flops.value),
        base && base.flops ? measure("ratio", row.flops.value / base.flops.value) : dash,
        row.over ? { content: row.word, tone: "failure" } : row.memory ? memory.text(row.memory.value) : dash,
      ] })), 0, true), ...more(rows.length, Math.min(rows.length, MOST))));
    }
    return parts;
  };

  // Life -------------------------------------------------------------------------------------------
  const run = (write) => {
    const context = narrow({
      machine: fields.machine.value, passes: fields.passes.value, context: fields.type.value, along: fields.along.value,
    });
    if (write) {
      state.set({ machine: fields.machine.value, context: context.context, along: fields.along.value, at: fields.at.value, gb: fields.gb.value, function: fields.kind.value });
    }
    if (!form.checkValidity()) return;
    load(root, `${context.machine}/${context.context}`).then((data) => show(data, context)).catch(() => {
      answer.replaceChildren(element("p", { class: "notice warning" }, `The data of this machine could not be loaded from data/answers/${context.machine}/${context.context}.js.`));
    });
  };
  const asked = { machine: state.get("machine"), context: state.get("context"), along: state.get("along") };
  const known = asked.machine === UNMEASURED ? contexts[0].machine : asked.machine;
  const linked = Object.values(asked).some((value) => value !== null) || state.get("at") !== null;
  const found = contexts.find((c) => c.machine === known && c.context === asked.context);
  if (linked && asked.context && !found) state.missing(`${asked.machine}/${asked.context}`);
  const context = found || contexts.find((c) => c.machine === start.machine && c.context === start.context);
  narrow({ machine: asked.machine === UNMEASURED ? UNMEASURED : context.machine, passes: context.passes, context: context.context, along: asked.along || start.along });
  fields.at.value = state.get("at") || start.at;
  fields.gb.value = state.get("gb") || "";
  fields.kind.value = state.get("function") || "any";
  if (!fields.kind.value) fields.kind.value = "any";
  form.addEventListener("submit", (event) => { event.preventDefault(); run(true); });
  form.addEventListener("change", (event) => {
    if (event.target === fields.along) {
      const chosen = narrow({ machine: fields.machine.value, passes: fields.passes.value, context: fields.type.value, along: fields.along.value });
      const family = chosen.families.find((f) => f.key === fields.along.value);
      fields.at.value = family.usual;
    }
    run(true);
  });
  if (linked) run(false);
})();
