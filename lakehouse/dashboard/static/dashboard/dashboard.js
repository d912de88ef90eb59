// What a page does by itself. Everything that comes from the server is text or HTML that its templates escaped.
"use strict";

(() => {
  const find = (selector) => document.querySelector(selector);
  const notice = (text) => {
    if (find("#notice").textContent === text) return; // it is read aloud once
    const line = document.createElement("p");
    line.className = "notice trouble";
    line.textContent = text;
    find("#notice").replaceChildren(line);
  };

  // The chooser of namespaces needs no button where scripts run.
  const chooser = find("[data-chooser]");
  chooser.querySelector("button").hidden = true;
  chooser.querySelector("select").addEventListener("change", () => chooser.submit());

  // A click puts a name where the cursor is.
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-insert]");
    const editor = find("#query");
    if (!button || !editor) return;
    event.preventDefault();
    editor.focus();
    const before = editor.value.slice(0, editor.selectionStart);
    const space = before && !/[\s(.,]$/.test(before) ? " " : "";
    editor.setRangeText(space + button.dataset.insert, editor.selectionStart, editor.selectionEnd, "end");
  });

  const form = find("#sql");
  if (form) {
    const cancel = find("#cancel");
    let isRunning = false;
    const running = (is) => {
      isRunning = is;
      cancel.disabled = !is;
      form.classList.toggle("running", is);
      find("#result").setAttribute("aria-busy", String(is));
    };
    running(false);
    form.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        form.requestSubmit();
      }
    });
    form.addEventListener("htmx:beforeRequest", () => running(true));
    form.addEventListener("htmx:afterRequest", () => running(false));
    cancel.addEventListener("click", () => {
      if (!isRunning) return;
      htmx.trigger(form, "htmx:abort");
      const line = document.createElement("p");
      line.className = "empty";
      line.textContent = "Cancelled. The query has ended on the server, too.";
      find("#result").replaceChildren(line);
    });
  }

  // Tabs: one of them is chosen, arrows go to the other.
  const choose = (tab) => {
    for (const one of tab.parentElement.children) {
      const is = one === tab;
      one.setAttribute("aria-selected", String(is));
      one.tabIndex = is ? 0 : -1;
      document.getElementById(one.getAttribute("aria-controls")).hidden = !is;
    }
    charts.find();
  };
  document.addEventListener("click", (event) => {
    const tab = event.target.closest("[role=tab]");
    if (tab) choose(tab);
  });
  document.addEventListener("keydown", (event) => {
    const tab = event.target.closest("[role=tab]");
    if (!tab || !["ArrowLeft", "ArrowRight"].includes(event.key)) return;
    const other = tab.nextElementSibling || tab.previousElementSibling;
    other.focus();
    choose(other);
  });

  // A page nobody looks at asks for nothing; nor does one that is held, or whose details somebody reads.
  const hold = find("#hold");
  const isHeld = () => hold?.getAttribute("aria-pressed") === "true";
  hold?.addEventListener("click", () => {
    hold.setAttribute("aria-pressed", String(!isHeld()));
    hold.textContent = isHeld() ? "Go on" : "Pause";
  });
  document.body.addEventListener("htmx:beforeRequest", (event) => {
    const asks = event.detail.elt;
    if (asks.matches("[data-poll]") && (document.hidden || isHeld())) event.preventDefault();
  });

  // The tail: an event that is there already is not shown again, and the oldest make room.
  const trim = () => {
    const list = find("#events");
    if (!list) return;
    const seen = new Set();
    for (const row of [...list.children]) {
      const id = row.dataset.id;
      if (id && seen.has(id)) row.remove();
      else if (id) seen.add(id);
    }
    while (list.children.length > Number(list.dataset.rowsMax)) list.lastElementChild.remove();
    find("#quiet").hidden = list.children.length > 0;
  };

  document.body.addEventListener("htmx:afterSwap", () => {
    trim();
    charts.find();
    if (find("#notice .trouble")) find("#notice").replaceChildren();
  });
  document.body.addEventListener("htmx:sendError", () => notice("The server cannot be reached. What you typed is still here; this page goes on when it is back."));
  document.body.addEventListener("htmx:responseError", (event) => notice(`The server answered ${event.detail.xhr.status}. Its log says why; loading this page again may help.`));

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", charts.again);
  charts.find();
})();
