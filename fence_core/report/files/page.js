"use strict";
/* Everything that is shown is in the page already: this hides what a filter leaves out, and writes text to paste. */
(function () {
  const words = document.getElementById("words");
  const left = document.getElementById("left");
  const shown = document.getElementById("text");
  const rows = new Map();
  const keys = ["test", "file", "program", "state", "phase", "rule", "worker"];

  for (const row of document.querySelectorAll("#table tbody tr")) rows.set(row.dataset.id, row);
  const sections = Array.from(document.querySelectorAll(".d"), function (section) {
    const row = rows.get(section.id);
    const entries = JSON.parse(section.dataset.entries);
    const violations = Array.from(section.querySelectorAll(".v"), (v) => ({ v, text: null }));
    let box = null;
    if (entries.length && row) {
      box = document.createElement("input");
      box.type = "checkbox";
      box.setAttribute("aria-label", "allow " + section.querySelector("h3").textContent);
      row.querySelector(".pick").append(box);
      box.addEventListener("change", decide);
    }
    return { section, row, entries, violations, box, name: section.querySelector("h3").textContent };
  });

  function matches(term, each, of) {
    const colon = term.indexOf(":");
    const key = colon > 0 ? term.slice(0, colon) : "";
    const value = term.slice(colon + 1);
    if (key === "kind") return of.section.dataset.kind === value;
    if (keys.includes(key)) return each.v.dataset[key].toLowerCase().includes(value);
    if (each.text === null) each.text = (of.name + " " + each.v.textContent).toLowerCase();
    return each.text.includes(term);
  }

  function filter() {
    const terms = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const of of sections) {
      let some = terms.length === 0;
      for (const each of of.violations) {
        const fits = terms.every((term) => matches(term, each, of));
        each.v.hidden = !fits;
        some = some || fits;
      }
      of.section.hidden = !some;
      if (of.row) of.row.hidden = !some;
      count += some;
    }
    left.textContent = terms.length ? count + " of " + sections.length : "";
    const hash = terms.length ? "#" + encodeURIComponent(words.value) : "";
    if (terms.length || location.hash.length > 1) history.replaceState(null, "", location.pathname + hash);
  }

  function literal(value) {
    return typeof value === "string" ? JSON.stringify(value).replace(/\u007f/g, "\\u007F") : String(value);
  }

  function config(chosen) {
    const lists = new Map();
    for (const of of chosen)
      for (const { key, value } of of.entries) {
        const name = key.slice(key.lastIndexOf(".") + 1);
        if (!lists.has(name)) lists.set(name, new Set());
        lists.get(name).add(value);
      }
    const lines = ["[tool.fence]"];
    for (const name of Array.from(lists.keys()).sort()) {
      const values = Array.from(lists.get(name));
      if (values.includes(true)) lines.push(name + " = true");
      else lines.push(name + " = [", ...values.map((value) => "    " + literal(value) + ","), "]");
    }
    return lines.join("\n");
  }

  function markers(chosen) {
    const found = new Map();
    for (const of of chosen)
      for (const { v } of of.violations)
        if (v.dataset.marker) {
          if (!found.has(v.dataset.test)) found.set(v.dataset.test, new Set());
          found.get(v.dataset.test).add(v.dataset.marker);
        }
    return Array.from(found, ([test, all]) => "# " + test + "\n" + Array.from(all).join("\n")).join("\n\n");
  }

  function decide() {
    const chosen = sections.filter((of) => of.box && of.box.checked);
    const as = document.querySelector("input[name=as]:checked").value;
    shown.textContent = chosen.length ? (as === "config" ? config(chosen) : markers(chosen)) : "";
    document.getElementById("copied").textContent = "";
  }

  function copy() {
    const said = (text) => { document.getElementById("copied").textContent = text; };
    const range = document.createRange();
    range.selectNodeContents(shown);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    if (navigator.clipboard) navigator.clipboard.writeText(shown.textContent).then(() => said("copied"), () => said("selected"));
    else said(document.execCommand("copy") ? "copied" : "selected");
  }

  for (const each of document.querySelectorAll(".needs-script")) each.hidden = false;
  if (!sections.some((of) => of.box)) document.getElementById("decide").hidden = true;
  words.form.addEventListener("submit", (event) => event.preventDefault());
  words.addEventListener("input", filter);
  for (const each of document.querySelectorAll("input[name=as]")) each.addEventListener("change", decide);
  document.getElementById("copy").addEventListener("click", copy);
  document.addEventListener("keydown", function (event) {
    if (event.key === "/" && !/^(INPUT|TEXTAREA)$/.test(event.target.tagName)) {
      event.preventDefault();
      words.focus();
    }
  });
  let asked = "";
  try { asked = decodeURIComponent(location.hash.slice(1)); } catch (error) { asked = ""; }
  if (asked && !/^d\d+$/.test(asked)) {
    words.value = asked;
    filter();
  }
})();
