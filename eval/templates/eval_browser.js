"use strict";
// The browser of samples. All texts reach the page through textContent; a play alone comes as markup, in which the
// template that made it has escaped all that the response says (and the page allows no script but this one).
(() => {
  const PAGE = 50, OPEN_PARTS = 48;
  const S = 0, P = 1, GREEDY = 2, INDEX = 3, OUTCOME = 4, VERDICT = 5, ENDING = 6, LENGTH = 7, FLAGS = 8, EXTRACTED = 9, SCORE = 10, WHERE = 11;
  const $ = (id) => document.getElementById(id);
  const make = (tag, text, className) => {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    if (className) node.className = className;
    return node;
  };
  const number = (value) => (value === null || value === undefined ? "" : Number(value).toLocaleString("en-US"));

  let data, shown = [], page = 0, chosen = -1, found = null, foundFor = "", turn = 0;
  const open = new Map();

  async function unpack(text) {
    const raw = Uint8Array.from(atob(text.trim()), (symbol) => symbol.charCodeAt(0));
    const stream = new Blob([raw]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  async function part(place) {
    if (open.has(place)) {
      const texts = open.get(place);
      open.delete(place);  // the last one used stands last
      open.set(place, texts);
      return texts;
    }
    const texts = await unpack($("part-" + place).textContent);
    open.set(place, texts);
    if (open.size > OPEN_PARTS) open.delete(open.keys().next().value);
    return texts;
  }

  const texts = async (where) => (where === null ? null : (await part(where[0]))[where[1]]);
  const problemOf = (sample) => data.suites[sample[S]].problems[sample[P]];

  // --- filters ---

  function options(select, values, any) {
    select.replaceChildren(new Option(any, ""));
    for (const [value, text] of values) select.add(new Option(text, value));
  }

  function groupSelects() {
    // One choice a column of the problems, over the suites that have it.
    const columns = new Map();
    for (const suite of data.suites)
      suite.columns.forEach((name, place) => {
        if (!columns.has(name)) columns.set(name, new Set());
        for (const problem of suite.problems) if (problem[2][place] !== "") columns.get(name).add(problem[2][place]);
      });
    for (const [name, values] of columns) {
      const holder = make("label", name + " ");
      const select = make("select");
      select.id = "group-" + name;
      select.dataset.column = name;
      const sorted = [...values].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
      options(select, sorted.map((value) => [value, value]), "any");
      holder.append(select);
      $("groups").append(holder);
    }
  }

  function setUp() {
    const counts = (place, names) => names.map((name, at) => {
      const count = data.samples.reduce((sum, sample) => sum + (sample[place] === at), 0);
      return [String(at), `${name} (${number(count)})`, count];
    }).filter((entry) => entry[2] > 0);
    options($("suite"), counts(S, data.suites.map((suite) => suite.name)), "all");
    options($("outcome"), counts(OUTCOME, data.outcomes), "any");
    options($("verdict"), counts(VERDICT, data.verdicts), "any");
    options($("ending"), counts(ENDING, data.endings), "any");
    options($("kind"), counts(GREEDY, ["sampled", "greedy"]), "any");
    groupSelects();
    data.flags.forEach(([name, text], bit) => {
      const count = data.samples.reduce((sum, sample) => sum + ((sample[FLAGS] >> bit) & 1), 0);
      const holder = make("label");
      const box = make("input");
      box.type = "checkbox";
      box.id = "flag-" + bit;
      box.disabled = count === 0;
      holder.title = text;
      holder.append(box, ` ${name} (${number(count)})`);
      $("flags").append(holder);
    });
  }

  const inputs = () => [...document.querySelectorAll("#filters select, #filters input")];

  function toHash() {
    const state = new URLSearchParams();
    for (const input of inputs()) {
      if (input.type === "checkbox" ? input.checked : input.value) state.set(input.id, input.type === "checkbox" ? "1" : input.value);
    }
    history.replaceState(null, "", "#" + state.toString());
  }

  function fromHash() {
    const state = new URLSearchParams(location.hash.slice(1));
    for (const input of inputs()) {
      const value = state.get(input.id) || "";
      if (input.type === "checkbox") input.checked = value === "1";
      else input.value = value;
    }
  }

  function tests() {
    const wanted = [];
    const equal = (id, place) => { const value = $(id).value; if (value !== "") wanted.push((sample) => sample[place] === Number(value)); };
    equal("suite", S); equal("verdict", VERDICT); equal("ending", ENDING); equal("kind", GREEDY);
    equal("outcome", OUTCOME);
    for (const select of document.querySelectorAll("#groups select")) {
      if (select.value === "") continue;
      wanted.push((sample) => {
        const place = data.suites[sample[S]].columns.indexOf(select.dataset.column);
        return place >= 0 && sample[P] >= 0 && problemOf(sample)[2][place] === select.value;
      });
    }
    data.flags.forEach((_, bit) => { if ($("flag-" + bit).checked) wanted.push((sample) => (sample[FLAGS] >> bit) & 1); });
    const id = $("problem").value.trim();
    if (id) wanted.push((sample) => sample[P] >= 0 && problemOf(sample)[0] === id);
    for (const [name, sign] of [["least", 1], ["most", -1]]) {
      const bound = $(name).value;
      if (bound !== "") wanted.push((sample) => sample[LENGTH] !== null && sign * (sample[LENGTH] - Number(bound)) >= 0);
    }
    return wanted;
  }

  async function search(query, mine) {
    // Every part is opened once; those that were are at hand for the next search, as far as memory is meant to go.
    const wanted = query.toLowerCase(), places = new Map();
    data.samples.forEach((sample, at) => {
      if (sample[WHERE] === null) return;
      if (!places.has(sample[WHERE][0])) places.set(sample[WHERE][0], []);
      places.get(sample[WHERE][0]).push(at);
    });
    const hits = new Set();
    let done = 0;
    for (const [place, members] of places) {
      const held = await part(place);
      if (mine !== turn) return null;
      for (const at of members) if (held[data.samples[at][WHERE][1]][0].toLowerCase().includes(wanted)) hits.add(at);
      done += 1;
      if (done % 10 === 0) $("count").textContent = `searching … ${Math.round((100 * done) / places.size)} %`;
    }
    return hits;
  }

  async function filter() {
    const mine = ++turn;
    document.body.dataset.state = "busy";
    toHash();
    const query = $("text").value;
    if (query && query !== foundFor) {
      const hits = await search(query, mine);
      if (hits === null) return;
      found = hits; foundFor = query;
    }
    const wanted = tests();
    shown = [];
    data.samples.forEach((sample, at) => {
      if (query && !found.has(at)) return;
      if (wanted.every((test) => test(sample))) shown.push(at);
    });
    const order = $("sort").value;
    if (order) {
      const sign = order === "longest" ? -1 : 1;
      shown.sort((a, b) => sign * ((data.samples[a][LENGTH] ?? -1) - (data.samples[b][LENGTH] ?? -1)) || a - b);
    }
    page = 0; chosen = -1;
    $("count").textContent = `${number(shown.length)} of ${number(data.samples.length)} samples`;
    $("count").dataset.rows = shown.length;
    list();
    problems();
    if (shown.length) await choose(0, false); else $("detail").replaceChildren(make("p", "No sample passes these filters.", "sub"));
    document.body.dataset.state = "ready";
  }

  // --- the list, the problems, one sample ---

  function list() {
    const body = $("rows");
    body.replaceChildren();
    const pages = Math.max(1, Math.ceil(shown.length / PAGE));
    shown.slice(page * PAGE, (page + 1) * PAGE).forEach((at, offset) => {
      const sample = data.samples[at];
      const row = make("tr", undefined, "outcome-" + data.outcomes[sample[OUTCOME]]);
      row.dataset.at = at;
      const cells = [
        (data.suites.length > 1 ? data.suites[sample[S]].name + " " : "") + (sample[P] >= 0 ? problemOf(sample)[0] : "?"),
        sample[GREEDY] ? "greedy" : sample[INDEX], data.verdicts[sample[VERDICT]], data.endings[sample[ENDING]],
        number(sample[LENGTH]), sample[EXTRACTED], sample[P] >= 0 ? problemOf(sample)[3] : "",
      ];
      for (const cell of cells) row.append(make("td", cell));
      row.addEventListener("click", () => choose(page * PAGE + offset, true));
      body.append(row);
    });
    $("page").textContent = `page ${page + 1} of ${number(pages)}`;
    $("back").disabled = page === 0;
    $("next").disabled = page >= pages - 1;
  }

  function problems() {
    // Which problems are listed follows the filters; how often each is solved is over all of its samples.
    const groups = new Map();
    const keyOf = (sample) => sample[S] + "/" + sample[P];
    for (const at of shown) {
      const sample = data.samples[at];
      if (sample[P] < 0) continue;
      if (!groups.has(keyOf(sample))) groups.set(keyOf(sample), { sample, passing: 0, correct: 0, scored: 0, tokens: 0, lengths: 0 });
      groups.get(keyOf(sample)).passing += 1;
    }
    for (const sample of data.samples) {
      const group = groups.get(keyOf(sample));
      if (!group || sample[GREEDY]) continue;
      const outcome = data.outcomes[sample[OUTCOME]];
      group.scored += outcome !== "unscored";
      group.correct += outcome === "correct";
      if (sample[LENGTH] !== null) { group.tokens += sample[LENGTH]; group.lengths += 1; }
    }
    const lines = [...groups.values()].sort((a, b) => a.correct / a.scored - b.correct / b.scored || a.sample[S] - b.sample[S] || a.sample[P] - b.sample[P]);
    $("problem-count").textContent = `${number(lines.length)} problems with samples that pass the filters, hardest first; solve rates are over all samples`;
    const body = $("problem-rows");
    body.replaceChildren();
    for (const line of lines.slice(0, 1000)) {
      const row = make("tr");
      const rate = line.scored ? line.correct / line.scored : 0;
      row.append(make("td", (data.suites.length > 1 ? data.suites[line.sample[S]].name + " " : "") + problemOf(line.sample)[0]));
      row.append(make("td", line.scored ? `${line.correct}/${line.scored}` : "unscored"));
      const cell = make("td"), bar = make("div", undefined, "bar"), fill = make("div");
      fill.style.width = 100 * rate + "%";
      bar.append(fill); cell.append(bar); row.append(cell, make("td", number(line.passing)));
      row.append(make("td", line.lengths ? number(Math.round(line.tokens / line.lengths)) : ""), make("td", problemOf(line.sample)[3]));
      row.addEventListener("click", () => {
        $("problem").value = problemOf(line.sample)[0];
        $("suite").value = String(line.sample[S]);
        tab("samples");
        filter();
      });
      body.append(row);
    }
    if (lines.length > 1000) body.append(make("tr")).append(make("td", `and ${number(lines.length - 1000)} more: filter further`));
  }

  async function choose(place, scroll) {
    if (place < 0 || place >= shown.length) return;
    chosen = place;
    if (Math.floor(place / PAGE) !== page) { page = Math.floor(place / PAGE); list(); }
    for (const row of $("rows").children) row.classList.toggle("chosen", Number(row.dataset.at) === shown[place]);
    if (scroll) $("rows").children[place % PAGE]?.scrollIntoView({ block: "nearest" });
    const at = shown[place], sample = data.samples[at];
    const problem = sample[P] >= 0 ? problemOf(sample) : null;
    const [said, asked] = [await texts(sample[WHERE]), problem ? await texts(problem[1]) : null];
    if (shown[chosen] !== at) return;
    const detail = $("detail"), facts = make("dl", undefined, "facts");
    const fact = (name, value) => { if (value !== "" && value !== null && value !== undefined) facts.append(make("dt", name), make("dd", value)); };
    fact("sample", `${data.suites[sample[S]].name} ${problem ? problem[0] : "?"} ${sample[GREEDY] ? "greedy" : "#" + sample[INDEX]}`);
    fact("verdict", data.verdicts[sample[VERDICT]]);
    fact("reason", said && said[2]);
    fact("extracted", said ? said[1] : sample[EXTRACTED]);
    fact("gold", asked ? asked[1] : problem && problem[3]);
    fact("counts as", data.outcomes[sample[OUTCOME]]);
    fact("ended", data.endings[sample[ENDING]]);
    fact("tokens", number(sample[LENGTH]));
    fact("score", sample[SCORE]);
    if (problem) data.suites[sample[S]].columns.forEach((name, column) => fact(name, problem[2][column]));
    fact("marks", data.flags.filter((_, bit) => (sample[FLAGS] >> bit) & 1).map(([name]) => name).join(", "));
    const prompt = make("details");
    prompt.append(make("summary", "Prompt"), make("pre", asked ? asked[0] : "The page does not carry this text; it is in problems.jsonl."));
    const response = make("pre", said ? said[0] : "The page does not carry this text; it is in samples.jsonl.");
    response.id = "response";
    const was = detail.querySelector("details");
    prompt.open = was ? was.open : true;
    if (said && said[3]) {
      const play = make("div"), text = make("details");
      play.id = "play";
      play.innerHTML = said[3];
      text.append(make("summary", "Response as text"), response);
      detail.replaceChildren(facts, prompt, play, text);
    } else detail.replaceChildren(facts, prompt, make("div", "Response", "label"), response);
  }

  function tab(name) {
    for (const other of ["samples", "problems"]) {
      $("tab-" + other).classList.toggle("chosen", other === name);
      $("view-" + other).hidden = other !== name;
    }
  }

  async function start() {
    try {
      if (typeof DecompressionStream === "undefined") throw new Error("this browser has no DecompressionStream; one of 2023 or later has");
      data = await unpack($("sample-index").textContent);
    } catch (error) {
      document.body.dataset.state = "failed";
      $("count").textContent = "The samples cannot be shown: " + error.message;
      return;
    }
    setUp();
    fromHash();
    for (const input of inputs()) input.addEventListener(input.type === "search" ? "change" : "input", filter);
    $("clear").addEventListener("click", () => {
      for (const input of inputs()) { if (input.type === "checkbox") input.checked = false; else input.value = ""; }
      filter();
    });
    $("back").addEventListener("click", () => { page -= 1; list(); });
    $("next").addEventListener("click", () => { page += 1; list(); });
    $("tab-samples").addEventListener("click", () => tab("samples"));
    $("tab-problems").addEventListener("click", () => tab("problems"));
    window.addEventListener("hashchange", () => { fromHash(); filter(); });
    document.addEventListener("keydown", (event) => {
      if (event.target.closest?.("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "j") choose(chosen + 1, true);
      if (event.key === "k") choose(chosen - 1, true);
    });
    await filter();
  }

  start();
})();
