/* Sorting by column and filtering by text, for tables that are complete without it. */
(() => {
  "use strict";
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

  const enhance = (table) => {
    if (DataTable.isDataTable(table)) return new DataTable.Api(table);
    const columns = [...table.tHead.rows[0].cells].map((cell) => ({
      type: "measured" in cell.dataset ? "measured" : "string",
      orderable: cell.dataset.orderable !== "false",
    }));
    return new DataTable(table, {
      columns, paging: false, info: false, order: [], autoWidth: false,
      layout: { topStart: null, topEnd: null, bottomStart: null, bottomEnd: null },
    });
  };

  window.attnbenchTables = {
    enhance: (within) => within.querySelectorAll("table[data-sortable]").forEach(enhance),
    filter: (within, words) => within.querySelectorAll("table[data-sortable]").forEach((table) =>
      enhance(table).search(words).draw()),
  };

  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      seen.unobserve(entry.target);
      enhance(entry.target);
    }
  }, { rootMargin: "300px" });
  document.querySelectorAll("table[data-sortable]").forEach((table) => seen.observe(table));
})();
