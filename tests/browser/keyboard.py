"""Moving through a page with the keyboard alone."""

from tests.browser.browser_users import Visitor, until

FOCUSED = """() => { const el = document.activeElement;
  if (el === document.body) { return ""; }
  return (el.labels && el.labels.length ? el.labels[0].textContent : el.getAttribute("aria-label") || el.textContent).trim();
}"""
# The checkbox behind the menu of a phone is as good as invisible; the button beside it shows the focus.
FOCUS_SHOWS = """() => {
  const el = document.activeElement;
  const shown = el.matches(".nav-open") ? el.nextElementSibling : el;
  const { outlineStyle, boxShadow } = getComputedStyle(shown);
  const { width, height } = shown.getBoundingClientRect();
  const isVisible = shown.checkVisibility({ visibilityProperty: true, opacityProperty: true }) && width > 4 && height > 4;
  return isVisible && (outlineStyle !== "none" || boxShadow !== "none");
}"""
MOST_STOPS = 250


def tab_to(visitor: Visitor, name: str, *, exact: bool = False) -> None:
    """Press Tab until the focus is on the element called ``name``, and check that the focus is visible."""
    passed: list[str] = []
    for _ in range(80):
        focused: str = visitor.page.evaluate(FOCUSED)
        passed.append(focused[:40])
        if focused == name or (not exact and focused.startswith(name)):
            until(lambda: bool(visitor.page.evaluate(FOCUS_SHOWS)), seconds=2)  # wait for the fade-in
            return
        visitor.page.keyboard.press("Tab")
    raise AssertionError(f"Tab never came to {name}, but to {passed}")


def stops(visitor: Visitor) -> tuple[list[str], list[str]]:
    """Press Tab through the whole page. Returns the names of all stops, and of those whose focus cannot be seen."""
    names: list[str] = []
    unseen: list[str] = []
    for _ in range(MOST_STOPS):
        visitor.page.keyboard.press("Tab")
        if visitor.page.evaluate("document.activeElement === document.body"):
            return names, unseen
        names.append(visitor.page.evaluate(FOCUSED)[:60])
        if not visitor.page.evaluate(FOCUS_SHOWS):
            visitor.page.wait_for_timeout(400)  # the fade-in
            if not visitor.page.evaluate(FOCUS_SHOWS):
                unseen.append(visitor.page.evaluate("document.activeElement.outerHTML.slice(0, 120)"))
    raise AssertionError(f"Tab never left the page, but came to {names[-20:]}")
