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

  /* The server writes UTC; the reader sees their own zone on hover. */
  const zone = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });
  const localTimes = (root) => {
    for (const time of root.querySelectorAll("time[datetime]")) {
      const at = new Date(time.getAttribute("datetime"));
      if (!Number.isNaN(at.getTime())) { time.title = zone.format(at); }
    }
  };

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
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") { return; }
    for (const menu of document.querySelectorAll("details.dropdown[open]")) {
      menu.open = false;
      menu.querySelector("summary").focus();
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
  window.addEventListener("pageshow", () => document.querySelectorAll("form[data-sent]").forEach(ready));
  document.addEventListener("htmx:afterSettle", (event) => prepare(event.target));
  prepare(document);
})();
