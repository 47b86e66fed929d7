// Two browsers of rows: the held-out contexts with every answer, and the preference pairs. The rows are in the page, gzipped.
// Only the visible part of a list is in the document. All text is set as text, never as HTML.
"use strict";

// What a browser would obey or cannot show: control characters, halves of surrogate pairs, turns of direction.
const OBEYED = /[\p{Cc}\p{Cs}\u2028\u2029\u202a-\u202e\u2066-\u2069]/gu;
// Why a filter's number of words can be lower than that beside the text (preference/filters.py).
const CUT = " (an answer that was cut off counts without its last, unfinished sentence)";
const MOST_CELLS = 4_000_000; // of a comparison of two texts word by word
const WORD = /(?:[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}]|[\p{L}\p{N}\p{M}'’]+|[^])\s*/gu;

const shown = (text) => String(text).replace(OBEYED, (each) => (each === "\n" || each === "\t" ? each : "\ufffd"));
const number = (value) => value.toLocaleString("en");
const words = (text) => (text ? text.split(/\s+/u).filter(Boolean).length : 0);

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.map((each) => (typeof each === "string" ? shown(each) : each)));
  return element;
}

async function unpack(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (each) => each.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

// Words of both texts in order, each with the space after it: [[-1 | 0 | 1, before, after], ...] for gone, kept and new. Null if
// the texts are too long for it.
function diff(before, after) {
  const [a, b] = [before, after].map((text) => text.match(WORD) || []);
  if (a.length * b.length > MOST_CELLS) return null;
  const [bare, other] = [a, b].map((words) => words.map((each) => each.trim()));
  const width = b.length + 1;
  const longest = new Uint32Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      longest[i * width + j] = bare[i] === other[j]
        ? longest[(i + 1) * width + j + 1] + 1
        : Math.max(longest[(i + 1) * width + j], longest[i * width + j + 1]);
  const parts = [];
  const add = (kind, ours, theirs) => {
    const last = parts.at(-1);
    if (last && last[0] === kind) { last[1] += ours; last[2] += theirs; }
    else parts.push([kind, ours, theirs]);
  };
  let [i, j] = [0, 0];
  while (i < a.length && j < b.length) {
    if (bare[i] === other[j]) add(0, a[i++], b[j++]);
    else if (longest[(i + 1) * width + j] >= longest[i * width + j + 1]) add(-1, a[i++], "");
    else add(1, "", b[j++]);
  }
  while (i < a.length) add(-1, a[i++], "");
  while (j < b.length) add(1, "", b[j++]);
  return parts;
}

function text(content, tag = "p") {
  return make(tag, { class: "text", dir: "auto" }, content);
}

// One side of a comparison: `kind` -1 shows what is gone, 1 what is new.
function marked(parts, kind) {
  const pieces = parts.filter(([each]) => each === 0 || each === kind);
  return make("p", { class: "text", dir: "auto" },
    ...pieces.map(([each, ours, theirs]) => (each === 0 ? shown(kind < 0 ? ours : theirs) : make(kind < 0 ? "del" : "ins", {}, ours + theirs))));
}

function side(title, content, note = "", extra = "") {
  const heading = make("h4", { dir: "auto" }, title);
  if (note) heading.append(make("span", { class: "quiet" }, ` ${note}`));
  return make("section", { class: `side ${extra}` }, heading, content);
}

function conversation(turns) {
  return make("ol", { class: "turns" }, ...turns.map(([role, words]) =>
    make("li", { class: role === "h" ? "supporter" : "seeker" },
      make("span", { class: "who" }, role === "h" ? "Supporter" : "Seeker"), text(words))));
}

// What differs between the two browsers: how a row is named, listed, searched, filtered, sorted and shown.
function pairs({ rows, histories }) {
  const length = (row) => words(row.chosen);
  const growth = (row) => (row.chosen && row.rejected ? words(row.chosen) / Math.max(1, words(row.rejected)) : 0);
  const sorts = {
    "as stored": null,
    "longest chosen": (a, b) => length(b) - length(a),
    "shortest chosen": (a, b) => length(a) - length(b),
    "chosen grows most": (a, b) => growth(b) - growth(a),
  };
  if (rows.some((row) => "margin" in row)) sorts["largest margin"] = (a, b) => (b.margin ?? -Infinity) - (a.margin ?? -Infinity);
  return {
    rows,
    name: "pair",
    many: "pairs",
    key: (row) => `${row.round}/${row.id}`,
    title: (row) => `${row.reason ? "Dropped row" : "Pair"} ${row.id}, round ${row.round}`,
    about: (row) => [`round ${row.round}`, row.source, row.reason ? `dropped: ${row.reason}` : `${words(row.rejected)} → ${words(row.chosen)} words`],
    line: (row) => (histories[row.history].at(-1) || ["s", row.chosen || ""])[1],
    texts: (row) => [row.id, ...histories[row.history].map((turn) => turn[1]), row.chosen, row.rejected, JSON.stringify(row.profile || "")],
    filters: { outcome: (row) => row.reason || "kept", source: (row) => row.source || "unknown", round: (row) => String(row.round) },
    sorts,
    detail(row) {
      const parts = row.chosen && row.rejected ? diff(row.rejected, row.chosen) : null;
      const part = (label, content, kind) =>
        content ? side(label, parts ? marked(parts, kind) : text(content), `${words(content)} words`) : "";
      const facts = [["source", row.source], ["model", row.model], ["attempts", row.attempts], ["margin", row.margin],
        ["dropped", row.reason && `${row.reason}${row.detail ? `: ${row.detail}` : ""}${row.reason === "too_long" ? CUT : ""}`]].filter(([, value]) => value !== undefined && value !== "");
      const profile = row.profile && (typeof row.profile === "object" ? Object.entries(row.profile) : [["not a profile", row.profile]]);
      return [
        conversation(histories[row.history]),
        make("div", { class: "sides" }, part("Rejected", row.rejected, -1), part("Chosen", row.chosen, 1)),
        ...(row.chosen && row.rejected && !parts ? [make("p", { class: "quiet" }, "Too long to compare word by word.")] : []),
        ...(profile ? [make("h4", {}, "Profile of the seeker that the model inferred"), list(profile)] : []),
        list(facts),
      ];
    },
  };
}

function answers({ models, rows }) {
  const last = models.length - 1;
  const said = (row, place) => words(row.answers[place]);
  const sorts = {
    "as stored": null,
    [`longest ${models[last]}`]: (a, b) => said(b, last) - said(a, last),
    [`shortest ${models[last]}`]: (a, b) => said(a, last) - said(b, last),
  };
  if (last > 0) sorts["grows most"] = (a, b) => said(b, last) - said(b, 0) - said(a, last) + said(a, 0);
  const filters = {};
  if (rows.some((row) => row.set)) filters["test set"] = (row) => row.set || "unnamed";
  if (rows.some((row) => row.judged)) filters[`judge on ${models[last]}`] = (row) => (row.judged && row.judged[last]) || "not judged";
  return {
    rows,
    name: "answer",
    many: "contexts",
    key: (row) => row.id,
    title: (row) => `Context ${row.id}`,
    about: (row) => [`${models.map((_, place) => said(row, place)).join(" → ")} words`, row.set, row.strategy],
    line: (row) => (row.turns.at(-1) || ["s", ""])[1],
    texts: (row) => [row.id, ...row.turns.map((turn) => turn[1]), row.human, ...row.answers],
    filters,
    sorts,
    detail: (row) => [
      conversation(row.turns),
      make("div", { class: "sides" },
        side("Human", text(row.human), `${words(row.human)} words${row.strategy ? `, ${row.strategy}` : ""}`, "human"),
        ...models.map((model, place) => {
          const content = row.answers[place];
          const notes = [content === null ? "no answer" : `${words(content)} words`];
          if (row.cut[place]) notes.push("cut off");
          if (row.judged && row.judged[place]) notes.push(`judge: ${row.judged[place]} against the human`);
          return side(model, text(content ?? ""), notes.join(", "));
        })),
    ],
  };
}

function list(entries) {
  const printed = (value) => (typeof value === "object" ? JSON.stringify(value) : String(value));
  return make("dl", {}, ...entries.flatMap(([name, value]) => [make("dt", { dir: "auto" }, name), make("dd", { dir: "auto" }, printed(value))]));
}

class Browser {
  constructor(element, kind) {
    this.element = element;
    this.kind = kind;
    this.found = kind.rows;
    this.active = 0;
    this.haystacks = null;
    this.chosen = {};
    this.build();
    this.filter();
    element.hidden = false;
  }

  build() {
    const { name, many } = this.kind;
    this.search = make("input", { type: "search", autocomplete: "off", spellcheck: "false" });
    this.search.addEventListener("input", () => this.filter());
    const controls = make("div", { class: "controls", role: "search", "aria-label": `Filter ${many}` },
      make("label", { class: "search" }, "Search", this.search));
    this.selects = Object.entries(this.kind.filters).map(([label, value]) => {
      const counts = new Map();
      for (const row of this.kind.rows) counts.set(value(row), (counts.get(value(row)) || 0) + 1);
      const options = [...counts].sort((a, b) => b[1] - a[1]);
      const select = make("select", {}, make("option", { value: "" }, "all"),
        ...options.map(([each, count], place) => make("option", { value: String(place + 1) }, `${each} (${number(count)})`)));
      select.addEventListener("change", () => this.filter());
      if (options.length > 1) controls.append(make("label", {}, label[0].toUpperCase() + label.slice(1), select));
      return { select, value, options };
    });
    this.sort = make("select", {}, ...Object.keys(this.kind.sorts).map((each) => make("option", {}, each)));
    this.sort.addEventListener("change", () => this.filter());
    controls.append(make("label", {}, "Sort", this.sort));
    this.status = make("p", { class: "found", role: "status" });
    this.spacer = make("div");
    this.list = make("div", { class: "list", role: "listbox", tabindex: "0", "aria-label": many }, this.spacer);
    this.list.addEventListener("scroll", () => this.draw());
    this.list.addEventListener("keydown", (event) => this.key(event));
    this.list.addEventListener("click", (event) => {
      const option = event.target.closest(".option");
      if (option) this.select(Number(option.dataset.place), true);
    });
    this.detail = make("article", { class: "detail", tabindex: "-1", "aria-label": `The selected ${name}` });
    this.detail.addEventListener("keydown", (event) => { if (event.key === "Escape") this.list.focus(); });
    this.element.append(controls, this.status, make("div", { class: "panes" }, this.list, this.detail));
    new ResizeObserver(() => { this.measure(); this.draw(); }).observe(this.list);
    this.measure();
  }

  filter() {
    const wanted = this.search.value.trim().toLocaleLowerCase();
    if (wanted) this.haystacks ||= new Map(this.kind.rows.map((row) => [row, this.kind.texts(row).join("\n").toLocaleLowerCase()]));
    const rules = this.selects.filter(({ select }) => select.value)
      .map(({ select, value, options }) => (row) => value(row) === options[Number(select.value) - 1][0]);
    this.found = this.kind.rows.filter((row) => rules.every((rule) => rule(row)) && (!wanted || this.haystacks.get(row).includes(wanted)));
    const order = this.kind.sorts[this.sort.value];
    if (order) this.found.sort(order);
    this.status.textContent = `${number(this.found.length)} of ${number(this.kind.rows.length)} ${this.kind.many}`;
    this.list.scrollTop = 0;
    this.select(0);
  }

  // Pixels of a row: they grow with the reader's letters.
  measure() {
    const styles = getComputedStyle(document.documentElement);
    this.height = parseFloat(styles.getPropertyValue("--row")) * parseFloat(styles.fontSize);
  }

  draw() {
    const height = this.height;
    this.spacer.style.height = `${this.found.length * height}px`;
    const first = Math.max(0, Math.floor(this.list.scrollTop / height) - 3);
    const last = Math.min(this.found.length, Math.ceil((this.list.scrollTop + this.list.clientHeight) / height) + 3);
    this.list.replaceChildren(this.spacer);
    const drawn = [];
    for (let place = first; place < last; place++) drawn.push(place);
    // The active row stays in the document, because assistive technology is told its id.
    if (this.active < this.found.length && !drawn.includes(this.active)) drawn.push(this.active);
    for (const place of drawn.sort((a, b) => a - b)) {
      const row = this.found[place];
      const option = make("div", {
        class: "option", role: "option", id: `${this.kind.name}-${place}`, "data-place": place,
        "aria-selected": place === this.active, "aria-setsize": this.found.length, "aria-posinset": place + 1,
      }, make("span", { class: "about" }, this.kind.about(row).filter(Boolean).join(" · ")), make("span", { dir: "auto" }, this.kind.line(row).slice(0, 200)));
      option.style.top = `${place * height}px`;
      this.list.append(option);
    }
    if (this.found.length) this.list.setAttribute("aria-activedescendant", `${this.kind.name}-${this.active}`);
    else this.list.removeAttribute("aria-activedescendant");
  }

  // Show a row. `mine`: the reader chose it, so the address and a phone's view follow.
  select(place, mine = false) {
    this.active = Math.max(0, Math.min(place, this.found.length - 1));
    const height = this.height;
    const top = this.active * height;
    if (top < this.list.scrollTop) this.list.scrollTop = top;
    else if (top + height > this.list.scrollTop + this.list.clientHeight) this.list.scrollTop = top + height - this.list.clientHeight;
    this.draw();
    const row = this.found[this.active];
    if (!row) {
      this.detail.replaceChildren(make("p", { class: "quiet" }, "Nothing is found. Clear the search, or choose other filters."));
      return;
    }
    const address = `#${this.kind.name}=${this.kind.key(row).split("/").map(encodeURIComponent).join("/")}`;
    const button = (label, step) => {
      const made = make("button", { type: "button" }, label);
      made.disabled = !this.found[this.active + step];
      made.addEventListener("click", () => { this.select(this.active + step, true); this.detail.focus({ preventScroll: true }); });
      return made;
    };
    this.detail.replaceChildren(
      make("div", { class: "bar" }, make("h3", { dir: "auto" }, this.kind.title(row)), make("a", { href: address }, "Link"), button("Previous", -1), button("Next", 1)),
      ...this.kind.detail(row));
    if (!mine) return;
    try { history.replaceState(null, "", address); } catch { /* an embedded page has no address of its own */ }
    if (this.list.offsetTop + this.list.offsetHeight <= this.detail.offsetTop && document.activeElement !== this.list) this.detail.scrollIntoView({ block: "nearest" });
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.list.clientHeight / this.height) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key in steps) this.select(Math.max(0, Math.min(this.active + steps[event.key], this.found.length - 1)), true);
    else if (event.key === "Enter") this.detail.focus();
    else return;
    event.preventDefault();
  }

  // Open the row that an address names. Filters that hide it are cleared.
  open(key) {
    const at = () => this.found.findIndex((row) => this.kind.key(row) === key);
    if (at() < 0) {
      this.search.value = "";
      for (const { select } of this.selects) select.value = "";
      this.filter();
    }
    if (at() < 0) return;
    this.select(at());
    this.element.scrollIntoView({ block: "start" });
    this.detail.focus({ preventScroll: true });
  }
}

function follow(browsers) {
  const [name, ...rest] = location.hash.slice(1).split("=");
  const browser = browsers.find((each) => each.kind.name === name);
  if (browser) {
    try { browser.open(decodeURIComponent(rest.join("="))); } catch { /* an address that somebody has mistyped */ }
    return;
  }
  const target = document.getElementById(location.hash.slice(1));
  if (target && target.tagName === "DETAILS") target.open = true;
}

async function start() {
  const kinds = { "answers-data": answers, "pairs-data": pairs };
  const elements = [...document.querySelectorAll(".browser")];
  const data = await Promise.all(elements.map((each) => unpack(each.dataset.rows)));
  document.documentElement.classList.add("ready");
  const browsers = elements.map((each, place) => new Browser(each, kinds[each.dataset.rows](data[place])));
  window.addEventListener("hashchange", () => follow(browsers));
  follow(browsers);
  document.documentElement.dataset.state = "ready";
}

if ("DecompressionStream" in window) start();
