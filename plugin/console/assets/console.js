// Pages work without this script. It adds times in the reader's zone, copying, a warning before a page
// with a secret is left, and portal links that open by themselves.
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
    const status = document.querySelector("[data-copied]");
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
      if (status) status.textContent = "Copied. Store it where the program can read it.";
      if (button.dataset.copy === "secret") kept = true;
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    } catch {
      getSelection().selectAllChildren(document.getElementById(button.dataset.copy));
      if (status) status.textContent = "The browser did not allow copying. The text is selected: copy it by hand.";
    }
  }

  // kept is true once the person has copied the secret on the page, with the button or by hand.
  let kept = false;

  function guardSecret() {
    const page = document.querySelector("[data-warn]");
    const secret = document.getElementById("secret");
    if (!page || !secret) return;
    secret.addEventListener("copy", () => { kept = true; });
    document.querySelector("[data-done]")?.addEventListener("click", (e) => {
      if (kept || confirm(page.dataset.warn + " Leave the page anyway?")) { kept = true; } else { e.preventDefault(); }
    });
    addEventListener("beforeunload", (e) => { if (!kept) e.preventDefault(); });
    // Browsers keep a page in memory for the back button: the kept page must not contain the secret.
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

  // A field that only one choice needs is shown only with that choice.
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
  // The focus moves to the first invalid field, or else to the result of the form.
  (document.querySelector("[aria-invalid=true]") || document.querySelector("#result"))?.focus();
})();
