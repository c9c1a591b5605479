// What pages can do better with a script: times in the reader's zone, copying, the warning before a
// shown key is left, and portal links. Everything else works without it.
"use strict";
(() => {
  const full = new Intl.DateTimeFormat(undefined, {dateStyle: "medium", timeStyle: "short"});
  const seconds = new Intl.DateTimeFormat(undefined, {day: "numeric", month: "short", hour: "numeric", minute: "2-digit", second: "2-digit"});
  const exact = new Intl.DateTimeFormat(undefined, {dateStyle: "full", timeStyle: "long"});

  function localize(root) {
    for (const el of root.querySelectorAll("time[datetime]")) {
      const at = new Date(el.dateTime);
      if (isNaN(at)) continue;
      el.title = exact.format(at);
      if (!el.hasAttribute("data-relative")) el.textContent = (el.hasAttribute("data-seconds") ? seconds : full).format(at);
    }
  }

  async function copy(button) {
    const text = document.getElementById(button.dataset.copy).textContent;
    const said = document.querySelector("[data-copied]");
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
      if (said) said.textContent = "Copied. Put it where the program finds it.";
      if (button.dataset.copy === "secret") kept = true;
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    } catch {
      getSelection().selectAllChildren(document.getElementById(button.dataset.copy));
      if (said) said.textContent = "The browser did not allow copying. The text is selected: copy it by hand.";
    }
  }

  // Whether the secret that the page shows was copied, by button or by hand.
  let kept = false;

  function guardSecret() {
    const page = document.querySelector("[data-warn]");
    const secret = document.getElementById("secret");
    if (!page || !secret) return;
    secret.addEventListener("copy", () => { kept = true; });
    document.querySelector("[data-done]")?.addEventListener("click", (e) => {
      if (kept || confirm(page.dataset.warn + " Leave all the same?")) { kept = true; } else { e.preventDefault(); }
    });
    addEventListener("beforeunload", (e) => { if (!kept) e.preventDefault(); });
    // A page that is kept to be gone back to must hold it no more.
    addEventListener("pagehide", () => {
      secret.textContent = "shown before";
      document.getElementById("curl")?.remove();
    });
  }

  function enterPortal() {
    const form = document.querySelector("form[data-portal]");
    const secret = location.hash.slice(1);
    if (!form || !secret) return;
    history.replaceState(null, "", location.pathname + location.search);
    form.elements.code.value = secret;
    form.querySelector("[data-portal-manual]").hidden = true;
    const wait = form.querySelector("[data-portal-wait]");
    if (wait) wait.hidden = false;
    form.submit();
  }

  // A field that matters for one choice only is shown with that choice.
  function showChosen(select) {
    const field = document.getElementById(select.dataset.shows)?.closest("[data-shown-by]");
    if (!field) return;
    const update = () => { field.hidden = select.value !== field.dataset.shownBy; };
    select.addEventListener("change", update);
    update();
  }

  localize(document);
  document.addEventListener("htmx:afterSwap", (e) => localize(e.target));
  for (const b of document.querySelectorAll("[data-copy]")) {
    b.hidden = false;
    b.addEventListener("click", () => copy(b));
  }
  for (const s of document.querySelectorAll("select[data-shows]")) showChosen(s);
  guardSecret();
  enterPortal();
  // Where something is wrong, one begins there; a result that was asked for is where one goes on.
  (document.querySelector("[aria-invalid=true]") || document.querySelector("#result"))?.focus();
})();
