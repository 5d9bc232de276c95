/* What a reader chose stands in the address, so that it can be sent on. Only stable names are
   written, and always all that is needed: what is added to the site later changes no such link. */
(() => {
  "use strict";
  const words = () => new URLSearchParams(location.search);
  let told = null;

  window.attnbenchState = {
    get: (name) => words().get(name),
    /* Writes the given names; null and "" remove one. */
    set: (changes) => {
      const chosen = words();
      for (const [name, value] of Object.entries(changes)) {
        if (value === null || value === "") chosen.delete(name); else chosen.set(name, value);
      }
      chosen.delete("v");
      const kept = [...chosen];
      const query = kept.length ? `?${new URLSearchParams([["v", "1"], ...kept])}` : "";
      const address = query.replaceAll("%2C", ",").replaceAll("%7E", "~");
      history.replaceState(null, "", `${address || location.pathname}${location.hash}`);
    },
    /* Says that a link names something that is not here; nothing else is shown in its place silently. */
    missing: (name) => {
      if (!told) {
        told = document.createElement("p");
        told.className = "notice warning";
        told.setAttribute("role", "status");
        document.querySelector("main h1").after(told);
      }
      const sentence = `This link names ${name}, which is not on this page.`;
      if (!told.textContent.includes(sentence)) told.textContent = `${told.textContent} ${sentence}`.trim();
    },
  };
})();
