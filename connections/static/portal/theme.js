/* Sets the colour theme before the page is painted: the reader's choice, else the system's. Loaded in the head. */
(() => {
  "use strict";
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const chosen = () => {
    try { return localStorage.getItem("portal-theme"); } catch { return null; }
  };
  const apply = () => {
    const theme = chosen() || (dark.matches ? "dark" : "light");
    document.documentElement.setAttribute("data-bs-theme", theme);
  };
  dark.addEventListener("change", apply);
  window.addEventListener("storage", apply);
  window.portalTheme = {
    toggle() {
      const now = document.documentElement.getAttribute("data-bs-theme");
      const next = now === "dark" ? "light" : "dark";
      try { localStorage.setItem("portal-theme", next); } catch { /* private window: for this page only */ }
      document.documentElement.setAttribute("data-bs-theme", next);
    },
  };
  apply();
})();
