// Makes the pages of cloudq's dashboard live and quick to use; all of them work without it.
"use strict";
(() => {
  const root = document.documentElement;
  const one = (selector, from = document) => from.querySelector(selector);
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  root.classList.remove("no-js");

  // ---- times in the reader's own zone, with the exact one on hover
  const exact = new Intl.DateTimeFormat(undefined, {
    dateStyle: "medium", timeStyle: "long",
  });
  const near = new Intl.RelativeTimeFormat(undefined, { numeric: "auto", style: "short" });
  const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
  const day = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" });

  function told(at) {
    const seconds = (at - Date.now()) / 1000, away = Math.abs(seconds);
    if (away < 60) return near.format(Math.round(seconds), "second");
    if (away < 3600) return near.format(Math.round(seconds / 60), "minute");
    return away < 43200 ? clock.format(at) : day.format(at);
  }
  function times(from) {
    for (const element of all("time[datetime]", from)) {
      const at = new Date(element.dateTime);
      if (Number.isNaN(at.getTime())) continue;
      if (!element.dataset.utc) {
        element.dataset.utc = element.textContent;
        element.title = `${exact.format(at)} (${element.dataset.utc})`;
      }
      element.textContent = told(at);
    }
  }
  setInterval(() => { if (!document.hidden) times(document); }, 10000);

  // On a narrow screen the pages are a strip, and this one's name may be past its edge.
  const pages = one(".side nav"), current = one(".side nav [aria-current]");
  if (current) pages.scrollLeft = current.offsetLeft - pages.offsetLeft - (pages.clientWidth - current.offsetWidth) / 2;

  // ---- the live part of a page: one stream, closed while nobody looks
  let stream = null, paused = sessionStorage.getItem("paused") === "yes";
  const state = () => one("#pulse-text"), dot = () => one("#pulse-dot");

  function tell(text, kind) {
    if (state() && state().textContent !== text) state().textContent = text;
    if (dot()) dot().className = `dot ${kind}`;
    const button = one("#pause");
    if (button) {
      button.textContent = paused ? "Go on" : "Pause";
      button.setAttribute("aria-pressed", String(paused));
    }
  }
  function close() {
    if (stream) stream.close();
    stream = null;
  }
  function open() {
    close();
    const live = one("[data-live]");
    if (!live || !window.EventSource) return;
    if (paused) { tell("Paused", ""); return; }
    stream = new EventSource(live.dataset.live);
    stream.addEventListener("open", () => tell("Live", "on"));
    stream.addEventListener("part", (event) => swap(JSON.parse(event.data)));
    stream.addEventListener("over", () => { close(); tell("Signed out", "off"); });
    stream.addEventListener("error", () => tell("No connection: trying again", "off"));
  }
  // What is pressed stays until it is let go: else the click would be lost.
  let pressed = false, waiting = null;
  document.addEventListener("pointerdown", () => { pressed = true; });
  for (const name of ["pointerup", "pointercancel"]) {
    document.addEventListener(name, () => setTimeout(() => {
      pressed = false;
      if (waiting !== null) swap(waiting);
    }));
  }
  const alarms = (live) => all(".tile.alarm", live).map((each) => each.innerText.replace(/\s+/g, " ").trim()).join(", ");
  function swap(html) {
    const live = one("[data-live]");
    waiting = pressed ? html : null;
    if (!live || pressed) return;
    const before = alarms(live);
    const held = document.activeElement, inside = held && live.contains(held);
    const at = inside ? held.getAttribute("href") : null;
    const opened = all("details[open] > summary", live).map((each) => each.textContent);
    const left = all(".wide", live).map((each) => each.scrollLeft);
    live.innerHTML = html;
    // What all readers share has no token: a form gets the one of this reader's session.
    all("input[name=csrf]", live).forEach((field) => { field.value = one("meta[name=csrf]").content; });
    ready(live);
    // A reader who hears the page is told of what is wrong, and not of each new number.
    if (alarms(live) !== before) one("#told").textContent = alarms(live);
    all("details > summary", live).forEach((each) => {
      if (opened.includes(each.textContent)) each.parentElement.open = true;
    });
    all(".wide", live).forEach((each, place) => { each.scrollLeft = left[place] || 0; });
    if (at) {
      const same = all("a[href]", live).find((each) => each.getAttribute("href") === at);
      if (same) same.focus({ preventScroll: true });
    }
  }
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  window.addEventListener("pagehide", close);
  window.addEventListener("pageshow", (event) => { if (event.persisted) open(); });
  function pause() {
    paused = !paused;
    sessionStorage.setItem("paused", paused ? "yes" : "no");
    open();
  }

  // ---- choosing rows: the number is in the buttons
  function count(form) {
    const boxes = all("input[name=id]", form), chosen = boxes.filter((box) => box.checked).length;
    const head = one("input[data-all]", form);
    if (head) {
      head.checked = chosen > 0 && chosen === boxes.length;
      head.indeterminate = chosen > 0 && chosen < boxes.length;
    }
    for (const button of all("button[data-chosen]", form)) {
      button.textContent = button.dataset.chosen.replace("#", chosen);
      button.disabled = chosen === 0;
    }
  }
  document.addEventListener("change", (event) => {
    const form = event.target.closest("form[data-choose]");
    if (event.target.matches("input[data-all]")) {
      all("input[name=id]", form).forEach((box) => { box.checked = event.target.checked; });
    }
    if (form) count(form);
    const sends = event.target.closest("form[data-send-on-change]");
    if (sends) sends.requestSubmit();
  });
  document.addEventListener("submit", (event) => {
    for (const field of all("input, select", event.target)) {
      if (event.target.method === "get" && field.value === "") field.disabled = true;
    }
    setTimeout(() => all("input:disabled[name], select:disabled[name]", event.target)
      .forEach((field) => { field.disabled = false; }), 500);
  });
  document.addEventListener("click", (event) => {
    if (event.target.closest("#pause")) pause();
    if (event.target.closest("[data-help]")) { event.preventDefault(); help(); }
    if (event.target.closest("[data-close]")) one("#help").close();
    const copied = event.target.closest("[data-copy]");
    if (copied && navigator.clipboard) {
      navigator.clipboard.writeText(copied.dataset.copy).then(() => { copied.textContent = "Copied"; });
    }
  });

  // ---- keys
  function help() {
    const dialog = one("#help");
    if (dialog && !dialog.open) dialog.showModal();
  }
  let going = 0;
  function move(step) {
    const rows = all("main tbody tr").filter((row) => row.querySelector("a[href]"));
    if (!rows.length) return;
    const now = rows.findIndex((row) => row.classList.contains("chosen"));
    if (now >= 0) rows[now].classList.remove("chosen");
    const next = rows[Math.max(0, Math.min(rows.length - 1, now + step))];
    next.classList.add("chosen");
    next.querySelector("a[href]").focus();
  }
  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches("input:not([type=checkbox]), textarea, select");
    if (event.key === "Escape" && typing) { event.target.blur(); return; }
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (Date.now() - going < 1500) {
      const link = one(`nav a[data-key="${CSS.escape(event.key)}"]`);
      going = 0;
      if (link) { event.preventDefault(); link.click(); return; }
    }
    if (event.key === "g") going = Date.now();
    else if (event.key === "/") { event.preventDefault(); one("#find").focus(); }
    else if (event.key === "?") help();
    else if (event.key === "p") pause();
    else if (event.key === "j") move(1);
    else if (event.key === "k") move(-1);
    else if (event.key === "t") { const theme = one("#theme button"); if (theme) theme.click(); }
  });

  function ready(from) {
    times(from);
    all("form[data-choose]", from).forEach(count);
  }
  document.addEventListener("htmx:afterSettle", (event) => {
    ready(event.target);
    if (event.target === document.body || one("[data-live]", event.target)) open();
  });
  ready(document);
  open();
})();
