// Times in the reader's zone, boxes that check all others, live figures, and lists that follow. Everything else works
// without this script.
"use strict";

const zone = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const localise = (part) => {
  for (const element of part.querySelectorAll("time[datetime]")) {
    const time = new Date(element.dateTime);
    if (!Number.isNaN(time.getTime())) {
      element.title = element.textContent;
      element.textContent = zone.format(time);
    }
  }
};
localise(document);

for (const box of document.querySelectorAll("input[data-check]")) {
  const boxes = box.form.querySelectorAll(`input[type=checkbox][name="${box.dataset.check}"]`);
  box.hidden = false;
  box.addEventListener("change", () => boxes.forEach((other) => { other.checked = box.checked; }));
}

// Live figures: one stream of events for the page. A figure is an element with data-figure, a chart one with
// data-chart.
const live = document.querySelector("[data-live]");
if (live) {
  const status = live.querySelector("[data-status]");
  const own = live.dataset.queue;
  const most = 120;
  const kept = new Map();
  const number = new Intl.NumberFormat(undefined, { maximumFractionDigits: 1 });
  const age = (seconds) => {
    if (seconds < 120) return `${seconds} s`;
    if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
    return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} days`;
  };
  const shown = (name, value) => {
    if (value === null || value === undefined) return "–";
    return name === "age" ? age(value) : number.format(value);
  };
  const draw = (line, values) => {
    const top = Math.max(1, ...values);
    const first = most - values.length;
    const points = values.map((value, at) => `${first + at},${(39 - (value / top) * 37).toFixed(1)}`).join(" ");
    line.setAttribute("points", points);
    line.previousElementSibling.setAttribute("points", `${first},39 ${points} ${most - 1},39`);
    line.closest("figure").hidden = values.length < 2;
  };
  const fill = (part, values) => {
    if (!values) return;
    for (const element of part.querySelectorAll("[data-figure]")) {
      element.textContent = shown(element.dataset.figure, values[element.dataset.figure]);
    }
  };
  const show = (figures) => {
    const values = own ? figures.queues.find((queue) => queue.name === own) : figures.totals;
    status.textContent = figures.failure ? `Not up to date: ${figures.failure}` : "Live, every 5 s";
    const rows = new Map(figures.queues.map((queue) => [queue.name, queue]));
    for (const row of document.querySelectorAll("tr[data-row]")) fill(row, rows.get(row.dataset.row));
    if (!values) return;
    fill(live, values);
    for (const line of live.querySelectorAll("[data-chart]")) {
      const name = line.dataset.chart;
      const list = kept.get(name) || [];
      list.push(values[name] || 0);
      kept.set(name, list.slice(-most));
      draw(line, kept.get(name));
      live.querySelector(`[data-most="${name}"]`).textContent = number.format(Math.max(...kept.get(name)));
    }
  };
  const events = new EventSource(live.dataset.live);
  events.addEventListener("message", (event) => show(JSON.parse(event.data)));
  events.addEventListener("error", () => {
    status.textContent = events.readyState === EventSource.CLOSED
      ? "Live figures have stopped: reload the page. Too many pages may be open, or the session has ended."
      : "The connection was lost; trying again.";
  });
}

// A list that follows: this part of the page is loaded again, while the page can be seen.
const followed = document.querySelector("[data-follow]");
if (followed) {
  const state = document.querySelector("[data-follow-status]");
  const load = async () => {
    if (document.hidden) return;
    try {
      const response = await fetch(location.href);
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      const part = page.querySelector("[data-follow]");
      if (!part) throw new Error(response.redirected ? "the session has ended" : `status ${response.status}`);
      localise(part);
      followed.replaceChildren(...part.childNodes);
      state.textContent = "Following, every 5 s";
    } catch (error) {
      state.textContent = `Not up to date: ${error.message}`;
    }
  };
  state.textContent = "Following, every 5 s";
  setInterval(load, 5000);
}
