/* Comforts on top of pages that work without it: theme switch, copy buttons, local times, closing menus. */
(() => {
  "use strict";

  const say = (text) => {
    const live = document.getElementById("live");
    if (live) { live.textContent = text; }
  };

  /* <button data-copy="id of the field or element whose text is copied"> */
  const copy = async (button) => {
    const source = document.getElementById(button.dataset.copy);
    if (!source) { return; }
    const text = "value" in source ? source.value : source.textContent;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      /* No clipboard on plain http: select the text, so that Ctrl+C works. */
      if ("select" in source) { source.select(); }
      else { window.getSelection().selectAllChildren(source); }
      say("Selected. Press Ctrl+C to copy.");
      return;
    }
    const label = button.querySelector("[data-copy-label]");
    if (label) {
      const before = label.textContent;
      label.textContent = "Copied";
      window.setTimeout(() => { label.textContent = before; }, 2000);
    }
    say("Copied");
  };

  /* The server shows times in this zone, unless the reader has chosen another one. */
  const ownZone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  if (ownZone) {
    const secure = window.location.protocol === "https:" ? "; Secure" : "";
    document.cookie = `time_zone=${ownZone}; Path=/; Max-Age=31536000; SameSite=Lax${secure}`;
  }
  const zone = new Intl.DateTimeFormat(undefined, {
    dateStyle: "full", timeStyle: "long", timeZone: document.documentElement.dataset.timeZone || undefined,
  });
  const localTimes = (root) => {
    for (const time of root.querySelectorAll("time[datetime]")) {
      const at = new Date(time.getAttribute("datetime"));
      if (!Number.isNaN(at.getTime())) { time.title = zone.format(at); }
    }
  };

  /* What is offered for a few seconds goes then, unless somebody is about to press it. */
  for (const offer of document.querySelectorAll("[data-vanish]")) {
    const vanish = () => { if (offer.matches(":focus-within, :hover")) { window.setTimeout(vanish, 1000); } else { offer.remove(); } };
    window.setTimeout(vanish, Number(offer.dataset.vanish) * 1000);
  }

  const prepare = (root) => {
    localTimes(root);
    for (const hidden of root.querySelectorAll("[data-needs-js][hidden]")) { hidden.hidden = false; }
  };

  document.addEventListener("click", (event) => {
    const target = event.target instanceof Element ? event.target : null;
    if (!target) { return; }
    const button = target.closest("[data-copy]");
    if (button) { copy(button); }
    if (target.closest("[data-toggle-theme]")) { window.portalTheme.toggle(); }
    for (const menu of document.querySelectorAll("details.dropdown[open]")) {
      if (!menu.contains(target)) { menu.open = false; }
    }
  });
  /* "/" searches everything; the arrow keys go through the results. */
  const typesText = (element) => element.matches("input, textarea, select, [contenteditable]");
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || !(event.target instanceof Element)) { return; }
    if (event.key === "/" && !typesText(event.target)) {
      const box = [...document.querySelectorAll("[data-search-box]")].reverse().find((each) => each.checkVisibility());
      if (box) { event.preventDefault(); box.focus(); box.select(); }
      return;
    }
    if (event.key !== "ArrowDown" && event.key !== "ArrowUp") { return; }
    if (!event.target.matches("#search[data-search-box], [data-search-result]")) { return; }
    const places = [...document.querySelectorAll("#search[data-search-box], [data-search-result]")];
    const next = places[places.indexOf(event.target) + (event.key === "ArrowDown" ? 1 : -1)];
    if (next) { event.preventDefault(); next.focus(); }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") { return; }
    for (const menu of document.querySelectorAll("details.dropdown[open]")) {
      menu.open = false;
      menu.querySelector("summary").focus();
    }
  });
  /* Filling in a field of one of several alternatives chooses that alternative. */
  document.addEventListener("input", (event) => {
    const alternative = event.target.closest("[data-alternative]");
    const choice = alternative && alternative.querySelector("input[type=radio]");
    if (choice && event.target.type !== "radio" && !choice.checked) {
      choice.checked = true;
      choice.dispatchEvent(new Event("change", { bubbles: true }));
    }
  });
  /* One check box ticks all with the same name in its form. */
  document.addEventListener("change", (event) => {
    const name = event.target.dataset && event.target.dataset.selectAll;
    if (!name) { return; }
    for (const box of event.target.form.querySelectorAll(`input[type=checkbox][name="${name}"]`)) {
      box.checked = event.target.checked;
    }
  });
  const ready = (form) => {
    delete form.dataset.sent;
    for (const button of form.querySelectorAll(".btn-loading")) { button.classList.remove("btn-loading"); }
  };
  /* A form is sent once, however often its button is pressed. */
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.method !== "post") { return; }
    if (form.dataset.sent) { event.preventDefault(); return; }
    form.dataset.sent = "yes";
    for (const button of form.querySelectorAll("button[type=submit], button:not([type])")) {
      button.classList.add("btn-loading");
    }
    /* An answer that is a file leaves the page as it is. */
    window.setTimeout(() => ready(form), 20000);
  });
  /* An answer that is put into the page leaves the form, so it can be sent again. */
  document.addEventListener("htmx:afterRequest", (event) => {
    if (event.target instanceof HTMLFormElement) { ready(event.target); }
  });
  window.addEventListener("pageshow", () => document.querySelectorAll("form[data-sent]").forEach(ready));
  document.addEventListener("htmx:afterSettle", (event) => prepare(event.target));
  prepare(document);
})();
