/* Sorting by column and filtering by text, for tables that are complete without it. */
(() => {
  "use strict";
  const state = window.attnbenchState;
  const last = (direction) => (one, other) => {
    const missing = (value) => value === "" || value === null || Number.isNaN(value);
    if (missing(one) || missing(other)) return missing(one) - missing(other);
    return direction * (one - other);
  };
  DataTable.type("measured", {
    detect: () => false,
    order: {
      pre: (text) => (text === "" ? "" : Number.parseFloat(text)),
      asc: last(1),
      desc: last(-1),
    },
  });

  const named = (cell) => cell.querySelector(".word").textContent.toLowerCase().replace(/[^a-z0-9]+/g, "-");
  const wanted = () => {
    const [table, column, direction] = (state.get("sort") || "").split(".");
    return { table, column, direction: direction === "desc" ? "desc" : "asc" };
  };

  const enhance = (table) => {
    if (DataTable.isDataTable(table)) return new DataTable.Api(table);
    const heads = [...table.tHead.rows[0].cells];
    const names = heads.map(named);
    const columns = heads.map((cell) => ({
      type: "measured" in cell.dataset ? "measured" : "string",
      orderable: cell.dataset.orderable !== "false",
    }));
    const sorted = wanted();
    const at = sorted.table === table.id ? names.indexOf(sorted.column) : -1;
    if (sorted.table === table.id && at < 0) state.missing(`the column ${sorted.column}`);
    const made = new DataTable(table, {
      columns, paging: false, info: false, order: at < 0 ? [] : [[at, sorted.direction]], autoWidth: false,
      layout: { topStart: null, topEnd: null, bottomStart: null, bottomEnd: null },
    });
    let drawn = JSON.stringify(made.order());
    made.on("order.dt", () => {
      const order = made.order();
      if (JSON.stringify(order) === drawn) return;
      drawn = JSON.stringify(order);
      const [column, direction] = order[0] || [];
      state.set({ sort: direction ? `${table.id}.${names[column]}.${direction}` : null });
    });
    return made;
  };
  const sortable = document.querySelectorAll("table[data-sortable]");

  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      seen.unobserve(entry.target);
      enhance(entry.target);
    }
  }, { rootMargin: "300px" });
  sortable.forEach((table) => {
    if (table.id && table.id === wanted().table) enhance(table); else seen.observe(table);
  });

  const form = document.querySelector("form.rowfilter");
  if (form) {
    const input = form.querySelector("input");
    const said = form.querySelector(".announce");
    const apply = () => {
      sortable.forEach((table) => enhance(table).search(input.value).draw());
      const left = document.querySelectorAll("table[data-sortable] tbody tr th[scope=row]").length;
      said.textContent = input.value ? `${left} rows left` : "";
    };
    form.hidden = false;
    form.addEventListener("submit", (event) => event.preventDefault());
    input.value = state.get("only") || "";
    if (input.value) apply();
    input.addEventListener("input", () => { apply(); state.set({ only: input.value }); });
    document.addEventListener("keydown", (event) => {
      if (event.key !== "/" || event.target.closest("input, select, textarea")) return;
      event.preventDefault();
      input.focus();
    });
  }
})();
