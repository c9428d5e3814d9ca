/* On phones: sections that are rarely read begin folded, and long lists show their first rows. Without scripts, everything is shown. */
(() => {
  "use strict";
  const LONGEST = 1600; /* pixels of a list that are shown at first */
  const FEWEST = 5; /* rows worth a button */
  if (!window.matchMedia("(max-width: 767.98px)").matches) { return; }

  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));

  const show = (button) => {
    const list = document.getElementById(button.getAttribute("aria-controls"));
    const rest = [...list.children].filter((row) => row.hidden);
    for (const row of rest) { row.hidden = false; }
    button.remove();
    return rest[0];
  };

  const shorten = (list) => {
    const rows = [...list.children];
    if (!rows.length || rows.some((row) => row.hidden) || list.closest("nav, details:not([open])")) { return; }
    const start = rows[0].getBoundingClientRect().top;
    const rest = rows.filter((row) => row.getBoundingClientRect().top - start > LONGEST);
    if (rest.length < FEWEST || (target && rest.some((row) => row.contains(target)))) { return; }
    for (const row of rest) { row.hidden = true; }
    const button = document.createElement("button");
    button.type = "button";
    button.className = "btn btn-link w-100 rounded-0 show-rest";
    button.textContent = `Show ${rest.length} more`;
    list.id = list.id || `list-${document.querySelectorAll(".show-rest").length + 1}`;
    button.setAttribute("aria-controls", list.id);
    button.addEventListener("click", () => { show(button)?.querySelector("a, button, summary, input")?.focus(); });
    (list.closest("table") || list).after(button);
  };

  const shortenAll = () => { document.querySelectorAll("main .table-stack > tbody, main .list-group").forEach(shorten); };

  /* Someone who selects all rows sees all of them. */
  document.addEventListener("change", (event) => {
    if (event.target.dataset && event.target.dataset.selectAll) {
      document.querySelectorAll(".show-rest").forEach(show);
    }
  });
  document.addEventListener("htmx:afterSettle", shortenAll);
  for (const fold of document.querySelectorAll("details.fold, details.rules")) { 
    fold.open = Boolean((target && fold.contains(target)) || fold.querySelector(".is-invalid, .invalid-feedback"));
  }
  shortenAll();
})();
