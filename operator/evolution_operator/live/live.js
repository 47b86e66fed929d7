// The live page. It reads JSON every two seconds and shows it; it can change nothing. Text only ever becomes text nodes.

const EVERY = 2000, SLOWEST = 10000;
const element = (id) => document.getElementById(id);

// ---- building elements, and changing those on the page into them, so that focus and open parts stay

function h(tag, attributes = {}, ...children) {
  const space = ["svg", "path", "circle", "polygon"].includes(tag) ? "http://www.w3.org/2000/svg" : "http://www.w3.org/1999/xhtml";
  const made = document.createElementNS(space, tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== "" && child !== false));
  return made;
}

function morph(old, wanted) {
  const same = old.nodeType === wanted.nodeType && old.nodeName === wanted.nodeName && (old.nodeType === 3 || old.id === wanted.id);
  if (!same) { old.replaceWith(wanted); return; }
  if (old.nodeType === 3) {
    if (old.data !== wanted.data) old.data = wanted.data;
    return;
  }
  for (const { name } of [...old.attributes]) if (name !== "open" && !wanted.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of wanted.attributes) {
    if (name !== "open" && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  fill(old, [...wanted.childNodes]);
}

function fill(parent, wanted) {
  const names = new Set(wanted.map((child) => child.id).filter(Boolean));
  for (const child of [...parent.childNodes]) if (child.id && !names.has(child.id)) child.remove();
  wanted.forEach((child, place) => {
    const there = child.id ? [...parent.children].find((each) => each.id === child.id) : parent.childNodes[place];
    if (!there) parent.insertBefore(child, parent.childNodes[place] ?? null);
    else {
      if (there !== parent.childNodes[place]) parent.insertBefore(there, parent.childNodes[place] ?? null);
      morph(there, child);
    }
  });
  while (parent.childNodes.length > wanted.length) parent.lastChild.remove();
}

// ---- words for numbers and times

let ahead = 0; // Milliseconds that this clock is ahead of the server's.
const now = () => Date.now() - ahead;
const at = (text) => new Date(text).getTime();
const clock = (text) => new Date(text).toLocaleTimeString([], { hourCycle: "h23" });
const today = (text) => new Date(text).toDateString() === new Date(now()).toDateString();
const moment = (text) => (today(text) ? clock(text) : new Date(text).toLocaleString([], { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", hourCycle: "h23" }));
const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

function length(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 100) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min ${whole % 60} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

const number = (value) => (Math.abs(value) >= 1e4 ? Math.round(value).toString() : String(Number(value.toPrecision(4))));
const since = (text, words = "") => h("span", { "data-since": text, "data-words": words }, `${length((now() - at(text)) / 1000)}${words}`);
const until = (text) => h("span", { "data-until": text }, `in ${length((at(text) - now()) / 1000)}`);

function tick() {
  for (const each of document.querySelectorAll("[data-since]")) {
    each.textContent = `${length((now() - at(each.dataset.since)) / 1000)}${each.dataset.words}`;
  }
  for (const each of document.querySelectorAll("[data-until]")) each.textContent = `in ${length((at(each.dataset.until) - now()) / 1000)}`;
}

const WORDS = { Succeeded: "finished", Running: "running", Waiting: "waits", Queued: "queued", Suspended: "paused", Backoff: "tries again", Failed: "failed" };
const pill = (phase) => h("span", { class: `pill is-${phase}` }, phase);
const path = (run) => `#/${encodeURIComponent(run.namespace)}/${encodeURIComponent(run.name)}`;

// ---- the list of runs

const filter = { text: "", phase: "" };

function matches(run) {
  const words = filter.text.toLowerCase().split(/\s+/).filter(Boolean);
  return (!filter.phase || run.phase === filter.phase) && words.every((word) => `${run.namespace}/${run.name}`.includes(word));
}

function listView(list) {
  const shown = list.runs.filter(matches);
  const count = (phase) => list.runs.filter((run) => run.phase === phase).length;
  const phases = ["Running", "Pending", "Suspended", "Failed", "Complete"];
  const option = (value, words) => h("option", { value, selected: filter.phase === value }, words);
  return [
    h("div", { class: "title" }, h("h1", {}, "Runs")),
    h("form", { class: "filter", id: "filter" },
      h("label", {}, "Name or namespace", h("input", { id: "filter-text", type: "search", value: filter.text, autocomplete: "off", spellcheck: "false" })),
      h("label", {}, "Phase", h("select", { id: "filter-phase" }, option("", `all (${list.runs.length})`),
        phases.map((phase) => option(phase, `${phase} (${count(phase)})`))))),
    shown.length
      ? h("ul", { class: "runs card" }, shown.map(listRow))
      : h("p", { class: "note" }, list.runs.length ? "No run matches." : "There are no runs yet."),
    list.left ? h("p", { class: "quiet" }, `${plural(list.left, "older run")} not shown: see `, h("code", {}, "kubectl get evo -A")) : "",
  ];
}

function listRow(run) {
  const stage = run.stage;
  const far = stage && stage.total ? `${stage.id}, ${Math.floor((100 * stage.done) / stage.total)} %` : stage ? stage.id : "";
  const champion = run.phase === "Complete" && run.champion !== null ? `champion M${run.champion}` : "";
  return h("li", { id: `run-${run.namespace}/${run.name}` },
    h("a", { href: path(run) },
      h("span", { class: "name" }, h("span", { class: "quiet" }, `${run.namespace} / `), run.name),
      pill(run.phase),
      h("span", { class: `far${run.phase === "Complete" ? " is-good" : ""}` },
        h("progress", { max: run.stages || 1, value: run.done, "aria-label": `stages of ${run.name} finished` }),
        h("small", {}, [`${run.done}/${run.stages}`, run.reason, far, champion].filter(Boolean).join(" · "))),
      h("small", { class: "time" }, run.startedAt && !run.finishedAt ? since(run.startedAt) : run.finishedAt ? since(run.finishedAt, " ago") : "")));
}

// ---- one run

function runView(run, single) {
  const finished = run.phase === "Complete" || run.phase === "Failed";
  const facts = [
    `namespace ${run.run.namespace}`,
    run.baseModel,
    run.iterations !== null && plural(run.iterations, "round"),
    run.startedAt && ["started ", new Date(run.startedAt).toLocaleString([], { dateStyle: "medium", timeStyle: "short", hourCycle: "h23" })],
    run.startedAt && (run.finishedAt ? `took ${length((at(run.finishedAt) - at(run.startedAt)) / 1000)}` : ["running for ", run.ended ? "–" : since(run.startedAt)]),
    run.gpuSeconds && `${length(run.gpuSeconds)} of GPU time`,
  ];
  return [
    single ? "" : h("a", { class: "back", href: "#/" }, "← all runs"),
    h("div", { class: "title" }, h("h1", {}, run.run.name), pill(run.phase)),
    h("ul", { class: "facts quiet" }, facts.filter(Boolean).map((fact) => h("li", {}, fact))),
    h("div", { class: `whole${run.phase === "Complete" ? " is-good" : ""}` },
      h("div", {}, h("span", {}, `${run.done} of ${plural(run.stages.length, "stage")} finished`),
        h("span", { class: "quiet" }, run.champion !== null ? `champion ${finished ? "" : "so far "}M${run.champion}` : "")),
      h("progress", { max: run.stages.length || 1, value: run.done, "aria-label": "stages finished" })),
    run.ended && !finished ? h("p", { class: "note" }, "The command was stopped. This is the last state; run the same command to continue.") : "",
    run.report ? h("p", { class: "note" }, "Report: ", h("code", {}, run.report)) : "",
    notices(run),
    h("section", { "aria-labelledby": "stages" }, h("h2", { id: "stages" }, "Stages"), rounds(run)),
    run.figures.length ? h("section", { "aria-labelledby": "figures" }, h("h2", { id: "figures" }, "Figures"), figures(run)) : "",
    h("section", { "aria-labelledby": "events" }, h("h2", { id: "events" }, "Events"), events(run)),
    h("section", { "aria-labelledby": "conditions" }, h("h2", { id: "conditions" }, "Conditions"), conditions(run)),
  ];
}

function notices(run) {
  const holds = (type, status) => run.conditions.find((each) => each.type === type && each.status === status);
  const failed = holds("Failed", "True"), early = holds("StoppedEarly", "True"), accepted = holds("Accepted", "False");
  const delayed = run.phase === "Running" && holds("Progressing", "False");
  const words = (condition) => [h("strong", {}, condition.reason), condition.message ? [": ", h("span", { class: "words" }, condition.message)] : ""];
  return [
    failed ? h("p", { class: "alert" }, words(failed)) : accepted ? h("p", { class: "alert" }, words(accepted)) : "",
    delayed ? h("p", { class: "note" }, words(delayed)) : "",
    early ? h("p", { class: "note" }, words(early)) : "",
    run.ineligible.map((each) => h("p", { class: "note" }, each)),
  ].flat().filter(Boolean);
}

function rounds(run) {
  const grouped = new Map();
  for (const stage of run.stages) {
    const round = stage.iteration || 0;
    grouped.set(round, [...(grouped.get(round) ?? []), stage]);
  }
  return [...grouped].map(([round, stages]) => {
    const done = stages.filter((stage) => stage.state === "Succeeded").length;
    const seconds = stages.reduce((sum, stage) => sum + (stage.seconds ?? 0), 0);
    const words = done === stages.length ? `finished${seconds ? `, ${length(seconds)}` : ""}` : done || stages.some((stage) => stage.state !== "Waiting") ? `${done} of ${stages.length}` : "to come";
    const title = round ? `Round ${round}: M${round - 1} to M${round}` : "Data and M0";
    const crown = run.champion === round ? h("span", { class: "is-Running" }, " ★ champion") : "";
    // With many rounds, those that are over or to come are closed at first.
    const open = grouped.size <= 4 || stages.some((stage) => !["Succeeded", "Waiting"].includes(stage.state));
    return h("details", { class: "card round", id: `round-${round}`, open },
      h("summary", {}, h("h3", {}, title, crown), h("small", {}, words)),
      h("ol", {}, stages.map((stage) => stageRow(stage, run))));
  });
}

function stageRow(stage, run) {
  const { progress } = stage;
  const amounts = progress && stage.state !== "Succeeded"
    ? [h("progress", { max: progress.total || 1, value: progress.done, "aria-label": `${stage.id}: ${progress.done} of ${progress.total} ${progress.unit}` }),
       h("span", { class: "amount" }, [`${progress.done}/${progress.total} ${progress.unit}`, stage.shards && `shards ${stage.shards}`,
         progress.etaSeconds !== null && `${length(progress.etaSeconds)} left`].filter(Boolean).join(" · "))]
    : stage.state === "Running" && !run.ended ? h("progress", { "aria-label": `${stage.id}: starting` }) : "";
  const times = stage.state === "Running" && stage.startedAt && !run.ended ? since(stage.startedAt)
    : stage.state === "Backoff" && stage.nextAttemptAt && !run.ended ? until(stage.nextAttemptAt)
    : stage.cached ? "found in storage" : stage.seconds !== null ? length(stage.seconds) : "";
  const attempt = stage.attempts > 1 ? ` · attempt ${stage.attempts}` : "";
  return h("li", { class: `stage${stage.state === "Waiting" ? " waits" : ""}`, id: `stage-${stage.id}` },
    h("span", { class: "name" }, stage.id),
    h("span", { class: `state is-${stage.state}` }, WORDS[stage.state] ?? stage.state),
    h("div", { class: "amounts" }, amounts),
    h("small", { class: "time" }, times, times || attempt ? attempt : ""),
    words(stage, run));
}

function words(stage, run) {
  const said = stage.state !== "Succeeded" && stage.reason ? h("strong", {}, stage.reason) : "";
  if (stage.message) return h("p", { class: "message" }, said, said ? ": " : "", h("span", { class: "words" }, stage.message));
  if (stage.withheld && said) {
    return h("p", { class: "message" }, said, ". The stage's own message is in ", h("code", {}, `evolution status ${run.run.name} -n ${run.run.namespace}`));
  }
  return said ? h("p", { class: "message" }, said) : "";
}

function figures(run) {
  const arrow = { higher: "higher is better", lower: "lower is better", neither: "to watch" };
  const mark = { higher: " ↑", lower: " ↓", neither: "" };
  const best = (model) => (model === run.champion ? "champion" : "");
  return [
    h("div", { class: "card scroll", tabindex: "0", role: "region", "aria-labelledby": "figures" },
      h("table", {},
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "figure"),
          run.models.map((model) => h("th", { scope: "col", class: best(model) }, `M${model}`, model === run.champion ? " ★ champion" : "")),
          run.models.length > 1 ? h("th", { scope: "col", class: "left" }, "by round") : "")),
        h("tbody", {}, run.figures.map((figure) => h("tr", { id: `figure-${figure.name}` },
          h("th", { scope: "row", title: arrow[figure.better] }, figure.label, h("span", { "aria-hidden": "true" }, mark[figure.better]),
            h("span", { class: "unseen" }, `, ${arrow[figure.better]}`),
            figure.label === run.championMetric ? h("small", {}, " chooses the champion") : ""),
          run.models.map((model, place) => h("td", { class: best(model) }, figure.values[place] === null ? "–" : number(figure.values[place]),
            figure.intervals[place] ? h("small", {}, figure.intervals[place].map(number).join(" to ")) : "")),
          run.models.length > 1 ? h("td", { class: "left" }, spark(figure, run)) : ""))))),
    h("p", { class: "quiet" }, "Below a value: its 95 % interval, with whole dialogues as the unit. ↑ higher is better, ↓ lower is better."),
  ];
}

function spark(figure, run) {
  const points = figure.values.map((value, place) => ({ value, place, range: figure.intervals[place] ?? [value, value], model: run.models[place] }))
    .filter((point) => point.value !== null);
  const all = points.flatMap((point) => [...point.range, point.value]);
  const low = Math.min(...all), high = Math.max(...all), last = Math.max(1, run.models.length - 1);
  const x = (place) => 4 + (104 * place) / last;
  const y = (value) => (high > low ? 32 - (28 * (value - low)) / (high - low) : 18);
  const line = points.map((point) => `${x(point.place).toFixed(1)},${y(point.value).toFixed(1)}`);
  const edge = (side) => points.map((point) => `${x(point.place).toFixed(1)},${y(point.range[side]).toFixed(1)}`);
  return h("svg", { class: "spark", viewBox: "0 0 112 36", "aria-hidden": "true" },
    h("polygon", { class: "band", points: [...edge(1), ...edge(0).reverse()].join(" ") }),
    h("path", { class: "path", d: line.length ? `M${line.join("L")}` : "" }),
    points.length <= 25 ? points.map((point) => h("circle", { class: point.model === run.champion ? "best" : "", cx: x(point.place).toFixed(1), cy: y(point.value).toFixed(1), r: 3 })) : "");
}

function events(run) {
  if (run.events === null) return h("p", { class: "quiet" }, "Not read yet.");
  if (!run.events.length) return h("p", { class: "quiet" }, run.stageWords ? "None yet." : "None. Kubernetes keeps them for an hour.");
  return h("ol", { class: "events card" }, run.events.map((event) => h("li", { class: event.warning ? "warning" : "" },
    h("time", { class: "quiet", datetime: event.at }, moment(event.at)),
    h("span", { class: "kind" }, event.reason ?? "Event"),
    h("span", { class: "words" }, event.message ?? ""))));
}

function conditions(run) {
  return h("div", { class: "card scroll conditions", tabindex: "0", role: "region", "aria-labelledby": "conditions" },
    h("table", {},
      h("thead", {}, h("tr", {}, ["condition", "holds", "reason", "since"].map((word) => h("th", { scope: "col" }, word)))),
      h("tbody", {}, run.conditions.map((each) => h("tr", {},
        h("th", { scope: "row" }, each.type), h("td", {}, { True: "yes", False: "no" }[each.status] ?? "unknown"),
        h("td", {}, each.reason ?? ""), h("td", {}, moment(each.since)))))));
}

// ---- what a screen reader is told: changes of state, not of progress

let told = null;

function tell(run) {
  const states = Object.fromEntries(run.stages.map((stage) => [stage.id, stage.state]));
  const before = told?.run === path(run.run) ? told : null;
  told = { run: path(run.run), phase: run.phase, states };
  if (!before) return;
  const news = run.stages.filter((stage) => before.states[stage.id] && before.states[stage.id] !== stage.state)
    .map((stage) => `${stage.id} ${WORDS[stage.state] ?? stage.state}`);
  if (before.phase !== run.phase) news.push(`run ${run.phase}`);
  if (news.length) element("said").textContent = news.join(", ");
}

// ---- reading

let route = null, shown = null, only = null, timer = 0, failures = 0, heard = 0, reading = 0, holding = false;
const known = new Map(); // By address: ETag and document.

async function read(address) {
  const before = known.get(address);
  const answer = await fetch(address, { cache: "no-store", headers: before ? { "If-None-Match": before.tag } : {} });
  const date = Date.parse(answer.headers.get("Date") ?? "");
  if (!Number.isNaN(date) && Math.abs(Date.now() - date - ahead) > 2000) ahead = Date.now() - date;
  if (answer.status === 304) return before.document;
  if (answer.status === 404) return null;
  if (!answer.ok) throw new Error((await answer.text()).slice(0, 200));
  const document = await answer.json();
  known.set(address, { tag: answer.headers.get("ETag"), document });
  return document;
}

function parse() {
  const [, namespace, name] = /^#\/([^/]+)\/([^/]+)$/.exec(location.hash) ?? [];
  try {
    return namespace ? { namespace: decodeURIComponent(namespace), name: decodeURIComponent(name) } : null;
  } catch {
    return null;
  }
}

const addressOf = (run) => `runs/${encodeURIComponent(run.namespace)}/${encodeURIComponent(run.name)}.json`;

async function update() {
  clearTimeout(timer);
  const mine = ++reading;
  try {
    let run = route ?? only;
    if (!run) {
      const list = await read("runs.json");
      if (mine !== reading) return;
      if (list.single) run = only = list.runs[0];
      else show("list", list, () => listView(list), "Runs");
    }
    if (run) {
      const found = await read(addressOf(run));
      if (mine !== reading) return;
      if (found) showRun(found);
      else show(path(run), null, () => [h("a", { class: "back", href: "#/" }, "← all runs"), h("p", { class: "note" }, `There is no run ${run.namespace}/${run.name} any more.`)], run.name);
      if (found?.ended) return;
    }
    failures = 0;
    heard = Date.now();
    fresh(`updated ${clock(heard)}`);
  } catch (error) {
    if (mine !== reading) return;
    failures += 1;
    lost(error);
  }
  if (!document.hidden) timer = setTimeout(update, Math.min(SLOWEST, EVERY * 2 ** Math.max(0, failures - 1)));
}

function showRun(run) {
  show(path(run.run), run, () => runView(run, only !== null), `${run.run.name}: ${run.phase} ${run.done}/${run.stages.length}`);
  tell(run);
  if (run.ended) { heard = Date.now(); fresh("The command has ended. This page stays as it is."); }
}

// In the background, a page of a local run waits for the run's end alone: the server ends with the command.
async function hold() {
  const run = route ?? only;
  if (!run || !only || holding) return;
  holding = true;
  try {
    const answer = await fetch(`${addressOf(run)}?until=end`, { cache: "no-store" });
    const last = answer.ok ? await answer.json() : null;
    if (last?.ended) { clearTimeout(timer); reading += 1; showRun(last); }
  } catch {
    // The next update says that the connection is lost.
  }
  holding = false;
}

function show(page, document_, view, title) {
  if (shown?.page === page && shown.document === document_ && page !== "list") return;
  const turned = shown && shown.page !== page;
  shown = { page, document: document_ };
  document.title = `${title} · evolution`;
  const wanted = view().flat().filter(Boolean);
  if (!turned) { fill(element("main"), wanted); return; }
  element("main").replaceChildren(...wanted);
  scrollTo(0, 0);
  element("main").focus({ preventScroll: true });
}

function fresh(words) {
  element("lost").hidden = true;
  element("fresh").textContent = words;
}

function lost(error) {
  const gone = only ? "The command has ended, or the connection is lost" : "Connection lost";
  const words = error instanceof TypeError ? gone : error.message.trim();
  element("lost").textContent = `${words}. ${heard ? `Last update ${clock(heard)}. ` : ""}Trying again.`;
  element("lost").hidden = false;
  element("fresh").textContent = "";
}

function turn() {
  if (location.hash && !location.hash.startsWith("#/")) return;
  route = parse();
  update();
}

element("jump").addEventListener("click", (event) => { event.preventDefault(); element("main").focus(); });
element("main").addEventListener("input", (event) => {
  if (event.target.id === "filter-text") filter.text = event.target.value;
  if (event.target.id === "filter-phase") filter.phase = event.target.value;
  const list = known.get("runs.json")?.document;
  if (list && !route) fill(element("main"), listView(list).flat().filter(Boolean));
});
element("main").addEventListener("submit", (event) => event.preventDefault());
addEventListener("hashchange", turn);
document.addEventListener("visibilitychange", () => {
  if (shown?.document?.ended) return;
  if (document.hidden) { clearTimeout(timer); hold(); } else update();
});
setInterval(tick, 1000);
turn();
