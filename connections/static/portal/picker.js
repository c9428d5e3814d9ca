/* Suggestions for the fields of forms/pickers.py. Without this script, choices are shown after submitting. */
(() => {
  "use strict";

  const DELAY = 150; /* milliseconds after the last key */

  const say = (text) => {
    const live = document.getElementById("live");
    if (live) { live.textContent = text; }
  };

  const prepare = (picker) => {
    const input = picker.querySelector("input[type=text], textarea");
    const hasLines = input.tagName === "TEXTAREA"; /* one name a line (forms/recipients.py) */
    const chosenFor = picker.querySelector("input[name$='-for']");
    const list = document.createElement("ul");
    let timer = 0;
    let request = null;
    let active = -1;

    picker.dataset.pickerReady = "yes";
    list.id = `${input.id}-suggestions`;
    list.className = "picker-list dropdown-menu";
    list.setAttribute("role", "listbox");
    list.setAttribute("aria-label", "Suggestions");
    picker.append(list);
    /* ARIA allows this state for a combobox, and no such role for a field of many lines. */
    const expand = (isOpen) => { if (!hasLines) { input.setAttribute("aria-expanded", String(isOpen)); } };
    if (!hasLines) { input.setAttribute("role", "combobox"); }
    input.setAttribute("aria-autocomplete", "list");
    input.setAttribute("aria-controls", list.id);
    expand(false);

    const close = () => {
      list.classList.remove("show");
      list.replaceChildren();
      active = -1;
      expand(false);
      input.removeAttribute("aria-activedescendant");
    };

    /* The hidden field of the choice; radio buttons of an earlier answer give way to it. */
    const choiceField = () => {
      let field = picker.querySelector("input[type=hidden][name$='-choice']");
      if (!field) {
        picker.querySelector("[data-picker-choices]")?.remove();
        field = document.createElement("input");
        field.type = "hidden";
        field.name = `${input.name}-choice`;
        picker.append(field);
      }
      return field;
    };

    /* Where the line with the cursor begins and ends. */
    const line = () => {
      const before = input.value.slice(0, input.selectionStart);
      const begin = before.lastIndexOf("\n") + 1;
      const end = input.value.indexOf("\n", begin);
      return [begin, end === -1 ? input.value.length : end];
    };
    const typed = () => (hasLines ? input.value.slice(...line()) : input.value);

    const choose = (option) => {
      if (hasLines) {
        const isLast = line()[1] === input.value.length;
        input.setRangeText(option.textContent + (isLast ? "\n" : ""), ...line(), "end");
        close();
        return;
      }
      input.value = option.textContent;
      chosenFor.value = option.textContent;
      choiceField().value = option.dataset.key;
      close();
    };

    const move = (step) => {
      const options = [...list.children];
      if (!options.length) { return; }
      active = (active + step + options.length) % options.length;
      options.forEach((option, index) => {
        option.classList.toggle("active", index === active);
        option.setAttribute("aria-selected", String(index === active));
      });
      options[active].scrollIntoView({ block: "nearest" });
      input.setAttribute("aria-activedescendant", options[active].id);
    };

    const show = (items) => {
      close();
      items.forEach((item, index) => {
        const option = document.createElement("li");
        option.id = `${list.id}-${index}`;
        option.className = "dropdown-item";
        option.setAttribute("role", "option");
        option.setAttribute("aria-selected", "false");
        option.dataset.key = item.key;
        option.textContent = item.label;
        list.append(option);
      });
      if (items.length) {
        list.classList.add("show");
        expand(true);
      }
      say(items.length === 1 ? "1 suggestion" : `${items.length} suggestions`);
    };

    const ask = async () => {
      request?.abort();
      request = new AbortController();
      const url = `${picker.dataset.picker}?${new URLSearchParams({ q: typed() })}`;
      try {
        const response = await fetch(url, { signal: request.signal, headers: { Accept: "application/json" } });
        if (response.ok) { show((await response.json()).items); } else { close(); }
      } catch {
        /* Aborted by the next key, or offline: what was typed is looked up after submitting. */
      }
    };

    input.addEventListener("input", () => {
      window.clearTimeout(timer);
      if (typed().trim().length < 2) { request?.abort(); close(); return; }
      timer = window.setTimeout(ask, DELAY);
    });
    input.addEventListener("keydown", (event) => {
      if (hasLines && !list.children.length) { return; }
      if (event.key === "ArrowDown") { move(1); } else if (event.key === "ArrowUp") { move(-1); }
      else if (event.key === "Escape" && list.children.length) { close(); }
      else if (event.key === "Enter" && active >= 0) { choose(list.children[active]); }
      else { return; }
      event.preventDefault();
    });
    list.addEventListener("mousedown", (event) => {
      event.preventDefault(); /* keeps the focus in the field */
      const option = event.target.closest("[role=option]");
      if (option) { choose(option); }
    });
    input.addEventListener("blur", () => { window.clearTimeout(timer); request?.abort(); close(); });
  };

  const prepareAll = () => {
    document.querySelectorAll("[data-picker]:not([data-picker-ready])").forEach(prepare);
  };
  document.addEventListener("htmx:afterSettle", prepareAll);
  prepareAll();
})();
