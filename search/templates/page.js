// Asks again for the page that is shown, by its tag, and puts what has changed in place.
(function () {
  "use strict";
  const live = document.querySelector("[data-live]"), stale = document.getElementById("stale");
  if (!live) return;
  const pause = 1000 * Number(live.dataset.live), slowest = 12 * pause;
  let tag = "", wait = pause, since = null;

  function place(element) { // of a link among the equal ones, so that focus finds it again
    const href = element && element.getAttribute("href");
    if (href === null || href === undefined) return null;
    const equal = Array.from(live.querySelectorAll("a")).filter((a) => a.getAttribute("href") === href);
    return [href, equal.indexOf(element)];
  }

  function show(text) {
    const fresh = new DOMParser().parseFromString(text, "text/html").querySelector("[data-live]");
    if (!fresh || fresh.innerHTML === live.innerHTML) return Boolean(fresh);
    const focused = live.contains(document.activeElement) ? document.activeElement : null;
    const link = place(focused), region = focused && focused.getAttribute("aria-label");
    const scrolled = Array.from(live.querySelectorAll(".wide")).map((one) => [
      one.scrollLeft, one.scrollTop, one.scrollTop + one.clientHeight > one.scrollHeight - 4]);
    live.replaceChildren(...fresh.childNodes);
    live.querySelectorAll(".wide").forEach((one, i) => {
      const [left, top, atEnd] = scrolled[i] || [0, 0, false]; // who reads the last lines goes on so
      one.scrollLeft = left;
      one.scrollTop = atEnd ? one.scrollHeight : top;
    });
    if (link) {
      const equal = Array.from(live.querySelectorAll("a")).filter((a) => a.getAttribute("href") === link[0]);
      if (equal[link[1]]) equal[link[1]].focus({ preventScroll: true });
    } else if (region) {
      for (const one of live.querySelectorAll("[aria-label]"))
        if (one.getAttribute("aria-label") === region) one.focus({ preventScroll: true });
    }
    return true;
  }

  async function look() {
    const selected = getSelection();
    const reads = selected && !selected.isCollapsed && live.contains(selected.anchorNode);
    if (!document.hidden && !reads) {
      try {
        const headers = tag ? { "If-None-Match": tag } : {};
        const answer = await fetch(location.href, { headers: headers, cache: "no-store" });
        if (answer.status === 401 || answer.redirected) return location.reload();
        if (answer.status !== 304) {
          if (!answer.ok || !show(await answer.text())) throw new Error(String(answer.status));
          tag = answer.headers.get("ETag") || "";
        }
        wait = pause;
        since = null;
        stale.textContent = "";
      } catch (error) {
        wait = Math.min(2 * wait, slowest);
        since = since || new Date().toLocaleTimeString();
        const text = "Not brought up to date since " + since;
        if (stale.textContent !== text) stale.textContent = text;
      }
    }
    setTimeout(look, wait);
  }
  setTimeout(look, pause);
})();

// The editor of a study file: the caret goes to the line that a message names, a file into the text,
// and when who writes pauses, what is wrong is said, and what fits there.
(function () {
  "use strict";
  const text = document.querySelector("textarea[name='text']");
  if (!text) return;
  const line = Number(text.dataset.line);
  if (line) {
    const lines = text.value.split("\n");
    const start = lines.slice(0, line - 1).join("\n").length + (line > 1 ? 1 : 0);
    text.focus({ preventScroll: true });
    text.setSelectionRange(start, start + (lines[line - 1] || "").length);
    text.scrollTop = Math.max(0, line - 5) * parseFloat(getComputedStyle(text).lineHeight);
  }
  const words = document.getElementById("words");
  let pause = 0, asked = 0;
  async function check(writes) {
    const mine = ++asked, form = new FormData(text.form);
    form.set("do", "text");
    if (writes) form.set("at", Array.from(text.value.slice(0, text.selectionEnd)).length); // as Python counts
    try {
      const answer = await fetch(text.form.action, { method: "POST", body: new URLSearchParams(form) });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (mine !== asked || !page.getElementById("said")) return;
      const chosen = words.contains(document.activeElement);
      for (const id of ["said", "offered", "words"]) {
        const old = document.getElementById(id), fresh = page.getElementById(id);
        if (fresh.innerHTML !== old.innerHTML) old.replaceChildren(...fresh.childNodes);
      }
      if (chosen && !words.contains(document.activeElement)) text.focus();
    } catch {
      // the dashboard is away, or the page is left: the buttons say it
    }
  }
  text.addEventListener("input", () => {
    clearTimeout(pause);
    pause = setTimeout(check, 800, true);
  });
  words.addEventListener("click", (event) => {
    const button = event.target.closest("button"), end = text.selectionEnd;
    if (!button) return;
    const begun = text.value.slice(0, end).split(/[^\w.+-]/).pop();
    text.focus();
    text.setSelectionRange(end - begun.length, end);
    document.execCommand("insertText", false, button.value); // can be undone
  });
  const file = document.querySelector("input[data-into]");
  file.closest("[hidden]").hidden = false;
  async function take() {
    if (!file.files.length) return;
    const tooLarge = file.files[0].size > 4 * text.maxLength;
    const read = tooLarge ? "" : await file.files[0].text();
    const fits = !tooLarge && read.length <= text.maxLength;
    file.setCustomValidity(fits ? "" : "A study file has at most " + text.maxLength + " characters");
    file.reportValidity();
    file.value = ""; // not read again by Back
    if (!fits) return;
    text.value = read;
    text.focus();
    check();
  }
  file.addEventListener("change", take);
  text.form.addEventListener("click", () => file.setCustomValidity(""));
  take(); // one from before the script
})();
